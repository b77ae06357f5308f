"""Girth and diameter of a biregular graph, exact, by breadth-first search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from expandermask.errors import (
    InvalidInputError,
    check_integer,
    check_ramanujan_shape,
    require_memory,
)
from expandermask.graphs import _distance_kernels, _kernels
from expandermask.graphs.bipartite import as_graph
from expandermask.graphs.biregular import BiregularGraph

_PATIENCE = 2.0
"""Seconds before a progress bar appears."""


def girth(graph: Any, *, roots: Iterable[int] | None = None, progress: bool = False) -> int | float:
    """Length of the shortest cycle; ``math.inf`` for a forest.

    Parameters
    ----------
    graph : BiregularGraph, or what `certify` takes
        Any biregular graph or mask, connected or not.
    roots : iterable of int, optional
        Left vertices. Then the answer is the length of the shortest cycle *through one of these*,
        which is the girth only if every orbit of the automorphism group has one of them: ``[0]``
        will do for `lps` and other graphs whose group acts transitively on the left side. Nothing
        of the kind is assumed: without ``roots`` every vertex of the smaller side is a root.
    progress : bool
        Show a progress bar once the search has run for two seconds.

    Raises
    ------
    InvalidInputError
        A root is not a left vertex.
    TooLargeError
        The search needs more memory (12 bytes an edge) than is free.

    Notes
    -----
    A search from each root in turn, cut off at half the shortest cycle so far: O(roots x edges)
    time at worst, and far less where the girth is small against the diameter.

    Examples
    --------
    >>> from expandermask.graphs import heawood, hypercube
    >>> girth(heawood()), girth(hypercube(4))
    (6, 4)
    """
    graph = as_graph(graph)
    if roots is None:
        side = graph if graph.n1 <= graph.n2 else graph.transpose()
        chosen: Sequence[int] = range(side.n1)
    else:
        side, chosen = graph, _check_roots(roots, graph.n1)
    starts, targets = _adjacency(side)
    n = starts.size - 1
    branch, queue = np.full(n, -1, dtype=np.int32), np.empty(n, dtype=np.int32)
    shortest = n + 1
    for root in _bar(chosen, "girth", progress):
        shortest = _distance_kernels.shortest_cycle(starts, targets, root, shortest, branch, queue)
    return int(shortest) if shortest <= n else math.inf


def diameter(
    graph: Any, *, roots: Iterable[int] | None = None, progress: bool = False
) -> int | float:
    """Largest distance between two vertices, of either side; ``math.inf`` if disconnected.

    Parameters
    ----------
    graph : BiregularGraph, or what `certify` takes
        Any biregular graph or mask, connected or not.
    roots : iterable of int, optional
        Left vertices. Then the answer is the largest distance *from one of these* to any vertex,
        which is the diameter only if every vertex, left or right, can be carried to one of them by
        an automorphism, sides exchanged or not: ``[0]`` will do for `lps`. Without ``roots``
        every vertex is one.
    progress : bool
        Show a progress bar once the search has run for two seconds.

    Raises
    ------
    InvalidInputError
        A root is not a left vertex.
    TooLargeError
        The search needs more memory (12 bytes an edge) than is free.

    Notes
    -----
    One full search per root: O(roots x edges) time.

    Examples
    --------
    >>> from expandermask.graphs import heawood, hypercube
    >>> diameter(heawood()), diameter(hypercube(4))
    (3, 4)
    """
    graph = as_graph(graph)
    everything = range(graph.n1 + graph.n2)
    chosen = everything if roots is None else _check_roots(roots, graph.n1)
    starts, targets = _adjacency(graph)
    n = starts.size - 1
    seen, queue = np.zeros(n, dtype=np.uint8), np.empty(n, dtype=np.int32)
    longest = 0
    for root in _bar(chosen, "diameter", progress):
        distance = _distance_kernels.eccentricity(starts, targets, root, seen, queue)
        if distance < 0:
            return math.inf
        longest = max(longest, distance)
    return int(longest)


def least_diameter(n1: int, n2: int, d1: int) -> int:
    """The Moore bound: no biregular graph of this shape has a smaller diameter.

    Within distance t of a left vertex there are at most as many vertices as in the biregular tree:
    d1, d1 (d2 - 1), d1 (d2 - 1)(d1 - 1), ... at distances 1, 2, 3, ..., on alternating sides; both
    sides must be covered, and the same from a right vertex. Raises `InfeasibleShapeError` where
    there is no such graph, or only unions of stars.

    Examples
    --------
    >>> least_diameter(7, 7, 3)  # the Heawood graph attains it
    3
    """
    n1, n2, d1, d2 = check_ramanujan_shape(n1, n2, d1)
    return max(_tree_depth(n1, n2, d1, d2), _tree_depth(n2, n1, d2, d1))


def _tree_depth(near: int, far: int, d_near: int, d_far: int) -> int:
    """How deep the biregular tree, rooted on the near side, must be to hold both sides."""
    held, sizes, branching = [1, 0], (near, far), (d_far - 1, d_near - 1)
    level, depth = d_near, 1
    while True:
        held[depth % 2] += level
        if held[0] >= sizes[0] and held[1] >= sizes[1]:
            return depth
        depth += 1
        level *= branching[depth % 2]


def _adjacency(graph: BiregularGraph) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Neighbours of all n1 + n2 vertices, right ones numbered from n1, as starts and targets."""
    edges = graph.num_edges
    require_memory(12 * edges, f"a search of a graph of {edges} edges")
    back = _kernels.transpose_rows(graph.neighbors, graph.n2)
    targets = np.empty(2 * edges, dtype=np.int32)
    np.add(graph.neighbors.ravel(), graph.n1, out=targets[:edges])
    targets[edges:] = back.ravel()
    starts = np.concatenate(
        [np.arange(graph.n1) * graph.d1, edges + np.arange(graph.n2 + 1) * graph.d2]
    )
    return starts, targets


def _check_roots(roots: Iterable[int], n1: int) -> list[int]:
    """The roots as a list of left vertices, at least one."""
    chosen = [check_integer("each of roots", root, minimum=0) for root in roots]
    if not chosen or max(chosen) >= n1:
        raise InvalidInputError(
            f"roots must be left vertices, at least one, in [0, n1) = [0, {n1}), got {chosen}"
        )
    return chosen


def _bar(roots: Sequence[int], what: str, progress: bool) -> Iterable[int]:
    return tqdm(roots, desc=what, unit="root", delay=_PATIENCE, disable=not progress)
