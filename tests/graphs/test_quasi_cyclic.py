"""quasi_cyclic: lifts as defined, the same forever, and strict about what it is asked."""

from __future__ import annotations

import re
from importlib import import_module

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.errors import (
    FileFormatError,
    InfeasibleShapeError,
    InvalidInputError,
    TooLargeError,
)
from expandermask.graphs import BiregularGraph, Recipe, random_biregular, rebuild
from expandermask.graphs.quasi_cyclic import ALGORITHM, BUILDERS, quasi_cyclic
from expandermask.graphs.random import derive_seed
from tests.oracles import blocks as oracle
from tests.oracles import graphs
from tests.strategies import seeds, shapes

GOLDEN = [
    ((12, 6, 3, 2, 0), "cc38309837dc77dc789683d1f73be2107d228d5f60a46b91cae87d7a2228205f"),
    (
        (40, 60, 6, 5, 2**64 - 1),
        "d4ca872359b03d60738f61bba42afd697b92d801b39f6374f95c875d2cab938c",
    ),
    (
        (2000, 1000, 3, None, 7),
        "00fadd1ac7daa008af6d04d4f23545c6fef99124e46fdc5da59895b56d74fcef",
    ),
]


@pytest.fixture(autouse=True)
def known_to_rebuild(monkeypatch):
    known = import_module("expandermask.graphs.rebuild").BUILDERS
    monkeypatch.setitem(known, ALGORITHM, BUILDERS[ALGORITHM])


@settings(max_examples=150)
@given(shapes(7), st.integers(1, 9), seeds)
def test_a_lift_as_defined(base_shape, r, seed):
    m1, m2, d1 = base_shape
    graph = quasi_cyclic(m1 * r, m2 * r, d1, r=r, rng=seed)
    base = graphs.random_rows(m1, m2, d1, derive_seed(seed, "quasi_cyclic", "base"))
    drawn = oracle.voltages(base, r, derive_seed(seed, "quasi_cyclic", "voltages"))
    rows = oracle.lift(base, drawn, r)
    assert graph.neighbors.dtype == np.int32
    assert graph.neighbors.tolist() == rows
    assert graph == BiregularGraph(rows, m2 * r)  # biregular, simple, labels in range
    assert oracle.is_automorphism(rows, r)


