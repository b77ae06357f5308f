"""The balanced masks' greedy and descent from their definitions: whole numbers, no cleverness."""

from __future__ import annotations

import numpy as np

from tests.oracles.graphs import Rows, dense, gram


def rounded(value: int, halvings: int) -> int:
    """value / 2**halvings to the nearest integer, halves to the even one."""
    below, rest = divmod(value, 2**halvings)
    return below + (2 * rest > 2**halvings or (2 * rest == 2**halvings and below % 2 == 1))


def squeezed(matrix: Rows, bits: int) -> tuple[Rows, int]:
    halvings = 0
    while max(abs(v) for row in matrix for v in row) > 2 ** (bits + halvings):
        halvings += 1
    return [[rounded(v, halvings) if halvings else v for v in row] for row in matrix], halvings


def centred(matrix: Rows) -> Rows:
    """n N - (row sum) J: n times the Gram matrix without its trivial eigenvalue."""
    n = len(matrix)
    return [[n * v - sum(row) for v in row] for row in matrix]


def product(a: Rows, b: Rows) -> Rows:
    return [
        [sum(x * y for x, y in zip(row, col, strict=True)) for col in zip(*b, strict=True)]
        for row in a
    ]


def power(matrix: Rows, bits: int, level: int) -> tuple[Rows, int]:
    """The repeated squares, rounded as the kernel says, and the halvings they stand for."""
    x, exponent = squeezed(centred(matrix), bits)
    for _ in range(level):
        x, halvings = squeezed(product(x, x), bits)
        exponent = 2 * exponent + halvings
    return x, exponent


def inner(a: Rows, b: Rows) -> int:
    return sum(x * y for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True))


def switches(rows: Rows, n2: int) -> dict[tuple[int, int], list[Rows]]:
    """For labels x > y every graph that one switch of x in a row against y in another makes."""
    made: dict[tuple[int, int], list[Rows]] = {(x, y): [] for x in range(n2) for y in range(x)}
    for x, y in made:
        for i, first in enumerate(rows):
            for j, second in enumerate(rows):
                if x in first and y not in first and y in second and x not in second:
                    new = [list(row) for row in rows]
                    new[i] = [y if z == x else z for z in first]
                    new[j] = [x if z == y else z for z in second]
                    made[x, y].append(new)
    return made


def half_changes(rows: Rows, n2: int, weight: Rows) -> dict[tuple[int, int], int]:
    """The least change of <W, M'M> / 2 over the switches of each two labels that have any."""
    before = inner(weight, gram(dense(rows, n2)))
    least = {}
    for pair, graphs in switches(rows, n2).items():
        if graphs:
            change = min(inner(weight, gram(dense(g, n2))) for g in graphs) - before
            assert change % 2 == 0
            least[pair] = change // 2
    return least


def greedy_regrets(rows: Rows, n2: int, x: float) -> list[float]:
    """How much dearer each label of each row was than the cheapest, by the definition of the cost.

    ``rows`` are in the order in which they, and their labels, were chosen. Before each row the
    matrix is x I - Z + (d1 d2 / n2) J, Z = C + c c' / m + diag(c), with C the Gram matrix so far, c
    the edges each right vertex still lacks, m the rows to come. Costs are relative to 1 / (x - d2).
    """
    n1, d1 = len(rows), len(rows[0])
    d2 = n1 * d1 // n2
    lacking, so_far = np.full(n2, float(d2)), np.zeros((n2, n2))
    regrets = []
    for i, row in enumerate(rows[:-1]):
        m = n1 - i
        z = so_far + np.outer(lacking, lacking) / m + np.diag(lacking)
        w = np.linalg.inv(x * np.eye(n2) - z + d1 * d2 / n2) * (x - d2)
        cost = np.diag(w) / (m - 1) - 2 * m / (m - 1) * (w @ (lacking / m))
        chosen: list[int] = []
        for c in row:
            free = [b for b in range(n2) if lacking[b] and b not in chosen]
            must = [b for b in free if lacking[b] == m]
            assert c in (must or free)
            regrets.append(float(cost[c] - min(cost[b] for b in must or free)) if not must else 0.0)
            cost = cost + 2 * m / (m - 1) * w[c]
            chosen.append(c)
        lacking[chosen] -= 1
        so_far[np.ix_(chosen, chosen)] += 1
    return regrets
