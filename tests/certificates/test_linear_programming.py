"""The linear-programming limit against the program itself, ideal balls, and extremal graphs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings

from expandermask.certificates import limits
from expandermask.certificates.linear_programming import walk_limit
from expandermask.graphs import random_biregular
from tests import cases
from tests.oracles import limits as oracle
from tests.strategies import feasible_shapes, seeds, shapes


def sides(shape):
    n1, n2, d1 = shape
    d2 = n1 * d1 // n2
    return (n2, n1, d2, d1), (n1, n2, d1, d2)


@pytest.mark.parametrize(
    ("shape", "degree"),
    [
        ((512, 512, 3), 8),
        ((512, 512, 4), 6),
        ((512, 512, 5), 6),
        ((512, 512, 8), 5),
        ((20, 20, 3), 6),
        ((100, 60, 3), 6),
        ((64, 64, 8), 5),
        ((600, 300, 4), 6),
    ],
)
def test_the_closed_form_is_the_optimum(shape, degree):
    for v, w, k, m in sides(shape):
        stated = float(walk_limit(v, w, k, m))
        assert oracle.linear_program(v, k, m, degree) == pytest.approx(stated, rel=2e-4)


@settings(max_examples=300)
@given(shapes(60, least_degree=2).filter(lambda s: s[2] > 2 or s[0] != s[1]))
def test_the_chain_is_the_ideal_ball(shape):
    for v, w, k, m in sides(shape):
        stated = float(walk_limit(v, w, k, m))
        assert stated == pytest.approx(max(oracle.ideal_ball(v, w, k, m), 0), abs=1e-7)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9, 40, 120])
def test_a_cycle_attains_its_limit(n):
    stated = float(walk_limit(n, n, 2, 2))
    assert stated == pytest.approx(4 * math.cos(math.pi / n) ** 2, abs=1e-9)


def test_long_cycles_are_cut_short():
    assert 3.99 < walk_limit(10**6, 10**6, 2, 2) < 4


@pytest.mark.parametrize(
    ("mask", "square"),
    [
        (cases.projective_plane(2), 2),
        (cases.projective_plane(5), 5),
        (cases.tutte_coxeter(), 4),
        (cases.desargues(), 4),
        (np.ones((5, 3), int), 0),
    ],
)
def test_graphs_that_attain_it_and_one_that_does_not(mask, square):
    """Planes and quadrangles are the ideal ball. The Desargues graph is no extremal graph."""
    n1, n2 = mask.shape
    shape = (n1, n2, int(mask[0].sum()))
    attained = [walk_limit(*side) == square for side in sides(shape)]
    assert attained == [n1 != 10] * 2
    assert limits(*shape).best <= square


@settings(max_examples=200)
@given(shapes(40, least_degree=2), seeds)
def test_no_graph_is_below_it(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    square = np.linalg.svd(graph.mask().astype(float), compute_uv=False)[1] ** 2
    for side in sides(shape):
        assert square >= walk_limit(*side) - 1e-9


def test_it_is_never_weaker_than_the_trace_or_three_moments():
    """From the smaller side. With q > 0 the lattice limit is what implies three moments."""
    for n1, n2, d1 in feasible_shapes(24, least_degree=2):
        if n1 < n2:
            continue
        found = limits(n1, n2, d1)
        d2 = n1 * d1 // n2
        assert found.walks > found.trace - 1e-9
        assert found.three_moment == pytest.approx(oracle.three_moments(n2, d2, d1), abs=1e-8)
        assert found.three_moment <= oracle.three_moments(n2, d2, d1) + 1e-12
        assert found.best >= oracle.three_moments(n2, d2, d1) - 1e-9
        if d2 * (d1 - 1) < n2 - 1:
            weaker = max(found.walks, found.integrality)
            assert weaker >= oracle.three_moments(n2, d2, d1) - 1e-9
