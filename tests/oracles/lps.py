"""LPS graphs in plain Python: every matrix written out, the group grown from its generators.

``python -m tests.oracles.lps > tests/vectors/lps.json`` writes the known answers again (minutes).
"""

from __future__ import annotations

import json
from itertools import product

import networkx as nx
import numpy as np

from tests.oracles.graphs import Rows, digest

Matrix = tuple[int, int, int, int]
"""The entries a, b, c, d of (a, b; c, d) modulo q."""

PAIRS = [
    *((5, 3), (7, 3)),
    *((3, 5), (7, 5), (11, 5), (13, 5)),
    *((3, 7), (5, 7), (11, 7), (13, 7)),
    *((3, 11), (5, 11), (7, 11)),
    *((3, 13), (5, 13), (11, 13), (17, 13), (197, 13)),
    *((5, 17), (13, 17)),
]
"""Every combination of p mod 4, q mod 4 and residue or not, and (197, 13) with q**2 < p."""


def quaternions(p: int) -> list[tuple[int, int, int, int]]:
    """All of norm p whose first part differs from the others in parity, one of each pair +-."""
    span = range(-p, p + 1) if p < 16 else range(-int(p**0.5) - 1, int(p**0.5) + 2)
    every = [v for v in product(span, repeat=3) if sum(x * x for x in v) <= p]
    found = []
    for b, c, d in every:
        for a in span:
            parities = {b % 2, c % 2, d % 2}
            if a * a + b * b + c * c + d * d == p and parities == {1 - a % 2}:
                found.append((a, b, c, d))
    return [v for v in found if v > tuple(-x for x in v)]


def matrices(p: int, q: int) -> list[Matrix]:
    """The quaternions modulo q, by i = (x, y; y, -x), j = (0, -1; 1, 0), k = i j = (y, -x; -x, -y).

    Any x, y with x**2 + y**2 = -1 will do up to isomorphism: these are the last, not the first.
    """
    x, y = [(x, y) for x in range(q) for y in range(q) if (x * x + y * y + 1) % q == 0][-1]
    return [
        ((a + b * x + d * y) % q, (b * y - c - d * x) % q, (b * y + c - d * x) % q,
         (a - b * x - d * y) % q)
        for a, b, c, d in quaternions(p)
    ]  # fmt: skip


def times(g: Matrix, s: Matrix, q: int) -> Matrix:
    (a, b, c, d), (x, y, z, w) = g, s
    return ((a * x + b * z) % q, (a * y + b * w) % q, (c * x + d * z) % q, (c * y + d * w) % q)


def scaled(g: Matrix, q: int) -> Matrix:
    """The multiple whose first nonzero entry is 1."""
    lead = pow(next(x for x in g if x), -1, q)
    a, b, c, d = (x * lead % q for x in g)
    return a, b, c, d


def grown(p: int, q: int) -> tuple[dict[Matrix, int], list[list[int]]]:
    """The group the generators generate, and for each element those one generator away."""
    steps = matrices(p, q)
    index: dict[Matrix, int] = {(1, 0, 0, 1): 0}
    todo, lists = [(1, 0, 0, 1)], []
    for g in todo:
        near = [scaled(times(g, s, q), q) for s in steps]
        for h in near:
            if h not in index:
                index[h] = len(todo)
                todo.append(h)
        lists.append([index[h] for h in near])
    return index, lists


def is_square(x: int, q: int) -> bool:
    return any(y * y % q == x % q for y in range(1, q))


def bipartite(p: int, q: int) -> nx.Graph:
    """Nodes (0, g) and (1, h): the Cayley graph of PGL_2(q), or the double cover of PSL_2(q)'s."""
    index, lists = grown(p, q)
    elements = list(index)
    square = [is_square(a * d - b * c, q) for a, b, c, d in elements]
    if not is_square(p, q):
        assert all(square[i] != square[j] for i, near in enumerate(lists) for j in near)
    edges = [
        ((0, elements[i]), (1, elements[j]))
        for i, near in enumerate(lists)
        if square[i]
        for j in near
    ]
    return nx.Graph(edges)


def singular_values(p: int, q: int) -> list[float]:
    """Of the bipartite graph, descending, through numpy's SVD."""
    graph = bipartite(p, q)
    left, right = ([v for v in graph if v[0] == side] for side in (0, 1))
    column = {v: j for j, v in enumerate(right)}
    dense = np.zeros((len(left), len(right)))
    for i, v in enumerate(left):
        for w in graph[v]:
            dense[i, column[w]] = 1
    return [float(x) for x in np.linalg.svd(dense, compute_uv=False)]


def label(g: Matrix, q: int) -> int:
    """The number `expandermask.graphs.lps.lps` documents."""
    a, b, c, d = scaled(g, q)
    det = (a * d - b * c) % q
    alike = [x for x in range(1, q) if is_square(x, q) == is_square(det, q)]
    half = (q - 1) // 2
    place = (b * q + c) if a else (q * q + d)
    return place * half + alike.index(det)


def documented_matrices(p: int, q: int) -> list[Matrix]:
    """The generators as `lps` documents them: the least y, then the least x."""
    y, x = next((y, x) for y in range(q) for x in range(q) if (x * x + y * y + 1) % q == 0)
    return [
        ((a + b * x + d * y) % q, (-b * y + c + d * x) % q, (-b * y - c + d * x) % q,
         (a - b * x - d * y) % q)
        for a, b, c, d in quaternions(p)
    ]  # fmt: skip


def rows(p: int, q: int) -> Rows:
    """The labelled graph: row i holds the sorted labels of all g s, g the element of label i."""
    steps = documented_matrices(p, q)
    left = [(1, b, c, d) for b in range(q) for c in range(q) for d in range(q)]
    left += [(0, 1, c, d) for c in range(q) for d in range(q)]
    squares = [g for g in left if is_square(g[0] * g[3] - g[1] * g[2], q)]
    labels = {g: label(g, q) for g in left if (g[0] * g[3] - g[1] * g[2]) % q}
    made = {labels[g]: sorted(labels[scaled(times(g, s, q), q)] for s in steps) for g in squares}
    return [made[i] for i in range(len(made))]


def answers(p: int, q: int) -> dict[str, object]:
    """What tests/vectors/lps.json holds of one graph."""
    graph, table = bipartite(p, q), rows(p, q)
    values, counts = np.unique(np.round(singular_values(p, q), 9), return_counts=True)
    return {
        "p": p,
        "q": q,
        "order": len(grown(p, q)[0]),
        "digest": digest(table, len(table)),
        "girth": nx.girth(graph),
        "diameter": nx.eccentricity(graph, v=(0, (1, 0, 0, 1))),
        "spectrum": [[float(v), int(c)] for v, c in zip(values[::-1], counts[::-1], strict=True)],
    }


def main() -> None:
    head = {
        "what": "LPS graphs: order of the group that the generators generate, digest of the "
        "labelled graph, girth and diameter by networkx, and the singular values by numpy, "
        "rounded to 9 decimals, with multiplicities",
        "command": "python -m tests.oracles.lps > tests/vectors/lps.json",
    }
    print(json.dumps(head, indent=1)[:-2] + ',\n "graphs": [')
    print(",\n".join("  " + json.dumps(answers(p, q)) for p, q in PAIRS))
    print(" ]\n}")


if __name__ == "__main__":
    main()
