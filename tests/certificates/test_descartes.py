"""count_roots against exact inertia, which knows no polynomial."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.certificates.bounds import RamanujanBound
from expandermask.certificates.descartes import RootCount, _shift_by_w, _sign, count_roots
from expandermask.graphs import random_biregular
from tests import cases
from tests.oracles import graphs as oracle
from tests.oracles import spectra
from tests.strategies import seeds, shapes

SMALL = [c for c in cases.KNOWN + cases.TIES if min(c.mask.shape) <= 48]


@settings(max_examples=300)
@given(shapes(9, least_degree=2), seeds)
def test_agrees_with_inertia_on_random_graphs(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    gram = oracle.gram(graph.mask().tolist())
    above, ties = spectra.ramanujan_counts(gram, graph.d1, graph.d2)
    below, ties_below = spectra.two_sided_counts(gram, graph.d1, graph.d2)
    counted = count_roots(graph.gram(), graph.d1 * graph.d2, RamanujanBound(graph.d1, graph.d2))
    assert counted == RootCount(above, ties, below, ties_below)


@settings(max_examples=200)
@given(shapes(8), seeds, st.integers(2, 9), st.integers(2, 9))
def test_agrees_with_inertia_at_other_levels(shape, seed, d1, d2):
    """Bounds of foreign degrees cut the spectrum anywhere, so that many roots lie above."""
    graph = random_biregular(*shape, rng=seed)
    if graph.d1 * graph.d2 == 0:
        return
    above, ties = spectra.ramanujan_counts(oracle.gram(graph.mask().tolist()), d1, d2)
    found = count_roots(graph.gram(), graph.d1 * graph.d2, RamanujanBound(d1, d2))
    assert (found.above, found.ties) == (above, ties)


@pytest.mark.parametrize("case", SMALL, ids=repr)
def test_known_graphs(case):
    mask = case.mask if case.mask.shape[1] <= case.mask.shape[0] else case.mask.T
    d1, d2 = int(mask[0].sum()), int(mask[:, 0].sum())
    found = count_roots(mask.T @ mask, d1 * d2, RamanujanBound(d1, d2))
    disconnected_cycles = case.name == "two_squares"  # trivial = rho**2 there
    assert found.ties == case.ties + disconnected_cycles
    assert (found.above > 0) == (case.verdict == "REFUTED" and not disconnected_cycles)


@settings(max_examples=500)
@given(st.integers(-(10**12), 10**12), st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_signs_are_exact(u, v, square):
    exact = spectra.surd(u, v, square) if square < 10**4 else None
    expected = np.sign(u + v * np.sqrt(np.longdouble(square)))
    if exact is not None:
        expected = exact.sign()
    elif abs(u * u - square * v * v) < 2 or abs(expected) < 1e-3:
        return
    assert _sign((u, v), square) == expected


@pytest.mark.parametrize("root", [1, 2, 3, 10, 1000])
def test_signs_where_the_root_is_whole(root):
    for u, v in [(root, -1), (-root, 1), (0, 0), (7 * root, -7)]:
        assert _sign((u, v), root**2) == 0
    assert _sign((root + 1, -1), root**2) == 1
    assert _sign((-root - 1, 1), root**2) == -1


@settings(max_examples=200)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=7), st.integers(1, 30))
def test_the_shift_is_the_binomial_expansion(coefficients, square):
    """p(y + w) coefficient by coefficient, splitting even and odd powers of w."""
    for k, (u, v) in enumerate(_shift_by_w(coefficients, square)):
        terms = [(c * comb(j, k), j - k) for j, c in enumerate(coefficients) if j >= k]
        assert u == sum(c * square ** (e // 2) for c, e in terms if e % 2 == 0)
        assert v == sum(c * square ** (e // 2) for c, e in terms if e % 2)


def test_a_matrix_without_the_trivial_eigenvector_is_refused():
    with pytest.raises(ArithmeticError, match="all-ones"):
        count_roots(np.diag([1, 2, 3]), 9, RamanujanBound(3, 3))
