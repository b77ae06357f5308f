"""Pictures of what policies decided: ranks and module weights by layer, budgets over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from expandermask.errors import InvalidInputError
from expandermask.masks.targets import layer_number
from expandermask.plots._axes import METHODS, new_axes
from expandermask.plots.layers import MARKERS, heatmap, kinds_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def rank_heatmap(
    ranks: Mapping[str, float], ax: Axes | None = None, *, r: int | None = None, title: str = ""
) -> Axes:
    """The rank of every module, layers across and kinds of module down.

    Parameters
    ----------
    ranks : mapping from module names to numbers
        ``policy.ranks()``, or means over runs.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.
    r : int, optional
        The largest rank there could be, where the colours end; without it the largest there is.
    title : str
        Above the picture.

    Raises
    ------
    InvalidInputError
        Nothing to draw, or ranks that are negative or not finite.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask.plots import rank_heatmap
    >>> ax = rank_heatmap({"layer.0.query": 4, "layer.0.value": 0, "layer.1.query": 8}, r=8)
    >>> ax.get_xlabel(), ax.figure.axes[1].get_ylabel()
    ('layer', 'rank')
    """
    if negative := next((name for name, rank in ranks.items() if rank < 0), None):
        raise InvalidInputError(f"rank of {negative!r} is negative: {ranks[negative]}")
    most = r if r is not None else max([1, *ranks.values()])
    return heatmap(ranks, ax, label="rank", title=title, limits=(0, most))


def module_weights(
    weights: Mapping[str, float],
    ax: Axes | None = None,
    *,
    selected: Mapping[str, bool] | None = None,
    title: str = "",
) -> Axes:
    """Every module's share of its layer (DiffoRA's gamma-bar), the selected modules framed.

    Parameters
    ----------
    weights : mapping from module names to numbers
        ``policy.module_weights()``.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.
    selected : mapping from module names to bool, optional
        ``policy.modules()``, of modules that ``weights`` has.
    title : str
        Above the picture.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask.plots import module_weights
    >>> shares = {"layer.0.query": 0.7, "layer.0.value": 0.3}
    >>> ax = module_weights(shares, selected={"layer.0.query": True, "layer.0.value": False})
    >>> len(ax.patches)
    1
    """
    from matplotlib.patches import Rectangle

    ax = heatmap(weights, ax, label="share of the layer", title=title)
    kind_of = kinds_of(weights)
    kinds = list(dict.fromkeys(kind_of.values()))
    layers = sorted({layer_number(name) for name in weights}, key=lambda n: (n is None, n or 0))
    for name, on in (selected or {}).items():
        if name not in kind_of:
            raise InvalidInputError(f"selected names {name!r}, which has no weight")
        if on:
            corner = layers.index(layer_number(name)) - 0.44, kinds.index(kind_of[name]) - 0.42
            frame = Rectangle(corner, 0.88, 0.84, fill=False, edgecolor="#D55E00", lw=2)
            ax.add_patch(frame)
    return ax


def budget_over_time(
    totals: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
    *,
    budget: float | None = None,
    label: str = "rank-1 terms in use",
    title: str = "",
) -> Axes:
    """How many terms are in use after every step, a line for each method.

    Parameters
    ----------
    totals : mapping from methods to sequences of numbers
        One number for each step: ``sum(policy.ranks().values())``, say.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.
    budget : float, optional
        Drawn as a line across.
    label, title : str
        What is counted; above the picture.

    Raises
    ------
    InvalidInputError
        Nothing to draw, or numbers that are not finite.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask.plots import budget_over_time
    >>> ax = budget_over_time({"AdaLoRA": [16, 12, 9, 8], "ROLoRA": [8, 4, 8, 7]}, budget=8)
    >>> ax.get_xlabel(), [line.get_label() for line in ax.get_lines()]
    ('step', ['AdaLoRA', 'ROLoRA', 'budget'])
    """
    if not totals:
        raise InvalidInputError("totals is empty; there is nothing to draw")
    ax = new_axes(ax)
    for i, (method, values) in enumerate(totals.items()):
        numbers = np.asarray(values, dtype=np.float64)
        if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
            raise InvalidInputError(f"totals of {method!r} must be a finite number for every step")
        ax.step(
            np.arange(1, len(numbers) + 1),
            numbers,
            where="post",
            color=METHODS[i % len(METHODS)],
            lw=1.5,
            label=method,
        )
    if budget is not None:
        ax.axhline(budget, color="0.35", ls="--", lw=1, label="budget")
    most = max(*(max(values) for values in totals.values()), budget or 0)
    ax.set_ylim(0, 1.06 * most or 1)  # no line lies on the frame
    ax.set_xlabel("step")
    ax.set_ylabel(label)
    ax.set_title(title, loc="left")
    ax.legend(fontsize="small", frameon=False)
    return ax


def gradient_norms(norms: Mapping[str, float], ax: Axes | None = None, *, title: str = "") -> Axes:
    """The norm of the loss's gradient for every module, a line for each kind over the layers.

    On a logarithmic scale, since kinds differ by orders of magnitude (ROLoRA, figure 3).

    Parameters
    ----------
    norms : mapping from module names to numbers
        As `expandermask.importance.gradient_norms` gives them; positive.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.
    title : str
        Above the picture.

    Raises
    ------
    InvalidInputError
        Nothing to draw, norms that are not positive, or a name without a layer's number.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask.plots import gradient_norms
    >>> ax = gradient_norms({"layer.0.query": 0.5, "layer.1.query": 0.2, "layer.0.value": 3.0})
    >>> [line.get_label() for line in ax.get_lines()]
    ['query', 'value']
    """
    if not norms:
        raise InvalidInputError("norms is empty; there is nothing to draw")
    for name, norm in norms.items():
        if not 0 < norm < np.inf or layer_number(name) is None:
            raise InvalidInputError(
                f"norms must be positive and of modules in numbered layers, got {name!r}: {norm}"
            )
    ax = new_axes(ax)
    from matplotlib.ticker import MaxNLocator

    kind_of = kinds_of(norms)
    for i, kind in enumerate(dict.fromkeys(kind_of.values())):
        own = sorted(
            (layer_number(n) or 0, norm) for n, norm in norms.items() if kind_of[n] == kind
        )
        color, marker = METHODS[i % len(METHODS)], MARKERS[i % len(MARKERS)]
        ax.plot(*zip(*own, strict=True), color=color, marker=marker, ms=4.5, lw=1.4, label=kind)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("layer")
    ax.set_ylabel("norm of the gradient")
    ax.set_title(title, loc="left")
    ax.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
