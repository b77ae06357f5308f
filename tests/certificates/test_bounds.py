"""The Ramanujan bound and the lower limits, against exact roots and exhaustive enumeration."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import certify
from expandermask.certificates import limits, ramanujan_bound
from expandermask.certificates.bounds import RamanujanBound
from expandermask.errors import InvalidInputError
from expandermask.graphs import random_biregular
from tests import cases
from tests.oracles import graphs as oracle
from tests.oracles import spectra
from tests.strategies import seeds, shapes

degrees = st.integers(2, 10**6)


@settings(max_examples=300)
@given(degrees, degrees)
def test_square_below_is_below_and_close(d1, d2):
    below = RamanujanBound(d1, d2).square_below()
    exact = spectra.rho_squared(d1, d2)
    assert (exact - spectra.Surd(Fraction(below), Fraction(0), exact.m)).sign() >= 0
    above = Fraction(below) * (1 + Fraction(1, 2**50))
    assert (spectra.Surd(above, Fraction(0), exact.m) - exact).sign() >= 0


@settings(max_examples=300)
@given(st.integers(2, 300), st.integers(2, 300), st.integers(-3, 3))
def test_exceeded_by_is_exact(d1, d2, nudge):
    bound, exact = RamanujanBound(d1, d2), spectra.rho_squared(d1, d2)
    near = Fraction(bound.square_below()) + Fraction(nudge, 2**44)
    for square in (near, Fraction(round(near)), Fraction(0), Fraction(d1 * d2)):
        above = (spectra.Surd(square, Fraction(0), exact.m) - exact).sign() > 0
        assert bound.exceeded_by(square) == above


@pytest.mark.parametrize("d", [2, 5, 10, 17, 26])
def test_a_square_bound_is_not_exceeded_by_itself(d):
    """d1 = d2 = d: rho**2 = 4 (d - 1); d1 = 2: rho = 1 + sqrt(d - 1), whole for these d."""
    assert not RamanujanBound(d, d).exceeded_by(Fraction(4 * (d - 1)))
    assert RamanujanBound(d, d).exceeded_by(Fraction(4 * (d - 1)) + Fraction(1, 10**30))
    root = 1 + math.isqrt(d - 1)
    assert ramanujan_bound(2, d) == root
    assert RamanujanBound(2, d).square_below() == root**2


@pytest.mark.parametrize(
    "shape",
    [(4, 4, 2), (5, 5, 2), (5, 5, 3), (6, 4, 2), (4, 6, 3), (6, 3, 2), (3, 6, 4), (6, 6, 2)],
)
def test_no_graph_of_the_shape_beats_the_limits(shape):
    n1, n2, d1 = shape
    best = limits(*shape).best
    attained = math.inf
    for rows in oracle.all_simple(*shape):
        square = np.linalg.svd(oracle.dense(rows, n2), compute_uv=False)[1] ** 2
        attained = min(attained, square)
    assert attained >= best - 1e-9
    assert best > 0


@settings(max_examples=150)
@given(shapes(12, least_degree=2), seeds)
def test_limits_hold_exactly_on_random_graphs(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    gram = oracle.gram(side.mask().tolist())
    found = limits(*shape)
    assert found.best == max(vars(found).values()) >= found.integrality >= 0
    above, on = spectra.counts_against(gram, spectra.surd(found.best))
    assert above + on >= 1


@settings(max_examples=200)
@given(shapes(30, least_degree=2))
def test_limits_by_their_formulas(shape):
    """Section by section: the mean of the squares, d minus the least codegree's ceiling; and the
    others never less than one of these, by more than a hair, nor more than one above."""
    n1, n2, d1 = shape
    d2 = n1 * d1 // n2
    found = limits(n1, n2, d1)
    n, d = min(n1, n2), (d2 if n2 <= n1 else d1)
    assert found.trace * (n - 1) == n * d - d1 * d2
    assert found.integrality == math.ceil(found.trace)
    assert found.integrality <= found.lattice <= found.integrality + 1
    assert found.schur >= found.integrality
    assert found.walks > found.trace - Fraction(1, 2**31)
    assert limits(n2, n1, d2) == found


@pytest.mark.parametrize(
    ("mask", "square"),
    [(cases.projective_plane(p), p) for p in (2, 3, 5)]
    + [
        (cases.double_triples(), 5),
        (cases.pappus(), 3),
        (cases.tutte_coxeter(), 4),
        (np.ones((6, 3), int), 0),
    ],
)
def test_known_limits(mask, square):
    """All of these attain the limit, each a different one first."""
    n1, n2 = mask.shape
    found = limits(n1, n2, int(mask[0].sum()))
    assert found.best == square
    proof = certify(mask)
    assert proof.limit == pytest.approx(math.sqrt(square), rel=1e-14)
    assert Fraction(proof.limit) ** 2 <= square


@pytest.mark.parametrize(
    ("shape", "square"),
    [
        ((768, 8, 2), 166),
        ((768, 32, 3), 69),
        ((1024, 64, 3), 48),
        ((768, 64, 2), 25.3238197),
        ((512, 512, 3), 7.0647861),
        ((3072, 4, 2), 1024),
    ],
)
def test_limits_at_the_shapes_of_adapters(shape, square):
    assert float(limits(*shape).best) == pytest.approx(square, abs=1e-6)


@pytest.mark.parametrize("bad", [(1, 5, 5), (5, 1, 1), (5, 0, 1), (0, 5, 1), (5, 7, 2), (4, 4, 5)])
def test_limits_of_impossible_shapes(bad):
    with pytest.raises(InvalidInputError):
        limits(*bad)


@pytest.mark.parametrize("bad", [(0, 3), (3, 0), (-1, 2), (2.0, 3), (True, 3)])
def test_bound_of_impossible_degrees(bad):
    with pytest.raises(InvalidInputError):
        ramanujan_bound(*bad)
