"""certify(): known answers, controls that must fail, ties, and agreement with exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from importlib import import_module

import igraph
import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import BiregularGraph, certify, spectrum
from expandermask.certificates.certify import is_proved_ramanujan
from expandermask.errors import (
    InfeasibleShapeError,
    InvalidInputError,
    NotBiregularError,
    TooLargeError,
)
from expandermask.graphs import complete_bipartite, random_biregular
from tests import cases
from tests.oracles import graphs as oracle
from tests.oracles import spectra
from tests.strategies import feasible_shapes, seeds, shapes

# -- helpers that know only the mask ----------------------------------------------------------


def short_gram(mask):
    mask = np.asarray(mask, dtype=int)
    return oracle.gram((mask if mask.shape[1] <= mask.shape[0] else mask.T).tolist())


def exact_verdict(mask):
    """PROVED or REFUTED by inertia over Q(sqrt D) and a walk over the components."""
    mask = np.asarray(mask, dtype=int)
    above, ties = spectra.ramanujan_counts(
        short_gram(mask), int(mask[0].sum()), int(mask[:, 0].sum())
    )
    connected = oracle.components(mask.tolist()) == 1
    return ("PROVED" if connected and not above else "REFUTED"), ties


def check_refutation(mask, proof):
    """Check the evidence of a REFUTED certificate against the mask, in integers only."""
    mask = np.asarray(mask, dtype=int)
    d1, d2 = int(mask[0].sum()), int(mask[:, 0].sum())
    if proof.method == "components":
        assert proof.components == oracle.components(mask.tolist())
        assert proof.components > 1
    elif proof.method == "rayleigh":
        turned = mask.T.tolist() if proof.evidence["side"] == "left" else mask.tolist()
        x = proof.evidence["vector"]
        assert all(type(value) is int for value in x)
        assert sum(x) == 0
        image = [sum(v for v, one in zip(x, row, strict=True) if one) for row in turned]
        square = Fraction(sum(y * y for y in image), sum(v * v for v in x))
        assert [str(square.numerator), str(square.denominator)] == proof.evidence["square"]
        excess = square - (d1 + d2 - 2)
        assert excess > 0
        assert excess**2 > 4 * (d1 - 1) * (d2 - 1)
    else:
        assert proof.method == "descartes"
        above = spectra.ramanujan_counts(short_gram(mask), d1, d2)[0]
        assert above == proof.evidence["roots_above"] > 0


def check(mask, proof):
    """Everything a certificate says, held against the mask by other means."""
    mask = np.asarray(mask, dtype=int)
    d1, d2 = int(mask[0].sum()), int(mask[:, 0].sum())
    assert (proof.n1, proof.n2, proof.d1, proof.d2) == (*mask.shape, d1, d2)
    assert proof.bound == pytest.approx(math.sqrt(d1 - 1) + math.sqrt(d2 - 1), rel=1e-15)
    lo, hi = proof.sigma2
    assert 0 <= proof.limit * (1 - 2**-49) <= lo <= hi
    assert proof.limit <= hi
    assert proof.limit == max(proof.limits.values())
    assert proof.gap == math.sqrt(d1 * d2) - hi
    assert proof.simple
    assert proof.connected == (proof.components == 1)
    assert proof.is_about(BiregularGraph.from_mask(mask))
    rows = [np.flatnonzero(row).tolist() for row in mask]
    assert proof.digest == oracle.digest(rows, mask.shape[1])
    if proof.verdict == "REFUTED":
        check_refutation(mask, proof)


# -- known answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases.KNOWN + cases.TIES, ids=repr)
@pytest.mark.parametrize("turn", [False, True], ids=["", "transposed"])
def test_known_answers(case, turn):
    mask = case.mask.T if turn else case.mask
    proof = certify(mask)
    check(mask, proof)
    assert proof.verdict == case.verdict
    exact = float(case.square) ** 0.5
    lo, hi = proof.sigma2
    assert lo <= exact * (1 + 1e-15)
    assert hi >= exact * (1 - 1e-15)
    assert hi - lo < 1e-7


@pytest.mark.parametrize("case", cases.TIES, ids=repr)
def test_ties_are_proved_exactly_and_counted(case):
    proof = certify(case.mask)
    assert (proof.verdict, proof.method) == ("PROVED", "descartes")
    assert (proof.evidence["roots_above"], proof.evidence["ties"]) == (0, case.ties)
    assert not is_proved_ramanujan(BiregularGraph.from_mask(case.mask))


@pytest.mark.parametrize("case", cases.TIES, ids=repr)
def test_one_switch_from_a_tie(case):
    mask = cases.switched(case.mask)
    assert np.abs(mask - case.mask).sum() == 4
    proof = certify(mask)
    check(mask, proof)
    assert proof.verdict == exact_verdict(mask)[0]


def test_the_twelve_by_six_has_sigma_root_five():
    lo, hi = certify(cases.double_triples()).sigma2
    assert Fraction(lo) ** 2 <= 5 <= Fraction(hi) ** 2


def test_igraphs_connected_realisation_is_refuted():
    graph = igraph.Graph.Realize_Bipartite_Degree_Sequence([2] * 4096, [128] * 64)
    mask = np.zeros((4096, 64), dtype=int)
    left, right = np.array(graph.get_edgelist()).T
    mask[left, right - 4096] = 1
    proof = certify(mask)
    check(mask, proof)
    assert proof.verdict == "REFUTED"
    assert proof.connected
    assert proof.sigma2[0] == pytest.approx(16, abs=0.01)


def test_cropped_masks_are_refused():
    """A corner of a good mask is not biregular; nothing is mended silently."""
    mask = random_biregular(32, 32, 4, rng=0).mask()
    with pytest.raises((NotBiregularError, InfeasibleShapeError)):
        certify(mask[:24, :24])
    with pytest.raises(NotBiregularError):
        certify(mask[:, :16])


@pytest.mark.parametrize("sides", [(3, 3), (40, 257), (300, 300), (300, 1000), (512, 600)])
def test_complete_bipartite_graphs_of_any_size(sides):
    proof = certify(complete_bipartite(*sides))
    assert proof.verdict == "PROVED"
    assert proof.sigma2[0] == 0
    assert proof.sigma2[1] < 1e-6


def test_large_planes_where_all_eigenvalues_agree():
    mask = cases.projective_plane(17)
    proof = certify(mask)
    check(mask, proof)
    assert proof.verdict == "PROVED"
    assert proof.sigma2 == pytest.approx((17**0.5, 17**0.5), abs=1e-7)


def test_large_disconnected_graphs():
    mask = cases.two_copies(random_biregular(300, 300, 3, rng=0).mask())
    proof = certify(mask)
    assert (proof.verdict, proof.method, proof.components) == ("REFUTED", "components", 2)
    assert proof.sigma2 == pytest.approx((3, 3), abs=1e-9)


def test_a_tie_beyond_the_exact_tier_is_undecided(monkeypatch):
    monkeypatch.setattr(import_module("expandermask.certificates.judge"), "EXACT_LIMIT", 31)
    proof = certify(cases.TIES[0].mask)
    assert (proof.verdict, proof.method, proof.evidence) == ("UNDECIDED", "none", {})
    assert "up to 31" in proof.reason
    assert proof.sigma2 == pytest.approx((6, 6), abs=1e-7)
    assert proof.sigma2[1] >= 6 >= proof.sigma2[0]


# -- agreement with exact arithmetic --------------------------------------------------------------


@settings(max_examples=400)
@given(shapes(10, least_degree=2), seeds)
def test_agrees_with_exact_arithmetic(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    mask = graph.mask()
    proof = certify(graph)
    check(mask, proof)
    assert proof.verdict == exact_verdict(mask)[0]
    assert spectra.encloses(short_gram(mask), *proof.sigma2)
    if proof.verdict == "REFUTED":
        assert not is_proved_ramanujan(graph)
    elif proof.method == "cholesky" and graph.d1 * graph.d2 > 4:
        assert is_proved_ramanujan(graph)


@settings(max_examples=150)
@given(shapes(24, least_degree=2), seeds)
def test_the_enclosure_holds_numpys_value_and_is_tight(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    value = np.linalg.svd(graph.mask().astype(float), compute_uv=False)[1]
    lo, hi = certify(graph).sigma2
    assert lo - 1e-9 <= value <= hi + 1e-9
    assert hi - lo < 1e-6


@settings(max_examples=150)
@given(shapes(12, least_degree=2), seeds, st.randoms(use_true_random=False))
def test_relabelling_and_turning_change_nothing(shape, seed, random):
    graph = random_biregular(*shape, rng=seed)
    n1, n2, _ = shape
    rows, columns = random.sample(range(n1), n1), random.sample(range(n2), n2)
    proof = certify(graph)
    for mask in (graph.mask()[np.ix_(rows, columns)], graph.mask().T):
        other = certify(mask)
        assert other.verdict == proof.verdict
        assert other.components == proof.components
        assert other.limit == proof.limit
        assert other.sigma2 == pytest.approx(proof.sigma2, abs=1e-7)


@pytest.mark.parametrize("shape", [(600, 300, 4), (512, 512, 3), (1024, 64, 2), (300, 300, 150)])
def test_larger_graphs_enclose_numpys_value(shape):
    for seed in range(3):
        graph = random_biregular(*shape, rng=seed)
        value = np.linalg.svd(graph.mask().astype(float), compute_uv=False)[1]
        proof = certify(graph)
        lo, hi = proof.sigma2
        assert lo - 1e-9 <= value <= hi + 1e-9
        assert hi - lo < 1e-5
        assert proof.verdict == ("PROVED" if value <= proof.bound else "REFUTED")


@pytest.mark.slow
def test_twenty_thousand_graphs_agree_with_exact_arithmetic():
    every = feasible_shapes(8, least_degree=2)
    random = np.random.default_rng(0)
    refuted = 0
    for seed in range(20_000):
        graph = random_biregular(*every[random.integers(len(every))], rng=seed)
        mask = graph.mask()
        proof = certify(graph)
        assert proof.verdict == exact_verdict(mask)[0]
        assert spectra.encloses(short_gram(mask), *proof.sigma2)
        if proof.verdict == "REFUTED":
            check_refutation(mask, proof)
            refuted += 1
    assert refuted > 200  # the comparison saw both verdicts


# -- input --------------------------------------------------------------------------------------


def test_every_kind_of_mask_is_one_graph():
    graph = random_biregular(12, 6, 3, rng=4)
    mask = graph.mask()
    kinds = [
        mask.tolist(),
        mask.astype(bool),
        mask.astype(float),
        np.asfortranarray(mask),
        torch.from_numpy(mask),
        graph.biadjacency(),
    ]
    assert {certify(kind).to_json() for kind in kinds} == {certify(graph).to_json()}


@pytest.mark.parametrize("definition", ["two sided", "", None, "One-sided", 1])
def test_unknown_definition(definition):
    with pytest.raises(InvalidInputError, match="definition"):
        certify(cases.pappus(), definition=definition)


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        (np.eye(4), InfeasibleShapeError),
        (np.ones((1, 5)), InfeasibleShapeError),
        (np.ones((5, 1)), InfeasibleShapeError),
        (np.kron(np.eye(2), np.ones((1, 3))), InfeasibleShapeError),
        (np.array([[1, np.nan], [1, 1]]), InvalidInputError),
        ("mask", InvalidInputError),
        (None, InvalidInputError),
        (np.ones((0, 0)), InvalidInputError),
        ([[1, 1, 0], [1, 0, 1], [1, 1, 0]], NotBiregularError),
    ],
)
def test_what_cannot_be_certified(mask, error):
    with pytest.raises(error):
        certify(mask)


def test_near_the_memory_limit(monkeypatch):
    """The generators refuse what they cannot prove; certify says what it can without a proof."""
    graph = random_biregular(10_000, 10_000, 3, rng=0)
    memory = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match=r"10000 vertices needs about 2\.2 GiB"):
        is_proved_ramanujan(graph)
    proof = certify(graph)
    assert (proof.verdict, proof.method) == ("UNDECIDED", "lanczos")
    assert "2.2 GiB" in proof.reason


@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (2, 5)])
def test_disconnected_masks_come_with_a_vector(shape):
    """Constant on components, summing to zero, with the trivial value as its exact quotient."""
    mask = np.kron(np.eye(3, dtype=int), np.ones(shape[::-1], int))
    proof = certify(mask)
    assert (proof.verdict, proof.method, proof.components) == ("REFUTED", "components", 3)
    x = np.array(proof.evidence["vector"])
    side = mask if proof.evidence["side"] == "right" else mask.T
    assert x.sum() == 0
    assert x.any()
    image = side @ x
    assert Fraction(int(image @ image), int(x @ x)) == proof.d1 * proof.d2


def test_masks_have_spectra_too():
    graph = random_biregular(24, 8, 3, rng=0)
    np.testing.assert_array_equal(spectrum(graph.mask()), spectrum(graph))
