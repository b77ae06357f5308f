"""Well-known graphs and designs from their definitions, as networkx graphs and 0/1 matrices."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations, product

import networkx as nx
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.int64]


def joined(vertices: list, adjacent: Callable) -> nx.Graph:
    """The graph on ``vertices`` of all pairs for which ``adjacent`` holds."""
    graph = nx.Graph()
    graph.add_nodes_from(vertices)
    graph.add_edges_from((u, v) for u, v in combinations(vertices, 2) if adjacent(u, v))
    return graph


def lcf(n: int, shifts: list[int], repeats: int) -> Callable[[], nx.Graph]:
    return lambda: nx.LCF_graph(n, shifts, repeats)


def kneser(n: int, k: int) -> Callable[[], nx.Graph]:
    return lambda: nx.kneser_graph(n, k)


def johnson(n: int, k: int) -> Callable[[], nx.Graph]:
    sets = [frozenset(c) for c in combinations(range(n), k)]
    return lambda: joined(sets, lambda a, b: len(a & b) == k - 1)


def hamming(d: int, q: int) -> Callable[[], nx.Graph]:
    words = list(product(range(q), repeat=d))
    return lambda: joined(words, lambda u, v: sum(a != b for a, b in zip(u, v, strict=True)) == 1)


def paley(q: int) -> Callable[[], nx.Graph]:
    squares = {x * x % q for x in range(1, q)}
    return lambda: joined(list(range(q)), lambda a, b: (a - b) % q in squares)


def folded_cube(d: int) -> nx.Graph:
    """The words of d - 1 bits, joined where they differ in one place or in all."""
    words = list(range(2 ** (d - 1)))
    return joined(words, lambda a, b: (a ^ b).bit_count() in (1, d - 1))


def halved_five_cube() -> nx.Graph:
    words = [w for w in range(32) if w.bit_count() % 2 == 0]
    return joined(words, lambda a, b: (a ^ b).bit_count() == 2)


def shrikhande() -> nx.Graph:
    steps = {(0, 1), (0, 3), (1, 0), (3, 0), (1, 1), (3, 3)}
    places = list(product(range(4), repeat=2))
    return joined(places, lambda a, b: ((a[0] - b[0]) % 4, (a[1] - b[1]) % 4) in steps)


def coxeter() -> nx.Graph:
    """The triples of seven points that are no lines of the Fano plane, joined where disjoint."""
    lines = [frozenset((i, (i + 1) % 7, (i + 3) % 7)) for i in range(7)]
    triples = [s for c in combinations(range(7), 3) if (s := frozenset(c)) not in lines]
    return joined(triples, lambda a, b: not a & b)


def double_six() -> nx.Graph:
    """The 27 lines of a cubic surface, joined where they meet: the complement of Schlaefli's."""
    lines = [("a", i) for i in range(6)] + [("b", i) for i in range(6)]
    lines += [("c", *c) for c in combinations(range(6), 2)]

    def meet(u: tuple, v: tuple) -> bool:
        kinds, both = u[0] + v[0], set(u[1:]) & set(v[1:])
        if kinds == "ab":
            return not both
        return bool(both) if kinds in ("ac", "bc") else kinds == "cc" and not both

    return joined(lines, meet)


def perkel() -> nx.Graph:
    """(i, j) and (i + 1, k) in Z_3 x Z_19 joined where (k - j)**3 = 2**(6 i)."""
    graph = nx.Graph()
    for i, j, k in product(range(3), range(19), range(19)):
        if (k - j) ** 3 % 19 == 2 ** (6 * i) % 19:
            graph.add_edge((i, j), ((i + 1) % 3, k))
    return graph


def inner(vectors: set[tuple[int, ...]], value: int) -> nx.Graph:
    """Vectors joined where their inner product is ``value``."""
    return joined(
        sorted(vectors), lambda u, v: sum(a * b for a, b in zip(u, v, strict=True)) == value
    )


def twenty_four_cell() -> nx.Graph:
    """The 24 permutations of (+-1, +-1, 0, 0), joined where u v = 1."""
    signs = product((1, -1), repeat=2)
    return inner({p for a, b in signs for p in permutations((a, b, 0, 0))}, 1)


def gosset() -> nx.Graph:
    """The 56 permutations of +-(3, 3, -1, -1, -1, -1, -1, -1), joined where u v = 8."""
    up = {tuple(3 if i in pair else -1 for i in range(8)) for pair in combinations(range(8), 2)}
    return inner(up | {tuple(-x for x in u) for u in up}, 8)


def hoffman() -> nx.Graph:
    """Q_4 after Godsil-McKay switching: its mate with the same spectrum.

    The four words of weight 3 change their adjacency to every vertex joined to half of them.
    """
    graph = nx.Graph()
    graph.add_edges_from((a, a ^ (1 << b)) for a in range(16) for b in range(4))
    block = [a for a in range(16) if a.bit_count() == 3]
    for v in set(graph) - set(block):
        near = set(graph[v]) & set(block)
        if 2 * len(near) == len(block):
            graph.remove_edges_from((v, u) for u in near)
            graph.add_edges_from((v, u) for u in block if u not in near)
    return graph


def developed(v: int, bases: list[set[int]]) -> Callable[[], Mask]:
    """The translates mod v of some base blocks, as rows."""
    rows = [{(x + g) % v for x in base} for base in bases for g in range(v)]
    return lambda: np.array([[int(x in row) for x in range(v)] for row in rows])


def inclusion(v: int, t: int, k: int) -> Callable[[], Mask]:
    """The k-subsets of v things as rows, the t-subsets as columns."""
    small, large = (list(map(set, combinations(range(v), size))) for size in (t, k))
    return lambda: np.array([[int(a <= b) for a in small] for b in large])


def flats(q: int) -> Callable[[], Mask]:
    """The lines of AG(2, q), q prime, as rows and its points as columns."""
    points = list(product(range(q), repeat=2))
    lines = [{(x, (m * x + b) % q) for x in range(q)} for m in range(q) for b in range(q)]
    lines += [{(a, y) for y in range(q)} for a in range(q)]
    return lambda: np.array([[int(p in line) for p in points] for line in lines])


def lines_of_pg_3_2() -> Mask:
    """The 35 lines {a, b, a + b} of PG(3, 2) as rows, the 15 points as columns."""
    lines = {frozenset((a, b, a ^ b)) for a, b in combinations(range(1, 16), 2)}
    return np.array([[int(p in line) for p in range(1, 16)] for line in sorted(lines, key=sorted)])


def tritangents() -> Mask:
    """The 45 triangles of the 27 lines as rows: the generalised quadrangle GQ(2, 4)."""
    graph = double_six()
    nodes = list(graph)
    triangles = [t for t in combinations(nodes, 3) if all(graph.has_edge(*e) for e in pairs(t))]
    return np.array([[int(node in t) for node in nodes] for t in triangles])


def pairs(of: tuple) -> list[tuple]:
    return list(combinations(of, 2))


def edges_of(make: Callable[[], nx.Graph]) -> Callable[[], Mask]:
    """Edges against vertices: M'M = A + d I."""
    return lambda: np.array(
        [[int(v in edge) for v in graph] for graph in [make()] for edge in graph.edges]
    )


def quadratic_residues(p: int) -> list[set[int]]:
    return [{x * x % p for x in range(1, p)}]
