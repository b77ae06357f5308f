"""cheeger() against the definition, known graphs, and what every Cheeger constant satisfies."""

from __future__ import annotations

from fractions import Fraction
from importlib import import_module

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from expandermask.expansion import _exact_search as search
from expandermask.expansion.cheeger import cheeger
from expandermask.expansion.cuts import Cut
from expandermask.graphs import (
    complete_bipartite,
    desargues,
    heawood,
    hypercube,
    pappus,
    random_biregular,
)
from tests.cases import bipartition, cycle, prism
from tests.oracles import cheeger as oracle
from tests.strategies import KINDS, kinds, masks, seeds


@pytest.fixture
def no_exact_search(monkeypatch):
    """Small graphs get intervals, as large ones do."""
    monkeypatch.setattr(search, "MOST_STEPS", 0.0)
    monkeypatch.setattr(search, "_WIDEST_TREE", 0)


def check(found, mask):
    """What must be true of every result, whatever its method."""
    assert found.lower == max(found.bounds.values())
    assert found.upper == found.cut.ratio
    assert found.to_dict()["exact"] == (found.lower == found.upper)
    assert (found.cut.graph.n1, found.cut.graph.n2) == mask.shape == (found.n1, found.n2)


@pytest.mark.parametrize(
    ("n", "count"),
    [
        *[(2, 1), (3, 1), (4, 3), (5, 5), (6, 17), (7, 44), (8, 182), (9, 730)],
        pytest.param(10, 4032, marks=pytest.mark.slow),
    ],
)
def test_every_connected_bipartite_graph(n, count):
    """The counts are those of OEIS A005142."""
    graphs = oracle.connected_bipartite(n)
    assert len(graphs) == count
    for mask in graphs:
        for kind in KINDS:
            found = cheeger(mask, kind)
            check(found, mask)
            assert found.exact
            assert found.upper == oracle.least_ratio(mask, kind)


@settings(max_examples=120)
@given(masks(), kinds)
def test_any_mask_against_the_definition(mask, kind):
    found = cheeger(mask, kind)
    check(found, mask)
    assert found.exact
    assert found.upper == oracle.least_ratio(mask, kind)


@pytest.mark.parametrize("n", [4, 6, 10, 24, 30])
def test_cycles(n):
    for kind in KINDS:
        assert cheeger(bipartition(cycle(n)), kind).upper == Fraction(4, n)


@pytest.mark.parametrize("n", [3, 4, 9, 20])
def test_paths_and_stars(n):
    path, star = nx.path_graph(n), nx.star_graph(n - 1)
    for kind in KINDS:
        assert cheeger(path, kind).upper == Fraction(1, n // 2)
    assert cheeger(star, "edge").upper == 1
    assert cheeger(star, "vertex").upper == Fraction(1, n // 2)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5])
def test_hypercubes(d):
    """L. H. Harper, Optimal assignments of numbers to vertices, 1964: a face is best."""
    found = cheeger(hypercube(d))
    assert found.upper == 1
    assert found.cut.size == found.cut.boundary


@pytest.mark.parametrize("n", [4, 6, 8, 14])
def test_prisms(n):
    """C_n times an edge: half of the way round, or one of the two cycles."""
    assert cheeger(prism(n)).upper == min(1, Fraction(4, n))


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 2), (2, 2), (3, 5), (4, 4), (5, 8), (13, 40)])
def test_complete_bipartite_graphs(m, n):
    """B. Mohar, Isoperimetric numbers of graphs, 1989; for vertices half of all, one side only."""
    graph = complete_bipartite(m, n)
    half = (m + n) // 2
    assert cheeger(graph).upper == Fraction(-(-m * n // 2), half)
    assert cheeger(graph, "vertex").upper == Fraction(min(m, n), half)


@pytest.mark.parametrize("graph", [heawood(), pappus(), hypercube(4)])
def test_named_graphs_against_the_definition(graph):
    for kind in KINDS:
        assert cheeger(graph, kind).upper == oracle.least_ratio(graph.mask(), kind)


@settings(max_examples=60)
@given(masks())
def test_the_chain(mask):
    """h_V <= h_E <= D h_V."""
    edge, vertex = (cheeger(mask, kind).upper for kind in KINDS)
    most = int(max(mask.sum(axis=0).max(), mask.sum(axis=1).max()))
    assert vertex <= edge <= most * vertex


def test_the_chain_over_the_atlas():
    """Of the connected graphs with 3 to 7 vertices, 790 break the chain h_V / D <= h_E <= h_V."""
    graphs = [nx.to_numpy_array(g, dtype=np.int64) for g in nx.graph_atlas_g()[4:]]
    graphs = [g for g in graphs if np.linalg.matrix_rank(np.diag(g.sum(0)) - g) == len(g) - 1]
    assert len(graphs) == 994
    broken = []
    for graph in graphs:
        edge, vertex = (oracle.least_ratio_of(graph, kind) for kind in KINDS)
        assert vertex <= edge <= int(graph.sum(axis=0).max()) * vertex
        if edge > vertex:
            broken.append(graph)
    assert len(broken) == 790
    fewest = [sorted(g.sum(axis=0).tolist()) for g in broken if len(g) <= 4]
    assert fewest == [[1, 1, 1, 3], [1, 2, 2, 3], [2, 2, 3, 3], [3, 3, 3, 3]]


@settings(max_examples=60)
@given(masks(), kinds, st.randoms(use_true_random=False))
def test_names_and_sides_of_vertices_do_not_matter(mask, kind, random):
    rows, columns = (random.sample(range(n), n) for n in mask.shape)
    found = cheeger(mask, kind).upper
    assert cheeger(mask[rows][:, columns], kind).upper == found
    assert cheeger(mask.T, kind).upper == found


@settings(max_examples=60)
@given(masks(), kinds, st.data())
def test_another_edge_never_lowers_it(mask, kind, data):
    holes = np.argwhere(mask == 0).tolist()
    assume(holes)
    i, j = data.draw(st.sampled_from(holes))
    more = mask.copy()
    more[i, j] = 1
    assert cheeger(more, kind).upper >= cheeger(mask, kind).upper


@settings(max_examples=60)
@given(masks(), kinds, seeds)
def test_an_interval_holds_the_exact_value(mask, kind, seed):
    exact = cheeger(mask, kind).upper
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "MOST_STEPS", 0.0)
        patch.setattr(search, "_WIDEST_TREE", 0)
        found = cheeger(mask, kind, rng=seed)
        again = cheeger(mask, kind, rng=seed)
    check(found, mask)
    assert found.lower <= exact <= found.upper
    assert found.method in ("interval", "disconnected")
    assert found.to_dict() == again.to_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(8, 8, 3), (12, 6, 3), (10, 5, 2)])
