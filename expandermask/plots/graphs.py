"""Pictures of the graphs themselves: the mask as black and white, the edges between two rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from expandermask.graphs.biregular import BiregularGraph
from expandermask.plots._axes import BOUND, VALUES, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def mask(graph: BiregularGraph, ax: Axes | None = None) -> Axes:
    """The mask as a picture, ones dark: n1 rows, n2 columns.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import graphs, plots
    >>> plots.mask(graphs.heawood()).get_title()
    '7 x 7, degrees (3, 3)'
    """
    ax = new_axes(ax)
    ax.imshow(graph.mask(), cmap="Greys", aspect="auto", interpolation="nearest", vmin=0, vmax=1)
    ax.set(xlabel="right vertex", ylabel="left vertex")
    ax.set_title(f"{graph.n1} x {graph.n2}, degrees ({graph.d1}, {graph.d2})")
    return ax


def bipartite(graph: BiregularGraph, ax: Axes | None = None) -> Axes:
    """The graph drawn as two facing rows of vertices with the edges between them.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import graphs, plots
    >>> len(plots.bipartite(graphs.heawood()).collections)
    1
    """
    from matplotlib.collections import LineCollection

    ax = new_axes(ax)
    left = (np.arange(graph.n1) + 0.5) / graph.n1
    right = (np.arange(graph.n2) + 0.5) / graph.n2
    segments = [
        [(left[i], 1.0), (right[j], 0.0)] for i, row in enumerate(graph.neighbors) for j in row
    ]
    ax.add_collection(LineCollection(segments, colors="0.55", linewidths=0.8))
    ax.plot(left, np.ones(graph.n1), "o", color=VALUES)
    ax.plot(right, np.zeros(graph.n2), "o", color=BOUND)
    ax.set_title(f"{graph.n1} x {graph.n2}, degrees ({graph.d1}, {graph.d2})")
    ax.set_axis_off()
    return ax
