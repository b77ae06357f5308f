"""Bounds on Cheeger constants: never above the exact value, against every set of vertices."""

from __future__ import annotations

import math
from fractions import Fraction
from importlib import import_module

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from expandermask.errors import InvalidInputError
from expandermask.expansion import flow, mixing
from expandermask.expansion.cut_search import best_cut
from expandermask.expansion.cuts import Kind
from expandermask.expansion.lower_bounds import (
    _gap_at_most,
    _spectral_boundary,
    cheeger_buser,
    conductance_bounds,
    laplacian_gap,
    least_ratio,
    lower_bounds,
)
from expandermask.graphs import (
    BiregularGraph,
    complete_bipartite,
    heawood,
    hypercube,
    quasi_cyclic,
    random_biregular,
    tutte_coxeter,
)
from expandermask.graphs.bipartite import BipartiteGraph, as_bipartite
from tests.oracles import cheeger as every_set
from tests.oracles import expansion as oracle
from tests.strategies import KINDS, Shape, kinds, masks, seeds, shapes

MODULE = import_module("expandermask.expansion.lower_bounds")  # the name leads to the function
NAMES = {"connected", "spectral", "mixing", "flow"}


def check(mask: oracle.Mask, kind: Kind, seed: int = 0) -> None:
    """Every lower bound <= exact <= the cut; 0 exactly for disconnected graphs."""
    graph, exact = as_bipartite(mask), every_set.least_ratio(mask, kind)
    found = lower_bounds(graph, kind)
    assert set(found) == (NAMES if exact > 0 else {"components"})
    assert all(bound <= exact for bound in found.values()), (found, exact)
    assert (max(found.values()) > 0) == (exact > 0)
    assert exact <= best_cut(graph, kind, seed=seed).ratio


class TestAgainstEverySet:
    @given(masks(), kinds, seeds)
    @settings(max_examples=80)
    def test_any_mask(self, mask: oracle.Mask, kind: Kind, seed: int) -> None:
        assume(sum(mask.shape) <= 10)
        check(mask, kind, seed)

    @given(shapes(7), seeds, kinds)
    @settings(max_examples=40)
    def test_biregular_masks(self, shape: Shape, seed: int, kind: Kind) -> None:
        assume(shape[0] + shape[1] <= 11)
        check(random_biregular(*shape, rng=seed).mask().astype(np.int64), kind)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_connected_bipartite_graph_to_seven_vertices(self, kind: Kind) -> None:
        seen = 0
        for graph in nx.graph_atlas_g():
            if len(graph) > 1 and nx.is_connected(graph) and nx.is_bipartite(graph):
                check(as_bipartite(graph).biadjacency().toarray().astype(np.int64), kind)
                seen += 1
        assert seen == 1 + 1 + 3 + 5 + 17 + 44  # OEIS A005142

    @pytest.mark.slow
    @given(masks(8), kinds, seeds)
    @settings(max_examples=3000)
    def test_thousands_of_masks(self, mask: oracle.Mask, kind: Kind, seed: int) -> None:
        assume(sum(mask.shape) <= 14)
        check(mask, kind, seed)

    @pytest.mark.slow
    @given(shapes(12), seeds, kinds)
    @settings(max_examples=1000)
    def test_a_thousand_biregular_masks(self, shape: Shape, seed: int, kind: Kind) -> None:
        assume(shape[0] + shape[1] <= 14)
        check(random_biregular(*shape, rng=seed).mask().astype(np.int64), kind)


