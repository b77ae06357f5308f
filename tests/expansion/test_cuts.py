"""Cuts: what they count, what they refuse, and the search for good ones against every set."""

from __future__ import annotations

from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from expandermask.errors import InvalidInputError
from expandermask.expansion import _cut_kernels, cut_search
from expandermask.expansion.adjacency import adjacency, component_labels, smallest_component
from expandermask.expansion.cut_search import best_cut
from expandermask.expansion.cuts import Cut, Kind, check_kind
from expandermask.graphs import complete_bipartite, hypercube, random_biregular
from expandermask.graphs.bipartite import as_bipartite
from tests.oracles import cheeger as every_set
from tests.oracles import expansion as oracle
from tests.strategies import KINDS, kinds, masks, seeds
from tests.without_compiler import only_with_compiler, passed_without_compiler


@st.composite
def sets(draw: st.DrawFn) -> tuple[oracle.Mask, list[bool]]:
    """A mask and a set of its vertices, left ones first."""
    mask = draw(masks())
    n = sum(mask.shape)
    return mask, draw(st.lists(st.booleans(), min_size=n, max_size=n))


def cut_of(mask: oracle.Mask, kind: Kind, members: set[int]) -> Cut:
    inside = np.array([v in members for v in range(sum(mask.shape))])
    return Cut(as_bipartite(mask), kind, inside[: len(mask)], inside[len(mask) :])


class TestCut:
    @given(sets(), kinds)
    def test_counts_what_leaves(self, chosen: tuple[oracle.Mask, list[bool]], kind: Kind) -> None:
        mask, flags = chosen
        members = {v for v, flag in enumerate(flags) if flag}
        if not 0 < 2 * len(members) <= len(flags):
            with pytest.raises(InvalidInputError, match="a cut must hold from 1 to N // 2"):
                cut_of(mask, kind, members)
            return
        cut = cut_of(mask, kind, members)
        lists = oracle.neighbors(mask)
        assert cut.size == len(members)
        assert cut.boundary == oracle.boundary(lists, members, kind)
        assert cut.ratio == Fraction(cut.boundary, cut.size)
        assert cut.crossing.sum() == oracle.boundary(lists, members, "edge")
        graph = cut.graph
        for i, j, crosses in zip(graph.lefts, graph.rights, cut.crossing, strict=True):
            assert crosses == ((i in members) != (graph.n1 + j in members))

    def test_refuses_other_shapes_and_kinds(self) -> None:
        square = as_bipartite(np.ones((2, 2), dtype=int))
        yes, no = np.array([True, False]), np.zeros(2, dtype=bool)
        with pytest.raises(InvalidInputError, match="left must be a bool array of shape"):
            Cut(square, "edge", np.array([True]), no)
        with pytest.raises(InvalidInputError, match=r"right must be .* got int64 of shape"):
            Cut(square, "edge", yes, np.array([0, 1]))
        with pytest.raises(InvalidInputError, match=r"right must be .* got list"):
            Cut(square, "edge", yes, [True, False])  # type: ignore[arg-type]  # the point
        with pytest.raises(InvalidInputError, match="'edge' or 'vertex', got 'node'"):
            Cut(square, "node", yes, no)  # type: ignore[arg-type]  # the point
        for bad in (None, 1, ["edge"], "Edge"):
            with pytest.raises(InvalidInputError):
                check_kind(bad)

    @given(sets(), sets(), kinds, kinds)
    def test_equal_if_set_kind_and_edges_are(
        self,
        chosen: tuple[oracle.Mask, list[bool]],
        other: tuple[oracle.Mask, list[bool]],
        kind: Kind,
        other_kind: Kind,
    ) -> None:
        (mask, flags), (other_mask, other_flags) = chosen, other
        assume(0 < 2 * sum(flags) <= len(flags) and 0 < 2 * sum(other_flags) <= len(other_flags))
        members = {v for v, flag in enumerate(flags) if flag}
        cut, again = (cut_of(mask, kind, members) for _ in range(2))
        assert cut.graph is not again.graph
        assert cut == again
        assert hash(cut) == hash(again)
        found = cut_of(other_mask, other_kind, {v for v, flag in enumerate(other_flags) if flag})
        same = kind == other_kind and flags == other_flags and np.array_equal(mask, other_mask)
        assert (cut == found) == same

    def test_each_part_counts(self) -> None:
        """Equal counts in all, and one thing different: the kind, the set, an edge, the shape."""
        path = np.array([[1, 1, 0], [0, 1, 1]])
        cut = cut_of(path, "edge", {0})
        others = [
            cut_of(path, "vertex", {0}),
            cut_of(path, "edge", {1}),
            cut_of(path, "edge", {2}),
            cut_of(np.array([[1, 1, 0], [1, 0, 1]]), "edge", {0}),
            cut_of(np.array([[1, 1, 1], [0, 0, 1]]), "edge", {0}),
            cut_of(np.array([[1, 1, 0, 0], [0, 1, 1, 0]]), "edge", {0}),
            cut_of(np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]]), "edge", {0}),
        ]
        assert all(cut != other for other in others)
        assert len({cut, cut_of(path, "edge", {0}), *others}) == 1 + len(others)
        assert cut != "cut"
        rows = ([[1, 1], [0, 0]], [[1, 0], [0, 1]])  # the same right ends, in other rows
        assert cut_of(np.array(rows[0]), "edge", {2}) != cut_of(np.array(rows[1]), "edge", {2})

    def test_says_what_it_is(self) -> None:
        cut = cut_of(np.ones((2, 2), dtype=np.int64), "vertex", {0})
        assert str(cut) == "1 of 4 vertices, 2 vertices around them: 2"


