"""Neighbours and connected components of all vertices together, left ones first.

Searches for cuts and for flows treat both sides alike, so here right vertex j is vertex n1 + j.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from expandermask.graphs.bipartite import BipartiteGraph

Adjacency = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

# One question about a graph asks for these several times, of the graph and of its transpose; a
# graph is its own key, since it never changes and is equal to itself only.
_KEPT = 2


@lru_cache(maxsize=_KEPT)
def adjacency(graph: BipartiteGraph) -> Adjacency:
    """Neighbours of all n1 + n2 vertices, right ones numbered from n1: (starts, targets, edges).

    Vertex v has the neighbours ``targets[starts[v]:starts[v + 1]]`` by the ``edges`` of the same
    places, numbered in the order of ``graph.rights``. The arrays are shared: only read them.
    """
    tails = np.concatenate([graph.lefts, graph.rights.astype(np.int64) + graph.n1])
    heads = np.roll(tails, graph.num_edges)
    order = np.argsort(tails, kind="stable")
    degrees = np.bincount(tails, minlength=graph.n1 + graph.n2)
    starts = np.concatenate([[0], degrees.cumsum()])
    return starts, heads[order], order % max(graph.num_edges, 1)


@lru_cache(maxsize=_KEPT)
def component_labels(graph: BipartiteGraph) -> NDArray[np.int32]:
    """Which connected component each vertex is in, from 0 on: int32, shape (n1 + n2,), shared."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    starts, targets, _ = adjacency(graph)
    n = graph.n1 + graph.n2
    labels: NDArray[np.int32] = connected_components(
        csr_array((np.ones(len(targets), dtype=np.int8), targets, starts), shape=(n, n)),
        directed=False,
    )[1]
    return labels


def smallest_component(graph: BipartiteGraph) -> NDArray[np.bool_] | None:
    """Which vertices are in a smallest component: bool, shape (n1 + n2,); None if there is but one.

    Of two components or more, the smallest has at most half of the vertices and no boundary.
    """
    labels = component_labels(graph)
    if labels.max() == 0:
        return None
    return np.asarray(labels == np.bincount(labels).argmin())
