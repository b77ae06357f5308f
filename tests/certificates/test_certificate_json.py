"""Certificates as JSON: they come back equal, and what was altered is refused."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import Certificate, certify
from expandermask.errors import FileFormatError
from expandermask.files import seal
from expandermask.graphs import complete_bipartite, heawood, random_biregular
from tests import cases
from tests.strategies import seeds, shapes

TEXT = certify(heawood()).to_json()
DATA = json.loads(TEXT)


@settings(max_examples=150)
@given(shapes(10, least_degree=2), seeds)
def test_there_and_back(shape, seed):
    proof = certify(random_biregular(*shape, rng=seed))
    other = Certificate.from_json(proof.to_json())
    assert other == proof
    assert other.to_json() == proof.to_json()
    assert (other.ratio, other.gap, str(other)) == (proof.ratio, proof.gap, str(proof))


@pytest.mark.parametrize("case", cases.KNOWN + cases.TIES, ids=repr)
def test_known_graphs_there_and_back(case):
    proof = certify(case.mask)
    assert Certificate.from_json(proof.to_json()) == proof
    assert Certificate.from_json(proof.to_json().encode()) == proof


def test_a_ratio_over_a_zero_limit():
    assert certify(complete_bipartite(3, 3)).ratio == 1


def test_a_certificate_is_about_one_graph():
    graph = random_biregular(12, 6, 3, rng=0)
    proof = certify(graph)
    assert proof.is_about(graph)
    assert not proof.is_about(random_biregular(12, 6, 3, rng=1))
    assert not proof.is_about(graph.transpose())


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "3", "{}", "\x00", b"\xff", b"", "[" * 10**5]
)
def test_not_a_certificate(text):
    with pytest.raises(FileFormatError):
        Certificate.from_json(text)


def test_every_truncation_is_refused():
    for length in range(0, len(TEXT) - 2, 7):
        with pytest.raises(FileFormatError):
            Certificate.from_json(TEXT[:length])


@pytest.mark.parametrize("name", sorted(DATA))
def test_missing_or_repeated_fields(name):
    with pytest.raises(FileFormatError):
        Certificate.from_json(json.dumps({k: v for k, v in DATA.items() if k != name}))
    entry = json.dumps(DATA[name])
    with pytest.raises(FileFormatError, match="duplicate"):
        Certificate.from_json(f'{{"{name}": {entry}, {TEXT[1:]}')


def test_unknown_fields():
    with pytest.raises(FileFormatError, match="more"):
        Certificate.from_json(json.dumps({**DATA, "more": 1}))


def test_newer_and_odd_versions():
    with pytest.raises(FileFormatError, match=r"version 3.*upgrade expandermask"):
        Certificate.from_json(json.dumps({**DATA, "format_version": 3}))
    for version in (0, 1, -1, True, 1.0, "1", None):
        with pytest.raises(FileFormatError, match="version"):
            Certificate.from_json(json.dumps({**DATA, "format_version": version}))


def sealed(**changes):
    """The Heawood graph's certificate with other values under a seal that fits them."""
    body = {k: v for k, v in {**DATA, **changes}.items() if k != "seal"}
    return json.dumps({**body, "seal": seal(body)})


def test_the_seal_is_over_every_field():
    assert Certificate.from_json(sealed()) == certify(heawood())
    other = {**DATA, "reason": "because"}
    with pytest.raises(FileFormatError, match="seal"):
        Certificate.from_json(json.dumps(other))
    assert Certificate.from_json(sealed(reason="because")).reason == "because"


def wrong_types(name):
    kind = type(DATA[name])
    return [v for v in (None, True, 7, 1.5, "x", [], {}, [1.0]) if type(v) is not kind]


@pytest.mark.parametrize("name", sorted(set(DATA) - {"sigma_min", "seal"}))
def test_wrong_types(name):
    for value in wrong_types(name):
        with pytest.raises(FileFormatError):
            Certificate.from_json(sealed(**{name: value}))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_not_finite(text):
    altered = TEXT.replace(f'"bound": {DATA["bound"]}', f'"bound": {text}')
    assert altered != TEXT
    with pytest.raises(FileFormatError):
        Certificate.from_json(altered)


NEVER_WRITTEN = {
    "verdict": ["proved", "MAYBE", "UNDECIDED"],
    "method": ["magic", "rayleigh", "components", "none"],
    "definition": ["both", ""],
    "eps": [-1.0, 1.0],
    "n1": [-7, 0, 8, 1],
    "n2": [-7, 0, 8],
    "d1": [-3, 0, 2, 8],
    "d2": [-3, 0, 2],
    "digest": ["", "z" * 64, DATA["digest"][:-1], DATA["digest"].upper()],
    "sigma2": [[], [1.0], [1.0, 2.0, 3.0], [1, 2], [5.0, 1.0], [-1.0, 2.0], ["a", "b"]],
    "bound": [0.0, -1.0, DATA["bound"] * 1.001],
    "limit": [-1.0, 2 * DATA["limit"]],
    "limits": [{}, {"trace": "x"}, {"magic": 1.0}, {"trace": 1.0, "integrality": [1]}],
    "components": [0, -1, 2],
    "simple": [False],
}
"""Values of the right type that `to_json` could not have written for the Heawood graph."""


@pytest.mark.parametrize("name", sorted(NEVER_WRITTEN))
def test_values_to_json_could_not_have_written(name):
    accepted = []
    for value in NEVER_WRITTEN[name]:
        try:
            Certificate.from_json(sealed(**{name: value}))
        except FileFormatError:
            continue
        accepted.append(value)
    assert accepted == []


CONTRADICTIONS = [
    {"sigma2": [2.9, 2.95]},
    {"verdict": "REFUTED", "method": "rayleigh"},
    {"verdict": "REFUTED", "method": "components", "components": 3},
    {"verdict": "UNDECIDED", "method": "lanczos"},
    {"evidence": {"probability": {}}},
    {"definition": "two-sided"},
    {"definition": "within", "eps": -0.5},
    {"sigma_min": [0.0, 1.0]},
    {"definition": "two-sided", "sigma_min": [1.0, 0.5]},
    {"eps": 0.5},
]


@pytest.mark.parametrize("changes", CONTRADICTIONS, ids=str)
def test_fields_that_contradict_each_other(changes):
    with pytest.raises(FileFormatError, match="does not fit"):
        Certificate.from_json(sealed(**changes))


@settings(max_examples=200)
@given(st.data())
def test_random_damage_never_raises_anything_else(data):
    position = data.draw(st.integers(0, len(TEXT) - 1))
    character = data.draw(st.sampled_from('0123456789"{}[],:.eE-xnull \\\n'))
    altered = TEXT[:position] + character + TEXT[position + 1 :]
    try:
        proof = Certificate.from_json(altered)
    except FileFormatError:
        return
    assert all(math.isfinite(end) for end in proof.sigma2)
