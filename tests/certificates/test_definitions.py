"""The definitions of Ramanujan, each held against exact arithmetic or published spectra."""

from __future__ import annotations

import math
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import BiregularGraph, Certificate, certify
from expandermask.certificates.bounds import RamanujanBound
from expandermask.certificates.definitions import regular
from expandermask.certificates.recheck import recheck
from expandermask.errors import InfeasibleShapeError, InvalidInputError, NotBiregularError
from expandermask.graphs import (
    complete_bipartite,
    heawood,
    hermitian_quadrangle,
    hypercube,
    projective_plane,
    quasi_cyclic,
    random_biregular,
)
from tests import cases
from tests.oracles import graphs as oracle
from tests.oracles import spectra
from tests.strategies import seeds, shapes


def short_gram(graph):
    mask = graph.mask().astype(int)
    return oracle.gram((mask if graph.n2 <= graph.n1 else mask.T).tolist())


# -- two-sided ---------------------------------------------------------------------------------


@settings(max_examples=300)
@given(shapes(9, least_degree=2), seeds)
def test_two_sided_agrees_with_inertia(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    gram = short_gram(graph)
    above = spectra.ramanujan_counts(gram, graph.d1, graph.d2)[0]
    below = spectra.two_sided_counts(gram, graph.d1, graph.d2)[0]
    proof = certify(graph, definition="two-sided")
    good = proof.connected and not above and not below
    assert proof.verdict == ("PROVED" if good else "REFUTED")
    assert certify(graph).verdict == ("PROVED" if proof.connected and not above else "REFUTED")
    assert Certificate.from_json(proof.to_json()) == proof


@settings(max_examples=150)
@given(shapes(9, least_degree=2), seeds)
def test_sigma_min_is_enclosed(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    proof = certify(graph, definition="two-sided")
    gram = [[spectra.surd(x) for x in row] for row in short_gram(graph)]

    def below(level):
        shifted = [
            [x - spectra.surd(Fraction(level) ** 2 * (i == j)) for j, x in enumerate(row)]
            for i, row in enumerate(gram)
        ]
        return spectra.inertia(shifted)[2]

    lo, hi = proof.sigma_min
    assert lo <= hi
    assert below(lo) == 0
    assert below(hi * (1 + 2**-50) or 1e-300) > 0


@pytest.mark.parametrize(
    ("graph", "verdict"),
    [
        (heawood(), "PROVED"),
        (complete_bipartite(3, 3), "PROVED"),
        (complete_bipartite(5, 2), "REFUTED"),
        (BiregularGraph.from_mask(cases.subdivision(cases.complete(6))), "PROVED"),
        (hermitian_quadrangle(2), "REFUTED"),
    ],
    ids=["Heawood", "K_33", "K_52", "subdivided K_6", "GQ(4,2)"],
)
def test_two_sided_known_answers(graph, verdict):
    """Subdivided, K_6 has the eigenvalue 4 in [1, 9]; K_52 and GQ(4,2) have the eigenvalue 0."""
    assert certify(graph, definition="two-sided").verdict == verdict


def test_ties_at_both_ends():
    mask = cases.tied_at_both_ends()
    proof = certify(mask, definition="two-sided")
    assert (proof.verdict, proof.method) == ("PROVED", "descartes")
    assert (proof.evidence["ties"], proof.evidence["ties_below"]) == (6, 3)
    assert (proof.evidence["roots_above"], proof.evidence["roots_below"]) == (0, 0)
    assert proof.sigma_min == pytest.approx((2, 2), abs=1e-6)


def test_two_sided_is_out_of_reach_at_768x8():
    """Some codegree is at least 28, so e_i - e_j shows an eigenvalue below (sqrt 191 - 1)**2."""
    proof = certify(random_biregular(768, 8, 2, rng=1), definition="two-sided")
    assert (proof.verdict, proof.method) == ("REFUTED", "rayleigh")
    least = Fraction(*map(int, proof.evidence["least"]["square"]))
    assert RamanujanBound(2, 192).least_missed_by(least)


def test_two_sided_by_blocks():
    for shape, r in [((1200, 600, 3), 60), ((1300, 650, 4), 65)]:
        graph = quasi_cyclic(*shape, r=r, rng=3)
        proof = certify(graph, definition="two-sided")
        values = np.linalg.svd(graph.mask().astype(float), compute_uv=False)
        assert proof.method in ("blocks", "rayleigh")
        assert proof.sigma_min[0] <= values[-1] * (1 + 1e-9)
        assert proof.sigma_min[1] >= values[-1] * (1 - 1e-9) - 1e-9
        low = abs(math.sqrt(graph.d1 - 1) - math.sqrt(graph.d2 - 1))
        good = low <= values[-1] and values[1] <= RamanujanBound(graph.d1, graph.d2).value
        assert proof.verdict == ("PROVED" if good else "REFUTED")


# -- regular -----------------------------------------------------------------------------------


REGULAR = [
    # graph, verdict, the exact largest nontrivial modulus (Brouwer and Haemers, Spectra of Graphs)
    (nx.petersen_graph(), "PROVED", 2),
    (nx.complete_graph(5), "PROVED", 1),
    (nx.cycle_graph(7), "PROVED", 2 * math.cos(math.pi / 7)),
    (nx.icosahedral_graph(), "PROVED", math.sqrt(5)),
    (nx.dodecahedral_graph(), "PROVED", math.sqrt(5)),
    (nx.paley_graph(13).to_undirected(), "PROVED", (1 + math.sqrt(13)) / 2),
    (nx.hoffman_singleton_graph(), "PROVED", 3),
    (nx.circular_ladder_graph(101), "REFUTED", 1 + 2 * math.cos(math.pi / 101)),
    (nx.hypercube_graph(6), "PROVED", 4),
    (nx.hypercube_graph(7), "REFUTED", 5),
    (nx.heawood_graph(), "PROVED", math.sqrt(2)),
]


@pytest.mark.parametrize(
    ("graph", "verdict", "value"), REGULAR, ids=lambda x: getattr(x, "name", "")
)
def test_regular_known_answers(graph, verdict, value):
    proof = certify(graph, definition="regular")
    assert proof.verdict == verdict
    assert proof.sigma2[0] <= value * (1 + 1e-14)
    assert proof.sigma2[1] >= value * (1 - 1e-14)
    assert Certificate.from_json(proof.to_json()) == proof


@settings(max_examples=200)
@given(st.integers(4, 14), st.integers(2, 6), seeds)
def test_regular_agrees_with_eigenvalues(n, d, seed):
    d = min(d, n - 1)
    if n * d % 2:
        n += 1
    graph = nx.random_regular_graph(d, n, seed=seed)
    proof = certify(graph, definition="regular")
    values = np.sort(np.linalg.eigvalsh(nx.to_numpy_array(graph)))
    nontrivial = values[1:-1] if nx.is_bipartite(graph) else values[:-1]
    top = np.abs(nontrivial).max()
    if not nx.is_connected(graph):
        assert proof.verdict == "REFUTED"
    elif abs(top - 2 * math.sqrt(d - 1)) > 1e-9:
        assert proof.verdict == ("PROVED" if top <= 2 * math.sqrt(d - 1) else "REFUTED")
    assert proof.sigma2[0] <= top * (1 + 1e-9)
    assert proof.sigma2[1] >= top * (1 - 1e-9) - 1e-12


def test_every_way_to_give_a_regular_graph():
    adjacency = nx.to_numpy_array(nx.petersen_graph(), dtype=int)
    expected = regular(nx.petersen_graph())
    assert (expected.n1, expected.n2, expected.d1) == (10, 10, 3)
    for given_ in (adjacency, torch.tensor(adjacency), scipy.sparse.csr_array(adjacency)):
        assert regular(given_) == expected
    assert regular(nx.complete_bipartite_graph(4, 4)) == complete_bipartite(4, 4)
    assert regular(heawood()) == heawood()


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (nx.path_graph(4), NotBiregularError, "degrees must be equal"),
        (nx.Graph(), InvalidInputError, "no vertices"),
        (nx.complete_graph(2), InfeasibleShapeError, "stars"),
        (nx.DiGraph([(0, 1), (1, 0)]), InvalidInputError, "undirected"),
        (nx.MultiGraph([(0, 1), (0, 1)]), InvalidInputError, "simple"),
        (nx.Graph([("a", "a"), ("a", "b")]), InvalidInputError, "'a' has a loop"),
        (np.eye(3, dtype=int), InvalidInputError, "vertex 0 has a loop"),
        (np.ones((3, 4), dtype=int), InvalidInputError, "square"),
        (np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]), InvalidInputError, "symmetric"),
        (complete_bipartite(4, 2), NotBiregularError, "equal degrees"),
    ],
)
def test_what_is_no_regular_graph(bad, error, message):
    with pytest.raises(error, match=message):
        certify(bad, definition="regular")


