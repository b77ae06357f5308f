"""All-pairs flows: conserved, on shortest paths, no smaller than what must pass any set."""

from __future__ import annotations

from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from expandermask.expansion import _flow_kernels, flow
from expandermask.expansion.adjacency import adjacency
from expandermask.expansion.cuts import Kind
from expandermask.expansion.flow import Congestion, all_pairs_flow
from expandermask.graphs import hypercube, random_biregular
from expandermask.graphs.bipartite import as_bipartite
from tests.oracles import expansion as oracle
from tests.strategies import KINDS, kinds, masks, seeds
from tests.without_compiler import only_with_compiler, passed_without_compiler


def check_every_set(mask: oracle.Mask, found: Congestion | None) -> None:
    """What crosses any set fits through its edges, and through the vertices around it."""
    assert found is not None
    lists, n = oracle.neighbors(mask), sum(mask.shape)
    for size in range(1, n // 2 + 1):
        for chosen in combinations(range(n), size):
            crossing = size * (n - size) * found.pair
            edges = oracle.boundary(lists, set(chosen), "edge")
            around = oracle.boundary(lists, set(chosen), "vertex")
            assert crossing <= edges * found.edge
            assert crossing <= around * (found.vertex + size * found.pair)


class TestAdjacency:
    @given(masks())
    def test_lists_each_edge_from_both_ends(self, mask: oracle.Mask) -> None:
        graph = as_bipartite(mask)
        starts, targets, edges = adjacency(graph)
        for v, near in enumerate(oracle.neighbors(mask)):
            here = slice(starts[v], starts[v + 1])
            assert set(targets[here].tolist()) == near
            for u, e in zip(targets[here], edges[here], strict=True):
                ends = {int(graph.lefts[e]), int(graph.rights[e]) + graph.n1}
                assert ends == {v, int(u)}


class TestKernels:
    @given(masks(), seeds)
    @settings(max_examples=40)
    def test_nearest_first_is_dijkstra(self, mask: oracle.Mask, seed: int) -> None:
        graph, n = as_bipartite(mask), sum(mask.shape)
        starts, targets, edges = adjacency(graph)
        rng = np.random.default_rng(seed)
        on_edges, on_vertices = rng.integers(0, 9, graph.num_edges), rng.integers(0, 9, n)
        dist, order, place = np.empty(n), np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
        reached = _flow_kernels.nearest_first(
            *(starts, targets, edges, on_edges.astype(float), on_vertices.astype(float), 0),
            *(dist, order, place),
        )
        steps = {}
        for v in range(n):
            for k in range(starts[v], starts[v + 1]):
                steps[v, int(targets[k])] = float(on_edges[edges[k]] + on_vertices[targets[k]])
        truth = oracle.distances(mask, steps, 0)
        assert {v: dist[v] for v in range(n) if place[v] >= 0} == truth
        assert [dist[v] for v in order[:reached]] == sorted(truth.values())
        assert [place[v] for v in order[:reached]] == list(range(reached))

    @given(masks(), seeds, kinds)
    @settings(max_examples=40)
    def test_flows_are_conserved(self, mask: oracle.Mask, seed: int, kind: Kind) -> None:
        """Route from one source and balance every vertex by hand, in integers."""
        assume(oracle.connected(mask))
        graph, n = as_bipartite(mask), sum(mask.shape)
        starts, targets, edges = adjacency(graph)
        rng = np.random.default_rng(seed)
        weights = rng.integers(0, 1000, n)
        lengths = rng.random(graph.num_edges), rng.random(n)
        source = int(rng.integers(n))
        dist, order, place = np.empty(n), np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
        reached = _flow_kernels.nearest_first(
            starts, targets, edges, *lengths, source, dist, order, place
        )
        amount = weights.copy()
        load, through = np.zeros(graph.num_edges, dtype=np.int64), np.zeros(n, dtype=np.int64)
        _flow_kernels.send_back(
            *(starts, targets, edges, *lengths, dist, order, place, reached),
            *(amount, load, through),
        )
        assert amount[source] == weights.sum()
        for v in range(n):
            arriving = leaving = 0
            for k in range(starts[v], starts[v + 1]):
                if place[targets[k]] > place[v]:
                    arriving += load[edges[k]]
                else:
                    leaving += load[edges[k]]
            if v == source:
                assert (arriving, leaving) == (weights.sum() - weights[source], 0)
                assert through[v] == 0
            else:
                assert leaving - arriving == weights[v]
                assert through[v] == arriving

    @given(masks(4), st.integers(1, 3), kinds)
    @settings(max_examples=15)
    def test_each_round_sends_everything(self, mask: oracle.Mask, blocks: int, kind: Kind) -> None:
        """The edges around each vertex carry its own flow once and what passes it twice."""
        assume(oracle.connected(mask))
        graph, n = as_bipartite(mask), sum(mask.shape)
        lengths = np.full(graph.num_edges, float(kind == "edge")), np.full(n, float(kind != "edge"))
        weights, sources = np.arange(1, n + 1), np.arange(n)
        for _ in range(3):
            load, through = np.zeros(graph.num_edges, dtype=np.int64), np.zeros(n, dtype=np.int64)
            _flow_kernels.route(
                *(*adjacency(graph), sources, weights, *lengths, kind == "edge", 1.0, 0.0),
                *(blocks, load, through),
            )
            around = np.zeros(n, dtype=np.int64)
            np.add.at(around, graph.lefts, load)
            np.add.at(around, graph.rights + graph.n1, load)
            own = 2 * weights * (weights.sum() - weights)
            assert np.array_equal(around, own + 2 * through)

    @only_with_compiler
    def test_without_the_compiler(self) -> None:
        assert passed_without_compiler(__file__, "TestKernels and not compiler") == 3


class TestAllPairs:
    @given(masks(), kinds)
    @settings(max_examples=40)
    def test_no_set_is_too_narrow(self, mask: oracle.Mask, kind: Kind) -> None:
        assume(oracle.connected(mask) and mask.size > 1)
        check_every_set(mask, all_pairs_flow(as_bipartite(mask), kind))

    @given(st.integers(0, 10**6), st.integers(1, 2), st.booleans(), kinds)
    @settings(max_examples=40)
    def test_nor_if_few_hubs_carry_everything(
        self, seed: int, hubs: int, turned: bool, kind: Kind
    ) -> None:
        mask = np.random.default_rng(seed).integers(0, 2, (4 * hubs, hubs))
        mask[:, 0] = 1
        assume(oracle.connected(mask))
        mask = mask.T.copy() if turned else mask
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flow, "_WORK", 2 * int(mask.sum()) * hubs * 3)  # three rounds by hubs
            found = all_pairs_flow(as_bipartite(mask), kind)
        check_every_set(mask, found)

    @given(masks(4))
    @settings(max_examples=30)
    def test_first_round_is_split_evenly(self, mask: oracle.Mask) -> None:
        assume(oracle.connected(mask) and mask.size > 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flow, "_MOST_ROUNDS", 1)
            patch.setattr(flow, "_FEW_ROUNDS", 0)
            found = all_pairs_flow(as_bipartite(mask), "vertex")
        assert found is not None
        assert found.vertex / found.pair == pytest.approx(max(oracle.betweenness(mask)), abs=1e-4)

    @pytest.mark.parametrize("kind", KINDS)
    def test_known_congestion(self, kind: Kind) -> None:
        """Edge-transitive graphs: the pairs' distances, shared by all edges alike."""
        for graph, n in ((nx.cycle_graph(20), 20), (hypercube(5), 32)):
            bipartite = as_bipartite(graph)
            found = all_pairs_flow(bipartite, kind)
            assert found is not None
            total = nx.wiener_index(graph if n == 20 else graph.to_networkx())
            assert found.edge / found.pair == pytest.approx(total / bipartite.num_edges, rel=1e-3)
            inner = (total - n * (n - 1) / 2) / n
            assert found.vertex / found.pair == pytest.approx(inner, rel=1e-3)

    def test_rounds_even_out_the_load(self) -> None:
        graph = as_bipartite(random_biregular(60, 60, 3, rng=0))
        evened = all_pairs_flow(graph, "edge")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flow, "_MOST_ROUNDS", 1)
            patch.setattr(flow, "_FEW_ROUNDS", 0)
            first = all_pairs_flow(graph, "edge")
        assert evened is not None
        assert first is not None
        assert evened.edge / evened.pair < 0.85 * first.edge / first.pair

    def test_the_same_every_time_and_none_if_too_large(self) -> None:
        graph = as_bipartite(random_biregular(30, 20, 4, rng=3))
        assert all_pairs_flow(graph, "edge") == all_pairs_flow(graph, "edge")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flow, "_WORK", 100)
            assert all_pairs_flow(graph, "edge") is None
