"""The Gram matrix of a graph with a cyclic symmetry, split into one Hermitian block per character.

If adding 1 to the place of every vertex within its group of r maps a graph to itself, the Gram
matrix N commutes with that shift. Its eigenvectors are then x[j*r + g] = u[j] w**(k g), with
w = exp(2 pi i / r), k = 0 .. r-1 and u an eigenvector of the block

    N_k[j, j'] = sum over t of N[j*r, j'*r + t] w**(k t),

of order n/r. A proof about N is a proof about each of them. Derivation, with the audit of all
rounding errors: ``docs/theory/certificates.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from expandermask.certificates.cholesky import proves_at_most, rounding_margin
from expandermask.certificates.spectrum import bottom, top_nontrivial
from expandermask.errors import divisors_between
from expandermask.graphs.biregular import BiregularGraph
from expandermask.threads import one_blas_thread

_LEAST_ORDER = 3
_UNIT = 2.0**-53
_ROOT_BITS = 96
_CHUNK = 2**18
_GLANCE = 1024
_SLOW = 2e10
_OUTWARD = 1 + 2.0**-50


def cyclic_order(side: BiregularGraph) -> int:
    """The largest r >= 3 for which the shift within groups of r is an automorphism, or else 1.

    The groups are the vertices ``i*r .. i*r + r - 1`` on either side, so r divides n1 and n2. Every
    edge is looked at; where a graph came from plays no part. At r = 2 the blocks would save
    nothing.

    Examples
    --------
    >>> from expandermask.graphs import random_biregular
    >>> from expandermask.graphs.quasi_cyclic import quasi_cyclic
    >>> cyclic_order(quasi_cyclic(2000, 1000, 3, r=50, rng=0))
    50
    >>> cyclic_order(random_biregular(2000, 1000, 3, rng=0))
    1
    """
    common = math.gcd(side.n1, side.n2)
    candidates = divisors_between(common, _LEAST_ORDER, common)
    return next((r for r in reversed(candidates) if _is_shift_symmetric(side, r)), 1)


def _is_shift_symmetric(side: BiregularGraph, r: int) -> bool:
    """Whether the neighbours of each vertex's shift are its neighbours' shifts; O(edges).

    For the last vertex of a group this follows from the others, as r shifts move nothing.
    """
    rows = side.neighbors.reshape(-1, r, side.d1)
    glance = rows[0, :_GLANCE]  # most candidates end here
    if not _are_shifts(glance[:-1], glance[1:], r):
        return False
    return _are_shifts(rows[:, :-1], rows[:, 1:], r)


def _are_shifts(rows: NDArray[np.int32], following: NDArray[np.int32], r: int) -> bool:
    """Whether each row of ``following`` holds the labels of ``rows`` one place on in their group.

    Both have ascending rows, and moving keeps the order unless two labels share a group.
    """
    moved = rows + 1
    moved[moved % r == 0] -= r
    return np.array_equal(moved, following) or np.array_equal(np.sort(moved), following)


@lru_cache(maxsize=4)
def roots_of_unity(r: int) -> NDArray[np.complex128]:
    """exp(2 pi i t / r) for t = 0 .. r-1; each part is proved within 2**-53 of its true value.

    The values come from the ball arithmetic of python-flint, which bounds their error, and not from
    the platform's cos and sin, which promise nothing.
    """
    from flint import arb, ctx, fmpq

    table = np.empty(r, dtype=np.complex128)
    with ctx.workprec(_ROOT_BITS):
        for t in range(r):
            sine, cosine = arb.sin_cos_pi_fmpq(fmpq(2 * t, r))
            table[t] = complex(float(cosine), float(sine))
            errors = (abs(cosine - table[t].real), abs(sine - table[t].imag))
            if not all(error <= _UNIT for error in errors):
                raise ArithmeticError(f"the {r}-th roots of unity could not be enclosed")
    table.flags.writeable = False
    return table


class Blocks:
    """The Gram matrix of ``side`` under its cyclic symmetry of order r; r = 1 is the whole matrix.

    Parameters
    ----------
    side : BiregularGraph
        A graph with n2 <= n1.
    r : int
        1, or an order for which the shift *is* an automorphism (see `cyclic_order`); what is
        "proved" for another r is not.
    """

    side: BiregularGraph
    r: int
    size: int
    """Order of each block, n2 / r."""

    def __init__(self, side: BiregularGraph, r: int) -> None:
        self.side, self.r, self.size = side, r, side.n2 // r
        self._trivial = side.d1 * side.d2
        self._proved = math.inf
        if r == 1:
            self._order, self._entry_error = self.size, 0.0
            self._invariant = side.gram()
            return
        self._order, self._entry_error = 2 * self.size, entry_error(self._trivial)
        self._rows, self._columns, self._shifts, self._counts = _gram_orbits(side, r)
        self._invariant = np.zeros((self.size, self.size), dtype=np.int64)
        np.add.at(self._invariant, (self._rows, self._columns), self._counts)

    def blocks(self, characters: NDArray[np.int64]) -> NDArray[np.complex128]:
        """N_k for each k of ``characters``: complex128, shape (len(characters), n2/r, n2/r)."""
        phases = characters[:, None] * self._shifts % self.r
        terms = self._counts * roots_of_unity(self.r)[phases]
        found = np.zeros((len(characters), self.size, self.size), dtype=np.complex128)
        np.add.at(found, (np.arange(len(characters))[:, None], self._rows, self._columns), terms)
        return found

    def margin(self, level: float) -> float:
        """How far above an eigenvalue near ``level`` a bound may have to lie to be proved."""
        trace = self.size * (level + self._trivial / self.size + 1)
        return rounding_margin(self._order, trace) + self._entry_error

    def proves_at_most(self, c: float) -> bool:
        """Whether all eigenvalues off the all-ones vector are proved to be at most c.

        True is a proof, False says nothing. Stops at the first block that fails; what was proved
        once is remembered. About (2/3) n2**3 / r**2 flops.
        """
        if c >= self._proved:
            return True
        if not proves_at_most(self._invariant, self._trivial, c):
            return False
        for characters in self._chunks():
            if not _proves_at_most(self.blocks(characters), c, self._entry_error):
                return False
        self._proved = c
        return True

    def proves_at_least(self, c: float) -> bool:
        """Whether all eigenvalues are proved to be at least c; True is a proof, False says nothing.

        The eigenvalues of -N are to be at most -c, the all-ones vector included: it has d1 d2.
        """
        if not proves_at_most(-self._invariant, 0, -c):
            return False
        return all(
            _proves_at_most(-self.blocks(characters), -c, self._entry_error)
            for characters in self._chunks()
        )

    def bottom(self) -> NDArray[np.float64]:
        """An approximate eigenvector for the least eigenvalue."""
        if self.r == 1:
            return bottom(self._invariant)
        with one_blas_thread(self.size):
            least, where = float(np.linalg.eigvalsh(self._invariant)[0]), 0
        for characters in self._chunks():
            with one_blas_thread(self.size):
                values = np.linalg.eigvalsh(self.blocks(characters))[:, 0]
            if values.min() < least:
                least, where = float(values.min()), int(characters[values.argmin()])
        if where == 0:
            return np.repeat(bottom(self._invariant), self.r)
        return self._lifted(where, 0)

    def top_nontrivial(self) -> NDArray[np.float64]:
        """An approximate eigenvector for the largest eigenvalue off the all-ones vector.

        Blocks that a rigorous test shows to lie below the largest eigenvalue met so far are passed
        over, so few eigenvalue problems are solved; and if all goes well, the largest eigenvalue
        plus twice `margin` is proved by the way.
        """
        if self.r == 1:
            return top_nontrivial(self.side, self._invariant)
        with one_blas_thread(self.size):
            values, vectors = np.linalg.eigh(self._invariant - self._trivial / self.size)
        top, where = max(float(values[-1]), 0.0), 0
        level = self._just_above(top)
        proved = proves_at_most(self._invariant, self._trivial, level)
        for characters in self._chunks():
            found = self.blocks(characters)
            if _proves_at_most(found, level, self._entry_error):
                continue
            with one_blas_thread(self.size):
                largest = np.linalg.eigvalsh(found)[:, -1]
            if largest.max() > top:
                top, where = float(largest.max()), int(characters[largest.argmax()])
                level = self._just_above(top)
            proved = proved and _proves_at_most(found, level, self._entry_error)
        if proved:
            self._proved = min(self._proved, level)
        if where == 0:
            return np.repeat(vectors[:, -1], self.r)
        return self._lifted(where, -1)

    def _just_above(self, value: float) -> float:
        return value * _OUTWARD + 2 * self.margin(value)

    def _lifted(self, k: int, place: int) -> NDArray[np.float64]:
        """The eigenvector u of N_k at ``place`` as a real one of the graph, Re u[j] w**(k g)."""
        with one_blas_thread(self.size):
            u = np.linalg.eigh(self.blocks(np.array([k]))[0])[1][:, place]
        u = u / u[np.abs(u).argmax()]  # now one entry is 1, so the real part is not zero
        powers = roots_of_unity(self.r)[k * np.arange(self.r) % self.r]
        return np.asarray((u[:, None] * powers).real.ravel())

    def _chunks(self) -> Iterator[NDArray[np.int64]]:
        """The characters 1 .. r//2 in batches; the others are their complex conjugates."""
        if self.r == 1:
            return
        step = max(1, _CHUNK // max(self.size**2, len(self._shifts)))
        everything = np.arange(1, self.r // 2 + 1)
        with tqdm(
            total=len(everything),
            desc="characters",
            leave=False,
            disable=None if len(everything) * self.size**3 > _SLOW else True,
        ) as bar:
            for start in range(0, len(everything), step):
                characters = everything[start : start + step]
                yield characters
                bar.update(len(characters))


def _gram_orbits(side: BiregularGraph, r: int) -> tuple[NDArray[np.int64], ...]:
    """(j, j', t, count) with N[j*r + g, j'*r + g + t] = count > 0, whatever g.

    Each common neighbour of two right vertices is the shift of exactly one left vertex i*r, so it
    is enough to go over the pairs of neighbours of those.
    """
    size = side.n2 // r
    groups, places = np.divmod(side.neighbors[::r].astype(np.int64), r)
    pairs = groups[:, :, None] * size + groups[:, None, :]
    shifts = (places[:, None, :] - places[:, :, None]) % r
    keys, counts = np.unique((pairs * r + shifts).ravel(), return_counts=True)
    return keys // r // size, keys // r % size, keys % r, counts


def entry_error(trivial: int) -> float:
    """How far, in norm, a computed block can be from the true one.

    ``trivial`` = d1 d2 bounds the number of roots of unity that meet in one row of a block, hence
    both the number of roundings of an entry and the number of entries they add up over.
    """
    return 4 * trivial * (trivial + 4) * _UNIT


def _proves_at_most(blocks: NDArray[np.complex128], c: float, error: float) -> bool:
    """Whether all eigenvalues of Hermitian matrices within ``error`` of these are proved <= c."""
    n = blocks.shape[-1]
    shifted = -blocks
    diagonal = np.einsum("kii->ki", shifted)
    # Diagonal entries of c I - N are at most c for a Gram matrix N, and -N brings its own.
    trace = n * c + max(float(diagonal.real.sum(axis=1).max()), 0.0)
    margin = rounding_margin(2 * n, trace) + error
    diagonal[:] = np.nextafter(diagonal.real + np.nextafter(c - margin, -np.inf), -np.inf)
    try:
        with one_blas_thread(n):
            factors = np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return False
    return bool(np.isfinite(np.einsum("kii->ki", factors)).all())
