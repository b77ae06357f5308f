"""Lanczos from a random start: its value, its stated probabilities, and the tier built on it."""

from __future__ import annotations

import math
from importlib import import_module

import numpy as np
import pytest

from expandermask import BiregularGraph, Certificate, certify
from expandermask.certificates.lanczos import Lanczos, _gaussian, lanczos
from expandermask.graphs import hypercube, projective_plane, random_biregular


def top(graph):
    return np.linalg.svd(graph.mask().astype(float), compute_uv=False)[1] ** 2


@pytest.mark.parametrize("shape", [(60, 30, 3), (400, 400, 3), (900, 300, 4), (6, 3, 2)])
def test_the_value_is_the_largest_eigenvalue(shape):
    graph = random_biregular(*shape, rng=5)
    found = lanczos(graph, 7)
    assert found.value == pytest.approx(top(graph), rel=1e-6)
    assert found.value <= top(graph) * (1 + 1e-12)
    assert abs(found.vector.sum()) < 1e-8
    rayleigh = np.square(graph.mask() @ found.vector).sum() / np.square(found.vector).sum()
    assert rayleigh == pytest.approx(found.value, rel=1e-9)


def test_the_same_seed_gives_the_same_start():
    assert _gaussian(5, 1).tolist() == _gaussian(5, 1).tolist()
    assert _gaussian(5, 1).tolist() != _gaussian(5, 2).tolist()
    many = _gaussian(200_000, 3)
    assert abs(many.mean()) < 0.01
    assert many.std() == pytest.approx(1, abs=0.01)
    assert (many**4).mean() == pytest.approx(3, abs=0.1)


def test_failure_and_level_are_inverse():
    found = Lanczos(value=8.0, vector=np.ones(10_000), steps=100)
    for failure in (1e-3, 1e-9, 1e-15):
        assert found.failure_at(found.level_at(failure)) == pytest.approx(failure, rel=1e-6)
    assert found.failure_at(8.0) == found.failure_at(7.0) == 1.0
    expected = 1.648 * 100 * math.exp(-math.sqrt(1 - 8 / 9) * 199)
    assert found.failure_at(9.0) == pytest.approx(expected, rel=1e-12)
    assert Lanczos(8.0, np.ones(10_000), 2).level_at(1e-9) == math.inf


def test_few_steps_fail_no_more_often_than_stated():
    """5 steps on two graphs joined by one switch, so that one eigenvalue stands apart."""
    half = random_biregular(100, 50, 3, rng=0).neighbors.tolist()
    other = [[j + 50 for j in row] for row in half]
    half[0][0], other[0][0] = other[0][0], half[0][0]
    graph = BiregularGraph([*half, *other], 100)
    true = top(graph)
    module = import_module("expandermask.certificates.lanczos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STEPS", 5)
        found = [lanczos(graph, seed) for seed in range(200)]
    for level in (0.6 * true, 0.8 * true):
        missed = sum(f.value < level for f in found) / len(found)
        # below `level` while the truth is `true`: a relative error of 1 - level / true
        bound = 1.648 * 10 * math.exp(-9 * math.sqrt(1 - level / true))
        assert missed <= bound + 0.02


def test_few_eigenvalues_are_exhausted():
    """A projective plane has two: after one step off the trivial one there is nothing left."""
    found = lanczos(projective_plane(5), 3)
    assert (found.steps, found.exhausted) == (1, True)
    assert found.value == pytest.approx(5)
    assert (found.failure_at(5.1), found.failure_at(4.9)) == (0.0, 1.0)
    assert found.level_at(1e-9) == found.value


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(import_module("expandermask.certificates.certify"), "DENSE_LIMIT", 600)


def test_large_graphs_get_an_interval_and_a_probability(small_limit):
    graph = random_biregular(1400, 700, 3, rng=0)
    proof = certify(graph)
    assert (proof.verdict, proof.method) == ("UNDECIDED", "lanczos")
    chance = proof.evidence["probability"]
    assert 0 < chance["failure"] < 1e-9
    assert chance["at_level"] == 1e-9
    assert "probability at most" in proof.reason
    assert "rounding errors" in proof.reason
    exact = math.sqrt(top(graph))
    assert proof.sigma2[0] <= exact <= math.sqrt(chance["level"]) <= proof.sigma2[1]
    assert proof.sigma2[0] == pytest.approx(exact, rel=1e-6)
    assert proof.sigma2[1] == pytest.approx(math.sqrt(18), rel=1e-12)  # nothing better is proved
    assert certify(graph) == proof
    assert Certificate.from_json(proof.to_json()) == proof


def test_large_graphs_are_still_refuted(small_limit):
    cube = hypercube(11)
    proof = certify(cube)
    assert (proof.verdict, proof.method) == ("REFUTED", "rayleigh")
    assert proof.sigma2[0] == pytest.approx(9, rel=1e-6)
    two = np.kron(np.eye(2, dtype=int), random_biregular(700, 700, 3, rng=1).mask())
    assert (certify(two).verdict, certify(two).method) == ("REFUTED", "components")


def test_large_graphs_by_other_definitions(small_limit):
    graph = random_biregular(1400, 700, 3, rng=0)
    proof = certify(graph, definition="two-sided")
    assert proof.verdict == "UNDECIDED"
    assert proof.sigma_min[0] == 0
    assert Certificate.from_json(proof.to_json()) == proof
    assert certify(graph, definition="within", eps=0.1).verdict == "UNDECIDED"


def test_large_designs_are_exhausted(small_limit):
    proof = certify(projective_plane(27))
    assert (proof.verdict, proof.method) == ("UNDECIDED", "lanczos")
    assert "exhaust" in proof.reason
    assert proof.evidence["probability"]["failure"] == 0
