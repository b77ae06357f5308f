"""certify() where floating point is at its worst, against exact arithmetic.

Gram entries of a million with sigma_2 a billionth from the bound, blocks joined by two edges,
several eigenvalues on the bound at once, tiled ties, dense complements.
"""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from flint import fmpz_mat
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import BiregularGraph, certify
from expandermask.certificates.bounds import RamanujanBound
from expandermask.certificates.cholesky import proves_at_most, rounding_margin
from expandermask.certificates.descartes import count_roots
from expandermask.graphs import random_biregular
from tests import cases
from tests.oracles.roots import truth, truth_of


def check(proof, exact):
    """Verdict, components and enclosure are the exact ones; nothing is left open."""
    assert proof.verdict == exact.verdict
    assert proof.components == exact.components
    assert exact.encloses(*proof.sigma2)
    if exact.tied and exact.components == 1 and proof.d1 * proof.d2 > 4:
        assert (proof.method, proof.evidence["ties"]) == ("descartes", exact.ties)


# -- hundreds of thousands of rows on a handful of columns ----------------------------------------


def weighted(weights):
    """The graph with weights[x, y] rows {x, y}: its Gram matrix is weights + d2 I."""
    x, y = np.triu_indices(len(weights), 1)
    return BiregularGraph(np.repeat(np.column_stack([x, y]), weights[x, y], axis=0), len(weights))


def ring_of_four(side, across):
    """Weights on a 4-cycle and its diagonals; the eigenvalues are -across and across - 2 side."""
    first = [0, side, across, side]
    return np.array([np.roll(first, k) for k in range(4)])


def exact_of(codegrees, d1=2):
    """The truth about a connected graph from the off-diagonal entries of its Gram matrix."""
    d2 = int(codegrees[0].sum()) // (d1 - 1)
    gram = codegrees + d2 * np.eye(len(codegrees), dtype=np.int64)
    return truth_of(fmpz_mat(gram.tolist()).charpoly(), d1, d2, components=1)


