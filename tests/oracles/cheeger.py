"""Cheeger constants by their definition, and every small connected bipartite graph."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.int64]


def adjacency(mask: Mask) -> Mask:
    """Left vertices first, then right ones."""
    n1, n2 = mask.shape
    return np.block(
        [[np.zeros((n1, n1), dtype=np.int64), mask], [mask.T, np.zeros((n2, n2), dtype=np.int64)]]
    )


def vertex_sets(n: int) -> NDArray[np.int64]:
    """Every set of n vertices, as the bits of 0, 1, 2, ...: vertex 0 is the lowest bit."""
    return np.arange(1 << n)


def boundaries(graph: Mask, kind: str) -> NDArray[np.int64]:
    """|boundary| of every set of vertices, counted edge by edge or vertex by vertex."""
    sets = vertex_sets(len(graph))
    inside = [sets >> v & 1 == 1 for v in range(len(graph))]
    total = np.zeros(len(sets), dtype=np.int64)
    if kind == "edge":
        for u, v in np.argwhere(np.triu(graph)):
            total += inside[u] != inside[v]
        return total
    for v, row in enumerate(graph):
        reached = np.zeros(len(sets), dtype=bool)
        for u in np.flatnonzero(row):
            reached |= inside[u]
        total += reached & ~inside[v]
    return total


def least_ratio(mask: Mask, kind: str, allowed: NDArray[np.bool_] | None = None) -> Fraction:
    """The Cheeger constant of a bipartite graph, or the least over the X that are ``allowed``."""
    return least_ratio_of(adjacency(mask), kind, allowed)


def least_ratio_of(graph: Mask, kind: str, allowed: NDArray[np.bool_] | None = None) -> Fraction:
    """min |boundary| / |X| over 0 < |X| <= N / 2 by looking at every X, for any adjacency."""
    sizes = np.bitwise_count(vertex_sets(len(graph))).astype(np.int64)
    fits = (sizes > 0) & (2 * sizes <= len(graph))
    if allowed is not None:
        fits &= allowed
    found = boundaries(graph, kind)
    return min(
        Fraction(int(found[fits & (sizes == s)].min()), int(s)) for s in np.unique(sizes[fits])
    )


def connected_bipartite(n: int) -> list[Mask]:
    """All connected bipartite graphs of n vertices, one of each isomorphism class.

    Sides are exchanged at will, so that no side is empty but for n = 1. Each graph of n vertices is
    one of n - 1 (which a vertex that does not cut it leaves behind) with a vertex added.
    """
    if n == 1:
        return [np.zeros((0, 1), dtype=np.int64)]
    found: dict[tuple[int, int], Mask] = {}
    for smaller in connected_bipartite(n - 1):
        for mask in (smaller, smaller.T):  # the new vertex is a row, joined to some columns
            for subset in range(1, 1 << mask.shape[1]):
                row = subset >> np.arange(mask.shape[1]) & 1
                bigger = np.vstack([mask, row])
                found.setdefault(_canonical(bigger), bigger)
    return list(found.values())


def _canonical(mask: Mask) -> tuple[int, int]:
    """The same for isomorphic connected graphs only: least over all orders of the smaller side."""
    turned = mask if mask.shape[0] <= mask.shape[1] else mask.T
    both = [turned, turned.T] if turned.shape[0] == turned.shape[1] else [turned]
    return turned.shape[0], min(_least_columns(m) for m in both)


def _least_columns(mask: Mask) -> int:
    """The columns as words, ascending, in one number; at most 5 rows and 9 columns fit in it."""
    powers = 1 << np.array(_orders(len(mask)), dtype=np.int64)
    words = np.sort(powers @ mask, axis=1)
    return int((words @ 32 ** np.arange(mask.shape[1])).min())


@cache
def _orders(k: int) -> list[tuple[int, ...]]:
    return list(permutations(range(k)))
