"""Graphs with known answers, built from their definitions and not by the library.

Each case is a dense 0/1 matrix with the verdict theory gives, the square of its second singular
value (a sympy expression) and how many eigenvalues lie exactly on the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import sympy
from numpy.typing import NDArray

Mask = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """A graph and what is known about it."""

    name: str
    mask: Mask
    verdict: str
    square: sympy.Expr
    """sigma_2 ** 2, exact."""
    ties: int = 0

    def __repr__(self) -> str:
        return self.name


def incidence(points: list[object], blocks: list[object]) -> Mask:
    """Points against blocks: 1 where the point lies in the block."""
    return np.array([[int(p in b) for b in blocks] for p in points])  # type: ignore[operator]


def projective_plane(p: int) -> Mask:
    """Points and lines of PG(2, p), p prime: a point is on a line where their product is 0."""
    points = [v for v in product(range(p), repeat=3) if next((x for x in v if x), 0) == 1]
    return np.array([[int(np.dot(u, v) % p == 0) for v in points] for u in points])


def pappus() -> Mask:
    """The affine plane of order 3 without one parallel class of lines."""
    points = list(product(range(3), repeat=2))
    lines = [{(x, (m * x + b) % 3) for x in range(3)} for m in range(3) for b in range(3)]
    return incidence(points, lines)


def desargues() -> Mask:
    """2-subsets against 3-subsets of five things, by inclusion."""
    pairs = [set(c) for c in combinations(range(5), 2)]
    triples = [set(c) for c in combinations(range(5), 3)]
    return np.array([[int(a <= b) for b in triples] for a in pairs])


def tutte_coxeter() -> Mask:
    """Sylvester: the 15 duads of six things against the 15 synthemes that hold them."""
    duads = [frozenset(c) for c in combinations(range(6), 2)]
    synthemes = [
        {frozenset((0, a)), frozenset((b, c)), frozenset(set(range(1, 6)) - {a, b, c})}
        for a in range(1, 6)
        for b, c in _pairings(sorted(set(range(1, 6)) - {a}))
    ]
    return incidence(duads, synthemes)


def _pairings(four: list[int]) -> list[tuple[int, int]]:
    """The partner of the first of four things, in each of their three pairings."""
    return [(four[0], other) for other in four[1:]]


def hypercube(d: int) -> Mask:
    """Even against odd words of d bits, joined where one bit differs."""
    words = list(product((0, 1), repeat=d))
    even, odd = [w for w in words if sum(w) % 2 == 0], [w for w in words if sum(w) % 2]
    return np.array(
        [[int(sum(a != b for a, b in zip(u, v, strict=True)) == 1) for v in odd] for u in even]
    )


def cycle(n: int) -> Mask:
    """Adjacency of C_n."""
    step = np.eye(n, dtype=np.int64)[:, np.roll(np.arange(n), 1)]
    return step + step.T


def complete(n: int) -> Mask:
    """Adjacency of K_n."""
    return np.ones((n, n), dtype=np.int64) - np.eye(n, dtype=np.int64)


def box(a: Mask, b: Mask) -> Mask:
    """Adjacency of the Cartesian product."""
    left, right = np.eye(len(a), dtype=np.int64), np.eye(len(b), dtype=np.int64)
    return np.kron(a, right) + np.kron(left, b)


def bipartition(adjacency: Mask) -> Mask:
    """The biadjacency matrix of a connected bipartite graph, by walking it."""
    side, todo = {0: 0}, [0]
    for u in todo:
        for v in np.flatnonzero(adjacency[u]).tolist():
            if v not in side:
                side[v] = 1 - side[u]
                todo.append(v)
    left = [v for v in sorted(side) if side[v] == 0]
    right = [v for v in sorted(side) if side[v] == 1]
    return adjacency[np.ix_(left, right)]


def subdivision(adjacency: Mask) -> Mask:
    """Edges against vertices: M'M = A + d I for a d-regular graph."""
    edges = np.argwhere(np.triu(adjacency))
    mask = np.zeros((len(edges), len(adjacency)), dtype=np.int64)
    mask[np.arange(len(edges))[:, None], edges] = 1
    return mask


def double_triples() -> Mask:
    """12 triples in Z_6 whose codegrees are 2, and 3 along a hexagon: sigma_2**2 = 5."""
    blocks = [{(x + g) % 6 for x in base} for base in ((0, 1, 3), (0, 1, 2)) for g in range(6)]
    return incidence(list(range(6)), blocks).T


def prism(n: int) -> Mask:
    """C_n times an edge, n even."""
    return bipartition(box(cycle(n), complete(2)))


