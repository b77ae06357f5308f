"""Expected characteristic polynomials: the rectangular finite free convolution, exactly.

Add up d independent, uniformly random copies of one matching and ask for the *average* of the
characteristic polynomials of M'M. It is computed here in rational arithmetic, and its largest root
lies below the Ramanujan bound: that is why some sum of d matchings is a Ramanujan graph (Marcus,
Spielman and Srivastava, "Interlacing families IV", 2018). Derivations:
``docs/theory/interlacing.md``.

Polynomials are ``flint.fmpq_poly``: exact rational coefficients, lowest degree first.
"""

from __future__ import annotations

from math import factorial
from typing import TYPE_CHECKING, Any

from expandermask.errors import InvalidInputError, check_integer, check_ramanujan_shape

if TYPE_CHECKING:
    from flint import fmpq_poly


def rectangular_convolution(p: Any, q: Any, n: int, m: int) -> fmpq_poly:
    """The average of det(x - (A + QBR)'(A + QBR)) over all rotations Q (m x m) and R (n x n).

    Here A and B are any m x n matrices with det(x - A'A) = p and det(x - B'B) = q: the average
    depends on them only through p and q. Writing p = sum (-1)**i a_i x**(n-i), and q with b_j, the
    coefficient of (-1)**k x**(n-k) is the sum over i + j = k of

        [(n-i)! (n-j)! / (n! (n-k)!)] [(m-i)! (m-j)! / (m! (m-k)!)] a_i b_j.

    Parameters
    ----------
    p, q : fmpq_poly, or whatever fmpq_poly takes (a list of integers, lowest degree first)
        Polynomials of degree at most n. The operation is bilinear; they need not be monic.
    n, m : int
        Columns and rows, 0 <= n <= m.

    Returns
    -------
    flint.fmpq_poly
        Exact, of degree at most n.

    Raises
    ------
    InvalidInputError
        n > m, or a polynomial of degree above n.

    Notes
    -----
    One product of polynomials of degree n. Source: Gribinski and Marcus, "Existence and polynomial
    time construction of biregular, bipartite Ramanujan graphs of all sizes", 2021; for n = m,
    Marcus, Spielman and Srivastava, "Finite free convolutions of polynomials", 2022.

    Examples
    --------
    >>> rectangular_convolution([-1, 1], [-1, 1], 1, 2)
    x + (-2)
    >>> rectangular_convolution([1, -2, 1], [1, -2, 1], 2, 2)
    x^2 + (-4)*x + 3
    """
    from flint import fmpq_poly, fmpz

    n = check_integer("n", n, minimum=0)
    m = check_integer("m", m, minimum=0)
    if n > m:
        raise InvalidInputError(f"n must be at most m = {m}, got {n}; transpose the matrices")
    p, q = fmpq_poly(p), fmpq_poly(q)
    for name, poly in (("p", p), ("q", q)):
        if poly.degree() > n:
            raise InvalidInputError(f"{name} must have degree at most n = {n}, got {poly.degree()}")
    scale = [fmpz(factorial(n - i) * factorial(m - i)) for i in range(n + 1)]
    a = fmpq_poly([p[n - i] * scale[i] for i in range(n + 1)])
    b = fmpq_poly([q[n - i] * scale[i] for i in range(n + 1)])
    product = a * b
    return fmpq_poly([product[n - i] / (scale[0] * scale[n - i]) for i in range(n + 1)])


def expected_characteristic_polynomial(n1: int, n2: int, d1: int) -> fmpq_poly:
    """The average of det(x - M'M) over sums M of d matchings, exactly; degree n2.

    With n1 = k n2, a matching joins each right vertex to k left ones and each left vertex to one
    right one; M is the sum of d1 independent uniformly random ones (with n2 = k n1, of d2
    transposed ones). Repeated edges may occur. The factor x - d1 d2 belongs to the all-ones vector.

    Raises
    ------
    InfeasibleShapeError, InvalidInputError
        No graph of this shape, or neither side is a multiple of the other.

    Examples
    --------
    >>> expected_characteristic_polynomial(3, 3, 2)
    x^3 + (-8)*x^2 + 19*x + (-12)
    >>> expected_characteristic_polynomial(4, 2, 2)
    x^2 + (-12)*x + 32
    """
    from flint import fmpq_poly

    n1, n2, d1, d2 = check_ramanujan_shape(n1, n2, d1)
    m, n, copies = long_short_degree(n1, n2, d1, d2)
    nontrivial = matching_power(n - 1, m - 1, m // n, copies)
    zeros = fmpq_poly([0, 1]) ** max(0, n2 - n1)
    return nontrivial * fmpq_poly([-d1 * d2, 1]) * zeros


def largest_expected_root(n1: int, n2: int, d1: int) -> tuple[float, float]:
    """Enclose the largest root, d1 d2 aside, of the expected characteristic polynomial.

    Compare it with rho**2 = (sqrt(d1 - 1) + sqrt(d2 - 1))**2, which it never reaches: some graph
    (with repeated edges, perhaps) has no nontrivial eigenvalue above the root.

    Returns
    -------
    (lo, hi) : floats
        The root lies in [lo, hi], and hi - lo is at most 2**-49 hi. Both ends are decided in exact
        arithmetic, by the signs of the coefficients after moving the origin there: none is negative
        at hi, so no root lies above; one is at lo, so a root lies above, since all are real.

    Examples
    --------
    >>> lo, hi = largest_expected_root(60, 60, 3)
    >>> round(lo, 3), hi < 8
    (7.742, True)
    """
    n1, n2, d1, d2 = check_ramanujan_shape(n1, n2, d1)
    m, n, copies = long_short_degree(n1, n2, d1, d2)
    return largest_root(matching_power(n - 1, m - 1, m // n, copies), d1 * d2)


def matching_power(n: int, m: int, k: int, copies: int) -> fmpq_poly:
    """(x - k)**n convolved with itself, ``copies`` times in all; x**n for none."""
    from flint import fmpq_poly

    star = fmpq_poly([-k, 1]) ** n
    power = fmpq_poly([0, 1]) ** n
    for _ in range(copies):
        power = rectangular_convolution(power, star, n, m)
    return power


def largest_root(p: fmpq_poly, above: float) -> tuple[float, float]:
    """Enclose the largest root of a monic real-rooted ``p`` with all its roots in [0, above]."""
    from flint import fmpq, fmpq_poly

    lo, hi = 0.0, float(above)
    while True:
        middle = lo + (hi - lo) / 2
        if not lo < middle < hi or hi - lo <= 2.0**-50 * hi:
            return lo, hi
        shifted = p(fmpq_poly([fmpq(*middle.as_integer_ratio()), 1]))
        if all(c >= 0 for c in shifted.coeffs()):
            hi = middle
        else:
            lo = middle


def long_short_degree(n1: int, n2: int, d1: int, d2: int) -> tuple[int, int, int]:
    """The longer side, the shorter, and the degree of the longer side's vertices."""
    require_divisible_sides(n1, n2)
    return (n1, n2, d1) if n1 >= n2 else (n2, n1, d2)


def require_divisible_sides(n1: int, n2: int) -> None:
    """Raise `InvalidInputError` unless one side is a multiple of the other."""
    long, short = max(n1, n2), min(n1, n2)
    if long % short == 0:
        return
    near = [size for size in (long // short * short, -(-long // short) * short)]
    name = "n1" if n1 > n2 else "n2"
    raise InvalidInputError(
        f"one of n1, n2 must be a multiple of the other, got {n1} and {n2}; "
        f"nearest that work: {name} = {near[0]} or {near[1]}"
    )
