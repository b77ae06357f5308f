"""girth and diameter against plain breadth-first searches, networkx and known graphs."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import psutil
import pytest
from hypothesis import given, settings

from expandermask.errors import InfeasibleShapeError, InvalidInputError, TooLargeError
from expandermask.graphs import (
    BiregularGraph,
    _distance_kernels,
    complete_bipartite,
    desargues,
    heawood,
    hypercube,
    pappus,
    random_biregular,
    tutte_coxeter,
)
from expandermask.graphs import _kernels as kernels
from expandermask.graphs.distances import diameter, girth, least_diameter
from tests.oracles import distances as oracle
from tests.oracles import graphs as graph_oracle
from tests.strategies import seeds, shapes
from tests.without_compiler import only_with_compiler, passed_without_compiler

KNOWN = [  # graph, girth, diameter
    (heawood(), 6, 3),
    (pappus(), 6, 4),
    (desargues(), 6, 5),
    (tutte_coxeter(), 8, 4),
    (hypercube(2), 4, 2),
    (hypercube(5), 4, 5),
    (complete_bipartite(3, 5), 4, 2),
    (complete_bipartite(1, 4), math.inf, 2),
    (complete_bipartite(4, 1), math.inf, 2),
    (complete_bipartite(1, 1), math.inf, 1),
    (BiregularGraph([[0], [1]], 2), math.inf, math.inf),
    (BiregularGraph([[0, 1], [0, 1], [2, 3], [2, 3]], 4), 4, math.inf),
    (BiregularGraph([[i, (i + 1) % 9] for i in range(9)], 9), 18, 9),
]


@pytest.mark.parametrize(("graph", "cycle", "distance"), KNOWN)
def test_known_graphs(graph, cycle, distance):
    for turned in (graph, graph.transpose()):
        assert girth(turned) == cycle
        assert diameter(turned) == distance


@settings(max_examples=60)
@given(shapes(7), seeds)
def test_kernels_agree_with_the_oracle(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    rows, n2 = graph.neighbors.tolist(), graph.n2
    for root in range(graph.n1):
        assert girth(graph, roots=[root]) == oracle.shortest_cycle(rows, n2, root)
        assert diameter(graph, roots=[root]) == oracle.eccentricity(rows, n2, root)
    assert girth(graph) == oracle.girth(rows, n2)
    assert diameter(graph) == oracle.diameter(rows, n2)
    parts = _distance_kernels.components(graph.neighbors, n2)
    assert parts == graph_oracle.components(graph_oracle.dense(rows, n2))


@settings(max_examples=40)
@given(shapes(40, least_degree=2), seeds)
def test_agrees_with_networkx(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    other = graph.to_networkx()
    assert girth(graph) == nx.girth(other)
    if nx.is_connected(other):
        assert diameter(graph) == nx.diameter(other)
        assert diameter(graph) >= least_diameter(*shape)
    else:
        assert diameter(graph) == math.inf


def test_one_root_is_not_the_girth_of_an_intransitive_graph():
    """A square, and a hexagon: the two are the cycles through left vertices 0 and 2."""
    graph = BiregularGraph([[0, 1], [0, 1], [2, 3], [3, 4], [2, 4]], 5)
    assert [girth(graph, roots=[i]) for i in range(5)] == [4, 4, 6, 6, 6]
    assert girth(graph, roots=[2, 3]) == 6
    assert girth(graph, roots=[2, 0]) == girth(graph) == 4


def test_the_working_arrays_are_left_as_they_were_found():
    graph = tutte_coxeter()
    starts = np.arange(0, 91, 3)
    back = kernels.transpose_rows(graph.neighbors, 15)
    targets = np.concatenate([graph.neighbors.ravel() + 15, back.ravel()]).astype(np.int32)
    branch, queue = np.full(30, -1, dtype=np.int32), np.empty(30, dtype=np.int32)
    seen = np.zeros(30, dtype=np.uint8)
    for root in range(30):
        arguments = starts, targets, root
        assert _distance_kernels.shortest_cycle(*arguments, 31, branch, queue) == 8
        assert _distance_kernels.shortest_cycle(*arguments, 8, branch, queue) == 8
        assert _distance_kernels.shortest_cycle(*arguments, 6, branch, queue) == 6
        assert _distance_kernels.eccentricity(*arguments, seen, queue) == 4
        assert (branch == -1).all()
        assert not seen.any()


@pytest.mark.parametrize("roots", [[], [7], [0, -1], [1.0], [True], ["0"]])
@pytest.mark.parametrize("measure", [girth, diameter])
def test_bad_roots(measure, roots):
    with pytest.raises(InvalidInputError, match="roots"):
        measure(heawood(), roots=roots)


@pytest.mark.parametrize("measure", [girth, diameter])
def test_a_bar_on_request_after_a_while(measure, capsys, monkeypatch):
    measure(heawood(), progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("expandermask.graphs.distances._PATIENCE", 0.0)
    measure(heawood(), progress=True)
    assert measure.__name__ in capsys.readouterr().err


@pytest.mark.parametrize("measure", [girth, diameter])
def test_more_memory_than_there_is(measure, monkeypatch):
    everything = np.broadcast_to(np.arange(10**6, dtype=np.int32), (8, 10**6))
    graph = BiregularGraph._trusted(everything, 10**6)
    memory = psutil.virtual_memory()._replace(available=10**6)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match="GiB"):
        measure(graph)


def test_least_diameter():
    assert least_diameter(15, 15, 3) == 4  # the Tutte-Coxeter graph attains it
    assert least_diameter(16, 16, 3) == 5
    assert least_diameter(5, 3, 3) == 2  # so does K_{5,3}
    assert least_diameter(3, 5, 5) == 2
    assert least_diameter(4, 6, 3) == least_diameter(6, 4, 2) == 4  # from the larger side
    assert least_diameter(100, 100, 2) == 100  # and a cycle
    with pytest.raises(InfeasibleShapeError, match="stars"):
        least_diameter(4, 1, 1)
    with pytest.raises(InvalidInputError, match="n1"):
        least_diameter(0, 1, 1)


@only_with_compiler
def test_the_kernels_pass_with_the_compiler_off():
    names = "kernels_agree or known_graphs or least or left_as"
    assert passed_without_compiler(__file__, names) > 0