def two_copies(mask: Mask) -> Mask:
    """The disjoint union of a graph with itself."""
    return np.kron(np.eye(2, dtype=np.int64), mask)


def tied_at_both_ends() -> Mask:
    """K_{4,4} [] K_{2,2,2,2}, subdivided: 16 = (sqrt 9 + 1)**2 and 4 = (sqrt 9 - 1)**2 are met.

    The product is 10-regular, with the eigenvalues 6 (six times) and -6 (three).
    """
    halves = complete(8) - np.kron(np.eye(2, dtype=np.int64), complete(4))
    cocktail = complete(8) - np.kron(np.eye(4, dtype=np.int64), complete(2))
    return subdivision(box(halves, cocktail))


def switched(mask: Mask) -> Mask:
    """One switch of two edges, the first that keeps the graph simple."""
    other = mask.copy()
    for (i, x), (j, y) in product(np.argwhere(mask).tolist(), repeat=2):
        if not (mask[i, y] or mask[j, x]):
            other[i, x] = other[j, y] = 0
            other[i, y] = other[j, x] = 1
            return other
    raise AssertionError("no switch keeps this graph simple")


_S = sympy.S

KNOWN = [
    *(
        Case(f"K_{m}_{n}", np.ones((m, n), dtype=np.int64), "PROVED", _S(0))
        for m, n in [(2, 2), (2, 3), (3, 2), (3, 3), (2, 9), (8, 5), (40, 40), (70, 3)]
    ),
    Case("heawood", projective_plane(2), "PROVED", _S(2)),
    Case("pappus", pappus(), "PROVED", _S(3)),
    Case("desargues", desargues(), "PROVED", _S(4)),
    Case("tutte_coxeter", tutte_coxeter(), "PROVED", _S(4)),
    *(Case(f"PG_2_{p}", projective_plane(p), "PROVED", _S(p)) for p in (3, 5, 7, 11)),
    *(Case(f"Q_{d}", hypercube(d), "PROVED", _S(d - 2) ** 2) for d in range(2, 7)),
    Case("12x6_sqrt5", double_triples(), "PROVED", _S(5)),
    Case("C_12", bipartition(cycle(12)), "PROVED", _S(3)),
    Case("C_200", bipartition(cycle(200)), "PROVED", 2 + 2 * sympy.cos(2 * sympy.pi / 100)),
    Case("Q_7", hypercube(7), "REFUTED", _S(25)),
    Case("Q_8", hypercube(8), "REFUTED", _S(36)),
    *(
        Case(f"prism_{n}", prism(n), "REFUTED", (1 + 2 * sympy.cos(2 * sympy.pi / n)) ** 2)
        for n in (16, 40, 100)
    ),
    Case(
        "tiled_prism_16",
        np.tile(prism(16), (2, 1)),
        "REFUTED",
        2 * (1 + 2 * sympy.cos(sympy.pi / 8)) ** 2,
    ),
    Case("prism_14", prism(14), "PROVED", (1 + 2 * sympy.cos(sympy.pi / 7)) ** 2),
    Case("two_K_3_3", two_copies(np.ones((3, 3), dtype=np.int64)), "REFUTED", _S(9)),
    Case("two_squares", two_copies(np.ones((2, 2), dtype=np.int64)), "REFUTED", _S(4)),
    Case("two_heawood", two_copies(projective_plane(2)), "REFUTED", _S(9)),
    Case("tiled_heawood", np.tile(projective_plane(2), (3, 1)), "PROVED", _S(6)),
    Case("tiled_12x6", np.tile(double_triples(), (4, 1)), "PROVED", _S(20)),
    Case("tiled_C_12", np.tile(bipartition(cycle(12)), (3, 3)), "REFUTED", _S(27)),
    Case("tiled_Q_6", np.tile(hypercube(6), (2, 2)), "REFUTED", _S(64)),
]
"""Known answers. Tiling scales sigma_2 by sqrt(copies) and the bound by less: luck, or refuted."""

TIES = [
    Case("cover_K_8_box_K_4", box(complete(8), complete(4)), "PROVED", _S(36), ties=3),
    Case("subdivided_C_6_box_K_4", subdivision(box(cycle(6), complete(4))), "PROVED", _S(9), 2),
    Case(
        "subdivided_C_6_box_Q_3",
        subdivision(box(cycle(6), box(complete(2), cycle(4)))),
        "PROVED",
        _S(9),
        2,
    ),
    Case(
        "subdivided_C_12_times_C_3",
        subdivision(np.kron(cycle(12), cycle(3))),
        "PROVED",
        4 + 2 * sympy.sqrt(3),
        2,
    ),
]
"""sigma_2 exactly on the bound, whole and surd; an adjacency matrix stands for its double cover."""
