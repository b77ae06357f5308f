"""Singular values of a biregular graph: all of them, or the second with an exact witness."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import require_memory
from expandermask.graphs.bipartite import as_graph
from expandermask.graphs.biregular import BiregularGraph
from expandermask.threads import one_blas_thread

_DENSE_SIZE = 256


def spectrum(graph_or_mask: Any) -> NDArray[np.float64]:
    """All min(n1, n2) singular values of a graph or 0/1 mask, descending, as floats.

    Backward stable: each is within about 1e-15 sqrt(d1 d2) times a small power of the size. For
    proofs use `certify`. O(n1 n2 min(n1, n2)) time.

    Examples
    --------
    >>> from expandermask import spectrum
    >>> from expandermask.graphs import heawood
    >>> spectrum(heawood()).round(6)
    array([3.      , 1.414214, 1.414214, 1.414214, 1.414214, 1.414214,
           1.414214])
    """
    from scipy.linalg import svdvals

    graph = as_graph(graph_or_mask)
    require_memory(24 * graph.n1 * graph.n2, f"the SVD of a {graph.n1} x {graph.n2} matrix")
    with one_blas_thread(min(graph.n1, graph.n2)):
        values: NDArray[np.float64] = svdvals(graph.mask().astype(np.float64))
    return values


def top_nontrivial(side: BiregularGraph, gram: NDArray[np.int64]) -> NDArray[np.float64]:
    """An approximate eigenvector for the largest eigenvalue of ``gram`` orthogonal to all-ones.

    Dense and accurate for small matrices, Lanczos from a fixed start beyond. Nothing is proved
    here: `rayleigh_quotient` turns the vector into an exact lower bound.
    """
    n, trivial = side.n2, side.d1 * side.d2
    if n <= _DENSE_SIZE:
        with one_blas_thread(n):
            return np.asarray(np.linalg.eigh(gram - trivial / n)[1][:, -1])
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    matrix = side.biadjacency().astype(np.float64)

    def deflated(x: NDArray[np.float64]) -> NDArray[np.float64]:
        flat = x.ravel()
        return np.asarray(matrix.T @ (matrix @ flat) - trivial * flat.mean())

    operator = LinearOperator((n, n), matvec=deflated, dtype=np.float64)
    start = np.sin(np.arange(1.0, n + 1))
    try:
        return np.asarray(eigsh(operator, k=1, which="LA", v0=start, tol=1e-13)[1][:, 0])
    except ArpackNoConvergence:
        return np.asarray(np.linalg.eigh(gram - trivial / n)[1][:, -1])


def bottom(gram: NDArray[np.int64]) -> NDArray[np.float64]:
    """An approximate eigenvector for the least eigenvalue of ``gram``, from a dense solver."""
    from scipy.linalg import eigh

    with one_blas_thread(len(gram)):
        floats = gram.astype(np.float64).T  # of Fortran's order, so that it can be overwritten
        return np.asarray(eigh(floats, subset_by_index=[0, 0], overwrite_a=True)[1][:, 0])


def rayleigh_quotient(
    side: BiregularGraph, vector: NDArray[np.float64]
) -> tuple[Fraction, NDArray[np.int64]]:
    """An exact lower bound on sigma_2**2, and the integer vector that shows it.

    The vector is scaled to integers x that sum to exactly zero; |M x|**2 / |x|**2 is then at most
    sigma_2**2 by the variational principle, with no rounding anywhere. Its error is quadratic in
    that of the vector.
    """
    x = _integers(side, vector)
    whole, rest = divmod(int(x.sum()), side.n2)
    x -= whole
    x[:rest] -= 1
    if not x.any():  # the vector was constant: any other one gives a bound too
        x[:2] = 1, -1
    return _quotient(side, x), x


def exact_quotient(
    side: BiregularGraph, vector: NDArray[np.float64]
) -> tuple[Fraction, NDArray[np.int64]]:
    """An exact upper bound on sigma_min**2, and the integer vector that shows it.

    The least eigenvalue of M'M is at most |M x|**2 / |x|**2 whatever the vector x.
    """
    x = _integers(side, vector)
    return _quotient(side, x), x


def _integers(side: BiregularGraph, vector: NDArray[np.float64]) -> NDArray[np.int64]:
    """``vector`` scaled and rounded to integers small enough for `_quotient` not to overflow."""
    bits = (62 - (side.n1 * side.d1 * side.d1).bit_length()) // 2
    bits = min(bits, (62 - side.n2.bit_length()) // 2) - 1
    scaled: NDArray[np.int64] = np.rint(np.ldexp(vector / np.abs(vector).max(), bits)).astype(
        np.int64
    )
    return scaled


def _quotient(side: BiregularGraph, x: NDArray[np.int64]) -> Fraction:
    image = x[side.neighbors].sum(axis=1)
    return Fraction(int(image @ image), int(x @ x))
