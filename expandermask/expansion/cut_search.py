"""Upper bounds on Cheeger constants: the best set a spectral sweep and a local search can find.

Sweeps over eigenvectors (Fiedler, "Algebraic connectivity of graphs", 1973; Chung, *Spectral Graph
Theory*, 1997, section 2.3), then the local search of Fiduccia and Mattheyses ("A linear-time
heuristic for improving network partitions", 1982) with the ratio as its goal. A `Cut` is its own
proof, however it was found; that it is the best one is not claimed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from expandermask.expansion import _cut_kernels
from expandermask.expansion.adjacency import adjacency, smallest_component
from expandermask.expansion.cuts import Cut, Kind, check_kind
from expandermask.graphs._kernels import below
from expandermask.graphs.bipartite import BipartiteGraph, as_bipartite
from expandermask.graphs.random import derive_seed
from expandermask.threads import one_blas_thread

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_DENSE_SIZE = 1024
_VECTORS = 3
_ITERATIONS = 300
_STARTS = 6
MOST_SEARCHED = 2**14
"""Most vertices for which the sweeps are followed by a local search: a minute at that size."""

_WORK = 2**29
"""Looks at a vertex, in all passes together, if each descent takes three passes: seconds."""
_MOST_KICKS = 200
_PATIENCE = 2.0


def best_cut(graph: Any, kind: Kind, *, seed: int) -> Cut:
    """The best cut found: an upper bound on the Cheeger constant of this kind, with its set.

    Parameters
    ----------
    graph : BipartiteGraph or mask
        Any graph of at least two vertices.
    kind : {"edge", "vertex"}
        Which boundary is to be small.
    seed : int
        One seed gives one cut on one machine; eigenvectors, where the search starts, may differ in
        their last bits, and in signs and bases, between linear algebra libraries.

    Returns
    -------
    Cut
        Of a disconnected graph its smallest component, whose boundary is empty.

    Raises
    ------
    InvalidInputError
        Another kind.

    Notes
    -----
    With N vertices: eigenvectors of the Laplacian and of its normalised form (dense up to 1,024
    vertices, by Lanczos above), sweeps in O(N + edges) each (for the kind "vertex" times a degree),
    and up to 2**14 vertices passes of O(N) per move, at most N moves; from the best six sweeps and
    two random sets, and from up to 200 perturbations of the best cut so far.

    Examples
    --------
    >>> from expandermask.graphs import hypercube
    >>> from expandermask.graphs.bipartite import as_bipartite
    >>> print(best_cut(as_bipartite(hypercube(6)), "edge", seed=0))
    32 of 64 vertices, 32 crossing edges: 1
    """
    check_kind(kind)
    graph = as_bipartite(graph)
    n = graph.n1 + graph.n2
    if (component := smallest_component(graph)) is not None:
        return _as_cut(graph, kind, component)
    starts, targets, _ = adjacency(graph)
    on_edges, patience = kind == "edge", n // 4 + 20
    ranked = _best_sweeps(graph, starts, targets, on_edges)
    state = np.array([derive_seed(seed, "best_cut", kind)], dtype=np.uint64)
    if n > MOST_SEARCHED:
        return _as_cut(graph, kind, ranked[0])
    ranked += _random_sets(n, state)
    move = n + (2 if on_edges else 16) * graph.num_edges // n
    kicks = min(_MOST_KICKS, _WORK // (len(ranked) * 3 * patience * move))
    found = []
    bar = tqdm(ranked, desc="cuts", unit="start", leave=False, disable=None, delay=_PATIENCE)
    for inside in bar:
        _cut_kernels.search(starts, targets, on_edges, inside, patience, kicks, state)
        found.append(_as_cut(graph, kind, inside))
    return min(found, key=lambda cut: (cut.ratio, -cut.size))


def _as_cut(graph: BipartiteGraph, kind: Kind, inside: NDArray[np.bool_]) -> Cut:
    """The cut of a set, or for edges of its complement if that is smaller."""
    if kind == "edge" and 2 * inside.sum() > len(inside):
        inside = ~inside
    return Cut(graph, kind, inside[: graph.n1].copy(), inside[graph.n1 :].copy())


def _random_sets(n: int, state: NDArray[np.uint64]) -> list[NDArray[np.bool_]]:
    """Two sets grown from random vertices, of up to an eighth and a half of the vertices."""
    sets = []
    for size in (max(n // 8, 1), max(n // 2, 1)):
        inside = np.zeros(n, dtype=np.bool_)
        for _ in range(size):
            inside[below(state, n)] = True
        sets.append(inside)
    return sets


def _best_sweeps(
    graph: BipartiteGraph, starts: NDArray[np.int64], targets: NDArray[np.int64], on_edges: bool
) -> list[NDArray[np.bool_]]:
    """The sets found by sweeping, best first, without those found before."""
    found: dict[bytes, tuple[float, NDArray[np.bool_]]] = {}
    for order in _orders(graph):
        inside = np.zeros(len(order), dtype=np.bool_)
        boundary, size = _cut_kernels.sweep(starts, targets, on_edges, order, inside)
        found.setdefault(inside.tobytes(), (boundary / size, inside))
    ranked = sorted(found.values(), key=lambda pair: pair[0])
    return [inside for _, inside in ranked[:_STARTS]]


def _orders(graph: BipartiteGraph) -> Iterator[NDArray[np.int64]]:
    """Orders to sweep: by each eigenvector, up and down, all vertices or one side before the other.

    A left vertex may also wait for the last of its neighbours, so that every prefix of left
    vertices has all its neighbours in a prefix of the right ones; and the same with the sides
    exchanged.
    """
    n1 = graph.n1
    lefts, rights = graph.lefts, graph.rights
    for vector in _eigenvectors(graph):
        for x in (vector, -vector):
            yield np.argsort(x, kind="stable")
            last_left, last_right = x[:n1].copy(), x[n1:].copy()
            np.maximum.at(last_left, lefts, x[n1:][rights])
            np.maximum.at(last_right, rights, x[:n1][lefts])
            top = np.abs(x).max() + 1
            for left, right in (
                (x[:n1], x[n1:] + 2 * top),
                (x[:n1] + 2 * top, x[n1:]),
                (last_left, x[n1:] + 2 * top),
                (x[:n1] + 2 * top, last_right),
            ):
                yield np.argsort(np.concatenate([left, right]), kind="stable")


def _eigenvectors(graph: BipartiteGraph) -> Iterator[NDArray[np.float64]]:
    """Vectors for the smallest nonzero eigenvalues of the Laplacian, plain and normalised."""
    from scipy.sparse import csr_array, diags_array

    n = graph.n1 + graph.n2
    starts, targets, _ = adjacency(graph)
    degrees = np.diff(starts).astype(np.float64)
    ones = csr_array((np.ones(len(targets)), targets, starts), shape=(n, n))
    root = 1 / np.sqrt(degrees)
    yield from _lowest(diags_array(degrees) - ones, 2 * degrees.max())
    for vector in _lowest(diags_array(np.ones(n)) - root[:, None] * ones * root, 2.0):
        yield vector * root


def _lowest(laplacian: csr_array, top: float) -> list[NDArray[np.float64]]:
    """Eigenvectors for the second and further smallest eigenvalues of a matrix in [0, ``top``]."""
    n = laplacian.shape[0]
    if n <= _DENSE_SIZE:
        with one_blas_thread(n):
            vectors = np.linalg.eigh(laplacian.toarray())[1]
        return list(vectors[:, 1 : _VECTORS + 1].T)
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    start = np.sin(np.arange(1.0, n + 1))
    shifted = (diags_array(np.full(n, top)) - laplacian).tocsr()
    try:
        values, vectors = eigsh(
            shifted, k=_VECTORS + 1, which="LA", v0=start, tol=1e-4, maxiter=_ITERATIONS
        )
    except ArpackNoConvergence as stopped:
        values, vectors = stopped.eigenvalues, stopped.eigenvectors
        if len(values) < 2:
            return [start]
    return list(vectors[:, np.argsort(-values, kind="stable")[1:]].T)
