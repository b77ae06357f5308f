"""Orbits under abelian groups, and the search among them, against plain Python."""

from __future__ import annotations

from math import comb, prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.graphs import BiregularGraph
from expandermask.graphs import _design_kernels as kernels
from expandermask.graphs.orbits import (
    SCALE,
    abelian_groups,
    addition_table,
    orbits_of,
    search,
    translations,
)
from tests.oracles import designs as oracle
from tests.oracles.graphs import SplitMix64
from tests.strategies import seeds
from tests.without_compiler import only_with_compiler, passed_without_compiler

groups = st.integers(2, 12).flatmap(lambda r: st.sampled_from(abelian_groups(r)))


def state(seed: int) -> np.ndarray:
    return np.array([seed], dtype=np.uint64)


def test_abelian_groups_are_counted_by_partitions():
    counts = [len(abelian_groups(n)) for n in range(1, 65)]
    by_prime_powers = {1: 1, 4: 2, 8: 3, 16: 5, 32: 7, 64: 11, 36: 4, 48: 5, 60: 2, 30: 1}
    assert all(counts[n - 1] == k for n, k in by_prime_powers.items())
    assert all(prod(g) == n for n in range(2, 65) for g in abelian_groups(n))


@settings(max_examples=30)
@given(groups)
def test_the_addition_table_is_the_groups(group):
    add = addition_table(group)
    r = prod(group)
    assert add.tolist() == [[oracle.plus(group, x, y) for y in range(r)] for x in range(r)]
    twice = translations(group, 2 * r)
    assert twice.tolist() == [[*row, *(x + r for x in row)] for row in add.T.tolist()]


@settings(max_examples=40)
@given(groups, st.integers(1, 4))
def test_orbits_and_their_characters(group, m):
    if m >= prod(group):
        return
    found, expected = orbits_of(group, m), oracle.orbits(group, m)
    blocks = list(map(tuple, found.blocks.tolist()))
    assert dict(zip(blocks, found.stabilisers.tolist(), strict=True)) == expected
    assert sum(prod(group) // t for t in expected.values()) == comb(prod(group), m)
    for block, row in zip(blocks, found.values, strict=True):
        np.testing.assert_allclose(
            row / SCALE, oracle.character_squares(group, list(block)), atol=0.6 / SCALE
        )


def test_no_platform_can_round_a_cosine_otherwise():
    """Every cosine of the groups in use, in units of 2**-30, is far from a half."""
    for n in range(2, 65):
        scaled = 2.0**30 * np.cos(2 * np.pi * np.arange(n) / n)
        assert np.abs(scaled - np.floor(scaled) - 0.5).min() > 1e-4


@settings(max_examples=60)
@given(groups, st.integers(2, 3), st.integers(1, 5), seeds, st.sampled_from([1, 2**9]))
def test_the_descent_is_the_oracles(group, m, slots, seed, factor):
    """A factor takes the overflow past the point where its terms are cut off."""
    if m >= prod(group):
        return
    values = orbits_of(group, m).values * factor
    count = len(values)
    random = np.random.default_rng(seed)
    chosen = random.integers(count, size=slots)
    kinds = random.integers(2, size=slots)
    ranges = np.array([[0, count], [count // 2, count]])
    level = int(values[chosen].sum(axis=0).mean())
    args = ranges.tolist(), kinds.tolist(), chosen.tolist(), level, SCALE // 2, 40
    naive = oracle.descended(values.tolist(), *args, SplitMix64(seed))
    floats = values.astype(np.float64)
    least = kernels.descend(floats, ranges, kinds, chosen, float(level), SCALE / 2, 40, state(seed))
    assert (int(least), chosen.tolist()) == naive


@settings(max_examples=60)
@given(groups, st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), seeds)
def test_expansion_is_the_oracles(group, m, side, copies, seed):
    columns = side * prod(group)
    if m >= columns:
        return
    random = np.random.default_rng(seed)
    blocks = np.array([random.permutation(columns)[:m] for _ in range(3)])
    rows = sum(copies * len(set(oracle.translates(group, b))) for b in blocks.tolist())
    ours, naive = state(seed), SplitMix64(seed)
    names, order = kernels.shuffled(columns, ours), kernels.shuffled(rows, ours)
    assert names.tolist() == oracle.shuffled(columns, naive)
    assert order.tolist() == oracle.shuffled(rows, naive)
    out = np.full((rows, m), -1, dtype=np.int32)
    moves = translations(group, columns)
    assert kernels.expand(blocks, moves, copies, names, order, 0, out) == rows
    expected = oracle.expanded([(group, blocks.tolist(), copies)], names.tolist(), order.tolist())
    assert np.sort(out, axis=1).tolist() == expected


@settings(max_examples=25)
@given(groups, st.integers(2, 3), st.integers(1, 4), seeds)
def test_the_search_rounds_what_it_finds(group, m, slots, seed):
    r = prod(group)
    if m >= r:
        return
    found = search(group, m, slots * r, goal=0, climbs=2, steps=30, seed=seed)
    assert found is not None
    out = np.empty((slots * r, m), dtype=np.int32)
    order = np.arange(slots * r, dtype=np.int32)
    moves = translations(group, r)
    written = kernels.expand(found.blocks, moves, 1, order[:r].copy(), order, 0, out)
    assert written == slots * r
    mask = BiregularGraph(out, r)
    square = np.linalg.eigvalsh(mask.gram() - mask.d1 * mask.d2 / r)[-1]
    assert abs(max(float(square), 0) - found.square) < (2 * slots + 1) * m / SCALE


def test_short_orbits_only_where_they_fit():
    assert search((8,), 2, 4, goal=0, climbs=3, steps=20, seed=0).blocks.tolist() == [[0, 4]]
    assert search((8,), 2, 6, goal=0, climbs=3, steps=20, seed=0) is None
    assert search((9,), 2, 12, goal=0, climbs=3, steps=20, seed=0) is None
    assert search((2, 2), 2, 6, goal=2, climbs=9, steps=99, seed=0).square == 2  # K_4


@only_with_compiler
def test_all_this_holds_with_the_compiler_off():
    assert passed_without_compiler(__file__) > 0
