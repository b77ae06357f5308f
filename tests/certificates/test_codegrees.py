"""The lattice and Schur limits, against enumeration of codegree matrices and random multigraphs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.certificates.codegrees import GRID, lattice_limit, schur_limit
from tests.oracles import limits as oracle

GOLDEN = (math.sqrt(5) - 1) / 2


def limit_on_mu(limit, v, e):
    """The limit for a matrix B of row sums e: k - q + mu with k = e, m = 2, so q = 0."""
    return limit(v, e, 2) - e


SMALL = [(v, e) for v in range(3, 7) for e in range(v - 1) if v * e % 2 == 0]


@pytest.mark.parametrize(("v", "e"), [*SMALL, (7, 2), pytest.param(7, 4, marks=pytest.mark.slow)])
def test_every_matrix_below_one_is_enumerated(v, e):
    """The least mu < 1 over all integer B, and the limit, agree; (7, 4) is the 7-cycle, 0.802."""
    values = [oracle.second_eigenvalue(b) for b in oracle.even_codegree_matrices(v, e)]
    least = min(values, default=1.0)
    stated = float(limit_on_mu(lattice_limit, v, e))
    if (v, e) == (7, 4):
        assert least == pytest.approx(2 * math.cos(math.pi / 7) - 1)
        assert stated == pytest.approx(GOLDEN)
    else:
        assert stated == pytest.approx(least, abs=1e-9)
    assert stated <= least + 1e-12


@pytest.mark.parametrize("c", [3, 4, 5, 6])
def test_signed_trees_are_why_very_dense_codegrees_are_set_apart(c):
    """They have mu < 1 at the least order the limit allows for, and keep its promise."""
    gram = oracle.signed_tree(c)
    v = len(gram)
    assert v == 2 * c * c + c - 1
    assert (gram.sum(axis=1) == c).all()
    b = 1 - gram + np.eye(v, dtype=int)
    mu = oracle.second_eigenvalue(b)
    assert 0 < mu < 1
    assert b.max() == 2
    e = v + 1 - c
    assert float(limit_on_mu(lattice_limit, v, e)) <= mu
    if v % (c - 1) and c > 4:
        assert 0 < limit_on_mu(lattice_limit, v, e) < 1
        assert lattice_limit(v - c + 1, e - c + 1, 2) == e - c + 2  # just too few vertices


@pytest.mark.parametrize(
    ("v", "e", "mu"), [(8, 4, 0), (9, 6, 0), (12, 8, 0), (64, 33, 1), (4, 1, 1)]
)
def test_lattice_limits_by_hand(v, e, mu):
    assert limit_on_mu(lattice_limit, v, e) == mu


@pytest.mark.parametrize("v", [5, 8, 10, 14, 20])
def test_unions_of_triangles_and_pentagons_attain_the_golden_limit(v):
    lengths = [5] * (2 * v % 3 if v != 10 else 2)
    lengths += [3] * ((v - sum(lengths)) // 3)
    assert sum(lengths) == v
    h = np.zeros((v, v), dtype=int)
    start = 0
    for n in lengths:
        for i in range(n):
            x, y = start + i, start + (i + 1) % n
            h[x, y] = h[y, x] = 1
        start += n
    b = 1 - np.eye(v, dtype=int) - h
    mu = oracle.second_eigenvalue(b)
    assert mu == pytest.approx(GOLDEN)
    stated = limit_on_mu(lattice_limit, v, v - 3)
    assert 0 <= GOLDEN - stated < 2 / GRID


def multigraph(v, e, seed):
    """A random e-regular multigraph without loops: e random perfect matchings, or 2-factors."""
    random = np.random.default_rng(seed)
    b = np.zeros((v, v), dtype=int)
    while b[0].sum() < e:
        order = random.permutation(v)
        if v % 2 or (e - b[0].sum() > 1 and random.random() < 0.5):
            pairs = zip(order, np.roll(order, 1), strict=True)
        else:
            pairs = zip(order[::2], order[1::2], strict=True)
        for x, y in pairs:
            b[x, y] += 1
            b[y, x] += 1
    return b


@settings(max_examples=300)
@given(st.integers(3, 24), st.data())
def test_no_multigraph_is_below_the_limits(v, data):
    e = data.draw(st.integers(0, v - 2).filter(lambda e: v * e % 2 == 0))
    b = multigraph(v, e, data.draw(st.integers(0, 2**32)))
    assert (b.sum(axis=1) == e).all()
    mu = oracle.second_eigenvalue(b)
    assert mu >= limit_on_mu(schur_limit, v, e) - 1e-9
    assert mu >= limit_on_mu(lattice_limit, v, e) - 1e-9


@settings(max_examples=100)
@given(st.integers(3, 24), st.data())
def test_negative_entries_do_not_break_the_limits(v, data):
    """B plus and minus the edges of 4-cycles: row sums stay, entries fall below zero."""
    e = data.draw(st.integers(0, v - 2).filter(lambda e: v * e % 2 == 0))
    seed = data.draw(st.integers(0, 2**32))
    b = multigraph(v, e, seed)
    random = np.random.default_rng(seed)
    for _ in range(data.draw(st.integers(1, 9)) if v > 3 else 0):
        w, x, y, z = random.choice(v, 4, replace=False)
        for s, t, sign in ((w, x, 1), (x, y, -1), (y, z, 1), (z, w, -1)):
            b[s, t] += sign
            b[t, s] += sign
    assert (b.sum(axis=1) == e).all()
    mu = oracle.second_eigenvalue(b)
    q = 5  # k (m - 1) = q (v - 1) + e with m = 2
    k = q * (v - 1) + e
    for limit in (schur_limit, lattice_limit):
        assert mu >= limit(v, k, 2) - k + q - 1e-9


@settings(max_examples=200)
@given(st.integers(3, 200), st.data())
def test_the_schur_limit_by_its_formula(v, data):
    """The cubes sum to less than zero at the limit, and to no less one step of the grid above."""
    e = data.draw(st.integers(1, v - 2))
    t = limit_on_mu(schur_limit, v, e)

    def cubes(t):
        c = Fraction(e - t) / v
        return (t + c) ** 3 + (v - 1 - e) * c**3 - e * (1 - c) ** 3

    assert t == 0 or cubes(t) < 0
    assert cubes(t + Fraction(1, GRID)) >= 0
    assert (t > 0) == (2 * e < v) or v <= 4
    if t > 0:
        k = 3 * (v - 1) + e
        assert schur_limit(v, k, 2) == k - 3 + min(t, 1 - Fraction(1, GRID))
