"""The largest eigenvalue of a large graph by Lanczos from a random start, and how sure it is.

Kuczynski and Wozniakowski (SIAM J. Matrix Anal. Appl. 13, 1992): for a positive
semidefinite matrix of order n, k steps of Lanczos from a start drawn uniformly from the sphere give
a value below (1 - e) times the largest eigenvalue with probability at most
1.648 sqrt(n) exp(-(2k - 1) sqrt(e)). That is no proof about one graph, and nothing that rests on it
is called one; what Lanczos proves is a lower bound (`spectrum.rayleigh_quotient`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from expandermask.errors import require_memory
from expandermask.graphs.biregular import BiregularGraph

_STEPS = 300
_BASIS_BYTES = 2**30
_NOTHING = 1e-12
_SLOW = 2e9


@dataclass(frozen=True)
class Lanczos:
    """What k steps found: the largest Ritz value on the space orthogonal to all-ones."""

    value: float
    vector: NDArray[np.float64]
    steps: int
    exhausted: bool = False
    """Whether the Krylov space ended: then it holds a vector of every eigenvalue, almost surely."""

    def failure_at(self, level: float) -> float:
        """A bound on the probability that the largest eigenvalue exceeds ``level``; at most 1."""
        if level <= self.value:
            return 1.0
        if self.exhausted:
            return 0.0
        missing = 1 - self.value / level
        exponent = -math.sqrt(missing) * (2 * self.steps - 1)
        return min(1.0, 1.648 * math.sqrt(len(self.vector)) * math.exp(exponent))

    def level_at(self, failure: float) -> float:
        """The level that the largest eigenvalue exceeds with at most this probability, or inf."""
        if self.exhausted:
            return self.value
        tail = math.log(1.648 * math.sqrt(len(self.vector)) / failure) / (2 * self.steps - 1)
        return self.value / (1 - tail**2) if tail < 1 else math.inf


def lanczos(side: BiregularGraph, seed: int) -> Lanczos:
    """Lanczos for the Gram matrix of ``side`` off the all-ones vector, fully reorthogonalised.

    The start is Gaussian, hence uniform on the sphere once scaled, from the raw words of PCG64. Up
    to 300 steps, fewer where the basis would not fit in 1 GiB: O(steps (edges + steps n2)) time.
    """
    n = side.n2
    most = max(2, min(_STEPS, n - 1, _BASIS_BYTES // (8 * n)))
    require_memory(8 * n * most + 24 * side.num_edges, f"{most} Lanczos steps on {n} vertices")
    matrix = side.biadjacency().astype(np.float64)
    basis = np.empty((most, n))
    basis[0] = _centred(_gaussian(n, seed))
    basis[0] /= np.linalg.norm(basis[0])
    diagonal, off = np.zeros(most), np.zeros(most)
    steps, exhausted = most, False
    for k in tqdm(
        range(most),
        desc="Lanczos steps",
        leave=False,
        disable=None if most * (side.num_edges + most * n) > _SLOW else True,
    ):
        following = _centred(matrix.T @ (matrix @ basis[k]))
        diagonal[k] = following @ basis[k]
        for _ in range(2):  # twice is enough (Giraud, Langou and Rozloznik, 2005)
            following -= basis[: k + 1].T @ (basis[: k + 1] @ following)
        off[k] = np.linalg.norm(following)
        exhausted = bool(off[k] <= _NOTHING * side.d1 * side.d2)
        if exhausted or k + 1 == most:
            steps = k + 1
            break
        basis[k + 1] = _centred(following / off[k])
    return _top(diagonal[:steps], off[: steps - 1], basis[:steps], exhausted)


def _top(
    diagonal: NDArray[np.float64],
    off: NDArray[np.float64],
    basis: NDArray[np.float64],
    exhausted: bool,
) -> Lanczos:
    """The largest Ritz pair of a tridiagonal matrix."""
    from scipy.linalg import eigh_tridiagonal

    last = len(diagonal) - 1
    values, vectors = eigh_tridiagonal(diagonal, off, select="i", select_range=(last, last))
    return Lanczos(float(values[0]), basis.T @ vectors[:, 0], len(diagonal), exhausted)


def _centred(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = vector - vector.mean()
    return centred


def _gaussian(n: int, seed: int) -> NDArray[np.float64]:
    """n independent standard Gaussians by Box and Muller, the same for a seed everywhere."""
    words = np.random.PCG64(seed).random_raw(2 * n)
    uniform = ((words >> np.uint64(11)) + 0.5) * 2.0**-53
    radius = np.sqrt(-2 * np.log(uniform[:n]))
    return np.asarray(radius * np.cos(2 * np.pi * uniform[n:]))
