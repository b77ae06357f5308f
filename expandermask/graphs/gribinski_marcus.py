"""Ramanujan graphs by interlacing families (Gribinski and Marcus, 2021).

A graph of shape (k n, n, d) is a sum of d matchings, chosen one row at a time by the method of
conditional expectations: of all columns the next row could be matched to, take the one for which
the expected characteristic polynomial of what may still come is largest at rho**2. Interlacing
keeps all its nontrivial roots below rho**2 throughout, and when nothing is left to choose they are
the eigenvalues. Derivations: ``docs/theory/interlacing.md``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import InvalidInputError, NotProvedError, check_ramanujan_shape
from expandermask.graphs import _kernels
from expandermask.graphs._interlacing_completion import Completion
from expandermask.graphs._interlacing_contour import Contour, Reals, contour_of, value_at
from expandermask.graphs._interlacing_quadrature import Node, Point, children
from expandermask.graphs.biregular import BiregularGraph, Builder, Recipe
from expandermask.graphs.interlacing import (
    long_short_degree,
    matching_power,
    rectangular_convolution,
    require_divisible_sides,
)
from expandermask.graphs.random import RandomState, draw_seed

if TYPE_CHECKING:
    from flint import fmpq_poly
    from tqdm import tqdm

Integers = NDArray[np.int64]

ALGORITHM, VERSION = "gribinski_marcus", 1

SELF_CHECK = 1e-3
"""Largest relative error allowed in sum_c cnt_c p_c(x) = m p(x)."""
_TIE = 1e-3
_LONG_SIDE, _SHORT_SIDE, _SHORT_SIDE_TWO = 16384, 80, 128
_GRID = 2**16


def gribinski_marcus(
    n1: int, n2: int, d1: int, *, rng: RandomState = None, progress: bool = False
) -> BiregularGraph:
    """A Ramanujan graph found by conditional expectations, and proved; no search, no luck.

    Parameters
    ----------
    n1, n2 : int
        Numbers of left and right vertices, one a multiple of the other; either may be larger.
    d1 : int
        Degree of the left vertices, 2 <= d1 <= n2, with d2 = n1 * d1 / n2 at least 2.
    rng : None, int or numpy.random.Generator
        Decides between columns whose expectations agree to a part in a thousand, and nothing else.
    progress : bool
        Show a progress bar (tqdm) over the rows chosen.

    Raises
    ------
    InvalidInputError, InfeasibleShapeError
        A shape the theorem does not cover, or one beyond the sizes at which the sums are known to
        be accurate; names the nearest that works.
    NotProvedError
        Every column that keeps the roots below the bound leads to a repeated edge (the theorem is
        about multigraphs; nothing is repaired), the self-check failed, or the finished graph was
        not certified.

    Notes
    -----
    With n = min(n1, n2) and m = max(n1, n2): m (d - 1) steps, d the degree on the longer side. Each
    inverts some hundred n x n matrices if only the last matching is open, some thousand before.
    Every step checks that the children's expectations, weighted, add up to the parent's.
    Source: Gribinski and Marcus, "Existence and polynomial time construction of biregular,
    bipartite Ramanujan graphs of all sizes", 2021; Marcus, Spielman and Srivastava, "Interlacing
    families IV: bipartite Ramanujan graphs of all sizes", 2018.

    Examples
    --------
    >>> graph = gribinski_marcus(8, 8, 3, rng=0)
    >>> graph
    BiregularGraph(n1=8, n2=8, d1=3, d2=3)
    >>> import expandermask as xm
    >>> xm.certify(graph).verdict
    'PROVED'
    """
    from expandermask.certificates.certify import certify

    n1, n2, d1, d2 = check_ramanujan_shape(n1, n2, d1)
    require_divisible_sides(n1, n2)
    if reason := _too_large(n1, n2, d1, d2):
        raise InvalidInputError(reason)
    seed = draw_seed(rng)
    wide = n1 >= n2
    run = _Run(n1, n2, d1, seed) if wide else _Run(n2, n1, d2, seed)
    rows = run.matchings(progress)
    rows.sort(axis=1)
    if not wide:
        rows = _kernels.transpose_rows(rows, n1)
    graph = BiregularGraph(rows, n2, recipe=Recipe(ALGORITHM, VERSION, n1, n2, d1, seed))
    certificate = certify(graph)
    if certificate.verdict != "PROVED":
        raise NotProvedError(f"the finished graph is {certificate.verdict}: {certificate.reason}")
    return graph


def interlacing_obstacle(n1: int, n2: int, d1: int) -> str | None:
    """None if `gribinski_marcus` takes this shape, else the reason why not; costs nothing.

    >>> interlacing_obstacle(60, 60, 3)
    >>> interlacing_obstacle(12, 8, 2)
    'one of n1, n2 must be a multiple of the other, got 12 and 8; nearest that work: n1 = 8 or 16'
    """
    try:
        n1, n2, d1, d2 = check_ramanujan_shape(n1, n2, d1)
        require_divisible_sides(n1, n2)
    except InvalidInputError as error:
        return str(error)
    return _too_large(n1, n2, d1, d2)


def _too_large(n1: int, n2: int, d1: int, d2: int) -> str | None:
    """Why a shape is beyond the sizes the self-check was seen to hold at, with one within them."""
    long, short, degree = long_short_degree(n1, n2, d1, d2)
    most = _SHORT_SIDE_TWO if degree == 2 else _SHORT_SIDE
    if short <= most and long <= _LONG_SIDE:
        return None
    k = min(long // short, _LONG_SIDE // 2)
    n = min(short, most, _LONG_SIDE // k)
    d = min(degree, n)
    near = (k * n, n, d) if n1 >= n2 else (n, k * n, k * d)
    return (
        f"(n1, n2, d1) = ({n1}, {n2}, {d1}) is beyond the sizes at which double precision is known "
        f"to pass the self-check: sides up to {_LONG_SIDE} and {most} at degree {degree}; "
        f"nearest that works: {near}"
    )


class _Run:
    """One run for a shape with n1 = k n2.

    ``multiplicity`` counts the edges of the finished matchings, ``log_value`` is the logarithm of
    the expectation at ``x`` given all that is chosen, ``values`` its history, and ``worst`` the
    largest disagreement seen by the self-check.
    """

    def __init__(self, n1: int, n2: int, degree: int, seed: int) -> None:
        from expandermask.certificates.bounds import RamanujanBound

        self.n1, self.n2, self.degree, self.k = n1, n2, degree, n1 // n2
        bound = RamanujanBound(degree, degree * self.k).square_below()
        self.x = math.floor(bound * _GRID) / _GRID
        self.priority = _permutation(n2, seed)
        self.multiplicity = np.zeros((n1, n2), dtype=np.int64)
        self.log_value = 0.0
        self.worst = 0.0
        self.values: list[float] = []

    def matchings(self, progress: bool = False) -> NDArray[np.int32]:
        """The rows of the graph, (n1, degree): one column per matching."""
        from tqdm import tqdm

        rows = np.empty((self.n1, self.degree), dtype=np.int32)
        first = np.arange(self.n1) // self.k
        bar: tqdm[Any] = tqdm(total=self.n1 * (self.degree - 1), disable=not progress, unit="row")
        with bar:
            for index in range(self.degree):
                rows[:, index] = first if index == 0 else self._matching(index, bar)
                self.multiplicity[np.arange(self.n1), rows[:, index]] += 1
        return rows

    def _matching(self, index: int, bar: tqdm[Any]) -> Integers:
        """Choose matching number ``index`` (from 0), given those before it."""
        contour = self._begin(index)
        stage = _Stage(self.multiplicity, self.k, index)
        completion = Completion(self.multiplicity, self.k)
        chosen = np.empty(self.n1, dtype=np.int64)
        saddles: list[Point] | None = None
        for row in range(self.n1):
            if row < self.n1 - 1:
                log_scale, values, saddles = children(stage.node(row), contour, saddles)
                self._check(log_scale, values, stage.counts)
            else:
                log_scale, values = self.log_value, np.ones(self.n2)
            chosen[row] = self._choose(values, completion, index, row)
            self.log_value = log_scale + math.log(values[chosen[row]])
            self.values.append(self.log_value)
            stage.assign(row, int(chosen[row]))
            bar.update()
        return chosen

    def _begin(self, index: int) -> Contour:
        """The functional of the matchings after this one; sets the exact value to start from."""
        from flint import fmpq

        n, m = self.n2 - 1, self.n1 - 1
        star = matching_power(n, m, self.k, 1)
        expected = rectangular_convolution(self._characteristic(index), star, n, m)
        later = self.degree - index - 1
        future = matching_power(n, m, self.k, later)
        x = fmpq(*self.x.as_integer_ratio())
        value = rectangular_convolution(expected, future, n, m)(x)
        if value <= 0:
            raise NotProvedError(f"the expectation before matching {index + 1} is not positive")
        exact = math.log(int(value.p)) - math.log(int(value.q))
        if index > 1:
            self._compare(self.log_value - exact)
        self.log_value = exact
        if later == 0:
            return value_at(self.x)
        powers = [[0] * i + [1] for i in range(n + 1)]
        return contour_of([rectangular_convolution(p, future, n, m)(x) for p in powers], expected)

    def _characteristic(self, index: int) -> fmpq_poly:
        """det(x - M'M) of the matchings so far, without the root of the all-ones vector."""
        from flint import fmpq_poly, fmpz_mat, fmpz_poly

        gram = self.multiplicity.T @ self.multiplicity
        whole = fmpz_mat(gram.tolist()).charpoly()
        return fmpq_poly(divmod(whole, fmpz_poly([-(index**2) * self.k, 1]))[0])

    def _check(self, log_scale: float, values: Reals, counts: Integers) -> None:
        """The children's expectations must average to the parent's."""
        mean = float(counts @ values) / int(counts.sum())
        self._compare(log_scale + math.log(mean) - self.log_value if mean > 0 else math.inf)

    def _compare(self, log_ratio: float) -> None:
        """Refuse two evaluations of one expectation that differ by more than ``SELF_CHECK``."""
        self.worst = max(self.worst, abs(log_ratio))
        if not abs(log_ratio) <= SELF_CHECK:
            raise NotProvedError(
                "the expectations of the children do not average to the parent's: the logarithms "
                f"differ by {log_ratio:.1e}, more than {SELF_CHECK}; double precision does not "
                "reach this shape"
            )

    def _choose(self, values: Reals, completion: Completion, index: int, row: int) -> int:
        """The column with the largest value that leaves a way to finish without repeated edges.

        Values that agree to ``_TIE`` count as one, and among them the seed's order decides. Any
        column with a positive value keeps the roots below x.
        """
        left = np.flatnonzero(values > 0)
        while left.size:
            near = left[values[left] >= values[left].max() * (1 - _TIE)]
            for column in near[np.argsort(self.priority[near])]:
                if completion.fix(row, int(column)):
                    return int(column)
            left = np.setdiff1d(left, near)
        raise NotProvedError(
            f"matching {index + 1} cannot go on at row {row}: every column that keeps the roots "
            "below the bound leads to a repeated edge. The theorem is about graphs that may have "
            "them, a mask may not, and repairing one would void it; try another rng"
        )


class _Stage:
    """The matching being chosen: integer sums from which each step's matrices are made anew."""

    def __init__(self, multiplicity: Integers, k: int, index: int) -> None:
        n1, n2 = multiplicity.shape
        self.multiplicity, self.n1 = multiplicity, n1
        self.trivial = (index + 1) ** 2 * k / n2
        self.counts = np.full(n2, k, dtype=np.int64)
        self.assigned = np.zeros((n2, n2), dtype=np.int64)
        self.open_gram = multiplicity.T @ multiplicity
        self.open_sum = multiplicity.sum(axis=0)

    def assign(self, row: int, column: int) -> None:
        """Match ``row`` to ``column``."""
        old = self.multiplicity[row]
        new = old.copy()
        new[column] += 1
        self.assigned += np.outer(new, new)
        self.open_gram -= np.outer(old, old)
        self.open_sum -= old
        self.counts[column] -= 1

    def node(self, row: int) -> Node:
        """The matrices of the average over all completions, before ``row`` is matched."""
        m = self.n1 - row
        total = self.open_sum + self.counts
        return Node(
            fixed=self.assigned + np.outer(total, total) / m - self.trivial,
            first=self.open_gram - np.outer(self.open_sum, self.open_sum) / m,
            second=np.diag(self.counts) - np.outer(self.counts, self.counts) / m,
            counts=self.counts.astype(np.float64),
            step=self.multiplicity[row] - self.open_sum / m,
        )


def _permutation(n: int, seed: int) -> Integers:
    """A seeded permutation of 0..n-1 (Fisher-Yates on SplitMix64)."""
    state, order = np.array([seed], dtype=np.uint64), np.arange(n)
    for i in range(n - 1, 0, -1):
        j = _kernels.below(state, i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def _from_recipe(recipe: Recipe, base: BiregularGraph | None) -> BiregularGraph:
    return gribinski_marcus(recipe.n1, recipe.n2, recipe.d1, rng=recipe.seed)


BUILDERS: dict[str, tuple[int, Builder]] = {ALGORITHM: (VERSION, _from_recipe)}
