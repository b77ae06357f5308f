"""Singular values against the Ramanujan bound and the provable limit: one graph, or a plan."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from expandermask.certificates import limits, ramanujan_bound, spectrum
from expandermask.graphs.biregular import BiregularGraph
from expandermask.masks.plan import MaskPlan
from expandermask.plots._axes import BOUND, LIMIT, SIDES, VALUES, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def spectrum_against_bound(graph: BiregularGraph, ax: Axes | None = None) -> Axes:
    """All singular values of one graph, largest first, with its bound and its limit.

    Parameters
    ----------
    graph : BiregularGraph
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
    ax = new_axes(ax)
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
