"""The Ramanujan bound, and how small the second singular value can possibly be.

For a biadjacency matrix M of degrees (d1, d2) the trivial singular value is sqrt(d1 d2). The graph
is Ramanujan if the next one, sigma_2, is at most rho = sqrt(d1 - 1) + sqrt(d2 - 1). The limits here
bound sigma_2 from below for *every* graph of a shape, so sigma_2 / limit says how far a mask is
from the best one possible. Proofs: ``docs/theory/limits.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache

from expandermask.certificates.codegrees import lattice_limit, schur_limit, three_moment_limit
from expandermask.certificates.linear_programming import walk_limit
from expandermask.errors import check_integer, check_ramanujan_shape


@dataclass(frozen=True)
class RamanujanBound:
    """rho for degrees (d1, d2), kept exact: rho**2 = a + 2 sqrt(D) with integers a and D.

    With ``eps`` > 0 the methods are about rho + eps, which "within eps" compares sigma_2 with.
    """

    d1: int
    d2: int
    eps: float = 0.0

    @property
    def a(self) -> int:
        """The rational part of rho**2, d1 + d2 - 2."""
        return self.d1 + self.d2 - 2

    @property
    def D(self) -> int:
        """The number under the root in rho**2, (d1 - 1)(d2 - 1)."""
        return (self.d1 - 1) * (self.d2 - 1)

    @property
    def value(self) -> float:
        """rho + eps, rounded to a float (for display; proofs use the exact form)."""
        return math.sqrt(self.d1 - 1) + math.sqrt(self.d2 - 1) + self.eps

    def square_below(self) -> float:
        """A float that is at most (rho + eps)**2, within about one part in 2**50 of it.

        With eps it is at most d1 d2 as well, which no eigenvalue exceeds.
        """
        if self.eps:
            square = min(self._root_below(_EPS_BITS) ** 2, self.d1 * self.d2 << 2 * _EPS_BITS)
            return _float_below(square, 2 * _EPS_BITS)
        bits = 52 - (self.a + math.isqrt(4 * self.D) + 1).bit_length()
        scaled = (self.a << bits) + math.isqrt(4 * self.D << 2 * bits)
        return math.ldexp(scaled, -bits)

    def exceeded_by(self, square: Fraction) -> bool:
        """Whether ``square`` > (rho + eps)**2, decided in integers."""
        if self.eps:
            return self._eps_exceeded_by(square)
        excess = square - self.a
        return excess > 0 and excess * excess > 4 * self.D

    def least_square_above(self) -> float:
        """A float just above (sqrt(d1 - 1) - sqrt(d2 - 1))**2 = a - 2 sqrt(D), the lower end.

        It is 0 for equal degrees, where that end is 0 and nothing lies below.
        """
        if self.d1 == self.d2:
            return 0.0
        bits = 52 - self.a.bit_length()
        scaled = (self.a << bits) - math.isqrt(4 * self.D << 2 * bits)
        return math.ldexp(scaled, -bits)

    def least_missed_by(self, square: Fraction) -> bool:
        """Whether ``square`` < a - 2 sqrt(D), the least the two-sided definition allows; exact."""
        room = self.a - square
        return room > 0 and room * room > 4 * self.D

    def _root_below(self, bits: int) -> int:
        """2**bits (rho + eps) less at most 3, in integers."""
        roots = math.isqrt(self.d1 - 1 << 2 * bits) + math.isqrt(self.d2 - 1 << 2 * bits)
        return roots + math.floor(Fraction(self.eps) * (1 << bits))

    def _eps_exceeded_by(self, square: Fraction) -> bool:
        """The same with eps: by enclosures of rho + eps, finer and finer.

        They settle every case but equality, which needs a rational rho + eps: (rho + eps)**2 is
        irrational for a rational eps > 0 unless both d1 - 1 and d2 - 1 are squares.
        """
        roots = math.isqrt(self.d1 - 1), math.isqrt(self.d2 - 1)
        if (roots[0] ** 2, roots[1] ** 2) == (self.d1 - 1, self.d2 - 1):
            return square > (sum(roots) + Fraction(self.eps)) ** 2
        bits = _EPS_BITS
        while True:
            below, scaled = self._root_below(bits), square * 4**bits
            if scaled <= below**2:
                return False
            if scaled >= (below + 3) ** 2:
                return True
            bits *= 2


@dataclass(frozen=True)
class Limits:
    """Proved lower limits on sigma_2**2 over all biregular graphs of one shape, as exact rationals.

    Irrational ones are rounded down, by less than 2**-32 but for `three_moment`.
    """

    trace: Fraction
    """Mean of the nontrivial squared singular values: no maximum lies below a mean."""
    integrality: int
    """d2 minus the largest integer the least codegree can be: the trace limit, rounded up."""
    three_moment: Fraction
    """From the traces of three powers of the codegrees; the others always imply it."""
    lattice: Fraction
    """The integrality limit and 1, but where the codegrees may come from a root lattice."""
    schur: Fraction
    """By Schur's product theorem; the best where the codegrees are small and dense."""
    walks: Fraction
    """The linear-programming limit on nonbacktracking walks; the best for sparse graphs."""

    @property
    def best(self) -> Fraction:
        """The strongest of the limits."""
        return max(Fraction(getattr(self, field.name)) for field in fields(self))


def limits(n1: int, n2: int, d1: int) -> Limits:
    """The limits on sigma_2**2 for the shape (n1, n2, d1), each a theorem about all its graphs.

    With v vertices of degree k on the smaller side, each block of size m on the other, the trace
    limit is k (v - m) / (v - 1) and the integrality limit k - floor(k (m - 1) / (v - 1)); for the
    others see `codegrees` and `linear_programming`. Raises `InfeasibleShapeError` where there is no
    such graph, or only unions of stars.

    A shape costs some 0.05 ms the first time, and nothing after that.

    Examples
    --------
    >>> from expandermask.certificates import limits
    >>> limits(7, 7, 3).best  # the Heawood graph has sigma_2**2 = 2
    Fraction(2, 1)
    >>> found = limits(768, 64, 2)
    >>> found.integrality, found.lattice, round(float(found.schur), 6)
    (24, Fraction(25, 1), 25.32382)
    """
    n1, n2, d1, d2 = check_ramanujan_shape(n1, n2, d1)
    return _limits(n2, n1, d2, d1) if n2 <= n1 else _limits(n1, n2, d1, d2)


@lru_cache(maxsize=1024)
def _limits(v: int, w: int, k: int, m: int) -> Limits:
    return Limits(
        trace=Fraction(k * (v - m), v - 1),
        integrality=k - k * (m - 1) // (v - 1),
        three_moment=three_moment_limit(v, k, m),
        lattice=lattice_limit(v, k, m),
        schur=schur_limit(v, k, m),
        walks=walk_limit(v, w, k, m),
    )


_EPS_BITS = 64


def _float_below(number: int, bits: int) -> float:
    """The float at or just below number / 2**bits, for a positive number."""
    drop = max(number.bit_length() - 53, 0)
    return math.ldexp(number >> drop, drop - bits)


def ramanujan_bound(d1: int, d2: int) -> float:
    """The Ramanujan bound rho = sqrt(d1 - 1) + sqrt(d2 - 1) on sigma_2.

    Examples
    --------
    >>> from expandermask.certificates import ramanujan_bound
    >>> ramanujan_bound(2, 5)
    3.0
    """
    return RamanujanBound(check_integer("d1", d1), check_integer("d2", d2)).value
