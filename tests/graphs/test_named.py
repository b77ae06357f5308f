"""Named graphs against constructions from their geometric definitions."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from expandermask.errors import FileFormatError, InvalidInputError, TooLargeError
from expandermask.graphs import (
    BiregularGraph,
    Recipe,
    complete_bipartite,
    desargues,
    heawood,
    hypercube,
    named,
    pappus,
    tutte_coxeter,
)
from expandermask.graphs.geometries import array_code, generalized_quadrangle, projective_plane
from expandermask.graphs.rebuild import BUILDERS, rebuild
from tests import cases

PAIRS = [
    (heawood, cases.projective_plane(2)),
    (pappus, cases.pappus()),
    (desargues, cases.desargues()),
    (tutte_coxeter, cases.tutte_coxeter()),
    *((lambda d=d: hypercube(d), cases.hypercube(d)) for d in range(1, 7)),
]


@pytest.mark.parametrize(("named", "mask"), PAIRS)
def test_isomorphic_to_the_definition(named, mask):
    definition = BiregularGraph.from_mask(mask)
    assert nx.is_isomorphic(named().to_networkx(), definition.to_networkx())


@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        (heawood, projective_plane(2)),
        (pappus, array_code(3, 3)),
        (tutte_coxeter, generalized_quadrangle(2)),
    ],
)
def test_the_smallest_geometries(name, geometry):
    assert nx.is_isomorphic(name().to_networkx(), geometry.to_networkx())


def test_complete_bipartite():
    assert np.array_equal(complete_bipartite(4, 7).mask(), np.ones((4, 7)))


@pytest.mark.parametrize("bad", [0, -1, True, 2.0, "3"])
def test_bad_sizes(bad):
    with pytest.raises(InvalidInputError, match="n2"):
        complete_bipartite(3, bad)
    with pytest.raises(InvalidInputError, match="dimension"):
        hypercube(bad)


@pytest.mark.parametrize("dimension", [32, 40, 2000, 2**31 - 1])
def test_hypercubes_with_too_many_vertices_to_number(dimension):
    with pytest.raises(InvalidInputError, match="dimension must be at most 31"):
        hypercube(dimension)


@pytest.mark.parametrize("build", [lambda: hypercube(31), lambda: complete_bipartite(10**6, 10**6)])
def test_graphs_larger_than_memory_are_refused(build):
    with pytest.raises(TooLargeError, match="GiB"):
        build()


GOLDEN = {
    "complete_bipartite(5, 3)": "af24e48c4bc5e059",
    "heawood()": "079ab8222febaf2f",
    "pappus()": "e35c45a86065904e",
    "desargues()": "b9164b58877c1f7f",
    "tutte_coxeter()": "c7476960f2f3a8fa",
    "hypercube(1)": "47c5ac3d73d9252f",
    "hypercube(6)": "316ad96e51a6ac61",
}


@pytest.fixture
def _registered(monkeypatch):
    for name, builder in named.BUILDERS.items():
        monkeypatch.setitem(BUILDERS, name, builder)


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("call", GOLDEN)
def test_recipes_rebuild_the_identical_graph(call):
    graph = eval(call, vars(named))
    assert graph.digest[:16] == GOLDEN[call]
    assert graph.recipe == Recipe(call.split("(")[0], 1, graph.n1, graph.n2, graph.d1, 0)
    again = rebuild(Recipe.from_dict(graph.recipe.to_dict()))
    assert again == graph
    assert again.recipe == graph.recipe


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("name", named.BUILDERS)
@pytest.mark.parametrize(
    "change", [{"n1": 0}, {"n2": 0}, {"d1": 0}, {"d1": 2}, {"d1": 40}, {"seed": 1}, {"version": 2}]
)
def test_recipes_of_other_graphs_are_refused(name, change):
    shapes = {"complete_bipartite": (5, 3, 3), "hypercube": (4, 4, 3), "pappus": (9, 9, 3)}
    shapes |= {"heawood": (7, 7, 3), "desargues": (10, 10, 3), "tutte_coxeter": (15, 15, 3)}
    n1, n2, d1 = shapes[name]
    right = Recipe(name, 1, n1, n2, d1)
    assert rebuild(right).d1 == d1
    with pytest.raises(FileFormatError):
        rebuild(Recipe.from_dict({**right.to_dict(), **change}))
