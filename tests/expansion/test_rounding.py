"""Spectral bounds are on the safe side of their formulas in exact arithmetic, with no tolerance."""

from __future__ import annotations

from fractions import Fraction
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from expandermask.certificates.certify import certify
from expandermask.expansion.lower_bounds import (
    _gap_at_most,
    _gap_from,
    cheeger_buser,
    conductance_bounds,
    laplacian_gap,
)
from expandermask.graphs import BiregularGraph, random_biregular
from expandermask.graphs.bipartite import as_bipartite
from tests.oracles import expansion as oracle
from tests.strategies import Shape, masks, seeds, shapes

MODULE = import_module("expandermask.expansion.lower_bounds")  # the name leads to the function


def proved(gap: Fraction, graph: BiregularGraph, sigma2: float) -> bool:
    """Whether gap <= [(d1 + d2) - sqrt((d1 - d2)**2 + 4 sigma2**2)] / 2, in rationals."""
    root = graph.d1 + graph.d2 - 2 * gap
    return root >= 0 and root**2 >= (graph.d1 - graph.d2) ** 2 + 4 * Fraction(sigma2) ** 2


@pytest.mark.parametrize("shape", [(12, 8, 2), (30, 20, 4), (9, 6, 2), (40, 10, 3), (20, 20, 3)])
def test_gap_from_a_certificate(shape: Shape) -> None:
    graph = random_biregular(*shape, rng=1)
    sigma2 = certify(graph).sigma2[1]
    gap = _gap_from(graph, sigma2)
    assert gap > 0
    assert proved(gap, graph, sigma2)
    assert not proved(gap + Fraction(1, 2**90), graph, sigma2)


@given(st.floats(0.5, 3.4))
def test_gap_from_any_sigma2(sigma2: float) -> None:
    graph = random_biregular(12, 8, 4, rng=0)  # sigma_1 = sqrt(24)
    assert proved(_gap_from(graph, sigma2), graph, sigma2)


@given(masks())
@settings(max_examples=60)
def test_cheeger_buser(mask: oracle.Mask) -> None:
    assume(sum(mask.shape) > 2 and oracle.connected(mask))
    graph, n = as_bipartite(mask), sum(mask.shape)
    lower, upper = map(Fraction, cheeger_buser(graph))
    least, most = laplacian_gap(graph), Fraction(_gap_at_most(graph))
    assert least is not None
    assert lower <= least * (-(-n // 2)) / n
    degree = int(max(mask.sum(axis=0).max(), mask.sum(axis=1).max()))
    assert upper**2 >= most * (2 * degree - most)


@given(st.lists(st.integers(0, 2**17), min_size=15, max_size=15))
def test_rayleigh_quotients(noise: list[int]) -> None:
    """Of vectors that tell two blocks of ones, joined by one edge, from each other."""
    mask = np.kron(np.eye(2, dtype=np.int64), np.ones((4, 4), dtype=np.int64))
    mask[0, 7] = 1
    graph, block = as_bipartite(mask), [v % 8 < 4 for v in range(16)]
    largest = 2**20  # the scale to which vectors are rounded
    levels = zip(block, [0, *noise], strict=True)
    vector = [largest - less if first else less - largest for first, less in levels]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "_second", lambda _: (0.0, np.array(vector, dtype=float)))
        found = Fraction(_gap_at_most(graph))
    ends = zip(graph.lefts.tolist(), graph.rights.tolist(), strict=True)
    rises = sum((vector[i] - vector[8 + j]) ** 2 for i, j in ends)
    mean = Fraction(sum(vector), 16)
    quotient = rises / sum((x - mean) ** 2 for x in vector)
    assert quotient < 4  # the smallest degree, which is the bound on all others
    assert found >= quotient


@given(st.floats(0, 6**0.5), st.booleans())
def test_conductance_from_any_sigma2(sigma2: float, tiny: bool) -> None:
    graph = random_biregular(12, 8, 2, rng=0)  # d1 d2 = 6
    sigma2 = sigma2 * 2.0**-10 if tiny else sigma2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "certify", lambda _: SimpleNamespace(sigma2=(sigma2, sigma2)))
        lower, upper = map(Fraction, conductance_bounds(graph))
    assert lower == 0 or (1 - 2 * lower) ** 2 * 6 >= Fraction(sigma2) ** 2
    assert upper**2 >= 1 - Fraction(sigma2) ** 2 / 6


@given(shapes(8, 2), seeds)
@settings(max_examples=60)
def test_conductance(shape: Shape, seed: int) -> None:
    graph = random_biregular(*shape, rng=seed)
    low, high = map(Fraction, certify(graph).sigma2)
    lower, upper = map(Fraction, conductance_bounds(graph))
    product = graph.d1 * graph.d2
    assert lower == 0 or (1 - 2 * lower) ** 2 * product >= high**2
    assert upper**2 >= 1 - low**2 / product
