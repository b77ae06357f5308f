"""What "Ramanujan" may mean, and the bipartite graph each meaning is a statement about.

A d-regular graph G that is not bipartite is Ramanujan (Lubotzky, Phillips and Sarnak, 1988) if all
its eigenvalues but d are at most 2 sqrt(d - 1) in modulus. Its adjacency matrix A is symmetric, so
its singular values are those moduli, and A is the biadjacency matrix of the bipartite double cover
of G: G is Ramanujan if and only if the cover is, in the one-sided sense. G is connected and not
bipartite if and only if the cover is connected.
"""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expandermask.certificates.certificate import DEFINITIONS, Definition
from expandermask.errors import InvalidInputError, NotBiregularError
from expandermask.graphs.bipartite import as_graph
from expandermask.graphs.biregular import BiregularGraph, dense_ones, is_networkx, sparse_ones

if TYPE_CHECKING:
    import networkx as nx


def check_definition(definition: object, eps: object) -> tuple[Definition, float]:
    """The definition and eps (0 where there is none), or an `InvalidInputError`."""
    if definition not in DEFINITIONS:
        raise InvalidInputError(f"definition must be one of {DEFINITIONS}, got {definition!r}")
    if definition != "within":
        if eps is not None:
            raise InvalidInputError(
                f"eps={eps!r} goes with definition='within', got definition={definition!r}"
            )
        return definition, 0.0
    if not isinstance(eps, numbers.Real) or isinstance(eps, bool):
        raise InvalidInputError(f"definition='within' needs a number eps >= 0, got eps={eps!r}")
    try:
        slack = float(eps)
    except OverflowError:
        slack = math.inf
    if not (math.isfinite(slack) and slack >= 0):
        raise InvalidInputError(f"eps must be a finite float of at least 0, got {eps!r:.80}")
    return definition, slack


def graph_for(definition: Definition, graph_or_mask: Any) -> BiregularGraph:
    """The biregular graph whose second singular value the definition is about."""
    return (regular if definition == "regular" else as_graph)(graph_or_mask)


def regular(graph_or_adjacency: Any) -> BiregularGraph:
    """A regular graph as a biregular one: itself if it is bipartite, or its double cover.

    Parameters
    ----------
    graph_or_adjacency : networkx Graph, or array, tensor or scipy.sparse matrix, shape (n, n)
        A simple d-regular graph, or its adjacency matrix. A `BiregularGraph` must have equal
        degrees and stands for itself.

    Raises
    ------
    InvalidInputError
        Not symmetric, a loop, parallel edges, or a directed graph.
    NotBiregularError
        The degrees differ.
    """
    if isinstance(graph_or_adjacency, BiregularGraph):
        graph = graph_or_adjacency
        if graph.d1 != graph.d2:
            raise NotBiregularError(
                f"definition='regular' needs equal degrees, got d1={graph.d1}, d2={graph.d2}"
            )
        return graph
    lefts, rights, n = _edges(graph_or_adjacency)
    degrees = np.bincount(lefts, minlength=n)
    if degrees.min() != degrees.max() or degrees.min() == 0:
        raise NotBiregularError(
            f"all degrees must be equal and positive, got {degrees.min()} to {degrees.max()}"
        )
    neighbors = rights[np.lexsort((rights, lefts))].reshape(n, degrees[0])
    side = _two_colouring(neighbors)
    if side is None:
        return BiregularGraph(neighbors, n)
    place = np.where(side, side.cumsum(), (~side).cumsum()) - 1
    return BiregularGraph(place[neighbors[~side]], int(side.sum()))


def _edges(graph: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Both directions of every edge of a simple undirected graph, and its order."""
    if is_networkx(graph):
        return _networkx_edges(graph)
    from scipy.sparse import issparse

    lefts, rights = sparse_ones(graph) if issparse(graph) else np.nonzero(dense_ones(graph))
    shape = np.shape(graph)
    if shape[0] != shape[1]:
        raise InvalidInputError(
            f"definition='regular' takes a graph or its square adjacency matrix, got shape {shape}"
        )
    if (lefts == rights).any():
        vertex = lefts[lefts == rights][0]
        raise InvalidInputError(f"vertex {vertex} has a loop; a simple graph has none")
    order = np.lexsort((lefts, rights))
    if not (np.array_equal(rights[order], lefts) and np.array_equal(lefts[order], rights)):
        raise InvalidInputError("an adjacency matrix is symmetric, this one is not")
    return lefts, rights, int(shape[0])


def _networkx_edges(graph: nx.Graph) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    if graph.is_directed() or graph.is_multigraph():
        raise InvalidInputError(f"expected a simple undirected graph, got {graph!r}")
    index = {node: i for i, node in enumerate(graph)}
    pairs = np.array([(index[u], index[v]) for u, v in graph.edges()], dtype=np.int64)
    pairs = pairs.reshape(-1, 2)
    if (loops := pairs[:, 0] == pairs[:, 1]).any():
        raise InvalidInputError(
            f"vertex {list(graph)[pairs[loops][0, 0]]!r} has a loop; a simple graph has none"
        )
    if not len(index):
        raise InvalidInputError("the graph has no vertices")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return both[:, 0], both[:, 1], len(index)


def _two_colouring(neighbors: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Which side each vertex lies on, with vertex 0 on the first; None if there is an odd cycle.

    The double cover of a connected bipartite graph falls apart into two copies of it. Vertex v lies
    on the first side if its first copy is in one component with the first copy of the least vertex
    it is connected to.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n, d = neighbors.shape
    starts = np.arange(0, n * d + 1, d)
    graph = csr_array((np.ones(n * d, dtype=np.int8), neighbors.ravel(), starts), shape=(n, n))
    cover = csr_array(
        (np.ones(n * d, dtype=np.int8), neighbors.ravel() + n, np.append(starts, [n * d] * n)),
        shape=(2 * n, 2 * n),
    )
    _, whole = connected_components(graph, directed=False)
    _, split = connected_components(cover, directed=False)
    if (split[:n] == split[n:]).any():
        return None
    _, first = np.unique(whole, return_index=True)
    return np.asarray(split[:n] != split[first[whole]])