class TestKnown:
    @pytest.mark.parametrize("kind", KINDS)
    def test_ends_that_meet(self, kind: Kind) -> None:
        """Cycles, paths, stars and K_{m,n}: the best bound is the exact value."""
        for graph, exact in (
            (nx.cycle_graph(40), Fraction(2, 20)),
            (nx.path_graph(40), Fraction(1, 20)),
            (nx.star_graph(30), Fraction(1) if kind == "edge" else Fraction(1, 15)),
        ):
            assert max(lower_bounds(as_bipartite(graph), kind).values()) == exact
            assert best_cut(as_bipartite(graph), kind, seed=0).ratio == exact

    def test_hypercubes(self) -> None:
        for d in range(2, 7):
            found = lower_bounds(as_bipartite(hypercube(d)), "edge")
            assert 1 - Fraction(1, 10**9) <= found["spectral"] <= 1
            assert Fraction(9, 10) <= found["flow"] <= 1

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("make", [heawood, tutte_coxeter])
    def test_small_cages_within_the_goal(self, make: type, kind: Kind) -> None:
        graph = as_bipartite(make())
        lower = max(lower_bounds(graph, kind).values())
        assert lower <= best_cut(graph, kind, seed=0).ratio <= 2 * lower

    @pytest.mark.parametrize("kind", KINDS)
    def test_isolated_vertices(self, kind: Kind) -> None:
        mask = np.eye(4, 5, dtype=int)
        assert lower_bounds(as_bipartite(mask), kind) == {"components": 0}
        assert cheeger_buser(as_bipartite(mask)) == (0.0, 0.0)

    @pytest.mark.parametrize("kind", KINDS)
    def test_large_graphs_keep_the_cheap_bounds(
        self, kind: Kind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        graph = as_bipartite(nx.path_graph(30))
        monkeypatch.setattr(MODULE, "MOST_DENSE", 10)
        monkeypatch.setattr(mixing, "MOST_PAIRS", 10)
        monkeypatch.setattr(flow, "_WORK", 10)
        assert lower_bounds(graph, kind) == {"connected": Fraction(1, 15)}
        with pytest.raises(
            InvalidInputError, match="cheeger_buser takes graphs of up to 10 vertices"
        ):
            cheeger_buser(graph)
        biregular = as_bipartite(random_biregular(24, 12, 2, rng=0))
        assert set(lower_bounds(biregular, kind)) == {"connected"}

    def test_the_same_every_time(self) -> None:
        graph = as_bipartite(random_biregular(30, 20, 4, rng=3))
        for kind in KINDS:
            assert lower_bounds(graph, kind) == lower_bounds(graph, kind)

    def test_refuses_another_kind(self) -> None:
        with pytest.raises(InvalidInputError, match="kind"):
            lower_bounds(as_bipartite(np.ones((2, 2), dtype=int)), "both")  # type: ignore[arg-type]  # the point


class TestParts:
    @given(masks())
    @settings(max_examples=60)
    def test_laplacian_gap(self, mask: oracle.Mask) -> None:
        assume(oracle.connected(mask))
        graph = as_bipartite(mask)
        laplacian = nx.laplacian_matrix(oracle.networkx_graph(mask))
        true = np.linalg.eigvalsh(laplacian.toarray().astype(float))[1]
        gap = laplacian_gap(graph)
        assert gap is not None
        assert true - 1e-6 <= gap <= true + 1e-12

    def test_gap_falls_back_on_zero(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MODULE, "_TRIES", 0)
        path = as_bipartite(nx.path_graph(5))
        assert laplacian_gap(path) == 0
        for kind in KINDS:
            assert lower_bounds(path, kind)["spectral"] == Fraction(1, 2)

    def test_gap_of_a_large_symmetric_graph(self, monkeypatch: pytest.MonkeyPatch) -> None:
        graph = as_bipartite(quasi_cyclic(2000, 1000, 3, r=50, rng=0))
        monkeypatch.setattr(MODULE, "MOST_DENSE", 20)
        gap = laplacian_gap(graph)
        assert gap is not None
        assert 0.5 < gap < 0.6
        monkeypatch.setattr(MODULE, "MOST_DENSE", 19)
        assert laplacian_gap(graph) is None

    def test_least_ratio(self) -> None:
        assert least_ratio(9, lambda x: x * x - 3) == Fraction(1, 2)
        assert least_ratio(2, lambda x: -7) == 1

    @given(st.integers(2, 60), st.integers(1, 20), st.fractions(0, 20, max_denominator=9))
    def test_spectral_boundary_of_vertices(self, n: int, degree: int, gap: Fraction) -> None:
        """The least s that the inequality allows, found by trying them all."""
        assume(gap <= degree)
        star = BipartiteGraph(
            np.concatenate([[0, degree], np.full(n, degree)])[:n].astype(np.int64),
            np.arange(degree, dtype=np.int32),
            1,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MODULE, "_largest_degree", lambda graph: degree)
            boundary = _spectral_boundary(star, "vertex", gap)
        for x in range(1, n // 2 + 1):
            tried = (
                s for s in range(n + 1)
                if s * degree >= gap * (n - s - Fraction((n - s - 2 * x) ** 2, n))
            )  # fmt: skip
            assert boundary(x) == next(tried)


class TestCheegerBuser:
    @given(masks())
    @settings(max_examples=100)
    def test_encloses_the_exact_value(self, mask: oracle.Mask) -> None:
        assume(sum(mask.shape) <= 10)
        lower, upper = cheeger_buser(as_bipartite(mask))
        assert lower <= every_set.least_ratio(mask, "edge") <= upper

    def test_any_vector_bounds_the_gap_from_above(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also one far from the eigenvector, and from orthogonal to the constant vectors."""
        path = as_bipartite(nx.path_graph(4))
        monkeypatch.setattr(MODULE, "_second", lambda _: (0.0, np.array([1.0, 1, 1, 0.9])))
        assert 2 - math.sqrt(2) < _gap_at_most(path) <= 1 + 1e-12

    def test_known_values(self) -> None:
        root = math.sqrt(2)
        lower, upper = cheeger_buser(as_bipartite(heawood()))
        assert lower == pytest.approx((3 - root) / 2)
        assert upper == pytest.approx(math.sqrt((3 - root) * (3 + root)))
        lower, upper = cheeger_buser(as_bipartite(hypercube(4)))
        assert (lower, upper) == (pytest.approx(1), pytest.approx(math.sqrt(12)))
        assert cheeger_buser(as_bipartite(np.ones((1, 1), dtype=int))) == (1.0, 1.0)

    @given(shapes(6, 2), seeds)
    @settings(max_examples=40)
    def test_conductance(self, shape: Shape, seed: int) -> None:
        assume(shape[0] + shape[1] <= 11)
        graph = random_biregular(*shape, rng=seed)
        lower, upper = conductance_bounds(graph)
        exact = oracle.conductance(graph.mask().astype(np.int64))
        assert lower <= exact <= upper

    def test_conductance_of_complete_graphs(self) -> None:
        graph: BiregularGraph = complete_bipartite(6, 4)
        assert conductance_bounds(graph) == (pytest.approx(0.5), pytest.approx(1))


def test_masks_are_taken_as_their_graphs() -> None:
    mask, graph = heawood().mask(), as_bipartite(heawood())
    assert lower_bounds(mask, "edge") == lower_bounds(graph, "edge")
    assert best_cut(mask, "edge", seed=0) == best_cut(graph, "edge", seed=0)
    assert cheeger_buser(mask) == cheeger_buser(graph)
    assert conductance_bounds(mask) == conductance_bounds(heawood())
