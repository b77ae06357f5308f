"""Cyclic symmetry and its Hermitian blocks from their definitions, in sets and in 50 digits."""

from __future__ import annotations

import mpmath

from tests.oracles.graphs import Rows, SplitMix64


def lift(base: Rows, voltages: Rows, r: int) -> Rows:
    """Left vertex i*r + g meets j*r + (g + V_ij) mod r for each neighbour j of i."""
    return [
        sorted(j * r + (g + v) % r for j, v in zip(base[i], voltages[i], strict=True))
        for i in range(len(base))
        for g in range(r)
    ]


def voltages(base: Rows, r: int, seed: int) -> Rows:
    """One draw in [0, r) per edge, row by row."""
    random = SplitMix64(seed)
    return [[random.below(r) for _ in row] for row in base]


def moved(vertex: int, r: int) -> int:
    """The next place in the vertex's own group of r."""
    group, place = divmod(vertex, r)
    return group * r + (place + 1) % r


def is_automorphism(rows: Rows, r: int) -> bool:
    """Whether the shift within groups of r maps the set of edges to itself."""
    edges = {(i, x) for i, row in enumerate(rows) for x in row}
    return {(moved(i, r), moved(x, r)) for i, x in edges} == edges


def largest_order(rows: Rows, n2: int) -> int:
    """The largest r >= 3, dividing both sides, whose shift is an automorphism; 1 without one."""
    orders = [r for r in range(3, n2 + 1) if len(rows) % r == 0 and n2 % r == 0]
    return max((r for r in orders if is_automorphism(rows, r)), default=1)


def root(r: int, t: int) -> mpmath.mpc:
    """exp(2 pi i t / r) to 50 digits."""
    with mpmath.workdps(50):
        return mpmath.expjpi(mpmath.mpf(2 * t) / r)


def block(rows: Rows, n2: int, r: int, k: int) -> list[list[mpmath.mpc]]:
    """B* B for the matrix B[i, j] = sum of w**(k v) over the edges from i*r to j*r + v."""
    left, right = len(rows) // r, n2 // r
    with mpmath.workdps(50):
        b = [[mpmath.mpc(0)] * right for _ in range(left)]
        for i in range(left):
            for x in rows[i * r]:
                b[i][x // r] += root(r, k * (x % r) % r)
        return [
            [mpmath.fsum(mpmath.conj(row[x]) * row[y] for row in b) for y in range(right)]
            for x in range(right)
        ]


def gap_determinant(hermitian: list[list[mpmath.mpc]], c: float) -> mpmath.mpf:
    """det(c I - H): negative if an odd number of eigenvalues of H lie above c."""
    with mpmath.workdps(50):
        n = len(hermitian)
        return mpmath.det(mpmath.mpf(c) * mpmath.eye(n) - mpmath.matrix(hermitian)).real
