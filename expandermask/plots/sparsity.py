"""Pictures of `derive_sparsity`: the metric against the fraction kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from expandermask.errors import InvalidInputError
from expandermask.masks.targets import layer_number
from expandermask.plots._axes import BOUND, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from expandermask.importance.result import SparsityResult


def density_curves(result: SparsityResult, ax: Axes | None = None, *, axis: str = "rows") -> Axes:
    """The metric against the fraction of rows or columns kept: one curve for each module.

    Dark curves are deep layers; the dot on each is what the search kept, and the line across what
    the metric had to reach. Only fractions that were tried are joined.

    Parameters
    ----------
    result : SparsityResult
        From `derive_sparsity`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.
    axis : str
        "rows" or "columns".

    Raises
    ------
    InvalidInputError
        Another axis, or a result of no modules.
    """
    import matplotlib

    if axis not in ("rows", "columns"):
        raise InvalidInputError(f"axis must be 'rows' or 'columns', got {axis!r}")
    if not result.modules:
        raise InvalidInputError("the result has no modules to draw")
    ax = new_axes(ax)
    layers = [layer_number(name) or 0 for name in result.modules]
    low, high = min(layers), max(*layers, min(layers) + 1)
    shades = matplotlib.cm.ScalarMappable(
        matplotlib.colors.Normalize(low - (high - low) / 9, high),  # the lightest is hard to see
        matplotlib.colormaps["cividis_r"],
    )
    colors = shades.to_rgba(np.array(layers))
    for color, module in zip(colors, result.modules.values(), strict=True):
        found = getattr(module, axis)
        points = sorted({(found.size, result.baseline), *found.curve})
        x, y = [kept / found.size for kept, _ in points], [value for _, value in points]
        ax.plot(x, y, color=color, lw=0.8, alpha=0.7)
        ax.plot(found.density, dict(points)[found.kept], "o", color=color, ms=4)
    least = result.threshold * result.baseline
    ax.axhline(least, color=BOUND, lw=1)
    text = f"{result.threshold:g} of the untouched model's"
    ax.text(1, least, text, color=BOUND, ha="right", va="bottom", fontsize="small")
    ax.figure.colorbar(shades, ax=ax, label="layer").ax.set_ylim(low, high)
    ax.set_xlabel(f"fraction of {axis} kept in one module")
    ax.set_ylabel("metric of the model")
    return ax
