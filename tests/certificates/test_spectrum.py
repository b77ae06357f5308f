"""Singular values, and Rayleigh quotients whose integers never overflow."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import BiregularGraph, spectrum
from expandermask.certificates.spectrum import rayleigh_quotient, top_nontrivial
from expandermask.errors import TooLargeError
from expandermask.graphs import complete_bipartite, random_biregular
from tests import cases
from tests.oracles import graphs as oracle
from tests.strategies import seeds, shapes


@settings(max_examples=100)
@given(shapes(14), seeds)
def test_spectrum_is_numpys(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    values = spectrum(graph)
    assert values.shape == (min(shape[:2]),)
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    squares = np.linalg.eigvalsh(np.array(oracle.gram(side.mask().tolist()), dtype=float))
    expected = np.sqrt(np.maximum(0, squares[::-1]))
    assert values == pytest.approx(expected, abs=1e-6)
    assert (np.diff(values) <= 0).all()
    assert values[0] == pytest.approx(np.sqrt(graph.d1 * graph.d2), abs=1e-12)


@pytest.mark.parametrize("case", cases.KNOWN + cases.TIES, ids=repr)
def test_known_second_singular_values(case):
    values = spectrum(BiregularGraph.from_mask(case.mask))
    assert values[1] ** 2 == pytest.approx(float(case.square), abs=1e-9)


def test_spectrum_near_the_memory_limit(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match="SVD of a 4000 x 2000"):
        spectrum(random_biregular(4000, 2000, 2, rng=0))


def check_quotient(side, vector):
    """The quotient again, in Python integers of any size."""
    square, x = rayleigh_quotient(side, vector)
    whole = [int(value) for value in x]
    assert any(whole)
    assert sum(whole) == 0
    image = [sum(whole[j] for j in row) for row in side.neighbors.tolist()]
    assert square == Fraction(sum(y * y for y in image), sum(v * v for v in whole))
    return square


@settings(max_examples=150)
@given(shapes(12, least_degree=2), seeds, st.integers(0, 2**32 - 1))
def test_any_vector_gives_an_exact_quotient(shape, seed, noise):
    side = random_biregular(*shape, rng=seed)
    random = np.random.default_rng(noise)
    for vector in (random.standard_normal(side.n2), random.random(side.n2), np.eye(side.n2)[0]):
        check_quotient(side, vector)


@pytest.mark.parametrize(
    "shape",
    [
        (50_000, 2, 2),
        (2, 50_000, 50_000),
        (3000, 3000, 2999),
        (2048, 2048, 1024),
        (200_000, 20, 10),
    ],
)
def test_quotients_do_not_overflow(shape):
    """Vectors that make the sums as large as they can be: constant signs on whole rows."""
    n1, n2, d1 = shape
    side = complete_bipartite(n1, n2) if d1 == n2 else random_biregular(*shape, rng=0)
    half = np.where(np.arange(n2) < n2 // 2, 1.0, -1.0)
    spike = np.full(n2, 1.0)
    spike[0] = -1.0
    lone = np.zeros(n2)
    lone[0] = 1.0
    for vector in (half, spike, lone):
        square = check_quotient(side, vector)
        assert 0 <= square <= side.d1 * side.d2


@pytest.mark.parametrize("m", [3, 100, 1000])
def test_the_largest_image_there_can_be_does_not_overflow(m):
    """Two copies of K_{m,m}, +1 on one and -1 on the other: every entry of M x is m or -m."""
    rows = np.arange(m) + m * (np.arange(2 * m) >= m)[:, None]
    side = BiregularGraph(rows, 2 * m)
    assert check_quotient(side, np.repeat([1.0, -1.0], m)) == m * m


@pytest.mark.parametrize("n", [2, 5, 300])
def test_a_constant_vector_still_gives_a_quotient(n):
    """What an eigensolver may return for a complete bipartite graph, where any vector will do."""
    assert check_quotient(complete_bipartite(n, n), np.ones(n)) == 0


@settings(max_examples=100)
@given(shapes(12, least_degree=2), seeds)
def test_the_top_vector_comes_close(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    square = check_quotient(side, top_nontrivial(side, side.gram()))
    exact = np.linalg.svd(side.mask().astype(float), compute_uv=False)[1] ** 2
    assert float(square) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("shape", [(400, 300, 3), (300, 300, 150), (2000, 1000, 3), (600, 600, 2)])
def test_lanczos_comes_close(shape):
    side = random_biregular(*shape, rng=1)
    square = check_quotient(side, top_nontrivial(side, side.gram()))
    exact = np.linalg.svd(side.mask().astype(float), compute_uv=False)[1] ** 2
    assert float(square) == pytest.approx(exact, rel=1e-8)
