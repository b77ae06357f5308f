"""Singular values against bound, limit and limiting law: of one graph, a plan, many methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expandermask.certificates import limits, ramanujan_bound, spectrum
from expandermask.certificates.density import kesten_mckay
from expandermask.errors import InvalidInputError, check_ramanujan_shape
from expandermask.graphs.bipartite import as_graph
from expandermask.masks.plan import MaskPlan
from expandermask.plots._axes import BOUND, LIMIT, METHODS, SIDES, VALUES, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def spectrum_against_bound(graph: Any, ax: Axes | None = None) -> Axes:
    """All singular values of one graph, largest first, with its bound and its limit.

    Parameters
    ----------
    graph : BiregularGraph or mask
        The graph to draw.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import graphs, plots
    >>> plots.spectrum_against_bound(graphs.random_biregular(96, 16, 2, rng=0)).get_xlabel()
    'index k'
    """
    graph, ax = as_graph(graph), new_axes(ax)
    values = spectrum(graph)
    index = np.arange(1, values.size + 1)
    ax.plot(index[1:], values[1:], ".", color=VALUES, label="singular values")
    ax.plot(index[:1], values[:1], "*", color=VALUES, label=r"trivial $\sqrt{d_1 d_2}$")
    bound = ramanujan_bound(graph.d1, graph.d2)
    least = math.sqrt(limits(graph.n1, graph.n2, graph.d1).best)
    ax.axhline(bound, color=BOUND, lw=1.5, label=f"Ramanujan bound {bound:.3f}")
    ax.axhline(least, color=LIMIT, lw=1.5, ls="--", label=rf"limit on $\sigma_2$ {least:.3f}")
    ax.set(xlabel="index k", ylabel=r"$\sigma_k$", ylim=(0, None))
    ax.set_title(f"{graph.n1} x {graph.n2}, degrees ({graph.d1}, {graph.d2})")
    ax.legend(fontsize="small")
    return ax


def density(graph: Any, ax: Axes | None = None) -> Axes:
    """A histogram of the nontrivial singular values against the law of large random graphs.

    The curve is the biregular Kesten-McKay law (`kesten_mckay`), which the histogram of a random
    graph approaches as it grows; both have area 1. The trivial singular value is left out.

    Parameters
    ----------
    graph : BiregularGraph or mask
        The graph to draw, both degrees and both sides at least 2; the cost is one SVD.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import graphs, plots
    >>> plots.density(graphs.random_biregular(96, 96, 3, rng=0)).get_ylabel()
    'density'
    """
    graph = as_graph(graph)
    check_ramanujan_shape(graph.n1, graph.n2, graph.d1)
    ax = new_axes(ax)
    values = spectrum(graph)[1:]
    bound = ramanujan_bound(graph.d1, graph.d2)
    low = abs(math.sqrt(graph.d1 - 1) - math.sqrt(graph.d2 - 1))
    span = (min(low, values[-1]), max(bound, values[0]))
    bins = min(60, max(8, math.isqrt(values.size))) | 1  # odd: half the bound is in mid-bin
    heights, edges = np.histogram(values, bins, span, density=True)
    ax.stairs(heights, edges, fill=True, color=VALUES, alpha=0.4, label="singular values")
    grid = low + (bound - low) * np.sin(np.linspace(0, np.pi / 2, 401)) ** 2  # dense at both ends
    law = kesten_mckay(graph.d1, graph.d2, grid)
    ax.plot(grid, law, color=VALUES, label="Kesten-McKay law")
    ax.axvline(bound, color=BOUND, lw=1.5, label=f"Ramanujan bound {bound:.3f}")
    top = np.clip(law.max(), heights.max(), 2 * heights.max())  # at d1 = d2 = 2 it is unbounded
    ax.set(xlabel=r"$\sigma$", ylabel="density", ylim=(0, 1.35 * top))
    ax.set_title(f"{graph.n1} x {graph.n2}, degrees ({graph.d1}, {graph.d2})")
    ax.legend(fontsize="small", loc="upper left")
    return ax


def ratios(table: Sequence[tuple[str, str, Sequence[float]]], ax: Axes | None = None) -> Axes:
    """sigma_2 / limit over seeds: a bar from least to largest, a dot at the median.

    One column per shape, in the order of the table, with the methods side by side in it; the line
    at 1 is the limit no graph can be below.

    Parameters
    ----------
    table : sequence of tuples
        The label of a shape, the name of a method, and sigma_2 / limit for each seed.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.

    Raises
    ------
    InvalidInputError
        The table is empty, a row has no values or one that is not finite, or a shape and method
        occur twice.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import plots
    >>> table = [("768x8 d=2", "random", [1.04, 1.02, 1.07]), ("768x8 d=2", "design", [1.0])]
    >>> [t.get_text() for t in plots.ratios(table).get_legend().get_texts()]
    ['random', 'design', 'limit']
    """
    _check_table(table)
    shapes = list(dict.fromkeys(shape for shape, _, _ in table))
    methods = list(dict.fromkeys(method for _, method, _ in table))
    ax = new_axes(ax, size=(max(6.4, 0.6 * len(shapes) + 2.0), 4.4))
    for i, name in enumerate(methods):
        rows = [(shapes.index(shape), values) for shape, method, values in table if method == name]
        x = np.array([k for k, _ in rows]) + 0.7 * ((i + 0.5) / len(methods) - 0.5)
        low, middle, high = (
            np.array([f(values) for _, values in rows]) for f in (np.min, np.median, np.max)
        )
        color = METHODS[i % len(METHODS)]
        ax.vlines(x, low, high, color=color, lw=2)
        ax.plot(x, middle, "o", ms=5, color=color, label=name)
    ax.axhline(1.0, color=LIMIT, lw=1.5, ls="--", label="limit")
    ax.set_xticks(range(len(shapes)), shapes, rotation=45, ha="right")
    ax.set(ylabel=r"$\sigma_2$ / limit", xlim=(-0.6, len(shapes) - 0.4))
    ax.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=len(methods) + 1)
    return ax


def _check_table(table: Sequence[tuple[str, str, Sequence[float]]]) -> None:
    """Refuse a table that cannot be drawn, naming the row."""
    if not table:
        raise InvalidInputError("table must have at least one row (shape, method, values)")
    seen = set()
    for shape, method, values in table:
        if len(values) == 0 or not np.isfinite(values).all():
            raise InvalidInputError(
                f"table row ({shape!r}, {method!r}) needs finite values, got {list(values)!r:.80}"
            )
        if (shape, method) in seen:
            raise InvalidInputError(
                f"table has two rows ({shape!r}, {method!r}); join their values"
            )
        seen.add((shape, method))


def spectra(plan: MaskPlan, ax: Axes | None = None) -> Axes:
    """The nontrivial singular values of every mask of a plan, each divided by its own bound.

    One column per mask, in the plan's order. Dots are the singular values, the large one sigma_2;
    the short dash is the limit no mask of that shape can be below; the line at 1 is the bound.

    Parameters
    ----------
    plan : MaskPlan
        The plan to draw; the cost is one SVD per mask.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import MaskPlan, plots
    >>> plan = MaskPlan.for_shapes({"query": (96, 96)}, r=16, rng=0)
    >>> len(plots.spectra(plan).get_lines())
    7
    """
    ax = new_axes(ax, size=(11.0, 4.8))
    lowest = 1.0
    for side, color in SIDES.items():
        positions, tops, lows = [], [], []
        for k, (name, graph) in enumerate(plan.graphs()):
            if not name.endswith(f".{side}"):
                continue
            bound = ramanujan_bound(graph.d1, graph.d2)
            values = spectrum(graph)[1:] / bound
            ax.plot(np.full(values.size, k), values, ".", ms=2, alpha=0.35, color=color)
            lowest = min(lowest, values[-1])
            positions.append(k)
            tops.append(values[0])
            lows.append(math.sqrt(limits(graph.n1, graph.n2, graph.d1).best) / bound)
        ax.plot(positions, tops, "o", ms=4, color=color, label=rf"$\sigma_2$ of a mask of {side}")
        ax.plot(positions, lows, "_", ms=7, color=LIMIT, label="limit" if side == "B" else None)
    ax.axhline(1.0, color=BOUND, lw=1.5, label="Ramanujan bound")
    ax.set(
        xlabel=f"mask ({len(plan)} modules, A and B of each)",
        ylabel="singular value / bound",
        ylim=(max(0.0, lowest - 0.12), 1.04),
    )
    ax.set_title(f"Spectra of the plan: r = {plan.r}, left degree {plan.left_degree}")
    ax.legend(fontsize="small", loc="lower right", ncols=4)
    return ax
