"""Biregular masks that are worse than random ones, for studies of what connectedness is worth."""

from __future__ import annotations

import numpy as np

from expandermask import BiregularGraph
from expandermask.errors import InvalidInputError
from expandermask.graphs import random_biregular
from expandermask.graphs.random import RandomState, derive_seed, draw_seed


def blocks(n1: int, n2: int, d1: int, count: int, *, rng: RandomState = None) -> BiregularGraph:
    """``count`` random biregular graphs side by side, of n1 / count by n2 / count vertices each."""
    if n1 % count or n2 % count or d1 > n2 // count:
        raise InvalidInputError(f"{n1} x {n2} of degree {d1} cannot be cut into {count} blocks")
    seed = draw_seed(rng)
    parts = [
        random_biregular(n1 // count, n2 // count, d1, rng=derive_seed(seed, "block", i)).neighbors
        + i * (n2 // count)
        for i in range(count)
    ]
    return BiregularGraph(np.concatenate(parts), n2)


def switched(graph: BiregularGraph, share: float, *, rng: RandomState = None) -> BiregularGraph:
    """The graph after switching ends of a share of its edges; every degree stays as it is.

    A switch takes edges (i, u) and (j, v) and joins i to v and j to u, where neither was joined
    before. ``share * edges / 2`` of them are made, at random.
    """
    generator = np.random.default_rng(draw_seed(rng))
    rows = [list(map(int, row)) for row in graph.neighbors]
    wanted = round(share * graph.num_edges / 2)
    for _ in range(100 * wanted):
        if wanted == 0:
            break
        i, j = map(int, generator.integers(graph.n1, size=2))
        a, b = map(int, generator.integers(graph.d1, size=2))
        u, v = rows[i][a], rows[j][b]
        if v not in rows[i] and u not in rows[j]:
            rows[i][a], rows[j][b] = v, u
            wanted -= 1
    if wanted:
        raise InvalidInputError(f"{wanted} switches could not be made")
    return BiregularGraph(np.array(rows), graph.n2)
