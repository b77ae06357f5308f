"""Eigenvectors that meet the bound exactly, as integers: what `recheck` needs to prove a tie.

An eigenvalue of the Gram matrix N equal to rho**2 = a + 2 sqrt(D) leaves no room for an elimination
below it. Its eigenvectors are given to the checker, which verifies them in integers and eliminates
on what is orthogonal to them. Derivation: ``docs/theory/recheck.md``.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.certificates.bounds import RamanujanBound

_Task = tuple[list[list[int]], Fraction, int, int, list[list[int]]]
_FIRST_BITS = 64
_SHORT = 2**12
_LARGEST_LLL = 64
_PRIME = 2**61 - 1


def tie_basis(gram: NDArray[np.int64], bound: RamanujanBound) -> list[list[int]]:
    """Integer vectors that span the eigenvectors at the ends a +- 2 sqrt(D), for `recheck`.

    Where 2 sqrt(D) is an integer, they are eigenvectors for rho**2, followed by those for the lower
    end if the degrees differ (for equal ones nothing lies below it). Otherwise N takes both ends
    equally often, and with each vector b given, (N - a) b is meant as well.

    Parameters
    ----------
    gram : int64 array, shape (n, n)
        Gram matrix of the smaller side.
    bound : RamanujanBound
        The bound of its degrees, with eps = 0.

    Returns
    -------
    list of lists of n ints, each orthogonal to all-ones; empty if no eigenvalue lies on an end.

    Notes
    -----
    Exact null spaces by python-flint (a multimodular echelon form), reduced by LLL where they are
    small; see ``docs/theory/recheck.md`` for times.

    Examples
    --------
    >>> from expandermask.certificates.bounds import RamanujanBound
    >>> from expandermask.graphs import heawood
    >>> tie_basis(heawood().gram(), RamanujanBound(3, 3))  # sigma_2**2 = 2, rho**2 = 8
    []
    """
    root = isqrt(4 * bound.D)
    shifted = np.array(gram, dtype=object)
    np.einsum("ii->i", shifted)[:] -= bound.a
    identity = np.eye(len(gram), dtype=object)
    if root * root == 4 * bound.D:
        ends = (root,) if bound.d1 == bound.d2 else (root, -root)
        return [b for end in ends for b in _null_vectors(shifted - end * identity)]
    basis = _null_vectors(_square(shifted) - 4 * bound.D * identity)
    return _halves(shifted, basis)


def elimination_bits(
    gram: NDArray[np.int64],
    trivial: int,
    bound: RamanujanBound,
    basis: list[list[int]],
    two_sided: bool = False,
) -> int:
    """The bits, 64 or a doubling of it, at which the checker's own eliminations succeed.

    Parameters
    ----------
    gram, bound, basis
        As for `tie_basis`, and what it returned.
    trivial : int
        d1 d2.
    two_sided : bool
        Whether the lower end has to be shown as well.

    Raises
    ------
    ArithmeticError
        Not even the largest number of bits the checker allows is enough.

    Notes
    -----
    O(n**3) products of integers of about that many bits, in Python: seconds at n = 512.
    """
    # Not at the top, or `python -m` would find the checker loaded before it runs it.
    from expandermask.certificates.recheck import MOST_BITS

    roots = [isqrt(d - 1 << 2 * MOST_BITS) for d in (bound.d1, bound.d2)]
    upper = Fraction(sum(roots), 2**MOST_BITS) ** 2
    lower = Fraction(abs(roots[0] - roots[1]) + 1, 2**MOST_BITS) ** 2
    triangle, shift = _triangle(gram), -(-trivial // len(gram))
    tasks = [(triangle, upper, 1, shift, basis)]
    if two_sided and bound.d1 != bound.d2:
        tasks.append((triangle, -lower, -1, shift, basis))
    if basis:
        span = np.array(_spanned(gram, bound, basis), dtype=object)
        tasks.append((_triangle(span @ span.T), Fraction(0), -1, 0, []))
    enough = _enough_bits(tasks, _FIRST_BITS)
    if enough is None:
        raise ArithmeticError(f"no elimination with fewer than {MOST_BITS} bits shows the bound")
    return enough


def _enough_bits(tasks: list[_Task], bits: int) -> int | None:
    """``bits`` or the first of its doublings with which the checker proves all tasks."""
    from expandermask.certificates.recheck import MOST_BITS, proves

    while bits < MOST_BITS:
        if all(proves(*task, bits) for task in tasks):
            return bits
        bits *= 2
    return None


def _triangle(matrix: NDArray[Any]) -> list[list[int]]:
    """The lower triangle of a symmetric matrix, row by row."""
    return [row[: j + 1] for j, row in enumerate(matrix.tolist())]


def _null_vectors(matrix: NDArray[Any]) -> list[list[int]]:
    """A basis of short integer vectors x with matrix x = 0 whose entries sum to zero."""
    from flint import fmpz_mat

    n = len(matrix)
    found, nullity = fmpz_mat([*matrix.tolist(), [1] * n]).nullspace()
    vectors = [[int(found[i, j]) for i in range(n)] for j in range(nullity)]
    vectors = [[x // content for x in v] for v in vectors if (content := int(np.gcd.reduce(v)))]
    if not vectors or max(abs(x) for v in vectors for x in v) < _SHORT or nullity > _LARGEST_LLL:
        return vectors
    reduced = fmpz_mat(vectors).lll()
    return [[int(x) for x in row] for row in reduced.tolist()]


def _square(matrix: NDArray[Any]) -> NDArray[Any]:
    """The square of an integer matrix, exactly."""
    from flint import fmpz_mat

    whole = fmpz_mat(matrix.tolist())
    return np.array([[int(x) for x in row] for row in (whole * whole).tolist()], dtype=object)


def _halves(shifted: NDArray[Any], basis: list[list[int]]) -> list[list[int]]:
    """Half the vectors b of a basis of an invariant space, those that span it with shifted @ b.

    They are found one after the other, by ranks modulo a prime: that never takes a dependent one.
    """
    from flint import nmod_mat

    chosen: list[list[int]] = []
    span: list[list[int]] = []
    for b in basis:
        if 2 * len(chosen) == len(basis):
            break
        more = [*span, b, (shifted @ np.array(b, dtype=object)).tolist()]
        entries = [x % _PRIME for row in more for x in row]
        if nmod_mat(len(more), len(b), entries, _PRIME).rank() == len(more):
            chosen, span = [*chosen, b], more
    if 2 * len(chosen) != len(basis):
        raise ArithmeticError("the eigenvectors of the irrational ends do not pair up")
    return chosen


def _spanned(
    gram: NDArray[np.int64], bound: RamanujanBound, basis: list[list[int]]
) -> list[list[int]]:
    """The vectors that a tie basis stands for."""
    if isqrt(4 * bound.D) ** 2 == 4 * bound.D:
        return basis
    whole = gram.astype(object)
    images = [
        (whole @ np.array(b, dtype=object) - bound.a * np.array(b, dtype=object)) for b in basis
    ]
    return [*basis, *(image.tolist() for image in images)]
