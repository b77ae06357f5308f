"""Averages of characteristic polynomials by brute force, over every permutation, in fractions."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Matrix = list[list[Fraction]]
Polynomial = list[Fraction]
"""Lowest degree first."""


def characteristic(matrix: Matrix) -> Polynomial:
    """det(x - matrix) by Faddeev and LeVerrier."""
    n = len(matrix)
    polynomial, work = [Fraction(1)], [[Fraction(0)] * n for _ in range(n)]
    for k in range(1, n + 1):
        for i in range(n):
            work[i][i] += polynomial[-1]
        work = product(matrix, work)
        polynomial.append(-sum((work[i][i] for i in range(n)), Fraction(0)) / k)
    return polynomial[::-1]


def product(a: Matrix, b: Matrix) -> Matrix:
    return [
        [
            sum((x * y for x, y in zip(row, c, strict=True)), Fraction(0))
            for c in zip(*b, strict=True)
        ]
        for row in a
    ]


def gram(matrix: Matrix) -> Matrix:
    return product([list(column) for column in zip(*matrix, strict=True)], matrix)


def value(polynomial: Polynomial, x: Fraction) -> Fraction:
    return sum((c * x**i for i, c in enumerate(polynomial)), Fraction(0))


def without_root(polynomial: Polynomial, root: int) -> Polynomial:
    """The quotient by x - root, by synthetic division."""
    quotient = [polynomial[-1]]
    for coefficient in polynomial[-2::-1]:
        quotient.append(coefficient + root * quotient[-1])
    assert quotient.pop() == 0
    return quotient[::-1]


def mean(polynomials: Iterator[Polynomial]) -> Polynomial:
    total, count = [], 0
    for polynomial in polynomials:
        total = [a + b for a, b in zip(total, polynomial, strict=True)] if count else polynomial
        count += 1
    return [c / count for c in total]


def sums_of_matchings(n1: int, n2: int, degree: int) -> Iterator[Matrix]:
    """Every sum of ``degree`` matchings, the first fixed: each of the others in all n1! orders."""
    star = [i // (n1 // n2) for i in range(n1)]

    def grow(matrix: Matrix, left: int) -> Iterator[Matrix]:
        if left == 0:
            yield matrix
            return
        for order in permutations(star):
            yield from grow(added(matrix, list(order)), left - 1)

    zero = [[Fraction(0)] * n2 for _ in range(n1)]
    yield from grow(added(zero, star), degree - 1)


def added(matrix: Matrix, columns: list[int]) -> Matrix:
    """``matrix`` with one more edge from each row."""
    return [
        [x + (j == c) for j, x in enumerate(row)] for row, c in zip(matrix, columns, strict=True)
    ]


def expected_characteristic(n1: int, n2: int, degree: int) -> Polynomial:
    """The average of det(x - M'M) over all sums of matchings."""
    return mean(characteristic(gram(m)) for m in sums_of_matchings(n1, n2, degree))


def conditional(earlier: Matrix, chosen: list[int], k: int, later: int) -> Polynomial:
    """The average of det(x - M'M) given all of ``earlier`` and the first rows of one matching.

    The other rows of that matching, and ``later`` whole ones, run over all their permutations.
    """
    n1, n2 = len(earlier), len(earlier[0])
    open_ = [c for c in range(n2) for _ in range(k)]
    for column in chosen:
        open_.remove(column)
    star = [i // k for i in range(n1)]

    def grow(matrix: Matrix, left: int) -> Iterator[Matrix]:
        if left == 0:
            yield matrix
            return
        for order in permutations(star):
            yield from grow(added(matrix, list(order)), left - 1)

    return mean(
        characteristic(gram(m))
        for rest in permutations(open_)
        for m in grow(added(earlier, [*chosen, *rest]), later)
    )


def signed_permutation_convolution(a: Matrix, b: Matrix) -> Polynomial:
    """The average of det(x - (A + QBR)'(A + QBR)) over signed permutation matrices Q and R."""
    m, n = len(a), len(a[0])

    def signed(size: int) -> list[list[tuple[int, int]]]:
        return [
            [(p, 1 - 2 * (signs >> i & 1)) for i, p in enumerate(order)]
            for order in permutations(range(size))
            for signs in range(2**size)
        ]

    def moved(q: list[tuple[int, int]], r: list[tuple[int, int]]) -> Matrix:
        return [
            [a[i][j] + s * t * b[u][v] for j, (v, t) in enumerate(r)] for i, (u, s) in enumerate(q)
        ]

    return mean(characteristic(gram(moved(q, r))) for q in signed(m) for r in signed(n))


def factors(
    w: complex,
    sigma: complex,
    y: complex,
    matrices: list[NDArray[np.float64]],
    counts: list[int],
    step: list[float],
) -> tuple[complex, list[complex]]:
    """det K and, for each child, the ratio of determinants the kernel computes, by det alone."""
    fixed, first, second = matrices
    n, m = len(counts), sum(counts)
    k = w * np.eye(n) - fixed - first / sigma - second / y
    ratios = []
    for c in range(n):
        g = np.eye(n)[c] - np.array(counts) / m
        both = np.array(step) + g
        child = k - m / (m - 1) * (np.outer(both, both) - np.outer(g, g) / y)
        ratios.append(complex(np.linalg.det(child) / np.linalg.det(k)))
    return complex(np.linalg.det(k)), ratios
