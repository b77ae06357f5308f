"""BiregularGraph: what it refuses, what it equals, and every conversion there and back."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.errors import (
    FileFormatError,
    InfeasibleShapeError,
    InvalidInputError,
    NotBiregularError,
    TooLargeError,
)
from expandermask.graphs import BiregularGraph, Recipe, random_biregular
from tests.oracles import graphs as oracle
from tests.strategies import seeds, shapes

graphs = st.builds(lambda shape, seed: random_biregular(*shape, rng=seed), shapes(10), seeds)

# -- the value itself ------------------------------------------------------------------------


@settings(max_examples=150)
@given(graphs, st.randoms(use_true_random=False))
def test_content_and_views(graph, random):
    rows, n2 = graph.neighbors.tolist(), graph.n2
    dense = oracle.dense(rows, n2)
    assert (graph.n1, graph.d1, graph.num_edges) == (len(rows), len(rows[0]), np.sum(dense))
    assert graph.d2 == np.sum(dense, axis=0)[0]
    assert graph.mask().tolist() == dense
    assert graph.mask().dtype == np.uint8
    assert graph.mask().flags.c_contiguous
    assert graph.gram().tolist() == oracle.gram(dense)
    assert graph.gram().dtype == np.int64
    assert graph.biadjacency().toarray().tolist() == dense
    assert graph.transpose().mask().tolist() == np.transpose(dense).tolist()
    assert graph.transpose().transpose() == graph
    assert graph.digest == oracle.digest(rows, n2)
    shuffled = [random.sample(row, len(row)) for row in rows]
    same = BiregularGraph(shuffled, n2)
    assert same == graph
    assert hash(same) == hash(graph)
    assert same.recipe is None


def test_equality_is_by_content():
    a = BiregularGraph([[0, 1], [2, 3]], 4)
    b = BiregularGraph([[0, 2], [1, 3]], 4)
    assert a != b
    assert a.digest != b.digest
    assert a != "a graph"
    assert len({a, b, BiregularGraph([[1, 0], [3, 2]], 4)}) == 2
    assert BiregularGraph([[0], [1]], 2) != BiregularGraph([[0], [1], [2]], 3)


def test_the_hash_does_not_depend_on_the_label_size():
    wide = random_biregular(300, 300, 2, rng=0)
    assert wide.digest == oracle.digest(wide.neighbors.tolist(), 300)
    exact = random_biregular(256, 256, 2, rng=0)  # labels up to 255 still fit one byte
    assert exact.digest == oracle.digest(exact.neighbors.tolist(), 256)


def test_immutable():
    graph = random_biregular(6, 6, 3, rng=0)
    with pytest.raises(ValueError, match="read-only"):
        graph.neighbors[0, 0] = 5
    with pytest.raises(AttributeError, match="immutable"):
        graph.n2 = 7
    with pytest.raises(AttributeError, match="immutable"):
        del graph.recipe
    before = graph.mask()
    graph.mask()[:] = 0
    graph.gram()[:] = 0
    matrix = graph.biadjacency()
    matrix.data[:3] = 0
    matrix.eliminate_zeros()
    assert np.array_equal(graph.mask(), before)


def test_the_callers_array_is_not_kept():
    rows = np.array([[0, 1], [1, 0]], dtype=np.int32)
    graph = BiregularGraph(rows, 2)
    rows[:] = 7
    assert graph.neighbors.tolist() == [[0, 1], [0, 1]]
    assert rows.flags.writeable


def test_copies_and_pickles_are_equal():
    graph = random_biregular(12, 6, 3, rng=1)
    for other in (copy.copy(graph), copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert other == graph
        assert other.recipe == graph.recipe
        assert not other.neighbors.flags.writeable


def test_as_an_array():
    graph = random_biregular(12, 6, 3, rng=1)
    assert np.array_equal(np.asarray(graph), graph.mask())
    assert np.asarray(graph, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy=False"):
        np.array(graph, copy=False)


def test_masks_near_the_memory_limit(monkeypatch):
    graph = random_biregular(20_000, 20_000, 1, rng=0)
    memory = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match="20000 x 20000 uint8 mask needs about"):
        graph.mask()
    with pytest.raises(TooLargeError, match="20000 x 20000 Gram matrix needs about"):
        graph.gram()


# -- neighbours that are refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("neighbors", "n2", "error", "words"),
    [
        ([[0.0, 1.0], [0.0, 1.0]], 2, InvalidInputError, "float64"),
        ([[True, False], [True, False]], 2, InvalidInputError, "bool"),
        ([["0", "1"], ["0", "1"]], 2, InvalidInputError, "integers"),
        (np.array([[0, 1], [0, 1]], dtype=object), 2, InvalidInputError, "object"),
        ([0, 1], 2, InvalidInputError, "2-D"),
        ([[[0, 1]]], 2, InvalidInputError, "2-D"),
        ([[]], 2, InvalidInputError, "non-empty"),
        ([], 2, InvalidInputError, "non-empty"),
        ([[0, 1], [0]], 2, InvalidInputError, "neighbors"),
        ([[0, 2], [0, 1]], 2, InvalidInputError, r"\[0, 2\)"),
        ([[-1, 0], [0, 1]], 2, InvalidInputError, "got -1"),
        (np.array([[2**64 - 1], [0]], dtype=np.uint64), 2, InvalidInputError, r"\[0, 2\)"),
        ([[0, 0], [1, 1]], 2, InvalidInputError, "parallel"),
        ([[0, 1], [0, 1]], 2.0, InvalidInputError, "n2 must be an integer"),
        ([[0, 1], [0, 1]], True, InvalidInputError, "n2 must be an integer"),
        ([[0, 1], [0, 1]], 0, InvalidInputError, "n2 must be at least 1"),
        ([[0, 1], [0, 1]], 3, InfeasibleShapeError, "not divisible"),
        ([[0, 1], [0, 2], [0, 1]], 3, NotBiregularError, "d2 = n1"),
    ],
)
def test_bad_neighbors(neighbors, n2, error, words):
    with pytest.raises(error, match=words):
        BiregularGraph(neighbors, n2)


# -- recipes ------------------------------------------------------------------------------------


def test_recipe_there_and_back():
    recipe = Recipe("random_biregular", 1, 12, 6, 3, 2**64 - 1)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


GOOD = Recipe("random_biregular", 1, 12, 6, 3, 0).to_dict()


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        {},
        {**GOOD, "more": 1},
        {k: v for k, v in GOOD.items() if k != "seed"},
        *({**GOOD, "n1": bad} for bad in (True, -1, 1.5, "12", None, [12])),
        {**GOOD, "algorithm": 3},
        {**GOOD, "seed": -1},
    ],
)
def test_bad_recipes(bad):
    with pytest.raises(FileFormatError, match="recipe"):
        Recipe.from_dict(bad)
