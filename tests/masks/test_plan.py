"""MaskPlan: feasible or a useful error, reproducible, and verified when it is read back."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import re

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import MaskPlan, certify
from expandermask.errors import (
    FileFormatError,
    InfeasibleShapeError,
    InvalidInputError,
    TooLargeError,
)
from expandermask.graphs import BiregularGraph, ramanujan_graph, random_biregular
from expandermask.graphs.bipartite import as_bipartite
from expandermask.masks import MaskPair

SHAPES = {"layer.0.query": (48, 24), "layer.0.out": (24, 36), "layer.1.query": (48, 24)}
PLAN = MaskPlan.for_shapes(SHAPES, r=12, left_degree=3, rng=7)
TEXT = PLAN.to_json()
DATA = json.loads(TEXT)


def test_shapes_and_degrees():
    assert list(PLAN) == list(SHAPES)
    assert len(PLAN) == 3
    for name, (d, k) in SHAPES.items():
        pair = PLAN[name]
        assert pair.shape == (d, k)
        assert (pair.a.n1, pair.a.n2, pair.a.d1, pair.a.d2) == (k, 12, 3, k // 4)
        assert (pair.b.n1, pair.b.n2, pair.b.d1, pair.b.d2) == (d, 12, 3, d // 4)
        assert pair.num_values == 3 * (d + k)
    assert PLAN.num_values == 3 * sum(d + k for d, k in SHAPES.values())
    assert (PLAN.r, PLAN.left_degree, PLAN.seed) == (12, 3, 7)
    assert repr(PLAN) == f"MaskPlan(3 modules, r=12, left_degree=3, {PLAN.num_values} values)"
    with pytest.raises(KeyError):
        PLAN["layer.9"]


def test_every_mask_is_proved_and_named():
    proofs = PLAN.certify()
    assert list(proofs) == [f"{name}.{side}" for name in SHAPES for side in "AB"]
    assert all(proof.verdict == "PROVED" for proof in proofs.values())
    for name, graph in PLAN.graphs():
        assert proofs[name].is_about(graph)


def test_masks_are_independent_of_each_other_and_of_other_modules():
    assert PLAN["layer.0.query"].a != PLAN["layer.1.query"].a
    assert PLAN["layer.0.query"].b != PLAN["layer.1.query"].b
    alone = MaskPlan.for_shapes({"layer.1.query": (48, 24)}, r=12, left_degree=3, rng=7)
    assert alone["layer.1.query"] == PLAN["layer.1.query"]
    square = MaskPlan.for_shapes({"m": (24, 24)}, r=12, left_degree=3, rng=7)
    assert square["m"].a != square["m"].b


def test_one_seed_one_plan():
    assert dict(MaskPlan.for_shapes(SHAPES, r=12, left_degree=3, rng=7)) == dict(PLAN)
    assert dict(MaskPlan.for_shapes(SHAPES, r=12, left_degree=3, rng=8)) != dict(PLAN)


def test_there_and_back(tmp_path):
    path = tmp_path / "deep" / "plan.json"
    PLAN.save(path)
    for other in (MaskPlan.load(path), MaskPlan.from_json(TEXT), MaskPlan.from_json(TEXT.encode())):
        assert dict(other) == dict(PLAN)
        assert list(other) == list(PLAN)
        assert other.to_json() == TEXT
    assert [p.name for p in path.parent.iterdir()] == ["plan.json"]


@settings(max_examples=40)
@given(st.sampled_from([4, 6, 8, 12]), st.integers(2, 4), st.integers(1, 5), st.integers(1, 5))
def test_any_feasible_plan_survives_json(r, degree, d, k):
    if degree > r:
        return
    plan = MaskPlan.for_shapes({"m": (d * r, k * r)}, r=r, left_degree=degree, rng=0)
    other = MaskPlan.from_json(plan.to_json())
    assert dict(other) == dict(plan)
    assert all(certify(graph).verdict == "PROVED" for _, graph in other.graphs())


# -- infeasible plans ---------------------------------------------------------------------------


def suggestions(message):
    """The ranks and degrees an error says would work."""
    found = re.search(r"r = ([\w ]+) works; with r=\d+, left_degree = ([\w ]+) works", message)
    return [[int(v) for v in part.split(" or ") if v != "nothing"] for part in found.groups()]


@pytest.mark.parametrize(
    ("shapes", "r", "degree"),
    [
        ({"m": (384, 384)}, 64, 65),
        ({"m": (384, 384)}, 48, 1),
        ({"m": (384, 384)}, 50, 2),
        ({"m": (384, 100)}, 64, 2),
        ({"m": (100, 384)}, 64, 2),
        ({"m": (384, 384), "n": (100, 60)}, 32, 2),
        ({"m": (7, 11)}, 4, 2),
        ({"m": (4096, 11008), "n": (4096, 4096)}, 24, 2),
        ({"m": (2, 2)}, 1, 1),
        ({"m": (12, 12)}, 24, 2),
        ({"m": (1, 12)}, 6, 2),
    ],
)
def test_infeasible_plans_name_what_works(shapes, r, degree):
    with pytest.raises(InfeasibleShapeError, match=r"module '[mn]': no mask of [AB]") as caught:
        MaskPlan.for_shapes(shapes, r=r, left_degree=degree, rng=0)
    ranks, degrees = suggestions(str(caught.value))
    for rank in ranks:
        assert MaskPlan.for_shapes(shapes, r=rank, left_degree=degree, rng=0).r == rank
    for other in degrees:
        plan = MaskPlan.for_shapes(shapes, r=r, left_degree=other, rng=0)
        assert plan.left_degree == other
    assert ranks or degrees or shapes == {"m": (7, 11)} or degree == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"r": 8.0}, "r must be an integer"),
        ({"r": True}, "r must be an integer"),
        ({"r": 0}, "r must be at least 1"),
        ({"left_degree": -2}, "left_degree must be at least 1"),
        ({"left_degree": "2"}, "left_degree must be an integer"),
        ({"rng": -1}, "rng"),
        ({"rng": True}, "rng"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(InvalidInputError, match=words):
        MaskPlan.for_shapes(SHAPES, **{"r": 12, "left_degree": 3, **arguments})


@pytest.mark.parametrize(
    "shape", [(0, 24), (24, -1), (24.0, 24), (True, 24), (24,), 24, ("a", "b")]
)
def test_bad_shapes(shape):
    with pytest.raises(InvalidInputError, match="'m'"):
        MaskPlan.for_shapes({"m": shape}, r=12, left_degree=3)


# -- files ------------------------------------------------------------------------------------


def altered(change):
    data = json.loads(TEXT)
    change(data)
    return sealed(data)


def sealed(data):
    """The fields as JSON under a seal that fits, as anyone can make it."""
    body = {name: value for name, value in data.items() if name != "seal"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return json.dumps({**body, "seal": hashlib.sha256(text.encode()).hexdigest()})


def first(data):
    return data["modules"]["layer.0.query"]["A"]


def drawn(n1, n2, d1):
    graph = random_biregular(n1, n2, d1, rng=1)
    return {"recipe": graph.recipe.to_dict(), "sha256": graph.digest}


ALTERATIONS = {
    "hash": lambda d: first(d).update(sha256="0" * 64),
    "hash of another mask": lambda d: first(d).update(
        sha256=d["modules"]["layer.1.query"]["A"]["sha256"]
    ),
    "hash type": lambda d: first(d).update(sha256=5),
    "seed of a mask": lambda d: first(d)["recipe"].update(seed=1),
    "size of a mask": lambda d: first(d)["recipe"].update(n1=36),
    "degree of a mask": lambda d: first(d)["recipe"].update(d1=4),
    "algorithm": lambda d: first(d)["recipe"].update(algorithm="other"),
    "version of the algorithm": lambda d: first(d)["recipe"].update(version=2),
    "negative size": lambda d: first(d)["recipe"].update(n1=-24),
    "zero size": lambda d: first(d)["recipe"].update(n2=0),
    "huge size": lambda d: first(d)["recipe"].update(n1=10**30, n2=10**30),
    "extra recipe field": lambda d: first(d)["recipe"].update(more=1),
    "no recipe": lambda d: first(d).pop("recipe"),
    "side missing": lambda d: d["modules"]["layer.0.out"].pop("B"),
    "third side": lambda d: d["modules"]["layer.0.out"].update(C={}),
    "module not an object": lambda d: d["modules"].update(x=[1]),
    "modules not an object": lambda d: d.update(modules=[]),
    "rank": lambda d: d.update(r=24),
    "left degree": lambda d: d.update(left_degree=2),
    "rank type": lambda d: d.update(r=12.0),
    "seed type": lambda d: d.update(seed="7"),
    "seed bool": lambda d: d.update(seed=True),
    "extra field": lambda d: d.update(more=1),
    "missing field": lambda d: d.pop("seed"),
    "newer": lambda d: d.update(format_version=3),
    "another format": lambda d: d.update(format="expandermask certificate"),
    "another rank in one mask": lambda d: d["modules"]["layer.0.query"].update(A=drawn(24, 6, 3)),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_altered_plans_are_refused(name):
    assert MaskPlan.from_json(altered(lambda data: None)) == PLAN
    with pytest.raises(FileFormatError):
        MaskPlan.from_json(altered(ALTERATIONS[name]))


def test_names_and_seed_are_sealed():
    for old, new in (('"seed": 7,\n', '"seed": 8,\n'), ("layer.0.query", "layer.0.quary")):
        assert TEXT.count(old) == 1
        with pytest.raises(FileFormatError, match="the seal does not fit"):
            MaskPlan.from_json(TEXT.replace(old, new))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: first(d)["recipe"].update(n1=2 * 10**9), "a mask read from a file has at most"),
        (
            lambda d: first(d)["recipe"].update(
                algorithm="transpose", base={**first(d)["recipe"], "n1": 24 * 10**6}
            ),
            "rests on a graph of 72000000 edges",
        ),
        (
            lambda d: (
                d.update(left_degree=None)
                or d["modules"]["layer.0.out"].update(
                    A={"n1": 10**9, "n2": 12, "kept": "AAAAAA==", "sha256": "0" * 64}
                )
            ),
            "a mask read from a file has at most",
        ),
        (
            lambda d: (
                d.update(left_degree=None)
                or d["modules"]["layer.0.out"].update(
                    A={"n1": 100, "n2": 10**9, "kept": "AA" * 100, "sha256": "0" * 64}
                )
            ),
            "a mask read from a file has at most",
        ),
    ],
)
def test_what_would_take_gigabytes_is_refused_before_it_is_made(change, words, monkeypatch):
    from expandermask.masks import supports_json

    monkeypatch.setattr(supports_json, "rebuild", lambda recipe: pytest.fail("made a mask"))
    with pytest.raises((FileFormatError, TooLargeError), match=words):
        MaskPlan.from_json(altered(change))


def test_a_repeated_recipe_is_followed_once(monkeypatch):
    from expandermask.masks import supports_json

    calls, build = [], supports_json.rebuild
    monkeypatch.setattr(
        supports_json, "rebuild", lambda recipe: calls.append(recipe) or build(recipe)
    )
    one = first(DATA)
    modules = {f"m{k}": {"A": one, "B": one} for k in range(5)}
    assert len(MaskPlan.from_json(altered(lambda d: d.update(modules=modules)))) == 5
    assert len(calls) == 1


def test_a_wrong_hash_names_the_mask():
    with pytest.raises(FileFormatError, match=r"mask layer\.0\.query\.A: the rebuilt graph hashes"):
        MaskPlan.from_json(altered(ALTERATIONS["hash"]))


@pytest.mark.parametrize(("degree", "words"), [(2, "not proved Ramanujan"), (1, "stars")])
def test_a_recipe_of_an_unproved_graph_is_refused(degree, words):
    """The hash fits, the rank and degree fit, and still the promise of a plan would be broken."""
    seed = next(s for s in range(99) if nx_components(random_biregular(12, 12, degree, rng=s)) > 1)
    graph = random_biregular(12, 12, degree, rng=seed)
    mask = {"recipe": graph.recipe.to_dict(), "sha256": graph.digest}
    body = {"r": 12, "left_degree": degree, "seed": 0, "modules": {"m": {"A": mask, "B": mask}}}
    with pytest.raises(FileFormatError, match=words):
        MaskPlan.from_json(sealed({"format": "expandermask plan", "format_version": 2, **body}))


def nx_components(graph):
    return nx.number_connected_components(graph.to_networkx())


def test_truncated_and_repeated():
    for length in range(0, len(TEXT) - 2, 41):
        with pytest.raises(FileFormatError):
            MaskPlan.from_json(TEXT[:length])
    with pytest.raises(FileFormatError, match="duplicate"):
        MaskPlan.from_json('{"r": 12, ' + TEXT[1:])
    with pytest.raises(FileFormatError, match="duplicate"):
        MaskPlan.from_json(TEXT.replace('"layer.1.query"', '"layer.0.query"'))


def test_unreadable_files(tmp_path):
    with pytest.raises(FileFormatError, match=r"nothing\.json"):
        MaskPlan.load(tmp_path / "nothing.json")
    with pytest.raises(FileFormatError, match="cannot read"):
        MaskPlan.load(tmp_path)
    (tmp_path / "binary").write_bytes(b"\x93NUMPY\x00\xff")
    with pytest.raises(FileFormatError, match="JSON"):
        MaskPlan.load(tmp_path / "binary")


def test_pairs_compare_by_content():
    pair = PLAN["layer.0.query"]
    assert MaskPair(pair.a, pair.b) == pair
    assert MaskPair(pair.b, pair.a) != pair


def test_plans_can_be_copied_and_pickled():
    assert copy.deepcopy(PLAN) == PLAN
    assert pickle.loads(pickle.dumps(PLAN)) == PLAN


def test_a_plan_built_by_hand_keeps_its_promises():
    graph = ramanujan_graph(24, 8, 2, rng=0)
    assert MaskPlan({"m": MaskPair(graph, graph)}, r=8, left_degree=2, seed=0).num_values == 96
    with pytest.raises(InvalidInputError, match="rank r=16"):
        MaskPlan({"m": MaskPair(graph, graph)}, r=16, left_degree=2, seed=0)
    plain = BiregularGraph(graph.neighbors, 8)
    with pytest.raises(InvalidInputError, match="no recipe"):
        MaskPlan({"m": MaskPair(plain, plain)}, r=8, left_degree=2, seed=0)


@pytest.mark.parametrize("shape", [(1, 36), (36, 1), (1, 1)])
def test_a_single_input_or_output_keeps_all_ranks(shape: tuple[int, int]) -> None:
    with pytest.warns(UserWarning, match=r"one \(r=3, not 12\)"):
        plan = MaskPlan.for_shapes(
            {"one": shape, "many": (24, 36)}, r=12, left_degree=3, infeasible="nearest", rng=7
        )
    pair = plan["one"]
    assert (pair.shape, pair.r, pair.num_values) == (shape, 3, 3 * sum(shape))
    assert plan["many"].r == 12
    assert MaskPlan.from_json(plan.to_json()) == plan
    with pytest.raises(InfeasibleShapeError, match="r = 3 works"):
        MaskPlan.for_shapes({"one": shape}, r=12, left_degree=3, rng=7)


def test_a_single_row_that_is_not_whole_is_of_no_left_degree() -> None:
    part = as_bipartite(np.array([[1, 1, 0]]))
    whole = as_bipartite(np.ones((1, 3)))
    graph = ramanujan_graph(9, 3, 3, rng=0)
    for mask, degree in ((part, 2), (part, 3), (whole, 2)):
        with pytest.raises(InvalidInputError, match=r"has no left_degree|is not of"):
            MaskPlan({"one": MaskPair(graph, mask)}, r=3, left_degree=degree, seed=0)
    plan = MaskPlan({"one": MaskPair(graph, whole)}, r=3, left_degree=3, seed=0)
    data = plan.to_dict()
    data["modules"]["one"]["B"] = MaskPlan.from_masks({"o": (np.ones((9, 3)), part)}).to_dict()[
        "modules"
    ]["o"]["B"]
    with pytest.raises(FileFormatError, match="is not of left_degree=3"):
        MaskPlan.from_dict(data)
