"""A vector that refutes a graph whose sigma_2 is above the bound by less than floats can tell.

Root counting knows that an eigenvalue lies beyond the bound; the checker wants a vector. Rayleigh
quotient iteration in ball arithmetic, started from a floating-point eigenvector, triples the number
of correct digits at every step, until the exact quotient of a rounded iterate is beyond the bound.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from expandermask.certificates.bounds import RamanujanBound
from expandermask.graphs.biregular import BiregularGraph
from expandermask.threads import one_blas_thread

_START_BITS = 48
_MOST_BITS = 2048


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
    One linear system of order n for each tripling of the digits, n**3 operations on numbers of a
    few hundred bits: some seconds at n = 512.
    """
    beyond = bound.least_missed_by if below else bound.exceeded_by
    n, gram = side.n2, side.gram()
    trivial = side.d1 * side.d2
    with one_blas_thread(n):
        vectors = np.linalg.eigh(gram + trivial if below else gram - trivial / n)[1]
    start = vectors[:, 0 if below else -1]
    x = _balanced([round(v * 2**_START_BITS) for v in start.tolist()])
    bits = 2 * _START_BITS
    while not beyond(square := _quotient(gram, x)):
        if bits > _MOST_BITS:
            raise ArithmeticError(f"no vector of up to {_MOST_BITS} bits lies beyond the bound")
        x = _balanced(_inverse_iterate(gram, square, x, bits))
        bits *= 3
    return square, x


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
