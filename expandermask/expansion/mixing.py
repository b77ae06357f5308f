"""The expander mixing lemma: how many ones any s rows and t columns of a mask can share.

Alon and Chung, "Explicit construction of linear sized tolerant networks", 1988; for two sides of
different degrees Haemers, "Interlacing eigenvalues and graphs", 1995, section 5. Scanned over all
sizes of sets it bounds the Cheeger constants from below; the vertex version is the inequality of
Tanner, "Explicit concentrators from generalized N-gons", 1984. Proofs, and the audit of rounding:
``docs/theory/expansion_bounds.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.certificates.certify import certify
from expandermask.certificates.cholesky import proves_at_most
from expandermask.errors import InvalidInputError, NotBiregularError, check_integer
from expandermask.graphs.bipartite import BipartiteGraph, as_bipartite
from expandermask.threads import one_blas_thread

Counts = NDArray[np.int64]

_OUTWARD = 2.0**-44
_TRIES = 6
_CHUNK = 2**20
MOST_PAIRS = 2**25
"""Largest n1 * n2 for which all pairs of sizes are scanned: seconds."""

MOST_GRAM = 2048
"""Largest smaller side for which a norm is computed: seconds."""


def edge_count_bounds(graph_or_mask: Any, s: int, t: int) -> tuple[int, int]:
    """Between how many and how many ones any s rows and any t columns of a mask share, proved.

    Parameters
    ----------
    graph_or_mask
        Whatever `as_bipartite` takes, shape (n1, n2).
    s, t : int
        Numbers of rows, 0 <= s <= n1, and of columns, 0 <= t <= n2.

    Returns
    -------
    (lo, hi)
        For every set A of s rows and B of t columns, lo <= ones in A x B <= hi.

    Raises
    ------
    InvalidInputError
        Not a mask, or more rows or columns than there are.

    Notes
    -----
    The better of counting degrees and of the mixing lemma, with the proved upper end of sigma_2 for
    a biregular mask, and the norm of M less its mean for any other. O(n1 n2 min(n1, n2)).

    Examples
    --------
    >>> from expandermask.graphs import projective_plane
    >>> edge_count_bounds(projective_plane(7), 30, 30)  # 57 x 57, 8 ones in each row
    (89, 163)
    """
    graph = as_bipartite(graph_or_mask)
    s, t = (check_integer(name, n, minimum=0) for name, n in (("s", s), ("t", t)))
    for name, value, most in (("s", s, graph.n1), ("t", t, graph.n2)):
        if value > most:
            raise InvalidInputError(f"{name} must be at most {most}, got {value}")
    counts = EdgeCounts.of(graph)
    rows, columns = np.array([s]), np.array([t])
    return int(counts.least(rows, columns)[0]), int(counts.most(rows, columns)[0])


@dataclass(frozen=True, eq=False)
class EdgeCounts:
    """Bounds on e(A, B) for all sets of a left and b right vertices, as vectorised functions.

    All take int64 arrays a and b of shapes that broadcast, with 0 <= a <= n1 and 0 <= b <= n2.
    """

    edges: int
    low: tuple[Counts, Counts]
    """Sums of the k smallest left degrees, and right degrees, k = 0 .. n."""
    high: tuple[Counts, Counts]
    """Sums of the k largest."""
    norm: float
    """At least the norm of M - (its mean) J; infinite if none was computed."""

    @classmethod
    def of(cls, graph: BipartiteGraph) -> EdgeCounts:
        """The degree sums of a graph and a proved upper bound on the norm off its mean."""
        sides = [np.sort(degrees) for degrees in (graph.left_degrees, graph.right_degrees)]
        low, high = (
            tuple(np.concatenate([[0], side[::step].cumsum()]) for side in sides)
            for step in (1, -1)
        )
        return cls(graph.num_edges, (low[0], low[1]), (high[0], high[1]), _norm_off_mean(graph))

    @property
    def sizes(self) -> tuple[int, int]:
        """n1 and n2."""
        return len(self.low[0]) - 1, len(self.low[1]) - 1

    @property
    def biregular(self) -> bool:
        """Whether all left degrees are equal, and all right ones."""
        return all(np.array_equal(low, high) for low, high in zip(self.low, self.high, strict=True))

    def _mean_and_slack(self, a: Counts, b: Counts) -> tuple[Any, Any]:
        """E ab / (n1 n2), and how far from it e(A, B) may be: floats, off by under 2**-48."""
        n1, n2 = self.sizes
        area = a.astype(float) * b
        spread = area if not self.biregular else area * ((n1 - a) / n1) * ((n2 - b) / n2)
        if self.norm == np.inf:
            return area * (self.edges / (n1 * n2)), np.where(spread > 0, np.inf, 0.0)
        return area * (self.edges / (n1 * n2)), self.norm * np.sqrt(spread)

    def at_most(self, a: Counts, b: Counts) -> Counts:
        """An upper bound on e(A, B) from the sizes, the degrees and the mixing lemma."""
        mean, slack = self._mean_and_slack(a, b)
        mixing = np.floor(np.minimum((mean + slack) * (1 + _OUTWARD), self.edges)).astype(np.int64)
        degrees = np.minimum(self.high[0][a], self.high[1][b])
        bound: Counts = np.minimum(np.minimum(a * b, degrees), mixing)
        return bound

    def least(self, a: Counts, b: Counts) -> Counts:
        """A lower bound on e(A, B): the lemma's, or what cannot go elsewhere."""
        n1, n2 = self.sizes
        mean, slack = self._mean_and_slack(a, b)
        lowest = np.maximum(mean * (1 - _OUTWARD) - slack * (1 + _OUTWARD), 0)
        by_rows = self.low[0][a] - self.at_most(a, n2 - b)
        by_columns = self.low[1][b] - self.at_most(n1 - a, b)
        mixing = np.ceil(lowest).astype(np.int64)
        bound: Counts = np.maximum(mixing, np.maximum(by_rows, by_columns))
        return bound

    def most(self, a: Counts, b: Counts) -> Counts:
        """An upper bound on e(A, B): `at_most`, or what must go elsewhere."""
        n1, n2 = self.sizes
        by_rows = self.high[0][a] - self.least(a, n2 - b)
        by_columns = self.high[1][b] - self.least(n1 - a, b)
        bound: Counts = np.minimum(self.at_most(a, b), np.minimum(by_rows, by_columns))
        return bound

    def cut_at_least(self, a: Counts, b: Counts) -> Counts:
        """A lower bound on the edges that leave A u B, from this set and from its complement."""
        n1, n2 = self.sizes
        inner = self.low[0][a] + self.low[1][b] - 2 * self.at_most(a, b)
        x, y = n1 - a, n2 - b
        outer = self.low[0][x] + self.low[1][y] - 2 * self.at_most(x, y)
        bound: Counts = np.maximum(np.maximum(inner, outer), 1)
        return bound

    def reached(self, a: Counts, b: Counts, missed: Counts, inside: Counts) -> Counts:
        """A lower bound on the right vertices next to A that are not in B.

        A misses at most ``missed`` right vertices, and at most ``inside`` of its edges end in B;
        the others end in the vertices to be counted.
        """
        leaving = self.low[0][a] - inside
        width = int(self.high[1][1])
        apart = self.sizes[1] - missed - b
        bound: Counts = np.maximum(np.maximum(apart, -(-leaving // width)), 0)
        return bound

    def transpose(self) -> EdgeCounts:
        """The same bounds with the sides exchanged."""
        return EdgeCounts(self.edges, self.low[::-1], self.high[::-1], self.norm)


def scan_edges(counts: EdgeCounts) -> Fraction:
    """The least cut / size over all pairs of sizes: a lower bound on h_E of a connected graph."""
    return _least_ratio(counts, counts.cut_at_least)


def scan_vertices(counts: EdgeCounts) -> Fraction:
    """The least boundary / size over all pairs of sizes: a lower bound on h_V, if connected."""
    flipped = counts.transpose()
    by_left, by_right = _missed(counts), _missed(flipped)

    def boundary(a: Counts, b: Counts) -> Counts:
        inside = counts.at_most(a, b)
        right = counts.reached(a, b, by_left[a], inside)
        left = flipped.reached(b, a, by_right[b], inside)
        bound: Counts = np.maximum(right + left, 1)
        return bound

    return _least_ratio(counts, boundary)


def _missed(counts: EdgeCounts) -> Counts:
    """To how many right vertices a set of a left vertices may have no edge, a = 0 .. n1."""
    return np.concatenate(
        [np.where(counts.least(a, b) <= 0, b, 0).max(axis=1) for a, b in _grid(*counts.sizes)]
    )


def _grid(n1: int, n2: int) -> Iterator[tuple[Counts, Counts]]:
    """All pairs (a, b), a column of some a with the row of all b at a time."""
    step = max(1, _CHUNK // (n2 + 1))
    for start in range(0, n1 + 1, step):
        yield np.arange(start, min(start + step, n1 + 1))[:, None], np.arange(n2 + 1)[None, :]


def _least_ratio(counts: EdgeCounts, boundary: Callable[[Counts, Counts], Counts]) -> Fraction:
    """The least boundary(a, b) / (a + b) over 0 < a + b <= N / 2.

    Division is monotone also when rounded, so the least is among those of the least quotient.
    """
    n1, n2 = counts.sizes
    half = (n1 + n2) // 2
    best: Fraction | None = None
    for a, b in _grid(n1, n2):
        size = a + b
        found = boundary(a, b)
        allowed = (size > 0) & (size <= half)
        if not allowed.any():
            continue
        quotient = np.where(allowed, found / np.maximum(size, 1), np.inf)
        ties = quotient == quotient.min()
        exact = {(int(c), int(x)) for c, x in zip(found[ties], size[ties], strict=True)}
        least = min(Fraction(c, x) for c, x in exact)
        best = least if best is None else min(best, least)
    assert best is not None  # a + b = 1 is always allowed
    return best


def _norm_off_mean(graph: BipartiteGraph) -> float:
    """A proved upper bound on the norm of M - (E / (n1 n2)) J: sigma_2 if M is biregular."""
    if graph.num_edges == 0:
        return 0.0
    try:
        regular = graph.biregular()
    except NotBiregularError:
        regular = None
    if min(graph.n1, graph.n2) > MOST_GRAM:
        return float("inf")
    if regular is not None and min(regular.d1, regular.d2) > 1:
        return certify(regular).sigma2[1]
    if graph.n2 > graph.n1:
        graph = graph.transpose()
    return _norm_by_cholesky(graph)


def _norm_by_cholesky(graph: BipartiteGraph) -> float:
    """The same through G = n1 n2**2 (M - mean J)'(M - mean J), an integer matrix of order n2."""
    n1, n2, edges = graph.n1, graph.n2, graph.num_edges
    scale = n1 * n2**2
    if scale * n1 >= 2**52:
        return float("inf")
    matrix = graph.biadjacency().astype(np.int64)
    sums = n2 * edges * graph.right_degrees
    gram = scale * (matrix.T @ matrix).toarray() - sums[:, None] - sums + edges**2
    with one_blas_thread(n2):
        top = max(float(np.linalg.eigvalsh(gram.astype(float))[-1]), 0.0)
    slack = 2.0**-34 * (top + float(np.trace(gram)) / n2)
    for _ in range(_TRIES):
        if proves_at_most(gram, 0, top + slack):
            return float(np.sqrt((top + slack) / scale)) * (1 + _OUTWARD)
        slack *= 16
    return float(np.sqrt(float(np.trace(gram)) / scale)) * (1 + _OUTWARD)
