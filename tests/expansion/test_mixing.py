"""The mixing lemma for masks: bounds on ones shared by rows and columns, against every choice."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.errors import InvalidInputError
from expandermask.expansion import mixing
from expandermask.expansion.mixing import EdgeCounts, edge_count_bounds
from expandermask.graphs import complete_bipartite, projective_plane, random_biregular
from expandermask.graphs.bipartite import as_bipartite
from tests.oracles import cheeger as every_set
from tests.oracles import expansion as oracle
from tests.strategies import Shape, masks, seeds, shapes


def numbers(mask: oracle.Mask, draw: st.DataObject) -> tuple[int, int]:
    n1, n2 = mask.shape
    return draw.draw(st.integers(0, n1)), draw.draw(st.integers(0, n2))


class TestEdgeCountBounds:
    @given(masks(), st.data())
    @settings(max_examples=80)
    def test_hold_for_every_choice(self, mask: oracle.Mask, data: st.DataObject) -> None:
        s, t = numbers(mask, data)
        lo, hi = edge_count_bounds(mask, s, t)
        least, most = oracle.edge_counts(mask, s, t)
        assert 0 <= lo <= least <= most <= hi <= min(s * t, mask.sum())

    @given(shapes(7), seeds, st.data())
    @settings(max_examples=80)
    def test_hold_for_biregular_masks(self, shape: Shape, seed: int, data: st.DataObject) -> None:
        mask = random_biregular(*shape, rng=seed).mask().astype(np.int64)
        s, t = numbers(mask, data)
        lo, hi = edge_count_bounds(mask, s, t)
        least, most = oracle.edge_counts(mask, s, t)
        assert lo <= least <= most <= hi

    def test_tight_on_designs(self) -> None:
        """Every line of a projective plane has q + 1 points; the plane without one is known too."""
        plane = projective_plane(3)
        assert edge_count_bounds(plane, 1, 13) == (4, 4)
        assert edge_count_bounds(plane, 13, 12) == (48, 48)
        assert edge_count_bounds(complete_bipartite(9, 5), 4, 3) == (12, 12)
        assert edge_count_bounds(np.zeros((4, 3), dtype=int), 4, 3) == (0, 0)
        assert edge_count_bounds(np.eye(5, dtype=int), 5, 2) == (2, 2)

    def test_the_lemma_says_more_than_degrees(self) -> None:
        graph = random_biregular(200, 200, 20, rng=0)
        lo, hi = edge_count_bounds(graph, 100, 100)
        assert 500 < lo < 1000 < hi < 1500
        loose = np.random.default_rng(0).random((200, 200)) < 0.5
        lo, hi = edge_count_bounds(loose, 100, 100)
        assert 3000 < lo < 5000 < hi < 7000

    def test_refuses_too_many(self) -> None:
        with pytest.raises(InvalidInputError, match="s must be at most 3, got 4"):
            edge_count_bounds(np.ones((3, 2), dtype=int), 4, 1)
        with pytest.raises(InvalidInputError, match="t must be at most 2, got 3"):
            edge_count_bounds(np.ones((3, 2), dtype=int), 3, 3)
        with pytest.raises(InvalidInputError, match="s must be at least 0"):
            edge_count_bounds(np.ones((3, 2), dtype=int), -1, 1)


class TestNorm:
    @given(masks())
    @settings(max_examples=80)
    def test_is_an_upper_bound_and_close(self, mask: oracle.Mask) -> None:
        found = EdgeCounts.of(as_bipartite(mask)).norm
        true = np.linalg.norm(mask - mask.mean(), 2)
        assert true * (1 - 1e-12) <= found <= true * (1 + 1e-3) + 1e-3

    def test_falls_back_on_all_of_the_trace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mixing, "_TRIES", 0)
        mask = np.random.default_rng(1).random((9, 7)) < 0.5
        found = EdgeCounts.of(as_bipartite(mask)).norm
        assert found == pytest.approx(np.linalg.norm(mask - mask.mean()))
        assert found >= np.linalg.norm(mask - mask.mean())

    def test_none_for_large_masks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mixing, "MOST_GRAM", 5)
        graph = random_biregular(9, 6, 2, rng=0)
        assert EdgeCounts.of(as_bipartite(graph)).norm == float("inf")
        assert edge_count_bounds(graph, 4, 3) == (0, 8)


class TestScans:
    def test_sizes_are_scanned_in_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        counts = EdgeCounts.of(as_bipartite(random_biregular(12, 9, 6, rng=0)))
        whole = mixing.scan_edges(counts), mixing.scan_vertices(counts)
        monkeypatch.setattr(mixing, "_CHUNK", 30)
        assert (mixing.scan_edges(counts), mixing.scan_vertices(counts)) == whole

    def test_exact_on_complete_graphs(self) -> None:
        """Complements count too: the scan knows K_{m,n} entirely."""
        for m, n in ((1, 1), (1, 6), (2, 3), (4, 4), (5, 3), (3, 7)):
            mask = np.ones((m, n), dtype=np.int64)
            counts = EdgeCounts.of(as_bipartite(mask))
            assert mixing.scan_edges(counts) == every_set.least_ratio(mask, "edge")
            assert mixing.scan_vertices(counts) == every_set.least_ratio(mask, "vertex")

    def test_tanner(self) -> None:
        """Any a points of PG(2, q) lie on at least as many lines as Tanner's inequality says."""
        q = 5
        v = q * q + q + 1
        missed = mixing._missed(EdgeCounts.of(as_bipartite(projective_plane(q))))
        for a in range(1, v + 1):
            lines = Fraction((q + 1) ** 2 * a, q + Fraction(((q + 1) ** 2 - q) * a, v))
            assert v - missed[a] >= lines - Fraction(1, 10**9)
            assert v - missed[a] <= max(lines + 1, q + 1)
