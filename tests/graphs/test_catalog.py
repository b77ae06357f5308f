"""ramanujan_graph: proved or an error that helps; rebuild: bit for bit or refused."""

from __future__ import annotations

import re

import psutil
import pytest
from hypothesis import given, settings

from expandermask import certify, ramanujan_graph
from expandermask.errors import (
    FileFormatError,
    InfeasibleShapeError,
    InvalidInputError,
    NotProvedError,
    TooLargeError,
)
from expandermask.graphs import Recipe, catalog, random_biregular, rebuild
from tests.oracles import graphs as oracle
from tests.oracles import spectra
from tests.strategies import feasible_shapes, seeds, shapes


def exact_counts(graph):
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    gram = oracle.gram(side.mask().tolist())
    return spectra.ramanujan_counts(gram, side.d1, side.d2)


@settings(max_examples=150)
@given(shapes(10, least_degree=2), seeds)
def test_what_it_returns_is_ramanujan_in_exact_arithmetic(shape, seed):
    graph = ramanujan_graph(*shape, rng=seed)
    assert (graph.n1, graph.n2, graph.d1) == shape
    assert exact_counts(graph)[0] == 0
    assert oracle.components(graph.mask().tolist()) == 1
    assert rebuild(graph.recipe) == graph
    assert ramanujan_graph(*shape, rng=seed) == graph


def test_it_retries_until_one_is_proved():
    """Disconnected two-regular graphs, and first draws above the bound, are passed over."""
    retried = 0
    for seed in range(60):
        for shape in [(12, 12, 2), (20, 20, 3)]:
            first = random_biregular(*shape, rng=seed)
            graph = ramanujan_graph(*shape, rng=seed)
            good = exact_counts(first)[0] == 0 and oracle.components(first.mask().tolist()) == 1
            assert (graph == first) == good
            assert certify(graph).verdict == "PROVED"
            retried += not good
    assert retried > 5


def bad_seed(shape):
    return next(
        s for s in range(1000) if certify(random_biregular(*shape, rng=s)).verdict != "PROVED"
    )


def test_giving_up_says_what_was_seen_and_what_works(monkeypatch):
    monkeypatch.setattr(catalog, "MAX_TRIES", 1)
    shape = (16, 16, 3)
    with pytest.raises(NotProvedError, match="out of 1 could be proved") as caught:
        ramanujan_graph(*shape, rng=bad_seed(shape))
    seen = re.search(r"sigma_2 seen is ([\d.]+), the bound ([\d.]+)", str(caught.value))
    assert seen is not None
    assert float(seen[1]) > float(seen[2])
    works = re.search(r"d1=(\d+) works at this shape \(rng=(\d+)\)", str(caught.value))
    assert works is not None
    assert ramanujan_graph(16, 16, int(works[1]), rng=int(works[2])).d1 != 3


@pytest.mark.parametrize("method", ["Random", "lps", "", None, 3, "design"])
def test_unknown_method(method):
    with pytest.raises(InvalidInputError, match="method must be one of"):
        ramanujan_graph(12, 6, 3, method=method)


def test_both_methods_there_are():
    graph = random_biregular(768, 8, 2, rng=1)
    assert ramanujan_graph(768, 8, 2, method="auto", rng=1) == graph
    assert ramanujan_graph(768, 8, 2, method="random", rng=1) == graph


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
        TooLargeError, match=r"smaller side has 20000 vertices needs about 8\.9 GiB"
    ):
        ramanujan_graph(20_000, 20_000, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("algorithm", "lps"), ("version", 2), ("version", 0), ("n1", 13), ("d1", 7), ("seed", 2**64)],
)
def test_recipes_that_cannot_be_rebuilt(field, value):
    recipe = {**random_biregular(12, 6, 3, rng=0).recipe.to_dict(), field: value}
    with pytest.raises(FileFormatError):
        rebuild(Recipe.from_dict(recipe))


def test_every_shape_up_to_40_is_proved():
    """All sets with 2 <= n2 <= n1 <= 40 and 2 <= d1 < n2 that both degrees allow."""
    every = [s for s in feasible_shapes(40, least_degree=2) if s[0] >= s[1] > s[2]]
    assert len(every) == 1548
    for shape in every:
        graph = ramanujan_graph(*shape, rng=0)
        assert (graph.n1, graph.n2, graph.d1, certify(graph).verdict) == (*shape, "PROVED")
