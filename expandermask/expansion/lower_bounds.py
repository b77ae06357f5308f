"""How small the Cheeger constants of a graph can be: proved lower bounds, whatever its size.

h_E is the least number of edges that leave a set X, per vertex of X, over all X of at most half of
the vertices; h_V the least number of vertices outside X next to it, per vertex of X. Every number
here is exact, or rounded so that it stays a proof: ``docs/theory/expansion_bounds.md``. The upper
bounds are cuts (`cut_search`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.certificates.blocks import cyclic_order
from expandermask.certificates.certify import certify, short_side_right
from expandermask.certificates.cholesky import proves_at_most, rounding_margin
from expandermask.errors import InvalidInputError, NotBiregularError
from expandermask.expansion import mixing
from expandermask.expansion.adjacency import component_labels
from expandermask.expansion.cuts import Kind, check_kind
from expandermask.expansion.flow import Congestion, all_pairs_flow
from expandermask.graphs.bipartite import BipartiteGraph, as_bipartite, as_graph
from expandermask.graphs.biregular import BiregularGraph
from expandermask.threads import one_blas_thread

MOST_DENSE = 3072
"""Most vertices for which the Laplacian of an irregular graph is factored: seconds."""

_TRIES = 6
_ROOT_BITS = 96
_DISPLAY = 1 + 2.0**-50


def lower_bounds(graph: Any, kind: Kind) -> dict[str, Fraction]:
    """Proved lower bounds on a Cheeger constant, by name; the largest of them counts.

    Parameters
    ----------
    graph : BipartiteGraph or mask
        Any graph of at least two vertices, N = n1 + n2.
    kind : {"edge", "vertex"}
        Bound h_E, or h_V.

    Returns
    -------
    dict of Fraction
        "components": 0, and nothing else, for a disconnected graph. Otherwise "connected", a
        boundary of at least one; "spectral", from the second eigenvalue of the Laplacian;
        "mixing", the expander mixing lemma (for "vertex", Tanner's inequality) over all sizes of
        sets; and "flow", the congestion of an all-pairs flow. The last three are left out for
        graphs too large for them.

    Raises
    ------
    InvalidInputError
        Another kind.

    Notes
    -----
    Up to about three seconds for the flow and one for everything else at a thousand vertices.

    Examples
    --------
    >>> from expandermask.graphs import hypercube
    >>> from expandermask.graphs.bipartite import as_bipartite
    >>> found = lower_bounds(as_bipartite(hypercube(6)), "edge")  # h_E = 1
    >>> {name: round(float(bound), 4) for name, bound in found.items()}
    {'connected': 0.0312, 'spectral': 1.0, 'mixing': 1.0, 'flow': 1.0}
    """
    check_kind(kind)
    graph = as_bipartite(graph)
    n = graph.n1 + graph.n2
    if component_labels(graph).max() > 0:
        return {"components": Fraction(0)}
    found = {"connected": Fraction(1, n // 2)}
    gap = laplacian_gap(graph)
    if gap is not None:
        found["spectral"] = least_ratio(n, _spectral_boundary(graph, kind, gap))
    if graph.n1 * graph.n2 <= mixing.MOST_PAIRS:
        scan = mixing.scan_edges if kind == "edge" else mixing.scan_vertices
        found["mixing"] = scan(mixing.EdgeCounts.of(graph))
    flow = all_pairs_flow(graph, kind)
    if flow is not None:
        found["flow"] = least_ratio(n, _flow_boundary(n, kind, flow))
    return found


def least_ratio(n: int, boundary_at_least: Callable[[int], int]) -> Fraction:
    """The least max(1, boundary_at_least(x)) / x over 0 < x <= n / 2, exactly."""
    return min(Fraction(max(1, boundary_at_least(x)), x) for x in range(1, n // 2 + 1))


def _spectral_boundary(graph: BipartiteGraph, kind: Kind, gap: Fraction) -> Callable[[int], int]:
    """How large the boundary of x vertices must be for the second eigenvalue to be ``gap``."""
    n = graph.n1 + graph.n2
    p, q = gap.numerator, gap.denominator
    if kind == "edge":
        return lambda x: -(-p * x * (n - x) // (q * n))
    degree = _largest_degree(graph)

    def vertices(x: int) -> int:
        """The least s >= 0 with s D >= gap (N - s - (N - s - 2 x)**2 / N)."""
        b = q * degree * n - p * n + 4 * p * x
        c = p * ((n - 2 * x) ** 2 - n * n)
        s = max((math.isqrt(b * b - 4 * p * c) - b) // (2 * p), 0) if p else 0
        return s if p * s * s + b * s + c >= 0 else s + 1

    return vertices


def _flow_boundary(n: int, kind: Kind, flow: Congestion) -> Callable[[int], int]:
    """How large the boundary of x vertices must be to let a flow pass."""
    if kind == "edge":
        return lambda x: -(-x * (n - x) * flow.pair // flow.edge)
    return lambda x: -(-x * (n - x) * flow.pair // (flow.vertex + x * flow.pair))


def laplacian_gap(graph: BipartiteGraph) -> Fraction | None:
    """A proved lower bound on the second smallest eigenvalue of the Laplacian, of order N.

    For a biregular graph from the upper end of sigma_2, if its smaller side, or what the blocks of
    a cyclic symmetry leave of it, has at most `MOST_DENSE` vertices. For any other by a rigorous
    Cholesky test of the dense matrix, up to as many vertices in all. None for larger graphs.

    Examples
    --------
    >>> import numpy as np
    >>> from expandermask.graphs.bipartite import as_bipartite
    >>> path = as_bipartite(np.array([[1, 0], [1, 1]]))  # 2 - sqrt(2)
    >>> round(float(laplacian_gap(path)), 9)
    0.585786438
    """
    regular = _as_biregular(graph)
    if regular is not None:
        side = short_side_right(regular)
        if side.n2 > MOST_DENSE and side.n2 // cyclic_order(side) > MOST_DENSE:
            return None
        return _gap_from(regular, certify(regular).sigma2[1])
    n = graph.n1 + graph.n2
    return _gap_by_cholesky(graph) if n <= MOST_DENSE else None


def _as_biregular(graph: BipartiteGraph) -> BiregularGraph | None:
    """The graph as one that `certify` takes, or None."""
    try:
        regular = graph.biregular()
    except NotBiregularError:
        return None
    return regular if min(regular.d1, regular.d2) > 1 else None


def _gap_from(graph: BiregularGraph, sigma2: float) -> Fraction:
    """[(d1 + d2) - sqrt((d1 - d2)**2 + 4 sigma_2**2)] / 2, rounded down, at least 0."""
    square = (graph.d1 - graph.d2) ** 2 + 4 * Fraction(sigma2) ** 2
    root = Fraction(math.isqrt(math.ceil(square * 4**_ROOT_BITS)) + 1, 2**_ROOT_BITS)
    return max(Fraction(0), (graph.d1 + graph.d2 - root) / 2)


def _gap_by_cholesky(graph: BipartiteGraph) -> Fraction:
    """c such that D I - L, D the largest degree, is proved to be at most D - c off all-ones."""
    laplacian, degree = _laplacian(graph), _largest_degree(graph)
    n = len(laplacian)
    shifted = degree * np.eye(n, dtype=np.int64) - laplacian
    near = _second(laplacian)[0]
    slack = 4 * rounding_margin(n, n * (degree + 1.0))
    for _ in range(_TRIES):
        if near <= slack:
            break
        most = degree - (near - slack)
        if proves_at_most(shifted, degree, most):
            return degree - Fraction(most)
        slack *= 16
    return Fraction(0)


def _second(laplacian: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
    """The second smallest eigenvalue of a matrix and its eigenvector, approximately."""
    from scipy.linalg import eigh

    with one_blas_thread(len(laplacian)):
        values, vectors = eigh(laplacian.astype(np.float64), subset_by_index=(1, 1))
    return float(values[0]), vectors[:, 0]


def _laplacian(graph: BipartiteGraph) -> NDArray[np.int64]:
    n1, n = graph.n1, graph.n1 + graph.n2
    laplacian = np.zeros((n, n), dtype=np.int64)
    laplacian[graph.lefts, graph.rights + n1] = -1
    laplacian[graph.rights + n1, graph.lefts] = -1
    np.fill_diagonal(laplacian, -laplacian.sum(axis=1))
    return laplacian


def _largest_degree(graph: BipartiteGraph) -> int:
    return int(max(graph.left_degrees.max(), graph.right_degrees.max()))


def cheeger_buser(graph: Any) -> tuple[float, float]:
    """The discrete Cheeger-Buser inequalities: l2 ceil(N/2) / N <= h_E <= sqrt(l2 (2 D - l2)).

    Parameters
    ----------
    graph : BipartiteGraph or mask
        A graph of at most `MOST_DENSE` vertices.

    Returns
    -------
    (lower, upper)
        Floats rounded outward: h_E is proved to lie between them. D is the largest degree and l2
        the second eigenvalue of the Laplacian, from a proved enclosure.

    Raises
    ------
    InvalidInputError
        The graph is larger than that.

    Notes
    -----
    Alon and Milman, 1985; the upper one in this form by Mohar, "Isoperimetric numbers of graphs",
    J. Combin. Theory B 47 (1989), theorem 4.2. It excludes the single edge, whose h_E is 1.

    Examples
    --------
    >>> from expandermask.graphs import heawood
    >>> from expandermask.graphs.bipartite import as_bipartite
    >>> lower, upper = cheeger_buser(as_bipartite(heawood()))
    >>> round(lower, 4), round(upper, 4)  # (3 - sqrt 2) / 2 and sqrt(9 - 2)
    (0.7929, 2.6458)
    """
    graph = as_bipartite(graph)
    n = graph.n1 + graph.n2
    if component_labels(graph).max() > 0:
        return 0.0, 0.0
    if n == 2:
        return 1.0, 1.0
    least = laplacian_gap(graph) if n <= MOST_DENSE else None
    if least is None:
        raise InvalidInputError(
            f"cheeger_buser takes graphs of up to {MOST_DENSE} vertices, got {graph.n1} + "
            f"{graph.n2}; lower_bounds and best_cut take any"
        )
    degree, most = _largest_degree(graph), _gap_at_most(graph)
    upper = math.sqrt(most * (2 * degree - most)) * _DISPLAY
    return _float_below(least * -(-n // 2) / n), upper


def _gap_at_most(graph: BipartiteGraph) -> float:
    """An upper bound on the second eigenvalue of the Laplacian: an exact Rayleigh quotient."""
    laplacian = _laplacian(graph)
    n, vector = len(laplacian), _second(laplacian)[1]
    scaled = np.rint(vector * (2.0**20 / np.abs(vector).max())).astype(np.int64)
    centred = scaled * n - scaled.sum()
    rises = centred[graph.lefts] - centred[graph.rights + graph.n1]
    square = sum(int(x) ** 2 for x in centred.tolist())
    quotient = Fraction(sum(int(x) ** 2 for x in rises.tolist()), square)
    smallest = int(min(graph.left_degrees.min(), graph.right_degrees.min()))
    return float(min(quotient, Fraction(smallest))) * _DISPLAY


def conductance_bounds(graph: Any) -> tuple[float, float]:
    """(1 - s) / 2 <= phi <= sqrt(1 - s**2) for s = sigma_2 / sqrt(d1 d2): Cheeger by volume.

    phi, the conductance, is the least number of edges that leave a set X per edge end in X, over
    all X with at most half of the 2 E edge ends.

    Parameters
    ----------
    graph : BiregularGraph or mask
        Both degrees at least 2.

    Returns
    -------
    (lower, upper)
        Floats rounded outward: phi is proved to lie between them.

    Notes
    -----
    Chung, *Spectral Graph Theory*, 1997, lemma 2.1 and theorem 2.3, with 1 - s for the second
    eigenvalue of the normalised Laplacian.

    Examples
    --------
    >>> from expandermask.graphs import heawood
    >>> [round(end, 4) for end in conductance_bounds(heawood())]
    [0.2643, 0.8819]
    """
    graph = as_graph(graph)
    low, high = (Fraction(end) for end in certify(graph).sigma2)
    product = graph.d1 * graph.d2
    below = max(0.0, 1 - math.sqrt(high**2 / product) * _DISPLAY) / 2
    above = math.sqrt(max(Fraction(0), 1 - low**2 / product)) * _DISPLAY
    return below / _DISPLAY, above


def _float_below(value: Fraction) -> float:
    """The nearest float that is not larger."""
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)
