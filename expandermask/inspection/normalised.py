"""The spectral gap of a mask of any degrees: the normalised biadjacency matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import require_memory
from expandermask.graphs.bipartite import BipartiteGraph
from expandermask.inspection.supports import complement
from expandermask.threads import one_blas_thread

_DENSE_SIZE = 128
_TOLERANCE = 1e-8
_RESTARTS = 40
"""How long Lanczos may go on: several hundred products with the matrix."""


def normalised_sigma2(graph: BipartiteGraph) -> float | None:
    """The second singular value of D1^(-1/2) M D2^(-1/2), of a connected graph.

    D1 and D2 are the diagonal matrices of the degrees; vertices of degree 0 are left out. The
    largest singular value is 1, with the roots of the degrees as its vectors, and the second is
    below 1 as the graph is connected (Chung, "Spectral Graph Theory", 1997, chapter 1). For a
    biregular graph it is sigma_2 / sqrt(d1 d2).

    A measurement in floating point, good to about six digits, and no proof: up to 128 vertices on
    the smaller side a dense eigenvalue problem, beyond that Lanczos. None where Lanczos does not
    converge; 0 where the smaller side has one vertex, so that there is no second singular value.

    Parameters
    ----------
    graph : BipartiteGraph
        Connected but for vertices of degree 0, with at least one edge.

    Examples
    --------
    >>> from expandermask.graphs import heawood
    >>> from expandermask.graphs.bipartite import as_bipartite
    >>> round(normalised_sigma2(as_bipartite(heawood())), 6)  # sqrt(2) / 3
    0.471405
    """
    matrix, trivial = _normalised(graph)
    if len(trivial) == 1:
        return 0.0
    if len(trivial) <= _DENSE_SIZE:
        return _root(float(_squares(matrix, trivial)[-1]))
    return _top_lanczos(lambda x: matrix.T @ (matrix @ x), trivial)


def complement_sigma2(zeros: BipartiteGraph) -> float | None:
    """`normalised_sigma2` of the graph of all pairs that are no edges of ``zeros``.

    M is the matrix of ones less that of the zeros, so that products with it cost no more than the
    zeros there are.
    """
    if min(zeros.n1, zeros.n2) <= _DENSE_SIZE:
        return normalised_sigma2(complement(zeros))
    if zeros.n1 < zeros.n2:
        zeros = zeros.transpose()
    matrix = zeros.biadjacency().astype(np.float64)
    left, right = zeros.n2 - zeros.left_degrees, zeros.n1 - zeros.right_degrees
    rows, columns = (
        np.divide(1, np.sqrt(side), out=np.zeros(len(side)), where=side > 0)
        for side in (left, right)
    )

    def gram(x: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = columns * x
        image = rows * rows * (scaled.sum() - matrix @ scaled)
        return np.asarray(columns * (image.sum() - matrix.T @ image))

    return _top_lanczos(gram, np.sqrt(right / right.sum()))


def normalised_spectrum(graph: BipartiteGraph) -> NDArray[np.float64]:
    """All singular values of the matrix of `normalised_sigma2`, descending, as floats.

    As many as the smaller side has vertices of degree at least 1; the first is 1, and again for
    each further component. Raises `TooLargeError` if the dense problem does not fit in memory.

    Examples
    --------
    >>> from expandermask.graphs import hypercube
    >>> from expandermask.graphs.bipartite import as_bipartite
    >>> normalised_spectrum(as_bipartite(hypercube(3))).round(6)
    array([1.      , 0.333333, 0.333333, 0.333333])
    """
    matrix, trivial = _normalised(graph)
    require_memory(24 * len(trivial) ** 2, f"all singular values of {len(trivial)} vertices")
    squares = _squares(matrix, np.zeros_like(trivial))
    return np.asarray(np.sqrt(np.clip(squares[::-1], 0.0, 1.0)))


def _normalised(graph: BipartiteGraph) -> tuple[Any, NDArray[np.float64]]:
    """The matrix, turned to have its smaller side as columns, and its trivial right vector."""
    from scipy.sparse import csr_array

    left, right = graph.left_degrees, graph.right_degrees
    rows, columns = left > 0, right > 0
    place = np.cumsum(columns) - 1
    weights = 1 / np.sqrt(left[graph.lefts] * right[graph.rights])
    starts = np.concatenate([[0], left[rows].cumsum()])
    shape = (int(rows.sum()), int(columns.sum()))
    matrix = csr_array((weights, place[graph.rights], starts), shape=shape)
    if shape[0] < shape[1]:
        return matrix.T.tocsr(), np.sqrt(left[rows] / graph.num_edges)
    return matrix, np.sqrt(right[columns] / graph.num_edges)


def _squares(matrix: Any, deflated: NDArray[np.float64]) -> NDArray[np.float64]:
    """The eigenvalues of matrix' matrix less the projection on a unit vector, ascending."""
    gram = (matrix.T @ matrix).toarray() - np.outer(deflated, deflated)
    with one_blas_thread(len(gram)):
        return np.asarray(np.linalg.eigvalsh(gram))


def _top_lanczos(
    gram: Callable[[NDArray[np.float64]], NDArray[np.float64]], trivial: NDArray[np.float64]
) -> float | None:
    """The largest singular value orthogonal to the trivial vector, from products with M'M only."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    n = len(trivial)

    def deflated(x: NDArray[np.float64]) -> NDArray[np.float64]:
        flat = x.ravel()
        return np.asarray(gram(flat) - trivial * (trivial @ flat))

    operator = LinearOperator((n, n), matvec=deflated, dtype=np.float64)
    start = np.sin(np.arange(1.0, n + 1))
    try:
        values = eigsh(
            operator,
            k=1,
            which="LA",
            v0=start,
            tol=_TOLERANCE,
            maxiter=_RESTARTS,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence:
        return None
    return _root(float(values[0]))


def _root(square: float) -> float:
    """The singular value of a squared one that rounding may have left outside [0, 1]."""
    return math.sqrt(min(max(square, 0.0), 1.0))
