"""Balanced masks: near-E-optimal graphs of any shape, by log-determinant greedy and switches.

A mask is as good as its sigma_2 is small, which for fixed degrees is the problem of E-optimal block
designs. The greedy builds the rows one at a time so that the determinant of x I - M'M, off the
all-ones vector, stays large (the barrier of Marcus, Spielman and Srivastava, "Interlacing families
IV", 2018, in place of its expectation); switches then lower the trace of ever higher powers of M'M.
Theory, figures, and what is not claimed: ``docs/theory/balance.md``.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import require_memory
from expandermask.graphs import _balance_kernels, _kernels
from expandermask.threads import one_blas_thread

POLISH_SIZE = 256
"""Largest n2 that is polished by switches; beyond it the greedy's rows are returned."""

_WORK = 200_000_000
_QUICK_SIZE, _QUICK_WORK = 128, 2**22
_MOST_KICKS = 400


def balanced(n1: int, n2: int, d1: int, seed: int) -> NDArray[np.int32]:
    """Neighbour rows of a biregular graph whose sigma_2 is near the least possible.

    Deterministic: one seed gives one graph on every platform, since every choice compares integers
    (see the kernels). Nothing is guaranteed about sigma_2; certify the graph.

    Parameters
    ----------
    n1, n2, d1 : int
        A feasible shape with n1 >= n2 and 2 <= d1 < n2.
    seed : int
        In [0, 2**64): steers the search, then permutes the rows and relabels the columns.

    Returns
    -------
    int32 array, shape (n1, d1)
        Rows ascending.

    Raises
    ------
    TooLargeError
        The n2 x n2 matrices do not fit in memory.

    Notes
    -----
    With d = min(d1, n2 - d1): O(n1 d n2**2) for the greedy. The polish, up to n2 = 256, restarts as
    often as a set amount of work allows: in all 0.02 to 0.5 s while n2 <= 128, n1 d n2 <= 2**22.

    Examples
    --------
    >>> from expandermask import BiregularGraph, certify
    >>> graph = BiregularGraph(balanced(60, 24, 2, seed=0), 24)
    >>> certify(graph).ratio < 1.2
    True
    """
    require_memory(64 * n2 * n2 + 16 * n1 * n2, f"balancing a graph of shape ({n1}, {n2}, {d1})")
    state = np.array([seed], dtype=np.uint64)
    rows = _sparse_rows(n1, n2, min(d1, n2 - d1), state)
    _balance_kernels.relabel(rows, n2, state)
    if n2 - d1 < d1:
        rows = _kernels.complement_rows(rows, n2)
    else:
        rows.sort(axis=1)
    return rows


def is_quick(n1: int, n2: int, d1: int) -> bool:
    """Whether `balanced` makes a shape, n1 >= n2, in about half a second or less, by its size.

    >>> is_quick(1000, 24, 3), is_quick(1000, 500, 3)
    (True, False)
    """
    edges = n1 * min(d1, n2 - d1)
    return n2 <= _QUICK_SIZE and edges * n2 <= _QUICK_WORK


def _sparse_rows(n1: int, n2: int, d: int, state: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Rows of degree d <= n2 / 2; the complement of a mask has the same nontrivial sigmas."""
    rows = np.arange(n1, dtype=np.int32)[:, None] % n2
    if d == 1:
        return rows
    if n1 == n2 and d == 2:  # a single cycle: the only connected graph of the shape
        return np.hstack([rows, (rows + 1) % n2])
    rows = _greedy(n1, n2, d)
    if n2 <= POLISH_SIZE:
        _polish(rows, n2, state)
    return rows


def _greedy(n1: int, n2: int, d: int) -> NDArray[np.int32]:
    """The greedy with its barrier x at rho**2, moved up in the rare case that it is reached."""
    d2 = n1 * d // n2
    x = d + d2 - 2 + isqrt(4 * (d - 1) * (d2 - 1))
    rows: NDArray[np.int32]
    while True:
        rows, inside = _balance_kernels.greedy_rows(n1, n2, d, x)
        if inside:
            rows.sort(axis=1)
            return rows
        x += max(1, x // 8)


def _polish(rows: NDArray[np.int32], n2: int, state: NDArray[np.uint64]) -> None:
    """Switches in place, with as many restarts as the work allowed for this size."""
    n1, d = rows.shape
    levels = _levels(n1 * d // n2)
    member = np.zeros((n1, n2), dtype=np.bool_)
    np.put_along_axis(member, rows, True, axis=1)
    gram = _kernels.codegrees(rows, n2)
    work = 3 * levels * (levels * n2**3 + n1 * d * n2 + 1000)
    kicks = min(_MOST_KICKS, _WORK // work)
    with one_blas_thread(n2):
        _balance_kernels.polish(rows, member, gram, exact_bits(n2), levels, kicks, state)


def _levels(d2: int) -> int:
    """Squarings that tell eigenvalues near d2 apart when they differ by a fraction of one."""
    return max(6, (4 * d2).bit_length() - 1)


def exact_bits(n: int) -> int:
    """The most bits integers may have for n x n products, and traces of squares, to be exact.

    n 4**bits <= 2**53 keeps the products exact in float64, n**2 4**bits <= 2**62 the traces in
    int64.
    """
    log = (n - 1).bit_length()
    return min((53 - log) // 2, (62 - 2 * log) // 2)