class TestKernels:
    @given(sets(), kinds, st.lists(st.integers(0, 10**6), max_size=12))
    @settings(max_examples=30)
    def test_gains_stay_right_while_moving(
        self, chosen: tuple[oracle.Mask, list[bool]], kind: Kind, moves: list[int]
    ) -> None:
        mask, flags = chosen
        starts, targets, _ = adjacency(as_bipartite(mask))
        inside, n = np.array(flags), len(flags)
        inner, gain = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        members = {v for v in range(n) if inside[v]}
        found = _cut_kernels.measure(starts, targets, kind == "edge", inside, inner, gain)
        boundary = oracle.boundary(oracle.neighbors(mask), members, kind) if members else 0
        assert tuple(map(int, found)) == (boundary, len(members))
        for move in moves:
            assert gain.tolist() == oracle.gains(mask, members, kind)
            v = move % n
            _cut_kernels.flip(starts, targets, kind == "edge", inside, inner, gain, v)
            members ^= {v}
        assert gain.tolist() == oracle.gains(mask, members, kind)
        assert {v for v in range(n) if inside[v]} == members

    @given(masks(), kinds, seeds)
    @settings(max_examples=40)
    def test_sweep_finds_the_best_prefix(self, mask: oracle.Mask, kind: Kind, seed: int) -> None:
        starts, targets, _ = adjacency(as_bipartite(mask))
        n = sum(mask.shape)
        order = np.random.default_rng(seed).permutation(n)
        best = np.ones(n, dtype=bool)
        boundary, size = _cut_kernels.sweep(starts, targets, kind == "edge", order, best)
        ratios = []
        for k in range(1, n):
            prefix = set(order[:k].tolist())
            counted = min(k, n - k) if kind == "edge" else k
            if kind == "edge" or 2 * k <= n:
                part = oracle.boundary(oracle.neighbors(mask), prefix, kind)
                ratios.append(Fraction(part, counted))
        assert Fraction(int(boundary), int(size)) == min(ratios)

    @given(sets(), kinds, seeds)
    @settings(max_examples=25)
    def test_search_never_ends_worse_than_it_starts(
        self, chosen: tuple[oracle.Mask, list[bool]], kind: Kind, seed: int
    ) -> None:
        mask, flags = chosen
        n, size = len(flags), sum(flags)
        allowed = min(size, n - size) if kind == "edge" else size * (2 * size <= n)
        if not allowed:
            return
        lists = oracle.neighbors(mask)
        before = oracle.boundary(lists, {v for v in range(n) if flags[v]}, kind)
        starts, targets, _ = adjacency(as_bipartite(mask))
        inside, state = np.array(flags), np.array([seed], dtype=np.uint64)
        found = _cut_kernels.search(starts, targets, kind == "edge", inside, n, 3, state)
        members = {v for v in range(n) if inside[v]}
        counted = min(len(members), n - len(members)) if kind == "edge" else len(members)
        assert tuple(map(int, found)) == (oracle.boundary(lists, members, kind), counted)
        assert Fraction(int(found[0]), int(found[1])) <= Fraction(before, allowed)

    @only_with_compiler
    def test_without_the_compiler(self) -> None:
        assert passed_without_compiler(__file__, "TestKernels and not compiler") == 3


