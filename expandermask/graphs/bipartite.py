"""Bipartite graphs of any degrees: what a mask is before it is known to be biregular.

The constructions and certificates take a `BiregularGraph`. What is measured of masks from elsewhere
(Cheeger constants, `inspect_mask`, comparisons) is defined for every 0/1 mask, and takes this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import (
    InvalidInputError,
    NotBiregularError,
    check_size,
    require_memory,
)
from expandermask.graphs import _kernels
from expandermask.graphs.biregular import (
    BiregularGraph,
    dense_ones,
    is_networkx,
    sides_of,
    sparse_ones,
)

if TYPE_CHECKING:
    import networkx as nx
    import scipy.sparse


@dataclass(frozen=True)
class BernoulliRecipe:
    """How a graph of independent edges was drawn, to draw it again: see `masks.bernoulli`."""

    density: float
    """The probability of every edge."""
    seed: int
    """64-bit seed."""
    version: int = 1


@dataclass(frozen=True, eq=False)
class BipartiteGraph:
    """A simple bipartite graph, left vertices 0 .. n1-1 and right vertices 0 .. n2-1.

    The neighbours of left vertex i are ``rights[starts[i]:starts[i + 1]]``, ascending: the arrays
    of a CSR matrix without its ones. Vertices may have no neighbours at all. Make one with
    `as_bipartite` or `from_ones`.

    Examples
    --------
    >>> import numpy as np
    >>> from expandermask.graphs.bipartite import as_bipartite
    >>> path = as_bipartite(np.array([[1, 0], [1, 1]]))
    >>> path.left_degrees, path.right_degrees
    (array([1, 2]), array([2, 1]))
    """

    starts: NDArray[np.int64]
    """Where the neighbours of each left vertex start: int64, shape (n1 + 1,)."""
    rights: NDArray[np.int32]
    """The right ends of all edges, by left vertex: int32, shape (num_edges,)."""
    n2: int
    """Number of right vertices."""
    recipe: BernoulliRecipe | None = None
    """How it was drawn, if a file may hold that instead of the edges; no part of equality."""

    @property
    def n1(self) -> int:
        """Number of left vertices."""
        return len(self.starts) - 1

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return len(self.rights)

    @property
    def left_degrees(self) -> NDArray[np.int64]:
        """The degrees of the left vertices: int64, shape (n1,)."""
        return np.diff(self.starts)

    @property
    def right_degrees(self) -> NDArray[np.int64]:
        """The degrees of the right vertices: int64, shape (n2,)."""
        return np.bincount(self.rights, minlength=self.n2)

    @property
    def lefts(self) -> NDArray[np.int64]:
        """The left ends of all edges, in the order of ``rights``: int64, shape (num_edges,)."""
        return np.repeat(np.arange(self.n1), self.left_degrees)

    def biadjacency(self) -> scipy.sparse.csr_array:
        """The biadjacency matrix as a scipy.sparse CSR array: int32 ones, shape (n1, n2)."""
        from scipy.sparse import csr_array

        ones = np.ones(self.num_edges, dtype=np.int32)
        return csr_array((ones, self.rights, self.starts), shape=(self.n1, self.n2))

    def transpose(self) -> BipartiteGraph:
        """The same graph with the sides exchanged; O(edges), by counting."""
        starts, lefts = _kernels.transpose_edges(self.starts, self.rights, self.n2)
        return BipartiteGraph(starts, lefts, self.n1)

    def biregular(self) -> BiregularGraph:
        """The same graph as a `BiregularGraph`; `NotBiregularError` if the degrees differ."""
        for side, degrees in (("left", self.left_degrees), ("right", self.right_degrees)):
            if degrees.min() != degrees.max() or degrees.min() == 0:
                raise NotBiregularError(
                    f"{side} degrees must be equal and positive, "
                    f"got {degrees.min()} to {degrees.max()}"
                )
        return BiregularGraph._trusted(self.rights.reshape(self.n1, -1), self.n2)

    def mask(self) -> NDArray[np.uint8]:
        """The biadjacency matrix as a dense 0/1 array: uint8, shape (n1, n2), C order."""
        require_memory(self.n1 * self.n2, f"a dense {self.n1} x {self.n2} uint8 mask")
        dense = np.zeros((self.n1, self.n2), dtype=np.uint8)
        dense[self.lefts, self.rights] = 1
        return dense

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the sizes, the left degrees and the edges; the same on every platform.

        Hashed are the ASCII line ``expandermask bipartite graph n1 n2`` with a newline, then the
        degrees and the right ends as little-endian integers of 8 and 4 bytes.
        """
        header = f"expandermask bipartite graph {self.n1} {self.n2}\n".encode()
        numbers = self.left_degrees.astype("<i8").tobytes(), self.rights.astype("<i4").tobytes()
        return hashlib.sha256(header + b"".join(numbers)).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BipartiteGraph):
            return NotImplemented
        return (
            self.n2 == other.n2
            and np.array_equal(self.starts, other.starts)
            and np.array_equal(self.rights, other.rights)
        )

    def __hash__(self) -> int:
        return int(self.digest[:15], 16)

    def __repr__(self) -> str:
        return f"BipartiteGraph(n1={self.n1}, n2={self.n2}, num_edges={self.num_edges})"


def from_ones(
    lefts: NDArray[np.integer[Any]], rights: NDArray[np.integer[Any]], shape: tuple[int, int]
) -> BipartiteGraph:
    """The graph with these edges, no two of them equal, in any order."""
    for name, size in zip(("n1", "n2"), shape, strict=True):
        check_size(name, size)
    require_memory(16 * sum(shape), f"a graph of {shape[0]} and {shape[1]} vertices")
    order = np.lexsort((rights, lefts))
    starts = np.concatenate([[0], np.bincount(lefts, minlength=shape[0]).cumsum()])
    return BipartiteGraph(starts.astype(np.int64), rights[order].astype(np.int32), shape[1])


