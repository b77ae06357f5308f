"""covering_projection: maps found, maps checked, and graphs that cover nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.errors import InvalidInputError, NotBiregularError
from expandermask.graphs import (
    BiregularGraph,
    complete_bipartite,
    desargues,
    heawood,
    pappus,
    projections,
    random_biregular,
)
from expandermask.graphs.coverings import covering, cyclic_covering, two_lift_tower
from expandermask.graphs.projections import covering_projection
from tests import cases
from tests.oracles import coverings as oracle
from tests.strategies import seeds, shapes


def shuffled(graph, seed):
    """The same graph with both sides relabelled."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(graph.n1), rng.permutation(graph.n2)
    return BiregularGraph(columns[graph.neighbors][rows], graph.n2)


def assert_proved(check, graph, base):
    assert check.verdict == "PROVED", check.reason
    assert check.left.dtype == check.right.dtype == np.int64
    halves = check.left.tolist(), check.right.tolist()
    sides = graph.neighbors.tolist(), graph.n2, base.neighbors.tolist(), base.n2
    assert oracle.is_covering_map(*sides, *halves)


@settings(max_examples=80)
@given(shapes(6), st.integers(1, 4), seeds)
def test_our_coverings_and_relabelled_ones_are_found(shape, r, seed):
    base = random_biregular(*shape, rng=2)
    graph = covering(base, r, rng=seed)
    check = covering_projection(graph, base)
    assert_proved(check, graph, base)
    assert check.left.tolist() == [v // r for v in range(graph.n1)]
    other = shuffled(graph, seed)
    found = covering_projection(other, base)
    assert_proved(found, other, base)
    assert_proved(covering_projection(other, base, (found.left, found.right)), other, base)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (3, 3), (4, 4), (8, 8), (192, 2), (2, 128)])
@pytest.mark.parametrize("lift", [covering, cyclic_covering])
def test_relabelled_coverings_of_complete_graphs(shape, lift):
    base = complete_bipartite(*shape)
    graph = shuffled(lift(base, 4, rng=0), 1)
    assert_proved(covering_projection(graph, base), graph, base)


def test_a_relabelled_tower():
    base = heawood()
    graph = shuffled(two_lift_tower(base, 3, rng=0), 1)
    assert_proved(covering_projection(graph, base), graph, base)


def test_the_desargues_graph_and_other_known_coverings():
    """Pappus' graph is a 3-covering of K_{3,3}; Desargues', on 10 + 10, covers nothing smaller."""
    assert_proved(
        covering_projection(pappus(), complete_bipartite(3, 3)), pappus(), complete_bipartite(3, 3)
    )
    cube, octagon = (BiregularGraph.from_mask(m) for m in (cases.hypercube(3), cases.prism(8)))
    assert_proved(covering_projection(octagon, cube), octagon, cube)
    refuted = covering_projection(desargues(), complete_bipartite(3, 3))
    assert refuted.verdict == "REFUTED"
    assert refuted.reason == "the sizes 10x10 are not r times 3x3 for any integer r"
    refuted = covering_projection(heawood(), complete_bipartite(7, 4))
    assert refuted.reason == "a covering keeps the degrees, and (3, 3) are not (4, 7)"
    with_six = BiregularGraph.from_mask(cases.double_triples())
    refuted = covering_projection(with_six, complete_bipartite(6, 3))
    assert refuted.reason == "the graph lacks an eigenvalue of the base"
    assert refuted.left is refuted.right is None


def test_equal_spectra_need_not_mean_a_covering(monkeypatch):
    """Two hexagons have the zero singular values of 3-coverings of K_{2,2}, and are none."""
    hexagons = BiregularGraph.from_mask(np.kron(np.eye(2, dtype=int), 1 - np.eye(3, dtype=int)))
    square = complete_bipartite(2, 2)
    monkeypatch.setattr(projections, "_contains_spectrum", lambda *_: True)
    check = covering_projection(hexagons, square)
    assert (check.verdict, check.reason) == (
        "REFUTED",
        "an exhaustive search found no covering map",
    )


def test_maps_that_are_no_covering_maps():
    base = complete_bipartite(3, 3)
    graph = covering(base, 4, rng=0)
    left, right = np.arange(12) // 4, np.arange(12) // 4
    swapped = right.copy()
    swapped[[0, 4]] = swapped[[4, 0]]
    check = covering_projection(graph, base, (left, swapped))
    assert check.verdict == "REFUTED"
    assert check.reason.startswith("the neighbours of left vertex")
    check = covering_projection(graph, base, (swapped, right))
    assert check.reason.startswith("the neighbours of right vertex")
    check = covering_projection(graph, base, (left, np.zeros(12, dtype=int)))
    assert check.reason == "the right map has fibres of 0 to 12 vertices where r = 4 are needed"


def test_fibres_of_one_size():
    """Three squares map onto two locally one to one, but not with equal fibres."""
    three, two = (np.kron(np.eye(k, dtype=int), np.ones((2, 2), dtype=int)) for k in (3, 2))
    assert covering_projection(three, two).verdict == "REFUTED"
    four = np.kron(np.eye(4, dtype=int), np.ones((2, 2), dtype=int))
    uneven = np.array([0, 1, 0, 1, 0, 1, 2, 3])
    check = covering_projection(four, two, (uneven, uneven))
    assert check.reason == "the left map has fibres of 1 to 3 vertices where r = 2 are needed"
    relabelled = shuffled(BiregularGraph.from_mask(four), 1)
    base = BiregularGraph.from_mask(two)
    assert_proved(covering_projection(relabelled, base), relabelled, base)


def test_searches_that_are_given_up(monkeypatch):
    graph, base = shuffled(covering(heawood(), 6, rng=0), 1), heawood()
    monkeypatch.setattr(projections, "SEARCH_BUDGET", 20)
    check = covering_projection(graph, base)
    assert check.verdict == "UNDECIDED"
    assert check.reason == "no covering map was found among 20 assignments"
    monkeypatch.setattr(projections, "_CELLS", 100)
    assert "too large to search" in covering_projection(graph, base).reason
    monkeypatch.setattr(projections, "_EXACT_SIZE", 3)
    random = random_biregular(42, 42, 3, rng=0)
    assert covering_projection(random, base).verdict == "UNDECIDED"


@pytest.mark.parametrize(
    ("projection", "message"),
    [
        (5, "must be a pair"),
        ((np.zeros(7, dtype=int),), "must be a pair"),
        (
            (np.zeros(7), np.zeros(7)),
            r"left map must be an integer array of shape \(7,\), got float",
        ),
        ((np.arange(7), np.arange(6)), "right map must be an integer array of shape"),
        ((np.arange(7), np.arange(7) + 1), r"right map must lie in \[0, 7\), got 1 to 7"),
        ((np.arange(7) - 1, np.arange(7)), r"left map must lie in \[0, 7\), got -1 to 5"),
    ],
)
def test_bad_projections(projection, message):
    with pytest.raises(InvalidInputError, match=message):
        covering_projection(heawood(), heawood(), projection)


def test_bad_graphs():
    with pytest.raises(NotBiregularError):
        covering_projection(heawood(), np.array([[1, 1, 0], [1, 0, 0]]))