def test_many_components_of_both_kinds():
    """Odd cycles anywhere make the whole graph not bipartite; without them it stands for itself."""
    even = nx.disjoint_union_all([nx.cycle_graph(n) for n in (4, 6, 8)] * 500)
    odd = nx.disjoint_union(even, nx.cycle_graph(5))
    assert (regular(even).n1, regular(odd).n1) == (4500, 9005)
    for graph in (even, odd):
        assert certify(graph, definition="regular").verdict == "REFUTED"


def test_an_odd_cycle_is_no_mask():
    with pytest.raises(InvalidInputError, match="definition='regular'"):
        certify(nx.petersen_graph())


def test_networkx_graphs_are_masks():
    heawood_graph = nx.heawood_graph()
    assert certify(heawood_graph).verdict == "PROVED"
    assert certify(heawood().to_networkx()) == certify(heawood())


# -- within eps --------------------------------------------------------------------------------


@settings(max_examples=200)
@given(shapes(9, least_degree=2), seeds, st.floats(0, 2))
def test_within_eps_agrees_with_inertia(shape, seed, eps):
    graph = random_biregular(*shape, rng=seed)
    proof = certify(graph, definition="within", eps=eps)
    gram = short_gram(graph)
    roots = math.sqrt(graph.d1 - 1) + math.sqrt(graph.d2 - 1)
    around = [Fraction(roots + eps) * (1 + Fraction(s, 10**9)) for s in (-1, 1)]
    above = [spectra.counts_against(gram, spectra.surd(level**2))[0] for level in around]
    if not proof.connected or above[1]:
        assert proof.verdict == "REFUTED"
    elif not above[0]:
        assert proof.verdict == "PROVED"
    assert Certificate.from_json(proof.to_json()) == proof


