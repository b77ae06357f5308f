"""Exact root counts of integer characteristic polynomials, at rationals and at the bound.

python-flint gives the polynomial; everything after it is integer arithmetic written out here. All
roots being real, Descartes' rule of signs is an equality, so the sign changes of p(x + r) count the
roots above r. The bound a + w, w = 2 sqrt(D), is never computed with where it is irrational: its
minimal polynomial is divided out first, and then it lies strictly between two dyadic numbers with
no root from one to the other.

Faster than `tests.oracles.spectra`, which uses no polynomial, and independent of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from math import isqrt

import numpy as np
from flint import fmpz_mat, fmpz_poly
from numpy.typing import NDArray


@dataclass(frozen=True)
class Truth:
    """What exact arithmetic says of a biregular 0/1 mask with both degrees at least 2."""

    components: int
    above: int
    """Nontrivial eigenvalues of M'M above rho**2."""
    ties: int
    """Those equal to it."""
    below: int
    """Eigenvalues below (sqrt(d1 - 1) - sqrt(d2 - 1))**2."""
    nontrivial: fmpz_poly
    """The characteristic polynomial of M'M on the smaller side, without one trivial root."""

    @property
    def verdict(self) -> str:
        """By the one-sided definition."""
        return "PROVED" if self.components == 1 and self.above == 0 else "REFUTED"

    @property
    def two_sided(self) -> str:
        """By the two-sided definition."""
        return "REFUTED" if self.below else self.verdict

    @cached_property
    def tied(self) -> bool:
        """Whether sigma_2 itself equals the bound."""
        return self.above == 0 and self.ties > 0

    def encloses(self, lo: float, hi: float) -> bool:
        """Whether lo <= sigma_2 <= hi, both floats read as the rationals they are."""
        return reaches(self.nontrivial, Fraction(lo) ** 2) and not roots_above(
            self.nontrivial, Fraction(hi) ** 2
        )


def truth(mask: NDArray[np.integer]) -> Truth:
    """The exact answers for a mask; degrees are read off its first row and column."""
    mask = np.asarray(mask, dtype=np.int64)
    d1, d2 = int(mask[0].sum()), int(mask[:, 0].sum())
    side = mask if mask.shape[1] <= mask.shape[0] else mask.T
    characteristic = fmpz_mat((side.T @ side).tolist()).charpoly()
    return truth_of(characteristic, d1, d2, components(mask))


def truth_of(characteristic: fmpz_poly, d1: int, d2: int, components: int) -> Truth:
    """The exact answers from the characteristic polynomial of M'M on the smaller side."""
    nontrivial, rest = divmod(characteristic, fmpz_poly([-d1 * d2, 1]))
    assert rest == 0, "the mask is not biregular"
    a, square = d1 + d2 - 2, 4 * (d1 - 1) * (d2 - 1)
    above, ties = counts_at(nontrivial, a, square)
    below, _ = counts_at(nontrivial(fmpz_poly([0, -1])), -a, square)
    return Truth(components, above, ties, below, nontrivial)


def counts_at(p: fmpz_poly, a: int, square: int) -> tuple[int, int]:
    """How many roots of p are above a + sqrt(square), and how many equal it."""
    root = isqrt(square)
    rational = root * root == square
    factor = fmpz_poly([-a - root, 1]) if rational else fmpz_poly([a * a - square, -2 * a, 1])
    ties = 0
    while p.degree() >= factor.degree():
        quotient, rest = divmod(p, factor)
        if rest != 0:
            break
        p, ties = quotient, ties + 1
    if rational:
        return roots_above(p, Fraction(a + root)), ties
    bits = 16
    while True:
        low = a + Fraction(isqrt(square << 2 * bits), 1 << bits)
        above = roots_above(p, low)
        if above == 0 or above == roots_above(p, low + Fraction(1, 1 << bits)):
            return above, ties
        bits *= 2


def roots_above(p: fmpz_poly, level: Fraction) -> int:
    """The number of roots above ``level`` of a polynomial whose roots are all real."""
    signs = [c > 0 for c in _shifted(p, level) if c != 0]
    return sum(s != t for s, t in pairwise(signs))


def reaches(p: fmpz_poly, level: Fraction) -> bool:
    """Whether some root is at least ``level``."""
    return _shifted(p, level)[0] == 0 or roots_above(p, level) > 0


def _shifted(p: fmpz_poly, level: Fraction) -> list[int]:
    """The coefficients of q**n p((x + m) / q), lowest first, for level = m / q and degree n."""
    n, q = p.degree(), level.denominator
    scaled = [int(c) * q ** (n - k) for k, c in enumerate(p.coeffs())]
    return (fmpz_poly(scaled)(fmpz_poly([level.numerator, 1])) if n > 0 else p).coeffs()


def components(mask: NDArray[np.int64]) -> int:
    """Connected components by union-find over the ones of a mask."""
    n1, n2 = mask.shape
    parent = list(range(n1 + n2))
    count = n1 + n2
    for i, x in np.argwhere(mask).tolist():
        u, v = _root(parent, i), _root(parent, n1 + x)
        if u != v:
            parent[u] = v
            count -= 1
    return count


def _root(parent: list[int], v: int) -> int:
    while parent[v] != v:
        parent[v] = parent[parent[v]]
        v = parent[v]
    return v