def test_milp_finds_the_best_cut_and_proves_nothing(no_exact_search, kind, shape, monkeypatch):
    graph = random_biregular(*shape, rng=1)
    one = np.arange(graph.n1) == 0, np.zeros(graph.n2, dtype=bool)
    monkeypatch.setattr(
        import_module("expandermask.expansion.cheeger"),  # the name leads to the function
        "best_cut",
        lambda graph, kind, seed: Cut(graph, kind, *one),
    )
    found = cheeger(graph, kind, milp_seconds=60.0, rng=0)
    check(found, graph.mask())
    assert found.upper == oracle.least_ratio(graph.mask(), kind) == found.claimed
    assert found.method == "milp"
    assert found.lower == cheeger(graph, kind, rng=0).lower
    assert "not proved" in dict(found.rows())["claimed lower bound"]


def test_milp_without_time_to_find_anything(no_exact_search):
    graph = random_biregular(60, 40, 4, rng=0)
    found = cheeger(graph, milp_seconds=1e-9, rng=0)
    without = cheeger(graph, rng=0)
    assert (found.lower, found.upper) == (without.lower, without.upper)
    assert found.claimed is None or found.claimed <= found.upper


def test_milp_is_not_asked_where_the_value_is_known():
    assert cheeger(heawood(), milp_seconds=1.0).claimed is None


def test_larger_graphs_than_can_be_searched():
    graph = random_biregular(96, 64, 2, rng=0)
    for kind in KINDS:
        found = cheeger(graph, kind, rng=0)
        check(found, graph.mask())
        assert found.method == "interval"
        assert 0 < found.lower <= found.upper


def test_rows_with_equal_neighbours_are_counted_one_by_one():
    mask = np.repeat(np.array([[1, 1, 0], [0, 1, 1]]), [5, 3], axis=0)
    for kind in KINDS:
        assert cheeger(mask, kind).upper == oracle.least_ratio(mask, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_smaller_side_is_searched_wherever_it_is(kind):
    graph = random_biregular(120, 6, 2, rng=0)
    found, turned = cheeger(graph, kind), cheeger(graph.transpose(), kind)
    assert found.upper == turned.upper
    assert turned.exact
    check(turned, graph.transpose().mask())


@pytest.mark.parametrize(
    ("kind", "kernel", "found"),
    [("edge", "least_edge_ratio", (1, 7, 3)), ("vertex", "least_vertex_ratio", (1, 7, 3, 4))],
)
def test_a_cut_that_is_not_what_was_found_is_no_result(kind, kernel, found, monkeypatch):
    monkeypatch.setattr(search.kernels, kernel, lambda *arguments: found)
    with pytest.raises(ArithmeticError, match="and not 1/7"):
        cheeger(heawood(), kind)


@pytest.mark.parametrize(
    ("mask", "size"),
    [
        (np.zeros((1, 1), dtype=int), 1),
        (np.zeros((3, 4), dtype=int), 1),
        (np.array([[1, 1, 0], [1, 1, 0]]), 1),
        (np.kron(np.eye(2, dtype=int), np.ones((2, 3), dtype=int)), 5),
        (np.eye(100, dtype=int), 2),
    ],
)
def test_disconnected_graphs(mask, size):
    for kind in KINDS:
        found = cheeger(mask, kind)
        check(found, mask)
        assert (found.upper, found.method, found.cut.size) == (0, "disconnected", size)


def test_everything_that_is_a_mask():
    mask = desargues().mask()
    expected = cheeger(mask).upper
    for same in (desargues(), desargues().to_networkx(), scipy.sparse.csr_array(mask), mask == 1):
        assert cheeger(same).upper == expected
    assert cheeger(nx.desargues_graph()).upper == expected
