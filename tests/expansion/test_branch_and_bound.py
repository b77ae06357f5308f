"""The best edge cut by branch and bound: against the definition, and against enumeration."""

from __future__ import annotations

import numpy as np
import pytest

from expandermask.expansion import _exact_search as search
from expandermask.expansion.cheeger import cheeger
from expandermask.expansion.cuts import Cut
from expandermask.graphs import random_biregular
from expandermask.graphs.bipartite import as_bipartite
from tests.oracles import cheeger as oracle


def one_vertex(graph):
    """The cut around left vertex 0, to start a search from."""
    graph = as_bipartite(graph)
    return Cut(graph, "edge", np.arange(graph.n1) == 0, np.zeros(graph.n2, dtype=bool))


@pytest.mark.parametrize("n", range(2, 10))
def test_every_connected_bipartite_graph(n):
    for mask in oracle.connected_bipartite(n):
        start = one_vertex(mask)
        least = oracle.least_ratio(mask, "edge")
        best = search.proved_best(start)
        assert best.ratio == least
        assert (best is start) == (start.ratio == least)
        assert search.proved_best(best) is best


@pytest.mark.parametrize("shape", [(14, 14, 3), (16, 12, 3), (9, 12, 4), (40, 10, 2), (11, 11, 5)])
def test_agrees_with_enumeration(shape):
    for seed in range(4):
        graph = as_bipartite(random_biregular(*shape, rng=seed))
        assert search.proved_best(one_vertex(graph)).ratio == cheeger(graph).upper


def test_in_the_place_of_enumeration(monkeypatch):
    monkeypatch.setattr(search, "MOST_STEPS", 0.0)
    graph = random_biregular(32, 32, 3, rng=0)
    found = cheeger(graph, rng=0)
    assert found.upper == found.cut.ratio
    assert found.exact
    assert found.method == "branch and bound"
    assert found.bounds["branch and bound"] == max(found.bounds.values())
    monkeypatch.setattr(search, "MOST_MOVES", 100.0)
    given_up = cheeger(graph, rng=0)
    assert given_up.method == "interval"
    assert given_up.lower < found.lower <= given_up.upper
    assert search.proved_best(one_vertex(np.ones((70, 63), dtype=int))) is None
