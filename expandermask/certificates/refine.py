"""A vector that refutes a graph whose sigma_2 is above the bound by less than floats can tell.

Root counting knows that an eigenvalue lies beyond the bound; the checker wants a vector. The
eigenvalue furthest out is a root of the characteristic polynomial, and Newton's method finds it
to any number of digits. One step of inverse iteration, shifted to there, gives a vector for it,
however close the next eigenvalue lies on the other side of the bound.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from expandermask.certificates.bounds import RamanujanBound
from expandermask.certificates.descartes import nontrivial_polynomial
from expandermask.graphs.biregular import BiregularGraph
from expandermask.threads import one_blas_thread

if TYPE_CHECKING:
    from flint import arb, fmpz_poly

_START_BITS = 48
_MOST_BITS = 2048
_MARGIN = 2.0**-20
"""Floats are further from no eigenvalue than this, in parts of the trivial one."""


def refined_vector(
    side: BiregularGraph, bound: RamanujanBound, *, below: bool = False
) -> tuple[Fraction, list[int]]:
    """An integer vector with its Rayleigh quotient, which lies beyond the bound.

    Parameters
    ----------
    side : BiregularGraph
        A graph with n2 <= n1; the vector is on its right vertices and sums to zero.
    bound : RamanujanBound
        What the quotient has to exceed: rho**2, see `RamanujanBound.exceeded_by`.
    below : bool
        Whether it has to lie below the least square of the two-sided definition instead.

    Raises
    ------
    ArithmeticError
        No iterate of up to 2048 bits lies beyond: perhaps no eigenvalue does.

    Notes
    -----
    The characteristic polynomial, and one linear system of order n for each tripling of the digits:
    n**3 operations on numbers of a few hundred bits, some seconds at n = 512.
    """
    beyond = bound.least_missed_by if below else bound.exceeded_by
    n, gram = side.n2, side.gram()
    trivial = side.d1 * side.d2
    with one_blas_thread(n):
        values, vectors = np.linalg.eigh(gram + trivial if below else gram - trivial / n)
    end = 0 if below else -1
    x = _balanced([round(v * 2**_START_BITS) for v in vectors[:, end].tolist()])
    sign = -1 if below else 1
    outside = float(values[end]) - trivial * below + sign * trivial * _MARGIN
    polynomial = _without_repeated_roots(nontrivial_polynomial(gram, trivial))
    bits = 2 * _START_BITS
    while bits <= _MOST_BITS:
        shift = _outermost_root(polynomial, outside, bits)
        x = _balanced(_inverse_iterate(gram, shift + sign * _ulp(bits), x, bits))
        square = _quotient(gram, x)
        if beyond(square):
            return square, x
        bits *= 3
    raise ArithmeticError(f"no vector of up to {_MOST_BITS} bits lies beyond the bound")


def _without_repeated_roots(polynomial: fmpz_poly) -> fmpz_poly:
    """The polynomial with each of its roots once: Newton's method is slow at the others."""
    return polynomial // polynomial.gcd(polynomial.derivative())


def _outermost_root(polynomial: fmpz_poly, outside: float, bits: int) -> Fraction:
    """The root nearest to ``outside``, which lies beyond all of them, to within about 2**-bits.

    All roots are real, so Newton's iterates come closer to it from their side without passing it.
    """
    from flint import arb, ctx

    derivative = polynomial.derivative()
    size = max(abs(int(c)).bit_length() for c in polynomial.coeffs())
    with ctx.workprec(size + 4 * bits):
        x = arb(outside)
        for _ in range(bits * polynomial.degree()):
            step = (polynomial(x) / derivative(x)).mid()
            x = (x - step).mid()
            if abs(step) < arb(2) ** -bits:
                return _fraction(x)
    raise ArithmeticError(f"Newton's method does not come within 2**-{bits} of a root")


def _ulp(bits: int) -> Fraction:
    return Fraction(1, 2**bits)


def _fraction(ball: arb) -> Fraction:
    """The middle of a ball, exactly."""
    mantissa, exponent = ball.mid().man_exp()
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent)


def _quotient(gram: NDArray[np.int64], x: list[int]) -> Fraction:
    """x'Nx / x'x, exactly."""
    vector = np.array(x, dtype=object)
    return Fraction(int(vector @ (gram.astype(object) @ vector)), int(vector @ vector))


def _balanced(x: list[int]) -> list[int]:
    """x shifted so that its entries sum to zero."""
    whole, rest = divmod(sum(x), len(x))
    return [v - whole - (i < rest) for i, v in enumerate(x)]


def _inverse_iterate(
    gram: NDArray[np.int64], shift: Fraction, x: list[int], bits: int
) -> list[int]:
    """(N - shift)**-1 x, scaled to integers of about ``bits`` bits."""
    from flint import arb, arb_mat, ctx, fmpq

    with ctx.workprec(4 * bits):
        level = arb(fmpq(shift.numerator, shift.denominator))
        matrix = arb_mat(gram.tolist())
        for i in range(len(x)):
            matrix[i, i] -= level
        solved = matrix.solve(arb_mat([[v] for v in x]))
        values = [solved[i, 0].mid() for i in range(len(x))]
        scale = arb(2) ** bits / max(abs(v) for v in values)
        return [int((v * scale).mid().floor().unique_fmpz()) for v in values]
