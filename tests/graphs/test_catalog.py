"""ramanujan_graph: proved or an error that helps; rebuild: bit for bit or refused."""

from __future__ import annotations

import re
from dataclasses import replace

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import certify, ramanujan_graph
from expandermask.errors import (
    FileFormatError,
    InfeasibleShapeError,
    InvalidInputError,
    NotProvedError,
    TooLargeError,
)
from expandermask.graphs import (
    Recipe,
    catalog,
    complete_bipartite,
    covering,
    feasible,
    random_biregular,
    rebuild,
)
from tests.oracles import graphs as oracle
from tests.oracles import spectra
from tests.strategies import feasible_shapes, seeds, shapes


def exact_counts(graph):
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    gram = oracle.gram(side.mask().tolist())
    return spectra.ramanujan_counts(gram, side.d1, side.d2)


@settings(max_examples=150)
@given(shapes(10, least_degree=2), st.sampled_from(["auto", "design", "random"]), seeds)
def test_what_it_returns_is_ramanujan_in_exact_arithmetic(shape, method, seed):
    graph = ramanujan_graph(*shape, method=method, rng=seed)
    assert (graph.n1, graph.n2, graph.d1) == shape
    assert exact_counts(graph)[0] == 0
    assert oracle.components(graph.mask().tolist()) == 1
    assert rebuild(graph.recipe) == graph
    assert ramanujan_graph(*shape, method=method, rng=seed) == graph


def test_it_retries_until_one_is_proved():
    """Disconnected two-regular graphs, and first draws above the bound, are passed over."""
    retried = 0
    for seed in range(60):
        for shape in [(12, 12, 2), (20, 20, 3)]:
            first = random_biregular(*shape, rng=seed)
            graph = ramanujan_graph(*shape, method="random", rng=seed)
            good = exact_counts(first)[0] == 0 and oracle.components(first.mask().tolist()) == 1
            assert (graph == first) == good
            assert certify(graph).verdict == "PROVED"
            retried += not good
    assert retried > 5


def bad_seed(shape):
    return next(
        s for s in range(1000) if certify(random_biregular(*shape, rng=s)).verdict != "PROVED"
    )


def only_one_try(monkeypatch, method):
    once = replace(catalog._CONSTRUCTIONS[method], tries=1)
    monkeypatch.setitem(catalog._CONSTRUCTIONS, method, once)


def test_giving_up_says_what_was_seen_and_what_works(monkeypatch):
    only_one_try(monkeypatch, "random")
    shape = (16, 16, 3)
    with pytest.raises(NotProvedError, match="could be proved Ramanujan") as caught:
        ramanujan_graph(*shape, method="random", rng=bad_seed(shape))
    seen = re.search(r"sigma_2 seen is ([\d.]+), the bound ([\d.]+)", str(caught.value))
    assert seen is not None
    assert float(seen[1]) > float(seen[2])
    works = re.search(
        r"d1=(\d+) works at this shape \(method='random', rng=(\d+)", str(caught.value)
    )
    assert works is not None
    graph = random_biregular(16, 16, int(works[1]), rng=int(works[2]))
    assert graph.d1 != 3
    assert certify(graph).verdict == "PROVED"


@pytest.mark.parametrize("method", ["Random", "LPS", "", None, 3, "designs"])
def test_unknown_method(method):
    with pytest.raises(InvalidInputError, match=r"method must be one of .*'design', 'random'"):
        ramanujan_graph(12, 6, 3, method=method)


@pytest.mark.parametrize(
    ("method", "shape", "algorithm"),
    [
        ("auto", (768, 8, 2), "design"),
        ("design", (768, 8, 2), "design"),
        ("random", (768, 8, 2), "random_biregular"),
        ("covering", (768, 8, 2), "two_lift_tower"),
        ("covering", (45, 45, 3), "random_covering"),
        ("covering", (28, 14, 6), "two_lift_tower"),
        ("quasi-cyclic", (80, 40, 3), "quasi_cyclic"),
        ("lps", (60, 60, 4), "lps"),
        ("interlacing", (12, 12, 3), "gribinski_marcus"),
        ("geometry", (24, 64, 8), "transpose"),
    ],
)
def test_every_method_makes_what_it_says(method, shape, algorithm):
    graph = ramanujan_graph(*shape, method=method, rng=3)
    assert (graph.n1, graph.n2, graph.d1) == shape
    assert graph.recipe.algorithm == algorithm
    assert certify(graph).verdict == "PROVED"
    assert rebuild(graph.recipe) == graph


