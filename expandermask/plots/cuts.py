"""Pictures of cuts and Cheeger constants: which edges a set of vertices cuts, and how exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import InvalidInputError
from expandermask.expansion.cheeger import CheegerResult
from expandermask.expansion.cuts import Cut, Kind
from expandermask.plots._axes import BOUND, METHODS, VALUES, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INSIDE, _OUTSIDE, _WITHIN = VALUES, METHODS[4], "0.75"

_WIDEST = 32


def cut(found: CheegerResult | Cut, ax: Axes | None = None) -> Axes:
    """A set of vertices X and what leaves it, the graph drawn as two facing rows.

    Left vertices are on top. Filled blue vertices are in X and the others are orange; in each row X
    comes first. Edges that cross are red and drawn over the rest, which are grey. For the kind
    "vertex" the vertices outside X that count, those with a neighbour in X, are ringed in red.

    Parameters
    ----------
    found : CheegerResult or Cut
        A cut, or the best cut of a result.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.

    Raises
    ------
    InvalidInputError
        Neither a result nor a cut.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import graphs
    >>> from expandermask import cheeger
    >>> from expandermask.plots.cuts import cut
    >>> cut(cheeger(graphs.heawood())).get_title()
    'edge boundary 6, |X| = 6: 1'
    """
    from matplotlib.collections import LineCollection

    best = found.cut if isinstance(found, CheegerResult) else found
    if not isinstance(best, Cut):
        raise InvalidInputError(
            f"found must be a CheegerResult or a Cut, got {type(found).__name__}"
        )
    ax = new_axes(ax)
    graph, crossing = best.graph, best.crossing
    left, right = _places(best.left, 1.0), _places(best.right, 0.0)
    segments = np.stack([left[graph.lefts], right[graph.rights]], axis=1)
    for which, color, width, order in ((~crossing, _WITHIN, 0.8, 1), (crossing, BOUND, 1.8, 2)):
        lines = LineCollection(list(segments[which]), colors=color, linewidths=width, zorder=order)
        ax.add_collection(lines)
    _draw_side(left, best.left, graph.lefts[crossing], best.kind, ax)
    _draw_side(right, best.right, graph.rights[crossing], best.kind, ax)
    ax.set_title(f"{best.kind} boundary {best.boundary}, |X| = {best.size}: {best.ratio}")
    ax.set_axis_off()
    ax.margins(0.08, 0.12)
    return ax


def _draw_side(
    points: NDArray[np.float64],
    inside: NDArray[np.bool_],
    touched: NDArray[np.integer[Any]],
    kind: Kind,
    ax: Axes,
) -> None:
    """The vertices of one side; ``touched`` are those at crossing edges."""
    ax.plot(*points[inside].T, "o", color=_INSIDE, ms=8, zorder=3)
    ax.plot(*points[~inside].T, "o", color=_OUTSIDE, ms=8, zorder=3)
    if kind == "vertex":
        around = np.setdiff1d(touched, np.flatnonzero(inside))
        ax.plot(*points[around].T, "o", mfc="none", mec=BOUND, mew=2, ms=13, zorder=3)


def _places(inside: NDArray[np.bool_], height: float) -> NDArray[np.float64]:
    """Points spread evenly over [0, 1] at one height, those inside first: shape (n, 2)."""
    place = np.empty(inside.size)
    place[np.argsort(~inside, kind="stable")] = np.arange(inside.size)
    return np.column_stack([(place + 0.5) / inside.size, np.full(inside.size, height)])


def cheeger_intervals(results: Mapping[str, CheegerResult], ax: Axes | None = None) -> Axes:
    """What is proved of the Cheeger constant of each graph: a bar from lower to upper end.

    A constant known exactly is a point. One row per graph, in the order of the mapping, the first
    on top; the two kinds have a colour each.

    Parameters
    ----------
    results : mapping from names to CheegerResult
        The labels of the rows, and what to draw in them.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.

    Raises
    ------
    InvalidInputError
        No results.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import graphs
    >>> from expandermask import cheeger
    >>> from expandermask.plots.cuts import cheeger_intervals
    >>> ax = cheeger_intervals({"Heawood": cheeger(graphs.heawood())})
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['Heawood']
    """
    if not results:
        raise InvalidInputError("results must have at least one CheegerResult, got none")
    ax = new_axes(ax, size=(6.4, 1.4 + 0.32 * len(results)))
    for kind, color in (("edge", VALUES), ("vertex", METHODS[2])):
        rows = [(y, r) for y, r in enumerate(results.values()) if r.kind == kind]
        if not rows:
            continue
        known = [(float(r.upper), y) for y, r in rows if r.exact]
        open_ = [(y, float(r.lower), float(r.upper)) for y, r in rows if not r.exact]
        if known:
            ax.plot(*np.array(known).T, "o", color=color, label=f"{kind}, exact")
        if open_:
            y, low, high = np.array(open_).T
            bars = ax.hlines(y, low, high, color=color, lw=5, alpha=0.6)
            bars.set_label(f"{kind}, proved interval")
    names = [name if len(name) <= _WIDEST else f"...{name[3 - _WIDEST :]}" for name in results]
    ax.set_yticks(range(len(results)), names)
    ax.set(xlabel="Cheeger constant", ylim=(len(results) - 0.4, -0.6))
    ax.set_xlim(left=0)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return ax