def from_kept(kept: NDArray[np.integer[Any]], n1: int, n2: int) -> BipartiteGraph:
    """The graph in which the left vertices ``kept``, ascending, have all neighbours, others none.

    Examples
    --------
    >>> import numpy as np
    >>> from_kept(np.array([0, 2]), 3, 2).mask().tolist()
    [[1, 1], [0, 0], [1, 1]]
    """
    degrees = np.zeros(n1, dtype=np.int64)
    degrees[kept] = n2
    starts = np.concatenate([[0], degrees.cumsum()])
    return BipartiteGraph(starts, np.tile(np.arange(n2, dtype=np.int32), len(kept)), n2)


def as_bipartite(graph_or_mask: Any) -> BipartiteGraph:
    """The bipartite graph of a 0/1 mask or graph, whatever its degrees.

    Takes a `BipartiteGraph`, a `BiregularGraph`, a dense 2-D array or tensor of exact zeros and
    ones, a scipy.sparse matrix of ones (stored zeros are no edges), or a networkx graph, whose left
    side are the nodes with ``bipartite=0`` or, where no node has that attribute, those of a
    2-colouring. Raises `InvalidInputError` for anything else.
    """
    if isinstance(graph_or_mask, BipartiteGraph):
        return graph_or_mask
    if isinstance(graph_or_mask, BiregularGraph):
        graph = graph_or_mask
        starts = np.arange(0, graph.num_edges + 1, graph.d1, dtype=np.int64)
        return BipartiteGraph(starts, graph.neighbors.ravel(), graph.n2)
    if is_networkx(graph_or_mask):
        graph = two_coloured(graph_or_mask)
        return _between(graph, *sides_of(graph))
    from scipy.sparse import issparse

    if issparse(graph_or_mask):
        return from_ones(*sparse_ones(graph_or_mask), graph_or_mask.shape)
    ones = dense_ones(graph_or_mask)
    lefts, rights = np.nonzero(ones)
    return from_ones(lefts, rights, (ones.shape[0], ones.shape[1]))


def as_graph(graph_or_mask: Any) -> BiregularGraph:
    """The biregular graph of whatever `as_bipartite` takes.

    Raises `NotBiregularError` if the degrees of a side differ or are zero.
    """
    if isinstance(graph_or_mask, BiregularGraph):
        return graph_or_mask
    return as_bipartite(graph_or_mask).biregular()


def as_aligned(masks: Sequence[Any]) -> list[BipartiteGraph]:
    """The bipartite graphs of masks that are compared entry by entry.

    Networkx graphs are compared by the labels of their nodes, whatever order they were added in:
    all take the sides and the order of the first one with ``bipartite`` attributes, or of a
    2-colouring of the first. Where anything else is among the masks, each keeps its own order.

    Raises `InvalidInputError` for networkx graphs that have other nodes, or the same on other
    sides.
    """
    if not all(is_networkx(mask) for mask in masks):
        return [as_bipartite(mask) for mask in masks]
    named = [mask for mask in masks if _has_sides(mask)]
    reference = two_coloured([*named, *masks][0])
    lefts, rights = sides_of(reference)
    return [_between(_on_sides_of(reference, mask), lefts, rights) for mask in masks]


def two_coloured(graph: nx.Graph) -> nx.Graph:
    """The graph with ``bipartite`` attributes: its own, or those of a 2-colouring."""
    import networkx as nx

    if graph.is_directed() or _has_sides(graph):
        return graph
    graph = graph.copy()
    try:
        nx.set_node_attributes(graph, nx.bipartite.color(graph), "bipartite")
    except nx.NetworkXError:
        raise InvalidInputError(
            "the graph has an odd cycle, so it is not bipartite and no mask; of a regular "
            "graph ask certify(graph, definition='regular')"
        ) from None
    return graph


def _has_sides(graph: nx.Graph) -> bool:
    return any("bipartite" in data for _, data in graph.nodes(data=True))


def _on_sides_of(reference: nx.Graph, graph: nx.Graph) -> nx.Graph:
    """``graph`` with its nodes on the sides that they have in ``reference``."""
    different = set(graph) ^ set(reference)
    if different:
        node = next(iter(different))
        raise InvalidInputError(
            "networkx graphs are compared by the labels of their nodes, and only one of them has "
            f"the node {node!r}; relabel them, or give their biadjacency matrices"
        )
    sides = dict(reference.nodes(data="bipartite"))
    if _has_sides(graph):
        moved = [node for node, side in graph.nodes(data="bipartite") if side != sides[node]]
        if moved:
            raise InvalidInputError(
                f"node {moved[0]!r} has another bipartite attribute in one graph than in the other"
            )
        return graph
    graph = graph.copy()
    for node, side in sides.items():
        graph.nodes[node]["bipartite"] = side
    return graph


def _between(graph: nx.Graph, lefts: Sequence[Any], rights: Sequence[Any]) -> BipartiteGraph:
    """The edges of a graph, its nodes numbered in the order that is given."""
    sides_of(graph)
    column = {node: j for j, node in enumerate(rights)}
    pairs = [(i, column[v]) for i, u in enumerate(lefts) for v in graph.neighbors(u)]
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return from_ones(edges[:, 0], edges[:, 1], (len(lefts), len(rights)))