@pytest.mark.parametrize(
    ("method", "shape", "message"),
    [
        ("covering", (14, 7, 3), "covers nothing smaller"),
        ("quasi-cyclic", (9, 4, 4), "no common factor"),
        ("lps", (768, 8, 2), "the sides of an LPS graph are equal"),
        ("lps", (60, 60, 5), "d1 - 1 = 4 is not an odd prime p"),
        ("interlacing", (12, 8, 2), "must be a multiple of the other"),
        ("geometry", (12, 6, 3), "no projective plane, generalised quadrangle or array code"),
    ],
)
def test_a_method_that_cannot_says_why_and_which_can(method, shape, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        ramanujan_graph(*shape, method=method, rng=0)
    able = str(caught.value).split("those that can: ")[1].split(", ")
    assert method not in able
    assert able == [option.method for option in feasible(*shape) if option.works]


@settings(max_examples=60, deadline=None)
@given(shapes(16, least_degree=2), seeds)
def test_feasible_is_what_ramanujan_graph_does(shape, seed):
    answers = feasible(*shape)
    assert [option.method for option in answers] == list(catalog.METHODS[1:])
    able = {option.method: option.works for option in answers}
    assert able[answers.auto]
    for method, works in able.items():
        if not works:
            with pytest.raises(InvalidInputError, match="cannot make"):
                ramanujan_graph(*shape, method=method, rng=seed)
        elif method != "interlacing":  # seconds; test_gribinski_marcus has it
            graph = ramanujan_graph(*shape, method=method, rng=seed)
            assert (graph.n1, graph.n2, graph.d1) == shape
    graph = ramanujan_graph(*shape, rng=seed)
    assert graph == ramanujan_graph(*shape, method=answers.auto, rng=seed)


def test_feasible_prints_a_table():
    lines = str(feasible(60, 60, 4)).splitlines()
    assert lines[0].startswith("60 x 60, d1 = 4; auto: design")
    assert any(line.split() == ["lps", "yes", "lps(3,", "5)"] for line in lines)
    assert sum(line.split()[1] == "no" for line in lines[1:]) == 1


@pytest.mark.parametrize(
    ("shape", "works"), [((6, 6, 1), 2), ((2, 4, 2), 4), ((6, 3, 1), 2), ((10, 20, 2), 4)]
)
def test_stars_are_refused_with_the_nearest_degree(shape, works):
    with pytest.raises(
        InfeasibleShapeError, match=rf"union of stars.*that work: d1 = {works}(;|$)"
    ):
        ramanujan_graph(*shape, rng=0)
    assert certify(ramanujan_graph(shape[0], shape[1], works, rng=0)).verdict == "PROVED"


@pytest.mark.parametrize(
    ("shape", "mend"), [((1, 5, 5), "n1 = 2$"), ((5, 1, 1), "nothing near"), ((1, 1, 1), "nothing")]
)
def test_stars_that_no_degree_mends(shape, mend):
    with pytest.raises(InfeasibleShapeError, match=f"union of stars.*{mend}"):
        ramanujan_graph(*shape)


def test_huge_shapes_are_refused_at_once(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(catalog, "random_biregular", None)  # nothing may be drawn
    with pytest.raises(
        TooLargeError, match=r"smaller side has 15000 vertices needs about 5\.0 GiB"
    ):
        ramanujan_graph(15_000, 15_000, 3)
    with pytest.raises(TooLargeError, match="up to 16384 vertices on the smaller side"):
        ramanujan_graph(20_000, 20_000, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("algorithm", "lps"), ("version", 2), ("version", 0), ("n1", 13), ("d1", 7), ("seed", 2**64)],
)
def test_recipes_that_cannot_be_rebuilt(field, value):
    recipe = {**random_biregular(12, 6, 3, rng=0).recipe.to_dict(), field: value}
    with pytest.raises(FileFormatError):
        rebuild(Recipe.from_dict(recipe))


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "hypercube", "n1": 1, "n2": 1, "d1": 24},
        {"algorithm": "complete_bipartite", "n1": 40_000, "n2": 40_000, "d1": 2},
        {"algorithm": "gribinski_marcus", "n1": 100_000, "n2": 50_000, "d1": 3},
        {"algorithm": "gribinski_marcus", "n1": 300, "n2": 100, "d1": 50},
        {"algorithm": "lps", "n1": 10**6, "n2": 10**6, "d1": 6},
        {"algorithm": "quasi_cyclic", "n1": 10**4000, "n2": 10, "d1": 3},
        {"algorithm": "random_biregular", "base": {}},
        {"algorithm": "transpose"},
    ],
)
def test_hostile_recipes_are_refused_before_anything_is_built(changes):
    recipe = {**random_biregular(12, 6, 3, rng=0).recipe.to_dict(), **changes}
    if "base" in changes:
        recipe["base"] = random_biregular(6, 6, 3, rng=0).recipe.to_dict()
    with pytest.raises(FileFormatError):
        rebuild(Recipe.from_dict(recipe))


def test_a_recipe_that_no_file_could_hold_is_not_kept():
    graph = complete_bipartite(3, 2)
    for layers in [2, 1, 1, 1, 1, 1, 1, 1]:
        graph = covering(graph, layers, rng=0)
        assert rebuild(Recipe.from_dict(graph.recipe.to_dict())) == graph
    assert graph.transpose().recipe is None
    assert covering(graph, 1).recipe is None


def test_feasible_answers_at_once_for_the_largest_shapes():
    for shape in [(2**28, 2**28, 2), (2**31 - 1, 2**31 - 1, 3), (10**9, 10**9, 10**9)]:
        assert len(feasible(*shape).options) == len(catalog.METHODS) - 1


def test_random_proves_every_shape_up_to_40():
    """All sets with 2 <= n2 <= n1 <= 40 and 2 <= d1 < n2 that both degrees allow."""
    every = [s for s in feasible_shapes(40, least_degree=2) if s[0] >= s[1] > s[2]]
    assert len(every) == 1548
    for shape in every:
        graph = ramanujan_graph(*shape, method="random", rng=0)
        assert (graph.n1, graph.n2, graph.d1, certify(graph).verdict) == (*shape, "PROVED")


@pytest.mark.slow
def test_auto_proves_every_shape_up_to_40():
    """All 2,328 sets with 2 <= n2 <= n1 <= 40 and 2 <= d1 <= n2, the complete graphs among them."""
    every = [s for s in feasible_shapes(40, least_degree=2) if s[0] >= s[1]]
    assert len(every) == 2328
    for shape in every:
        graph = ramanujan_graph(*shape, rng=1)
        assert (graph.n1, graph.n2, graph.d1, certify(graph).verdict) == (*shape, "PROVED")
