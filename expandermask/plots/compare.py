"""Pictures of what masks have in common: each two of many, or two plans over depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from expandermask.errors import InvalidInputError
from expandermask.masks.compare import OverlapMatrix, overlap_matrix
from expandermask.masks.comparison import PlanComparison
from expandermask.plots._axes import LIMIT, SIDES, VALUES, new_axes
from expandermask.plots.plans import by_side, label_modules, legend_above, module_columns, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LABELS = 32
_MOST_NUMBERS = 10


def overlap(masks: Mapping[str, Any] | OverlapMatrix, ax: Axes | None = None) -> Axes:
    """A heatmap of how much each two masks have in common, with what chance gives on its scale.

    The diagonal, each mask with itself, is 1 and left grey. The mark on the colour bar is the value
    at the expected number of common entries, kept_a * kept_b / (n1 n2): a line where all pairs have
    the same, a band where they differ.

    Parameters
    ----------
    masks : mapping from names to masks of one shape, or OverlapMatrix
        For a mapping the Jaccard indices are drawn; for another measure pass what
        `overlap_matrix` returns.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.

    Raises
    ------
    InvalidInputError
        Fewer than two masks, or masks of different shapes.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask.graphs import random_biregular
    >>> from expandermask.plots.compare import overlap
    >>> masks = {f"seed {s}": random_biregular(96, 8, 2, rng=s) for s in range(4)}
    >>> overlap(masks).get_title()
    'Jaccard index of each two of 4 masks'
    """
    found = masks if isinstance(masks, OverlapMatrix) else overlap_matrix(masks)
    n = len(found.names)
    title = {"jaccard": "Jaccard index", "overlap": "Overlap of kept entries"}[found.measure]
    if n < 2:
        raise InvalidInputError(f"a heatmap compares at least two masks, got {n}")
    ax = new_axes(ax, size=(6.4, 5.4))
    apart = ~np.eye(n, dtype=bool)
    chance = found.expected[apart]
    top = max(found.values[apart].max(), chance.max(), 1e-9)
    values = np.ma.masked_array(found.values, mask=~apart)
    image = ax.imshow(values, cmap="cividis", vmin=0, vmax=top, interpolation="nearest")
    ax.set_facecolor("0.85")
    _mark_chance(ax, image, chance, title)
    _label_masks(ax, found.names)
    if n <= _MOST_NUMBERS:
        for i, j in np.argwhere(apart):
            color = "black" if found.values[i, j] > 0.6 * top else "white"
            text = f"{found.values[i, j]:.3f}"
            ax.text(j, i, text, ha="center", va="center", fontsize="x-small", color=color)
    ax.set_title(f"{title} of each two of {n} masks")
    return ax


def layer_overlap(comparison: PlanComparison, ax: Axes | None = None) -> Axes:
    """The overlap of kept entries of two plans, module by module, with what chance gives.

    One dot per mask: common / smaller, 1 where one mask contains the other. The black dash is the
    expected value if the two are independent, and the bar around it two standard deviations either
    way under random relabelling of rows and columns (`MaskComparison.relabelled_std`).

    Parameters
    ----------
    comparison : PlanComparison
        What `compare` returns of two plans.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import MaskPlan
    >>> from expandermask.masks.compare import compare
    >>> from expandermask.plots.compare import layer_overlap
    >>> one, two = (MaskPlan.for_shapes({"query": (96, 96)}, r=16, rng=s) for s in (0, 1))
    >>> layer_overlap(compare(one, two)).get_ylabel()
    'common / smaller mask'
    """
    ax = new_axes(ax, size=(11.0, 4.4))
    if not isinstance(comparison, PlanComparison):
        raise InvalidInputError(
            f"comparison must be of two plans, got {type(comparison).__name__}; see masks.compare"
        )
    masks = comparison.masks
    columns, modules = module_columns(list(masks))
    for side, names in by_side(masks).items():
        x = [columns[name] for name in names]
        color = SIDES.get(side, VALUES)
        smaller = np.array(
            [max(1, min(masks[n].entries.kept_a, masks[n].entries.kept_b)) for n in names]
        )
        expected = np.array([masks[n].entries.expected for n in names]) / smaller
        spread = 2 * np.array([masks[n].relabelled_std for n in names]) / smaller
        ax.vlines(x, expected - spread, expected + spread, color="0.7", lw=2)
        ax.scatter(x, expected, marker="_", s=30, color=LIMIT)
        values = [masks[n].overlap for n in names]
        ax.plot(x, values, "o", ms=4, color=color, label=side or "masks")
    ax.scatter([], [], marker="_", s=60, color=LIMIT, label="expected if independent")
    ax.vlines([], [], [], color="0.7", lw=2, label="2 standard deviations")
    label_modules(ax, modules)
    ax.set(ylabel="common / smaller mask", ylim=(0, None))
    ax.set_title(f"Overlap of {len(masks)} pairs of masks", loc="left")
    legend_above(ax)
    return ax


def _mark_chance(ax: Axes, image: Any, chance: Any, label: str) -> None:
    """A colour bar beside ``ax`` with the expected values marked on it."""
    low, high = float(chance.min()), float(chance.max())
    text = f"{low:.3g}" if high - low < 1e-12 else f"{low:.3g} to {high:.3g}"
    bar = ax.figure.colorbar(image, ax=ax, label=f"{label} (red: {text} if independent)")
    if high > low:
        bar.ax.axhspan(low, high, color="red", alpha=0.6)
    bar.ax.axhline(low, color="red", lw=2.5)
    bar.ax.axhline(high, color="red", lw=2.5)


def _label_masks(ax: Axes, names: tuple[str, ...]) -> None:
    """The names along both sides; every so many of them where there are more than fit."""
    step = -(-len(names) // _MOST_LABELS)
    ticks = range(0, len(names), step)
    short = shortened(names)
    shown = [short[k] for k in ticks]
    size, many = ("small", False) if len(shown) <= 16 else ("x-small", True)
    turn, anchor = (90, "center") if many else (45, "right")
    ax.set_xticks(ticks, shown, rotation=turn, ha=anchor, fontsize=size)
    ax.set_yticks(ticks, shown, fontsize=size)
