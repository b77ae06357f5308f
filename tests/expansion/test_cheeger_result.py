"""What goes into cheeger() and comes out: refusals, seeds, tables, JSON, progress bars."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from importlib import import_module

import networkx as nx
import numpy as np
import pytest

from expandermask.errors import InvalidInputError
from expandermask.expansion import _exact_search as search
from expandermask.expansion.adjacency import adjacency, component_labels
from expandermask.expansion.cheeger import cheeger
from expandermask.graphs import heawood, random_biregular
from expandermask.graphs.bipartite import as_bipartite
from tests.strategies import KINDS

BEYOND = random_biregular(96, 64, 2, rng=0)
"""A graph too large for exact search, soon measured."""


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (nx.petersen_graph(), "odd cycle"),
        (np.zeros((0, 3), dtype=int), "non-empty"),
        (np.array([[0, 2]]), "2"),
        (np.array([0, 1]), "2-D"),
        ("mask", "load_mask"),
    ],
)
def test_what_is_no_mask(bad, message):
    with pytest.raises(InvalidInputError, match=message):
        cheeger(bad)


@pytest.mark.parametrize("kind", ["edges", "Edge", "", None, 0])
def test_unknown_kinds(kind):
    with pytest.raises(InvalidInputError, match="kind must be 'edge' or 'vertex'"):
        cheeger(heawood(), kind)


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, "5", True])
def test_seconds_that_are_none(seconds):
    with pytest.raises(InvalidInputError, match="milp_seconds must be"):
        cheeger(heawood(), milp_seconds=seconds)


def test_as_json_and_as_rows():
    found = cheeger(heawood(), "vertex")
    document = json.loads(found.to_json())
    assert document["format"] == "expandermask cheeger constant"
    assert Fraction(document["lower"]) == Fraction(document["upper"]) == found.upper
    assert document["upper_float"] == float(found.upper)
    left, right = document["cut"]["left"], document["cut"]["right"]
    assert len(left) + len(right) == document["cut"]["size"] == found.cut.size
    assert dict(found.rows())["value"] == str(found.upper)
    assert str(found.upper) in str(found)


def test_as_rows_without_the_value():
    found = cheeger(BEYOND, rng=0)
    rows = dict(found.rows())
    assert rows["value"] == f"in [{float(found.lower):.6g}, {float(found.upper):.6g}]"
    assert sum(name.startswith("lower bound: ") for name in rows) == len(found.bounds)
    assert not found.exact
    assert "exact" not in str(found)


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_one_result(kind):
    found = cheeger(BEYOND, kind, rng=7)
    assert found.seed == found.to_dict()["seed"] == json.loads(found.to_json())["seed"] == 7
    assert dict(found.rows())["seed"] == "7"
    assert cheeger(BEYOND, kind, rng=7) == found
    drawn = cheeger(BEYOND, kind)
    assert cheeger(BEYOND, kind, rng=drawn.seed).to_dict() == drawn.to_dict()
    assert cheeger(BEYOND, kind).seed != drawn.seed


@pytest.mark.parametrize("mask", [heawood(), np.eye(3, dtype=int), BEYOND])
def test_a_generator_is_asked_for_one_seed_whatever_the_graph(mask):
    generator, same = np.random.default_rng(5), np.random.default_rng(5)
    seed = cheeger(mask, rng=generator).seed
    assert seed == int(same.integers(2**64, dtype=np.uint64))
    assert generator.bit_generator.state == same.bit_generator.state


def test_the_seed_is_shown_where_it_played_a_part():
    assert "seed" not in dict(cheeger(heawood()).rows())
    assert cheeger(heawood(), rng=3).to_dict()["seed"] == 3


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "one"])
def test_what_is_no_seed(seed):
    with pytest.raises(InvalidInputError, match="rng"):
        cheeger(heawood(), rng=seed)


def test_results_compare_and_hash_by_what_they_say():
    """Whatever their seeds, and from graphs that are other objects."""
    found, again = (cheeger(heawood().mask(), rng=seed) for seed in (0, 1))
    assert found == again
    assert len({found, again, cheeger(heawood(), "vertex")}) == 2
    assert found != cheeger(heawood(), "vertex")
    assert cheeger(BEYOND, rng=0) != found


def test_neighbours_and_components_are_looked_for_once():
    """Flows may need those of the transpose as well."""
    for found in (adjacency, component_labels):
        found.cache_clear()
    graph = as_bipartite(BEYOND)
    cheeger(graph, rng=0)
    assert component_labels.cache_info().misses == 1
    assert adjacency.cache_info().misses <= 2
    assert adjacency.cache_info().hits > 0


@pytest.mark.parametrize(("module", "what"), [("flow", "flow"), ("cut_search", "cuts")])
def test_the_searches_show_bars_to_a_terminal_alone(module, what, monkeypatch):
    shown = []

    def bar(items, **options):
        shown.append(options)
        return items

    monkeypatch.setattr(import_module(f"expandermask.expansion.{module}"), "tqdm", bar)
    cheeger(BEYOND, rng=0)
    assert [options["desc"] for options in shown] == [what]
    assert shown[0]["disable"] is None
    assert shown[0]["delay"] > 0


def test_a_progress_bar_where_it_takes_long(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(search, "tqdm", lambda **options: shown.append(options) or _Bar())
    cheeger(heawood())
    assert shown.pop()["disable"] is True
    monkeypatch.setattr(search, "_SLOW", 0.0)
    for kind in KINDS:
        cheeger(heawood(), kind)
        assert shown.pop()["disable"] is None


class _Bar:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def update(self, count):
        assert count > 0