@settings(max_examples=60)
@given(shapes(6), st.integers(1, 8), seeds)
def test_it_covers_its_base(base_shape, r, seed):
    m1, m2, d1 = base_shape
    graph = quasi_cyclic(m1 * r, m2 * r, d1, r=r, rng=seed)
    assert graph.recipe is not None
    base = rebuild(graph.recipe.base)
    assert (base.n1, base.n2, base.d1) == base_shape
    for i, row in enumerate(graph.neighbors.tolist()):
        assert [x // r for x in row] == base.neighbors[i // r].tolist()


@settings(max_examples=60)
@given(shapes(8), st.integers(1, 8), seeds)
def test_the_recipe_makes_it_again(base_shape, r, seed):
    m1, m2, d1 = base_shape
    graph = quasi_cyclic(m1 * r, m2 * r, d1, r=r, rng=seed)
    recipe = graph.recipe
    assert recipe is not None
    assert (recipe.algorithm, recipe.version, recipe.seed) == ("quasi_cyclic", 1, seed)
    assert (recipe.n1, recipe.n2, recipe.d1) == (m1 * r, m2 * r, d1)
    assert recipe.n1 == recipe.base.n1 * r
    other = rebuild(Recipe.from_dict(recipe.to_dict()))
    assert other == graph
    assert other.recipe == recipe


@pytest.mark.parametrize(("request_", "digest"), GOLDEN, ids=str)
def test_golden_hashes(request_, digest):
    n1, n2, d1, r, seed = request_
    assert quasi_cyclic(n1, n2, d1, r=r, rng=seed).digest == digest


def test_voltages_are_uniform():
    """All voltages of many draws of one shape, by a chi-square far out in its tail."""
    r, counts = 7, np.zeros(7)
    for seed in range(200):
        rows = quasi_cyclic(70, 35, 3, r=r, rng=seed).neighbors[::r]
        counts += np.bincount(rows.ravel() % r, minlength=r)
    expected = counts.sum() / r
    assert ((counts - expected) ** 2 / expected).sum() < 30  # 6 degrees of freedom: p = 4e-5


@pytest.mark.parametrize(
    ("shape", "r"),
    [
        ((100_000, 50_000, 3), 80),
        ((30_000, 30_000, 3), 80),
        ((20_000, 10_000, 3), 80),
        ((10_000, 20_000, 6), 80),
        ((12, 6, 3), 2),
        ((8, 8, 4), 2),
        ((9, 9, 3), 3),
        ((160, 100, 25), 4),
        ((14, 14, 1), 14),
    ],
)
def test_the_usual_order(shape, r):
    graph = quasi_cyclic(*shape, rng=0)
    assert graph.n1 == graph.recipe.base.n1 * r


def test_seeds():
    graph = quasi_cyclic(40, 40, 3, rng=np.random.default_rng(3))
    assert graph == quasi_cyclic(40, 40, 3, rng=np.random.default_rng(3))
    assert graph == quasi_cyclic(40, 40, 3, rng=graph.recipe.seed)
    assert len({quasi_cyclic(40, 40, 3).recipe.seed for _ in range(5)}) == 5
    with pytest.raises(InvalidInputError, match="rng"):
        quasi_cyclic(40, 40, 3, rng=-1)


@pytest.mark.parametrize("r", [0, -2, True, 2.0, "2"])
def test_orders_that_are_no_orders(r):
    with pytest.raises(InvalidInputError, match=r"^r must be"):
        quasi_cyclic(40, 40, 3, r=r, rng=0)


@pytest.mark.parametrize(("shape", "r"), [((2, 2, 2), 2), ((6, 6, 4), 2), ((60, 30, 4), 10)])
def test_orders_whose_base_would_need_parallel_edges(shape, r):
    with pytest.raises(InvalidInputError, match=rf"^r must divide .* got {r}; the nearest"):
        quasi_cyclic(*shape, r=r, rng=0)


@settings(max_examples=100)
@given(shapes(30), st.integers(1, 40))
def test_the_order_an_error_names_does_work(shape, r):
    try:
        graph = quasi_cyclic(*shape, r=r, rng=0)
    except InvalidInputError as error:
        found = re.search(r"the nearest that works: r = (\d+)$", str(error))
        assert found
        nearest = int(found[1])
        graph = quasi_cyclic(*shape, r=nearest, rng=0)
        between = range(min(r, nearest) + 1, max(r, nearest))
        n1, n2, d1 = shape
        assert not [s for s in between if n1 % s == 0 and n2 % s == 0 and d1 * s <= n2]
    else:
        assert graph.recipe.base.n1 * r == graph.n1


@settings(max_examples=100)
@given(shapes(30))
def test_the_degree_an_error_names_does_work(shape):
    n1, n2, _ = shape
    message = ""
    try:
        quasi_cyclic(*shape, rng=0)
    except InfeasibleShapeError as error:
        message = str(error)
    if found := re.search(r"nearest that works: d1 = (\d+) \(r = (\d+)\)$", message):
        quasi_cyclic(n1, n2, int(found[1]), r=int(found[2]), rng=0)
    elif message:
        assert np.gcd(n1, n2) == 1
        assert message.endswith("no common factor")


def test_infeasible_shapes():
    with pytest.raises(InfeasibleShapeError, match="not divisible by n2 = 7"):
        quasi_cyclic(10, 7, 2, rng=0)


@pytest.mark.parametrize(
    "change",
    [
        {"base": None},
        {"n1": 101},
        {"n1": 50},
        {"n1": 1},
        {"n2": 51},
        {"d1": 2},
        {"version": 2},
        {"base": random_biregular(30, 15, 3, rng=0).recipe},
    ],
    ids=str,
)
def test_recipes_that_cannot_be_rebuilt(change):
    recipe = quasi_cyclic(100, 50, 3, r=5, rng=0).recipe
    fields = {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
    with pytest.raises(FileFormatError):
        rebuild(Recipe(**{**fields, **change}))


def test_any_base_may_be_lifted_by_a_recipe():
    base = random_biregular(20, 10, 3, rng=99)
    recipe = Recipe("quasi_cyclic", 1, 100, 50, 3, 4, base=base.recipe)
    graph = rebuild(recipe)
    assert graph.recipe == recipe
    assert (graph.neighbors[::5] // 5).tolist() == base.neighbors.tolist()


def test_more_than_there_is_room_for(monkeypatch):
    with pytest.raises(InvalidInputError, match=r"2148000000 edges; the limit"):
        quasi_cyclic(1_074_000_000, 1_074_000_000, 2, r=1_074_000, rng=0)
    memory = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match=r"30000000 edges needs about .* GiB"):
        quasi_cyclic(10**7, 10**7, 3, rng=0)