class TestBestCut:
    @given(masks(), kinds, seeds)
    @settings(max_examples=60)
    def test_is_the_best_of_a_small_mask(self, mask: oracle.Mask, kind: Kind, seed: int) -> None:
        """There is no guarantee, but a miss among so few vertices would be a bug."""
        assume(sum(mask.shape) <= 10)
        cut = best_cut(as_bipartite(mask), kind, seed=seed)
        assert cut.kind == kind
        assert cut.ratio == every_set.least_ratio(mask, kind)

    @pytest.mark.parametrize("kind", KINDS)
    def test_knows_the_best_of_known_graphs(self, kind: Kind) -> None:
        assert best_cut(as_bipartite(nx.cycle_graph(60)), kind, seed=0).ratio == Fraction(1, 15)
        assert best_cut(as_bipartite(nx.path_graph(60)), kind, seed=0).ratio == Fraction(1, 30)
        if kind == "edge":
            assert best_cut(as_bipartite(hypercube(7)), kind, seed=0).ratio == 1
        wide = best_cut(as_bipartite(complete_bipartite(30, 4)), "vertex", seed=0)
        assert wide.ratio == Fraction(4, 17)

    @pytest.mark.parametrize("kind", KINDS)
    def test_disconnected_graphs_have_an_empty_boundary(self, kind: Kind) -> None:
        mask = np.zeros((5, 7), dtype=np.int64)
        mask[:2, :3] = mask[2:4, 3:6] = 1
        cut = best_cut(as_bipartite(mask), kind, seed=0)
        assert (cut.boundary, cut.ratio) == (0, 0)
        assert best_cut(as_bipartite(np.zeros((1, 1), dtype=int)), kind, seed=0).boundary == 0
        assert best_cut(as_bipartite(np.ones((1, 1), dtype=int)), kind, seed=0).ratio == 1

    @pytest.mark.parametrize("kind", KINDS)
    def test_one_seed_one_cut(self, kind: Kind) -> None:
        graph = as_bipartite(random_biregular(40, 20, 3, rng=1))
        first, again = (best_cut(graph, kind, seed=5) for _ in range(2))
        assert first == again

    def test_large_graphs_are_swept_by_lanczos(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cut_search, "_DENSE_SIZE", 16)
        graph = as_bipartite(nx.circular_ladder_graph(60))
        assert best_cut(graph, "edge", seed=0).ratio == Fraction(4, 60)
        monkeypatch.setattr(cut_search, "_ITERATIONS", 1)  # no eigenvector converges
        assert best_cut(graph, "edge", seed=0).ratio <= Fraction(6, 60)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_largest_graphs_are_only_swept(
        self, kind: Kind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cut_search, "MOST_SEARCHED", 16)
        path = as_bipartite(nx.path_graph(60))
        assert best_cut(path, kind, seed=0).ratio == Fraction(1, 30)

    @given(masks())
    def test_components(self, mask: oracle.Mask) -> None:
        labels = component_labels(as_bipartite(mask))
        assert labels.shape == (sum(mask.shape),)
        parts = {frozenset(np.flatnonzero(labels == k).tolist()) for k in set(labels.tolist())}
        assert parts == set(map(frozenset, nx.connected_components(oracle.networkx_graph(mask))))
        smallest = smallest_component(as_bipartite(mask))
        if len(parts) == 1:
            assert smallest is None
        else:
            assert smallest is not None
            found = frozenset(np.flatnonzero(smallest).tolist())
            assert found in parts
            assert len(found) == min(map(len, parts))

    def test_refuses_another_kind(self) -> None:
        with pytest.raises(InvalidInputError, match="kind"):
            best_cut(as_bipartite(np.ones((2, 2), dtype=int)), "both", seed=0)  # type: ignore[arg-type]  # the point
