"""Three limits from the codegrees: integers that cannot all be equal.

With v vertices of degree k on the smaller side and blocks of size m on the other, the codegree
matrix is N = (k - q) I + q J + B, where q, e = divmod(k (m - 1), v - 1) and B is an integer
matrix, symmetric, with zero diagonal and row sums e. So sigma_2**2 = k - q + mu, with mu the
largest eigenvalue of B orthogonal to all-ones, and mu >= 0. Proofs: ``docs/theory/limits.md``.
"""

from __future__ import annotations

import math
from fractions import Fraction

GRID = 2**32
"""Irrational limits are rounded down to a multiple of 1 / GRID."""

_GOLDEN = Fraction(math.isqrt(5 * GRID**2) - GRID, 2 * GRID)
"""(sqrt 5 - 1) / 2 = 2 cos(pi / 5) - 1, rounded down."""


def lattice_limit(v: int, k: int, m: int) -> Fraction:
    """The root-lattice limit: mu >= 1, but for the shapes where I + J - B can be positive definite.

    Parameters
    ----------
    v, k, m : int
        Vertices on the smaller side, their degree, and the other side's degree, of a feasible
        shape.

    Notes
    -----
    If mu < 1, then I + J - B is a positive definite integer matrix with 2 on its diagonal: the
    Gram matrix of a basis of a root lattice, and those with constant row sums are few (after Doob
    and Cvetkovic, "On spectral characterizations and embeddings of graphs", 1979). O(1).

    Examples
    --------
    >>> lattice_limit(8, 192, 2)  # q = 27, e = 3: 165 would need three groups of 8 / 3
    Fraction(166, 1)
    """
    q, e = divmod(k * (m - 1), v - 1)
    h = v - 1 - e
    if v % (h + 1) == 0:  # B complete multipartite: mu = 0
        return Fraction(k - q)
    least = Fraction(1)
    if h == 2 and v > 4:  # J - I - B a union of triangles and longer odd cycles
        least = _GOLDEN
    if v >= 2 * (h + 2) ** 2 + h + 1:  # signed trees, which force an entry 2
        least = min(least, Fraction(2 * (h + 1), v - 2))
    return k - q + least


def schur_limit(v: int, k: int, m: int) -> Fraction:
    """The Schur limit: mu > t if 1' (t I - B + c J)^(o3) 1 < 0, the power taken entry by entry.

    Here c = (e - t) / v, so that t I - B + c J is positive semidefinite where mu <= t. Then its
    entrywise cube is too (Schur's product theorem), and the sum of its entries not negative. The
    bound on that sum is for B >= 0: with q > 0, where B may have an entry -1, mu >= 1 then, and
    the limit stops there.

    Parameters
    ----------
    v, k, m : int
        As for `lattice_limit`.

    Examples
    --------
    >>> float(schur_limit(64, 24, 2))  # 768x64: the least codegree is q = 0
    25.32381...
    """
    q, e = divmod(k * (m - 1), v - 1)
    low, high = 0, (e if q == 0 else min(e, 1)) * GRID
    while high - low > 1:
        middle = (low + high) // 2
        if _cubes_exceed(v, e, middle):
            low = middle
        else:
            high = middle
    return k - q + Fraction(low, GRID)


def three_moment_limit(v: int, k: int, m: int) -> Fraction:
    """The limit from the first three traces of B: never the best here, but the best known one.

    Off the all-ones vector B has v - 1 eigenvalues, whose sum is -e, whose squares sum to at least
    v e - e**2, B being integer, and whose cubes to at least c - e**3. For q = 0, c counts the
    triangles within the blocks; for q > 0, c = 0 unless B has a negative entry, and then mu >= 1,
    where the limit stops. If all are at most t, then (x - t)(x - a)**2 sums to at most 0; for
    a <= -t/2 the traces bound that sum from below.

    Parameters
    ----------
    v, k, m : int
        As for `lattice_limit`.

    Notes
    -----
    t and the best a come from a quadratic equation in floats; that they contradict the traces is
    then verified in rationals, and t lowered by parts of 2**-32 until it is.

    Examples
    --------
    >>> float(three_moment_limit(64, 24, 2))
    24.66...
    """
    q, e = divmod(k * (m - 1), v - 1)
    if e == 0:
        return Fraction(k - q)
    cubes = 0 if q else v * k * (m - 1) * (m - 2)
    s0, s1, s2, s3 = v - 1, -e, v * e - e * e, cubes - e**3
    square, linear, constant = s0 * s2 - s1 * s1, s1 * s2 - s0 * s3, s1 * s3 - s2 * s2
    root = math.sqrt(max(linear * linear - 4 * square * constant, 0))
    low, step = math.floor((root - linear) / (2 * square) * GRID), 1
    while low > 0:
        t = Fraction(low, GRID)
        a = min((s2 - t * s1) / (s1 - t * s0), -t / 2)
        if s3 - (t + 2 * a) * s2 + (a * a + 2 * a * t) * s1 - t * a * a * s0 > 0:
            return k - q + (min(t, Fraction(1)) if q else t)
        low, step = low - step, 2 * step
    return Fraction(k - q)


def _cubes_exceed(v: int, e: int, t: int) -> bool:
    """Whether (t + c)**3 + (v - 1 - e) c**3 < e (1 - c)**3, for t and c as multiples of 1/GRID."""
    c, scale = e * GRID - t, v * GRID  # c, and all else, times scale
    return (v * t + c) ** 3 + (v - 1 - e) * c**3 < e * (scale - c) ** 3
