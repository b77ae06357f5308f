"""Exact eigenvalue counts by Sylvester's law of inertia, in fractions with one square root.

No polynomial, no floating point, no python-flint: a symmetric matrix is diagonalised by
congruence over the ordered field Q(sqrt m), and the signs on the diagonal are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Surd:
    """u + v sqrt(m), exact."""

    u: Fraction
    v: Fraction
    m: int

    def __add__(self, other: Surd) -> Surd:
        return Surd(self.u + other.u, self.v + other.v, self.m)

    def __sub__(self, other: Surd) -> Surd:
        return Surd(self.u - other.u, self.v - other.v, self.m)

    def __mul__(self, other: Surd) -> Surd:
        u = self.u * other.u + self.m * self.v * other.v
        return Surd(u, self.u * other.v + self.v * other.u, self.m)

    def inverse(self) -> Surd:
        norm = self.u**2 - self.m * self.v**2
        return Surd(self.u / norm, -self.v / norm, self.m)

    def sign(self) -> int:
        """Decided by comparing u**2 with m v**2 where u and v pull apart."""
        if self.u >= 0 and self.v >= 0:
            return int(self.u > 0 or self.v * self.m > 0)
        if self.u <= 0 and self.v <= 0:
            return -int(self.u < 0 or self.v * self.m < 0)
        larger = (self.u**2 > self.m * self.v**2) - (self.u**2 < self.m * self.v**2)
        return larger if self.u > 0 else -larger


def surd(u: Fraction | int, v: Fraction | int = 0, m: int = 0) -> Surd:
    """u + v sqrt(m), with the square factors of m taken out so that only zero equals zero."""
    u, v = Fraction(u), Fraction(v)
    for p in range(2, m):
        while m % p**2 == 0:
            m, v = m // p**2, v * p
        if p * p > m:
            break
    return (
        Surd(u + v, Fraction(0), 0) if m == 1 else Surd(u, v, m) if m else Surd(u, Fraction(0), 0)
    )


def inertia(matrix: list[list[Surd]]) -> tuple[int, int, int]:
    """(positive, zero, negative) eigenvalues of a symmetric matrix."""
    a = [list(row) for row in matrix]
    counts = {1: 0, 0: 0, -1: 0}
    while a:
        n = len(a)
        pivot = next((i for i in range(n) if a[i][i].sign()), None)
        if pivot is None:
            pair = next(((i, j) for i in range(n) for j in range(i) if a[i][j].sign()), None)
            if pair is None:
                counts[0] += n
                break
            pivot = _make_pivot(a, *pair)
        counts[a[pivot][pivot].sign()] += 1
        a = _schur(a, pivot)
    return counts[1], counts[0], counts[-1]


def _make_pivot(a: list[list[Surd]], i: int, j: int) -> int:
    """Add row and column j to row and column i: the new a[i][i] is 2 a[i][j], not zero."""
    a[i] = [x + y for x, y in zip(a[i], a[j], strict=True)]
    for row in a:
        row[i] = row[i] + row[j]
    return i


def _schur(a: list[list[Surd]], p: int) -> list[list[Surd]]:
    """What is left of the form once x_p is eliminated."""
    inverse = a[p][p].inverse()
    keep = [i for i in range(len(a)) if i != p]
    factors = {i: a[i][p] * inverse for i in keep}
    return [[a[i][j] - factors[i] * a[p][j] for j in keep] for i in keep]


def counts_against(gram: list[list[int]], level: Surd) -> tuple[int, int]:
    """How many eigenvalues of ``gram`` lie above ``level`` and on it, the trivial one moved to 0.

    ``gram`` has constant row sums t, so gram - (t/n) J has the same eigenvalues but for one t,
    which becomes 0.
    """
    n = len(gram)
    shift = Fraction(sum(gram[0]), n)
    zero = Surd(Fraction(0), Fraction(0), level.m)
    matrix = [
        [
            Surd(gram[x][y] - shift, Fraction(0), level.m) - (level if x == y else zero)
            for y in range(n)
        ]
        for x in range(n)
    ]
    above, on, _ = inertia(matrix)
    return above, on


def rho_squared(d1: int, d2: int) -> Surd:
    """d1 + d2 - 2 + 2 sqrt((d1 - 1)(d2 - 1)), the square of the Ramanujan bound."""
    return surd(d1 + d2 - 2, 2, (d1 - 1) * (d2 - 1))


def ramanujan_counts(gram: list[list[int]], d1: int, d2: int) -> tuple[int, int]:
    """(above, ties): nontrivial eigenvalues above rho**2 and exactly on it."""
    return counts_against(gram, rho_squared(d1, d2))


def two_sided_counts(gram: list[list[int]], d1: int, d2: int) -> tuple[int, int]:
    """(below, ties): nontrivial eigenvalues below (sqrt(d1 - 1) - sqrt(d2 - 1))**2 and on it."""
    above, on = counts_against(gram, surd(d1 + d2 - 2, -2, (d1 - 1) * (d2 - 1)))
    on -= d1 == d2  # the trivial eigenvalue, moved to 0, meets the level 0
    return len(gram) - 1 - above - on, on


def encloses(gram: list[list[int]], lo: float, hi: float) -> bool:
    """Whether the largest nontrivial singular value lies in [lo, hi], in exact arithmetic.

    Wants lo > 0 or a true zero: the eigenvalue moved to 0 must not count as a nontrivial one.
    """
    above_hi, _ = counts_against(gram, surd(Fraction(hi) ** 2))
    above_lo, on_lo = counts_against(gram, surd(Fraction(lo) ** 2))
    return lo <= hi and above_hi == 0 and above_lo + on_lo >= 1
