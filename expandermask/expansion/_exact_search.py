"""Exact Cheeger constants: the subsets of the smaller side, and the best larger part for each.

Correctness and complexity: ``docs/theory/cheeger.md``; the loops are in `_exact_kernels`.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from expandermask.expansion import _exact_kernels as kernels
from expandermask.expansion.cuts import Cut, Kind
from expandermask.graphs.bipartite import BipartiteGraph

MOST_STEPS = 4e9
"""Exact search is run where it takes at most so many elementary steps, about ten seconds."""

MOST_MOVES = 4e8
"""Branch and bound is given up after so many moves, five to ten seconds."""

_WIDEST_TREE = 62  # subsets are the bits of an int64
_FIXED = 7
_WIDEST = 32  # beyond, 2**32 subsets are too many whatever each of them costs
_SLOW = 1.5e9
_PATIENCE = 2.0

Sides = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def exact_cut(graph: BipartiteGraph, kind: Kind) -> Cut | None:
    """The best cut of a connected graph, by exact search; None if that takes too many steps."""
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    if side.n2 > _WIDEST or (kind == "vertex" and 3.0**side.n2 > MOST_STEPS):
        return None
    rows = _Rows(side)
    if kind == "edge" and rows.edge_steps > MOST_STEPS:
        return None
    ratio, sides = _least_edges(rows) if kind == "edge" else _least_vertices(rows)
    return _checked(graph, kind, ratio, sides if side is graph else sides[::-1])


def proved_best(cut: Cut) -> Cut | None:
    """The best edge cut of a connected graph, by branch and bound from ``cut`` on.

    None if that was given up, after `MOST_MOVES` or before, for more than 62 vertices on the
    smaller side. If no cut is better, ``cut`` itself is returned.
    """
    graph = cut.graph
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    if side.n2 > _WIDEST_TREE:
        return None
    degree, alone = _least_degree(graph)
    if degree < cut.ratio:
        cut = Cut(graph, "edge", *alone)
    rows = _Rows(side)
    order, fixed, moves = _touching_order(rows), min(_FIXED, side.n2), int(MOST_MOVES)
    best = cut.boundary, cut.size, -1
    with tqdm(total=1 << fixed, unit="branch", leave=False, disable=None, delay=_PATIENCE) as bar:
        for choices in range(0, 1 << fixed, 2):  # the first vertex is in B or in its complement
            *found, moves = kernels.pruned_edge_ratio(
                *rows.kernel_arguments(), order, choices, fixed, moves, *best[:2]
            )
            if moves < 0:
                return None
            best = (found[0], found[1], found[2]) if found[2] >= 0 else best
            bar.update(2)
    if best[2] < 0:
        return cut
    sides = _edge_sides(rows, *best[1:])
    return _checked(graph, "edge", Fraction(*best[:2]), sides if side is graph else sides[::-1])


def _checked(graph: BipartiteGraph, kind: Kind, ratio: Fraction, sides: Sides) -> Cut:
    """The cut, counted again from its definition."""
    cut = Cut(graph, kind, *sides)
    if cut.ratio != ratio:
        raise ArithmeticError(f"the cut found has the ratio {cut.ratio} and not {ratio}")
    return cut


def _touching_order(rows: _Rows) -> NDArray[np.int64]:
    """The right vertices by place, each the one whose rows have most neighbours before it.

    So that left vertices with neighbours both in B and outside, which prune, come early.
    """
    touched = np.zeros(len(rows.degrees), dtype=np.int64)
    columns = [rows.rows[a:b] for a, b in zip(rows.starts, rows.starts[1:], strict=False)]
    order: list[int] = []
    while len(order) < len(columns):
        shared = rows.weights * touched
        rest = [j for j in range(len(columns)) if j not in order]
        j = max(rest, key=lambda j: int(shared[columns[j]].sum()))
        touched[columns[j]] += 1
        order.append(j)
    return np.array(order, dtype=np.int64)


class _Rows:
    """A graph as its different neighbour sets, each the bits of an integer.

    The right vertices are numbered again, those in the fewest sets first: a Gray code changes the
    first of them at every other step and the last of them once.
    """

    def __init__(self, side: BipartiteGraph) -> None:
        self.side, self.half = side, (side.n1 + side.n2) // 2
        bits = np.int64(1) << np.arange(side.n2)
        words = np.zeros(side.n1, dtype=np.int64)
        np.bitwise_or.at(words, side.lefts, bits[side.rights])
        codes, row, self.weights = np.unique(words, return_inverse=True, return_counts=True)
        incidence = (codes[:, None] & bits != 0).astype(np.int64)
        order = np.argsort(incidence.sum(axis=0), kind="stable")
        incidence = incidence[:, order]
        self.place = np.argsort(order)
        self.codes = incidence @ bits
        self.words = self.codes[row]
        self.degrees = incidence.sum(axis=1)
        self.volumes = self.weights @ incidence
        self.starts = np.concatenate([[0], incidence.sum(axis=0).cumsum()])
        self.rows = np.nonzero(incidence.T)[1]

    @property
    def edge_steps(self) -> float:
        """About how many elementary steps the search for edges takes."""
        return 2.0 ** (self.side.n2 - 1) * (
            len(self.rows) / self.side.n2 + 2 * int(self.degrees.max())
        )

    def kernel_arguments(self) -> tuple[Any, ...]:
        """What every kernel for edges takes first."""
        return self.starts, self.rows, self.degrees, self.weights, self.volumes, self.half

    def right(self, subset: int) -> NDArray[np.bool_]:
        """The right vertices of a subset, in the graph's own order."""
        return np.asarray(subset >> self.place & 1, dtype=bool)

    def first(self, keys: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
        """The ``count`` left vertices with the least keys."""
        chosen = np.zeros(self.side.n1, dtype=bool)
        chosen[np.argsort(keys, kind="stable")[:count]] = True
        return chosen


def _least_edges(rows: _Rows) -> tuple[Fraction, Sides]:
    """The least edge ratio and a set that has it, for a connected graph."""
    side, total = rows.side, 1 << (rows.side.n2 - 1)
    degree, alone = _least_degree(side)
    best = degree, 1, -1
    for first, last in _chunks(total, rows.edge_steps, "subsets"):
        found = kernels.least_edge_ratio(*rows.kernel_arguments(), first, last, *best[:2])
        best = found if found[2] >= 0 else best
    cut, size, subset = best
    if subset < 0:
        return Fraction(degree), alone
    return Fraction(cut, size), _edge_sides(rows, size, subset)


def _least_degree(side: BipartiteGraph) -> tuple[int, Sides]:
    """The least degree and a vertex that has it.

    No set of left vertices alone has a smaller ratio, and the kernels leave those sets out.
    """
    degrees = np.concatenate([side.left_degrees, side.right_degrees])
    alone = np.arange(len(degrees)) == degrees.argmin()
    return int(degrees.min()), (alone[: side.n1], alone[side.n1 :])


def _edge_sides(rows: _Rows, size: int, subset: int) -> Sides:
    """The left vertices that cost least with the right ones of ``subset``, up to the size."""
    seen = np.bitwise_count(rows.words & subset).astype(np.int64)
    left = rows.first(rows.side.left_degrees - 2 * seen, size - subset.bit_count())
    return left, rows.right(subset)


def _least_vertices(rows: _Rows) -> tuple[Fraction, Sides]:
    """The least vertex ratio and a set that has it, for a connected graph."""
    n2 = rows.side.n2
    inside = kernels.subset_counts(rows.codes, rows.weights, n2)
    sizes = kernels.subset_sizes(n2)
    best = rows.side.n1 + n2, 1, -1, 0
    for first, last in _chunks(1 << n2, 3.0**n2, "subsets"):
        found = kernels.least_vertex_ratio(inside, sizes, rows.half, first, last, *best[:2])
        best = found if found[2] >= 0 else best
    boundary, size, subset, edge = best
    within = rows.words & ~(subset | edge) == 0
    reached = rows.words & subset != 0
    left = rows.first(2 - within - (within & reached), size - subset.bit_count())
    return Fraction(boundary, size), (left, rows.right(subset))


def _chunks(total: int, steps: float, unit: str) -> Iterator[tuple[int, int]]:
    """0 .. total - 1 in ranges short enough for a progress bar, which long searches show."""
    size = min(total, max(1, total >> 6))
    with tqdm(total=total, unit=unit, leave=False, disable=None if steps > _SLOW else True) as bar:
        for first in range(0, total, size):
            yield first, min(first + size, total)
            bar.update(size)