@pytest.mark.parametrize("k", [11, 101, 301, 701])
def test_ties_of_large_degree(k):
    """across - 2 side = 2 k and d2 = k**2 + 1: sigma_2**2 = d2 + 2 sqrt(d2 - 1), exactly."""
    weights = ring_of_four((k - 1) ** 2 // 4, (k + 1) ** 2 // 2)
    exact, proof = exact_of(weights), certify(weighted(weights))
    assert exact.tied
    check(proof, exact)


@pytest.mark.parametrize("k", [10, 100, 300, 700])
@pytest.mark.parametrize(("more", "verdict"), [(0, "REFUTED"), (4, "PROVED")])
def test_a_billionth_from_the_bound(k, more, verdict):
    """With d2 = k**2 the excess of 2 k over 2 sqrt(d2 - 1) is 1/k; with k**2 + 4 it is -3/k."""
    d2 = k**2 + more
    weights = ring_of_four((d2 - 2 * k) // 4, (d2 + 2 * k) // 2)
    exact, proof = exact_of(weights), certify(weighted(weights))
    assert abs(proof.sigma2[1] / proof.bound - 1) < 2 / k**3
    assert exact.verdict == verdict
    check(proof, exact)


@pytest.mark.parametrize("n2", [5, 8, 13])
def test_random_weights_of_a_hundred_thousand(n2):
    """Codegrees from 1 to 10**5 side by side: sums of weighted perfect matchings or cycles."""
    random = Random(n2)
    weights = np.zeros((n2, n2), dtype=np.int64)
    for scale in (1, 1, 10, 100, 10**3, 10**4, 10**5 // n2):
        order = random.sample(range(n2), n2)
        for x, y in zip(order, [*order[1:], order[0]], strict=True):
            weights[[x, y], [y, x]] += scale
    check(certify(weighted(weights)), exact_of(weights))


@pytest.mark.parametrize("shape", [(100_000, 8, 3), (200_000, 10, 5), (300_000, 6, 5)])
def test_random_masks_of_a_hundred_thousand_rows(shape):
    graph = random_biregular(*shape, rng=0)
    mask = graph.mask().astype(np.int64)
    codegrees = mask.T @ mask
    np.fill_diagonal(codegrees, 0)
    check(certify(graph), exact_of(codegrees, graph.d1))


# -- nearly disconnected --------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(10, 3), (20, 3), (40, 4), (60, 8), (30, 29), (64, 60)])
def test_two_blocks_joined_by_two_edges(n, d):
    """Connected, but sigma_2 is within 2/n of sigma_1."""
    blocks = cases.two_copies(random_biregular(n, n, d, rng=n).mask().astype(int))
    i, j = 0, n + 1
    x, y = np.flatnonzero(blocks[i])[0], np.flatnonzero(blocks[j])[-1]
    blocks[[i, j], [x, y]] = 0
    blocks[[i, j], [y, x]] = 1
    proof, exact = certify(blocks), truth(blocks)
    check(proof, exact)
    assert (proof.verdict, proof.components) == ("REFUTED", 1)
    assert d - 2 / n < proof.sigma2[0] <= proof.sigma2[1] < d


@pytest.mark.parametrize("n", [3, 50, 257, 512, 700])
def test_long_cycles_come_as_near_as_they_like(n):
    """sigma_2 = 2 cos(pi / n) < 2 = rho = sigma_1; two cycles have 2 twice and are refuted."""
    step = np.eye(n, dtype=np.int64)
    cycle = step + np.roll(step, 1, axis=1)
    proof = certify(cycle)
    assert proof.verdict == "PROVED"
    assert abs(proof.sigma2[1] - 2 * math.cos(math.pi / n)) < 1e-6
    assert certify(cases.two_copies(cycle)).verdict == "REFUTED"


# -- crowds at the bound ----------------------------------------------------------------------


def test_eight_eigenvalues_on_the_bound_and_their_neighbours():
    """K_10 box K_9: lambda_2 = 8 = 2 sqrt(17 - 1) eight times; switches stir them up."""
    tie = cases.box(cases.complete(10), cases.complete(9))
    exact = truth(tie)
    assert exact.ties == 8
    check(certify(tie), exact)
    mask = tie
    for _ in range(4):
        mask = cases.switched(mask)
        check(certify(mask), truth(mask))


@pytest.mark.parametrize("m", [5, 6, 7, 12, 24, 40])
def test_toruses_whose_eigenvalues_gather_below_or_above_it(m):
    mask = cases.subdivision(cases.box(cases.cycle(m), cases.complete(4)))
    exact = truth(mask)
    assert exact.verdict == ("PROVED" if m <= 6 else "REFUTED")
    assert exact.tied == (m == 6)
    check(certify(mask), exact)


@pytest.mark.parametrize("case", cases.TIES, ids=repr)
@pytest.mark.parametrize("copies", [(2, 1), (1, 2), (2, 2), (5, 1)])
def test_ties_scaled_by_tiling(case, copies):
    """sigma_2 grows by the root of the number of copies, the bound by less: refuted."""
    mask = np.tile(case.mask, copies)
    exact = truth(mask)
    assert exact.verdict == "REFUTED"
    check(certify(mask), exact)


@pytest.mark.parametrize("copies", [(a, b) for a in range(1, 5) for b in range(1, 5)])
def test_twelve_cycles_tiled_meet_the_bound_once(copies):
    mask = np.tile(cases.bipartition(cases.cycle(12)), copies)
    exact = truth(mask)
    assert exact.tied == (copies == (2, 2))
    check(certify(mask), exact)


# -- dense ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 4, 17, 64, 150, 300])
def test_complements_of_matchings(n):
    """J - P has sigma_2 = 1, one for each column but one."""
    mask = 1 - np.eye(n, dtype=np.int64)[:, Random(n).sample(range(n), n)]
    proof = certify(mask)
    assert proof.verdict == "PROVED"
    assert proof.sigma2[0] <= 1 <= proof.sigma2[1] < 1 + 1e-6


@settings(max_examples=60)
@given(st.integers(2, 40), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32))
def test_complements_of_sparse_masks(n2, d1, times, seed):
    if n2 - d1 < 2:
        return
    mask = 1 - random_biregular(n2 * times, n2, d1, rng=seed).mask().astype(np.int64)
    check(certify(mask), truth(mask))


# -- the margin -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 64, 4096, 2**40, 2**49, 2**50, 2**51])
def test_the_margin_is_its_formula(n):
    """4 gamma / (1 - gamma) trace, gamma = (n + 2) u / (1 - (n + 2) u), even where gamma is big."""
    u = Fraction(1, 2**53)
    gamma = (n + 2) * u / (1 - (n + 2) * u)
    formula = 4 * gamma / (1 - gamma) * 1000
    assert abs(Fraction(rounding_margin(n, 1000.0)) / formula - 1) < 20 * u


@settings(max_examples=100)
@given(st.integers(2, 30), st.integers(1, 10**6), st.floats(1, 1e6), st.data())
def test_the_matrix_factored_is_below_the_exact_one(n, entry, c, data):
    """Integer off the diagonal; on it, rounded down from c - margin + alpha - N_ii, always."""
    seen = []

    def record(matrix, **options):
        seen.append(np.array(matrix))
        return matrix, 1

    gram = np.full((n, n), entry, dtype=np.int64)
    diagonal = data.draw(st.lists(st.integers(0, 10**6), min_size=n, max_size=n))
    np.fill_diagonal(gram, diagonal)
    trivial = data.draw(st.integers(0, 10**7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scipy.linalg.lapack.dpotrf", record)
        assert not proves_at_most(gram, trivial, c)
    alpha = -(-trivial // n)
    exact_diagonal = [alpha - int(value) for value in diagonal]
    margin = Fraction(rounding_margin(n, float(sum(exact_diagonal)) + n * c))
    for i in range(n):
        for j in range(n):
            if i != j:
                assert seen[0][i, j] == alpha - entry
        assert Fraction(seen[0][i, i]) < exact_diagonal[i] + Fraction(c) - margin


def test_a_matrix_without_the_trivial_eigenvector_is_not_counted():
    with pytest.raises(ArithmeticError) as refusal:
        count_roots(np.array([[2, 1], [1, 4]]), 4, RamanujanBound(2, 2))
    assert str(refusal.value) == "the all-ones vector is not an eigenvector of the Gram matrix"
