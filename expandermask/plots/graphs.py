"""Pictures of the graphs themselves: the mask, the edges between two rows or across a circle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expandermask.graphs.bipartite import as_graph
from expandermask.graphs.biregular import BiregularGraph
from expandermask.plots._axes import BOUND, VALUES, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def mask(graph: Any, ax: Axes | None = None) -> Axes:
    """The mask as a picture, ones dark: n1 rows, n2 columns.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import graphs, plots
    >>> plots.mask(graphs.heawood()).get_title()
    '7 x 7, degrees (3, 3)'
    """
    graph, ax = as_graph(graph), new_axes(ax)
    ax.imshow(graph.mask(), cmap="Greys", aspect="auto", interpolation="nearest", vmin=0, vmax=1)
    ax.set(xlabel="right vertex", ylabel="left vertex")
    ax.set_title(f"{graph.n1} x {graph.n2}, degrees ({graph.d1}, {graph.d2})")
    return ax


def bipartite(graph: Any, ax: Axes | None = None) -> Axes:
    """The graph drawn as two facing rows of vertices with the edges between them.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import graphs, plots
    >>> len(plots.bipartite(graphs.heawood()).collections)
    1
    """
    graph, ax = as_graph(graph), new_axes(ax)
    left = np.column_stack([(np.arange(graph.n1) + 0.5) / graph.n1, np.ones(graph.n1)])
    right = np.column_stack([(np.arange(graph.n2) + 0.5) / graph.n2, np.zeros(graph.n2)])
    _draw(graph, left, right, ax)
    return ax


def circular(graph: Any, ax: Axes | None = None) -> Axes:
    """The graph drawn on a circle, the two sides spread evenly among each other.

    For sides of one size left and right vertices alternate, starting with left vertex 0 on top and
    going clockwise, so that the named cubic graphs show the cycle of their LCF code.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import graphs, plots
    >>> len(plots.circular(graphs.heawood()).collections[0].get_segments())
    21
    """
    graph, ax = as_graph(graph), new_axes(ax, size=(4.8, 4.8))
    n1, n2 = graph.n1, graph.n2
    wishes = np.concatenate([(np.arange(n1) + 0.5) / n1, (np.arange(n2) + 0.5) / n2])
    place = np.empty(n1 + n2)
    place[np.argsort(wishes, kind="stable")] = np.arange(n1 + n2)
    angle = np.pi / 2 - 2 * np.pi * place / (n1 + n2)
    points = np.column_stack([np.cos(angle), np.sin(angle)])
    _draw(graph, points[:n1], points[n1:], ax)
    ax.set_aspect("equal")
    return ax


def _draw(
    graph: BiregularGraph, left: NDArray[np.float64], right: NDArray[np.float64], ax: Axes
) -> None:
    """Vertices at the points given, (x, y) a row, and a straight line for each edge."""
    from matplotlib.collections import LineCollection

    starts = np.repeat(left, graph.d1, axis=0)
    segments = np.stack([starts, right[graph.neighbors.ravel()]], axis=1)
    ax.add_collection(LineCollection(list(segments), colors="0.55", linewidths=0.8))
    ax.plot(*left.T, "o", color=VALUES)
    ax.plot(*right.T, "o", color=BOUND)
    ax.set_title(f"{graph.n1} x {graph.n2}, degrees ({graph.d1}, {graph.d2})")
    ax.set_axis_off()
