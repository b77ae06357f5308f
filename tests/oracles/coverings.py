"""Coverings in plain Python: lifts edge by edge, signs by exact fractions, maps by trying them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from tests.oracles.graphs import Rows, SplitMix64, transposed


def random_rows(base: Rows, r: int, seed: int) -> Rows:
    """A Fisher-Yates shuffle of the r layers on each edge in turn; layer g of v is v r + g."""
    random = SplitMix64(seed)
    rows: Rows = [[] for _ in range(len(base) * r)]
    for i, row in enumerate(base):
        for j in row:
            layers = list(range(r))
            for g in reversed(range(1, r)):
                h = random.below(g + 1)
                layers[g], layers[h] = layers[h], layers[g]
            for g, h in enumerate(layers):
                rows[i * r + g].append(j * r + h)
    return rows


def random_voltages(base: Rows, r: int, seed: int) -> Rows:
    random = SplitMix64(seed)
    return [[random.below(r) for _ in row] for row in base]


def cyclic_rows(base: Rows, voltages: Rows, r: int) -> Rows:
    return [
        [j * r + (g + v) % r for j, v in zip(row, shifts, strict=True)]
        for row, shifts in zip(base, voltages, strict=True)
        for g in range(r)
    ]


def signed_gram(base: Rows, signs: Rows, n2: int) -> Rows:
    gram = [[0] * n2 for _ in range(n2)]
    for row, v in zip(base, signs, strict=True):
        for x, s in zip(row, v, strict=True):
            for y, t in zip(row, v, strict=True):
                gram[x][y] += s * t
    return gram


def greedy_signs(base: Rows, n2: int, x: float, seed: int) -> tuple[Rows, bool]:
    """The greedy choice by its definition, with the inverse worked out anew for each row."""
    random = SplitMix64(seed)
    signs: Rows = []
    for i, row in enumerate(base):
        rest = [n2_degree(base[i + 1 :], y) for y in range(n2)]
        done = signed_gram(base[:i], signs, n2)
        form = [
            [Fraction(x) * (y == z) - done[y][z] - rest[y] * (y == z) for z in range(n2)]
            for y in range(n2)
        ]
        b = inverse(form)
        v = [1 - 2 * random.below(2) for _ in row]
        while True:
            before = list(v)
            for a, y in enumerate(row):
                field = sum(v[c] * b[y][z] for c, z in enumerate(row) if c != a)
                if field * v[a] > 1e-12:
                    v[a] = -v[a]
            if v == before:
                break
        signs.append(v)
        value = sum(
            s * t * b[y][z]
            for s, y in zip(v, row, strict=True)
            for t, z in zip(v, row, strict=True)
        )
        if value >= 1:
            return signs, False
    return signs, True


def n2_degree(rows: Rows, y: int) -> int:
    return sum(y in row for row in rows)


def inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """Gauss and Jordan."""
    n = len(matrix)
    work = [[*row, *(Fraction(y == z) for z in range(n))] for y, row in enumerate(matrix)]
    for p in range(n):
        q = next(y for y in range(p, n) if work[y][p])
        work[p], work[q] = work[q], work[p]
        work[p] = [entry / work[p][p] for entry in work[p]]
        for y in range(n):
            if y != p:
                work[y] = [e - work[y][p] * f for e, f in zip(work[y], work[p], strict=True)]
    return [row[n:] for row in work]


def is_covering_map(
    rows: Rows, n2: int, base: Rows, b: int, left: list[int], right: list[int]
) -> bool:
    """Neighbours one to one onto the neighbours of the image, everywhere; equal fibres."""
    columns, below = transposed(rows, n2), transposed(base, b)
    fibres = [left.count(i) for i in range(len(base))] + [right.count(j) for j in range(b)]
    from_left = [
        sorted(right[y] for y in row) == base[i] for i, row in zip(left, rows, strict=True)
    ]
    from_right = [
        sorted(left[v] for v in column) == below[j]
        for j, column in zip(right, columns, strict=True)
    ]
    return len(set(fibres)) == 1 and all(from_left) and all(from_right)


def covering_maps(rows: Rows, n2: int, base: Rows, b: int) -> Iterator[tuple[list[int], list[int]]]:
    """Every covering map, by mapping the left vertices in all ways and then the right ones."""
    columns = transposed(rows, n2)
    base_columns = transposed(base, b)

    def grow(left: list[int]) -> Iterator[list[int]]:
        if len(left) == len(rows):
            yield left
            return
        for i in range(len(base)):
            met = [left[w] for y in rows[len(left)] for w in columns[y] if w < len(left)]
            if i not in met:
                yield from grow([*left, i])

    def finish(left: list[int], right: list[int]) -> Iterator[list[int]]:
        if len(right) == n2:
            yield right
            return
        images = sorted(left[v] for v in columns[len(right)])
        for j in range(b):
            if base_columns[j] == images:
                yield from finish(left, [*right, j])

    for left in grow([]):
        for right in finish(left, []):
            if is_covering_map(rows, n2, base, b, left, right):
                yield left, right


def bases_of(n1: int, n2: int, d1: int) -> list[tuple[int, int, int]]:
    """Every (a, b, r), r >= 2, for which simple graphs of the same degrees exist on a + b."""
    d2 = n1 * d1 // n2
    return [
        (n1 // r, n2 // r, r)
        for r in range(n1, 1, -1)
        if n1 % r == 0 and n2 % r == 0 and d1 <= n2 // r and d2 <= n1 // r
    ]