def test_eps_zero_is_one_sided():
    for case in cases.KNOWN + cases.TIES:
        weak, plain = certify(case.mask, definition="within", eps=0), certify(case.mask)
        assert (weak.verdict, weak.method, weak.sigma2) == (
            plain.verdict,
            plain.method,
            plain.sigma2,
        )


@pytest.mark.parametrize("eps", [5e-324, 1e-300, 1e-18])
@pytest.mark.parametrize("case", cases.TIES, ids=repr)
def test_what_is_proved_is_proved_within_any_eps(case, eps):
    graph = BiregularGraph.from_mask(case.mask)
    proof = certify(graph, definition="within", eps=eps)
    assert (proof.verdict, proof.method) == ("PROVED", "descartes")
    assert recheck(proof.to_json(), graph.neighbors.tolist(), graph.n2).outcome == "CONFIRMED"


def test_a_millionth_on_either_side_of_the_distance():
    """Q_7 has sigma_2 = 5 and rho = 2 sqrt 6."""
    exact = 5 - 2 * math.sqrt(6)
    assert certify(hypercube(7), definition="within", eps=exact * 1.000001).verdict == "PROVED"
    assert certify(hypercube(7), definition="within", eps=exact * 0.999999).verdict == "REFUTED"


@pytest.mark.parametrize("eps", [1e3, 1e154, 1e300])
def test_a_huge_eps_is_always_enough(eps):
    assert certify(hypercube(7), definition="within", eps=eps).verdict == "PROVED"
    two = BiregularGraph.from_mask(cases.two_copies(np.ones((3, 3), dtype=int)))
    assert certify(two, definition="within", eps=eps).verdict == "REFUTED"


@pytest.mark.parametrize("eps", [None, -1.0, math.nan, math.inf, "1", True, 1j, 10**400])
def test_bad_eps(eps):
    with pytest.raises(InvalidInputError, match="eps"):
        certify(heawood(), definition="within", eps=eps)


def test_eps_goes_with_within_only():
    with pytest.raises(InvalidInputError, match=r"eps=0\.5 goes with definition='within'"):
        certify(heawood(), eps=0.5)


# -- the bounds themselves ---------------------------------------------------------------------


@settings(max_examples=300)
@given(st.integers(2, 10**6), st.integers(2, 10**6), st.floats(1e-12, 10))
def test_bounds_are_on_the_safe_side(d1, d2, eps):
    weak, plain = RamanujanBound(d1, d2, eps), RamanujanBound(d1, d2)
    below = Fraction(weak.square_below())
    assert not weak.exceeded_by(below)
    assert below == d1 * d2 or weak.exceeded_by(below * (1 + Fraction(1, 10**12)))
    assert weak.exceeded_by(below) <= plain.exceeded_by(below)
    above = Fraction(plain.least_square_above())
    assert not plain.least_missed_by(above)
    if d1 != d2:
        assert plain.least_missed_by(above - Fraction(plain.a, 2**50))


def test_a_rational_threshold_is_met_exactly():
    bound = RamanujanBound(2, 5, 0.5)  # rho = 3
    assert not bound.exceeded_by(Fraction(49, 4))
    assert bound.exceeded_by(Fraction(49, 4) + Fraction(1, 10**60))


def test_projective_planes_are_two_sided():
    """All nontrivial singular values of a projective plane are sqrt q."""
    for q in (2, 3, 4):
        proof = certify(projective_plane(q), definition="two-sided")
        assert proof.verdict == "PROVED"
        assert proof.sigma_min == pytest.approx((math.sqrt(q),) * 2, rel=1e-9)
