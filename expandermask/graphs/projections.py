"""Covering maps: whether one biregular graph is a covering of another, with the map that shows it.

A covering map sends left to left and right to right vertices, so that the neighbours of every
vertex go one to one onto the neighbours of its image. Checking a given map is linear in the edges;
finding one is NP-hard in general (Kratochvil, Proskurowski and Telle, "Covering regular graphs", J.
Combin. Theory B 71, 1997: for every simple k-regular base, k >= 3), so the answer may be UNDECIDED.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import InvalidInputError
from expandermask.graphs import _covering_kernels
from expandermask.graphs.bipartite import as_graph
from expandermask.graphs.biregular import BiregularGraph, as_array

Labels = NDArray[np.int64]

SEARCH_BUDGET = 200_000
"""Assignments the search for a covering map makes before it gives up."""
_CELLS = 2**24
_EXACT_SIZE = 256
_PRIME = 2**61 - 1


@dataclass(frozen=True, eq=False)
class CoveringCheck:
    """Whether one graph covers another, with the covering map or the obstruction."""

    verdict: Literal["PROVED", "REFUTED", "UNDECIDED"]
    """PROVED and REFUTED are theorems; UNDECIDED says that the search was given up."""
    reason: str
    """The verdict in a sentence."""
    left: Labels | None = None
    """PROVED: the base vertex under each left vertex, int64 of shape (n1,)."""
    right: Labels | None = None
    """PROVED: the base vertex under each right vertex, int64 of shape (n2,)."""


def covering_projection(
    graph: Any, base: Any, projection: tuple[Any, Any] | None = None
) -> CoveringCheck:
    """Whether ``graph`` is an r-covering of ``base``: a covering map with r vertices over each.

    Parameters
    ----------
    graph, base : BiregularGraph or 0/1 mask
        The graph above and the graph below.
    projection : pair of integer arrays of shapes (n1,) and (n2,), optional
        A map to be checked: the base vertex under each left and each right vertex. Without it one
        is looked for, first in this library's labelling (v lies over v // r), then by search.

    Returns
    -------
    CoveringCheck
        PROVED, with the covering map as ``left`` and ``right``. REFUTED, of the given map if there
        is one, else of all maps: the sizes or degrees rule a covering out, the spectrum of the base
        is not contained in that of the graph, or the search was exhaustive. UNDECIDED if the search
        spent its budget of 200,000 assignments.

    Raises
    ------
    InvalidInputError, NotBiregularError
        Not biregular graphs, or a projection that is no pair of integer arrays of these shapes.

    Notes
    -----
    O(edges) for a given map or the library's labelling. The spectral test is O(n**3) exact
    arithmetic modulo a prime, for smaller sides of at most 256.

    Examples
    --------
    >>> from expandermask.graphs import complete_bipartite, heawood
    >>> from expandermask.graphs.coverings import covering
    >>> from expandermask.graphs.projections import covering_projection
    >>> check = covering_projection(covering(complete_bipartite(3, 3), 2, rng=0), heawood())
    >>> check.verdict, check.reason
    ('REFUTED', 'the sizes 6x6 are not r times 7x7 for any integer r')
    >>> covering_projection(heawood(), heawood()).verdict
    'PROVED'
    """
    graph, base = as_graph(graph), as_graph(base)
    if reason := _ruled_out(graph, base):
        return CoveringCheck("REFUTED", reason)
    if projection is not None:
        return _judge(graph, base, *_given(projection, graph, base))
    r = graph.n1 // base.n1
    ours = _judge(graph, base, np.arange(graph.n1) // r, np.arange(graph.n2) // r)
    if ours.verdict == "PROVED":
        return ours
    if not _contains_spectrum(graph, base):
        return CoveringCheck("REFUTED", "the graph lacks an eigenvalue of the base")
    return _searched(graph, base)


def _ruled_out(graph: BiregularGraph, base: BiregularGraph) -> str:
    """Why sizes or degrees allow no covering map, or nothing."""
    if (graph.d1, graph.d2) != (base.d1, base.d2):
        return (
            f"a covering keeps the degrees, and ({graph.d1}, {graph.d2}) "
            f"are not ({base.d1}, {base.d2})"
        )
    if graph.n1 % base.n1 or graph.n2 % base.n2:
        return (
            f"the sizes {graph.n1}x{graph.n2} are not r times {base.n1}x{base.n2} for any integer r"
        )
    return ""


def _given(
    projection: tuple[Any, Any], graph: BiregularGraph, base: BiregularGraph
) -> tuple[Labels, Labels]:
    """The two maps of ``projection`` as int64 arrays, after checking shapes and ranges."""
    if not isinstance(projection, tuple | list) or len(projection) != 2:
        raise InvalidInputError("projection must be a pair (left, right) of integer arrays")
    maps = []
    sizes = (("left", graph.n1, base.n1), ("right", graph.n2, base.n2))
    for (name, above, below), given in zip(sizes, projection, strict=True):
        labels = as_array(name, given)
        if labels.shape != (above,) or labels.dtype.kind not in "iu":
            raise InvalidInputError(
                f"projection: the {name} map must be an integer array of shape ({above},), "
                f"got {labels.dtype} of shape {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= below:
            raise InvalidInputError(
                f"projection: the {name} map must lie in [0, {below}), "
                f"got {labels.min()} to {labels.max()}"
            )
        maps.append(labels.astype(np.int64))
    return maps[0], maps[1]


def _judge(
    graph: BiregularGraph, base: BiregularGraph, left: Labels, right: Labels
) -> CoveringCheck:
    """PROVED if the maps form a covering map with fibres of one size, else where they do not."""
    r = graph.n1 // base.n1
    for name, labels, below in (("left", left, base.n1), ("right", right, base.n2)):
        fibres = np.bincount(labels, minlength=below)
        if (fibres != r).any():
            found = f"{fibres.min()} to {fibres.max()}"
            reason = f"the {name} map has fibres of {found} vertices where r = {r} are needed"
            return CoveringCheck("REFUTED", reason)
    sides = (
        ("left", graph, base, left, right),
        ("right", graph.transpose(), base.transpose(), right, left),
    )
    for name, above, below_graph, here, there in sides:
        images = np.sort(there[above.neighbors], axis=1)
        if (wrong := (images != below_graph.neighbors[here]).any(axis=1)).any():
            v = int(np.flatnonzero(wrong)[0])
            reason = (
                f"the neighbours of {name} vertex {v} do not go one to one onto the neighbours "
                f"of its image {here[v]}"
            )
            return CoveringCheck("REFUTED", reason)
    return CoveringCheck("PROVED", f"a covering map with {r} vertices over each", left, right)


def _contains_spectrum(graph: BiregularGraph, base: BiregularGraph) -> bool:
    """False only if the characteristic polynomial of the base's Gram matrix does not divide.

    Both are monic, so a remainder modulo a prime proves one over the integers.
    """
    from flint import nmod_mat

    if min(graph.n1, graph.n2) > _EXACT_SIZE:
        return True
    turned = graph.n1 < graph.n2
    above, below = (
        nmod_mat((side.transpose() if turned else side).gram().tolist(), _PRIME).charpoly()
        for side in (graph, base)
    )
    return bool(divmod(above, below)[1] == 0)


def _searched(graph: BiregularGraph, base: BiregularGraph) -> CoveringCheck:
    """Look for a covering map by backtracking; over a complete base, side by side."""
    n1, a = graph.n1, base.n1
    n, m = n1 + graph.n2, a + base.n2
    if n * m > _CELLS:
        return CoveringCheck("UNDECIDED", "the graph is too large to search for a covering map")
    complete = base.d1 == base.n2
    if complete and graph.d2 == 2 < graph.d1:
        other = _searched(graph.transpose(), base.transpose())
        return CoveringCheck(other.verdict, other.reason, other.right, other.left)
    neighbors, adjacent = _both_sides(graph), np.zeros((m, m), dtype=np.bool_)
    lefts, rights = np.repeat(np.arange(a), base.d1), a + base.neighbors.ravel()
    adjacent[lefts, rights] = adjacent[rights, lefts] = True
    choices = np.repeat([[0, a], [a, m]], [n1, graph.n2], axis=0)
    parts = [np.arange(n1, n), np.arange(n1)] if complete else [np.arange(n)]
    images = np.full(n, -1)
    for todo in parts:
        if todo[0] == 0 and complete and graph.d1 == 2:
            images[todo] = _matched(graph, images[n1:] - a)
            continue
        found, outcome = _covering_kernels.find_images(
            neighbors, todo, choices, adjacent, n1 // a, complete, SEARCH_BUDGET
        )
        if outcome == 0:
            return CoveringCheck("REFUTED", "an exhaustive search found no covering map")
        if outcome < 0:
            reason = f"no covering map was found among {SEARCH_BUDGET} assignments"
            return CoveringCheck("UNDECIDED", reason)
        images[todo] = found[todo]
    return _judge(graph, base, images[:n1], images[n1:] - a)


def _matched(graph: BiregularGraph, right: Labels) -> Labels:
    """The left half of a map onto K_{d2,2}, given the right half: 0 or 1 for each right vertex.

    Left vertices are the edges of a d2-regular bipartite multigraph between the right vertices over
    0 and those over 1. By a theorem of Konig (1916) it splits into d2 perfect matchings.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    ends = np.where(right[graph.neighbors[:, :1]] == 0, graph.neighbors, graph.neighbors[:, ::-1])
    left = np.full(graph.n1, -1)
    for c in range(graph.d2):
        free = np.flatnonzero(left < 0)
        pairs, first = np.unique(ends[free], axis=0, return_index=True)
        shape = (graph.n2, graph.n2)
        support = csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=shape)
        partner = maximum_bipartite_matching(support, perm_type="column")
        left[free[first[partner[pairs[:, 0]] == pairs[:, 1]]]] = c
    return left


def _both_sides(graph: BiregularGraph) -> NDArray[np.int64]:
    """Neighbours of the left, then the right vertices, in one numbering, padded with -1."""
    rows = np.full((graph.n1 + graph.n2, max(graph.d1, graph.d2)), -1, dtype=np.int64)
    rows[: graph.n1, : graph.d1] = graph.n1 + graph.neighbors
    rows[graph.n1 :, : graph.d2] = graph.transpose().neighbors
    return rows
