"""Tier 2: exact counting of the eigenvalues above the Ramanujan bound.

The characteristic polynomial of the integer Gram matrix, less its trivial root, has only real
roots, so Descartes' rule of signs is an equality: after moving the origin to rho**2, the sign
changes of its coefficients count the roots above rho**2, and its vanishing low coefficients count
the roots equal to it. All arithmetic is in Z[sqrt(4 D)]. Derivation:
``docs/theory/certificates.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from expandermask.certificates.bounds import RamanujanBound

if TYPE_CHECKING:
    from flint import fmpz_poly

Surd = tuple[int, int]
"""(u, v) stands for u + v w, with w**2 = 4 D."""


@dataclass(frozen=True)
class RootCount:
    """How many nontrivial eigenvalues of the Gram matrix lie beyond, and exactly on, either end.

    The ends are rho**2 = a + 2 sqrt(D) and a - 2 sqrt(D) = (sqrt(d1 - 1) - sqrt(d2 - 1))**2.
    """

    above: int
    ties: int
    below: int
    ties_below: int


def count_roots(gram: NDArray[np.int64], trivial: int, bound: RamanujanBound) -> RootCount:
    """Count the nontrivial eigenvalues of ``gram`` above rho**2, below the other end, and at them.

    Parameters
    ----------
    gram : int64 array, shape (n, n)
        Symmetric integer matrix with all row sums equal to ``trivial``.
    trivial : int
        The eigenvalue of the all-ones vector, counted out once.
    bound : RamanujanBound
        The bound rho for the degrees of the graph.

    Notes
    -----
    Characteristic polynomial by python-flint, about 2 ms at n = 60 and 1 s at n = 400; the shift
    takes n**2 / 2 additions and multiplications of big integers.
    """
    from flint import fmpz_poly

    nontrivial = nontrivial_polynomial(gram, trivial)
    at_a = nontrivial(fmpz_poly([bound.a, 1]))
    square = 4 * bound.D
    shifted = _shift_by_w(list(map(int, at_a)), square)
    above, ties = _positive_and_zero([_sign(c, square) for c in shifted])
    # At a - w the coefficients are the conjugates; turning y to -y swaps the sign of odd ones.
    turned = [_sign((u, -v), square) * (-1) ** k for k, (u, v) in enumerate(shifted)]
    return RootCount(above, ties, *_positive_and_zero(turned))


def nontrivial_polynomial(gram: NDArray[np.int64], trivial: int) -> fmpz_poly:
    """The characteristic polynomial of ``gram`` without the root of the all-ones vector."""
    from flint import fmpz_mat, fmpz_poly

    characteristic = fmpz_mat(gram.tolist()).charpoly()
    nontrivial, remainder = divmod(characteristic, fmpz_poly([-trivial, 1]))
    if remainder != 0:
        raise ArithmeticError("the all-ones vector is not an eigenvector of the Gram matrix")
    return nontrivial


def _positive_and_zero(signs: list[int]) -> tuple[int, int]:
    """How many roots of a real-rooted polynomial are positive, and zero, by its signs."""
    zero = next(k for k, sign in enumerate(signs) if sign)
    seen = [sign for sign in signs if sign]
    return sum(s != t for s, t in pairwise(seen)), zero


def _shift_by_w(coefficients: list[int], square: int) -> list[Surd]:
    """Coefficients, lowest first, of p(y + w), w**2 = ``square``, by repeated Horner steps."""
    u, v = list(coefficients), [0] * len(coefficients)
    for start in range(len(u) - 1):
        for k in range(len(u) - 2, start - 1, -1):
            u[k], v[k] = u[k] + square * v[k + 1], v[k] + u[k + 1]
    return list(zip(u, v, strict=True))


def _sign(surd: Surd, square: int) -> int:
    """The sign of u + v sqrt(square), exactly."""
    u, v = surd
    if u * v >= 0:
        return _of(u) or _of(v)
    return _of(u) * _of(u * u - square * v * v)


def _of(number: int) -> int:
    return (number > 0) - (number < 0)
