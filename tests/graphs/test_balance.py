"""Balanced masks: biregular, simple, proved, near the limit, and the same on every platform."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import isqrt

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from expandermask import BiregularGraph, certify
from expandermask.errors import TooLargeError
from expandermask.graphs import _balance_kernels as kernels
from expandermask.graphs import balance, random_biregular
from expandermask.graphs.balance import balanced, exact_bits
from tests.oracles import balance as oracle
from tests.strategies import Shape, feasible_shapes, seeds
from tests.without_compiler import only_with_compiler, passed_without_compiler


def long_shapes(largest: int) -> list[Shape]:
    return [s for s in feasible_shapes(largest, least_degree=2) if s[0] >= s[1] > s[2]]


def sparse_shapes(largest: int) -> list[Shape]:
    """Those the kernels see: at most half full, and neither single labels nor cycles."""
    return [s for s in long_shapes(largest) if s[2] <= s[1] // 2 and s[0] * s[2] > 2 * s[1]]


def drawn(shape: Shape, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, membership and Gram matrix of a random graph, ready for the descent."""
    graph = random_biregular(*shape, rng=seed)
    return graph.neighbors.copy(), graph.mask().astype(bool), graph.gram().copy()


def barrier(n1: int, n2: int, d1: int) -> int:
    d2 = n1 * d1 // n2
    return d1 + d2 - 2 + isqrt(4 * (d1 - 1) * (d2 - 1))


@pytest.fixture
def few_kicks(monkeypatch):
    monkeypatch.setattr(balance, "_MOST_KICKS", 2)


# -- the whole ------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.sampled_from(long_shapes(30)), seeds)
def test_rows_are_biregular_and_proved(shape, seed):
    n1, n2, d1 = shape
    rows = balanced(n1, n2, d1, seed)
    assert rows.dtype == np.int32
    graph = BiregularGraph(rows, n2)  # checks labels, repeats and degrees
    assert (graph.n1, graph.d1) == (n1, d1)
    assert np.array_equal(graph.neighbors, rows)
    assert certify(graph).verdict == "PROVED"


@pytest.mark.slow
def test_every_shape_up_to_40_is_proved_and_beats_random_ones():
    shapes = long_shapes(40)
    assert len(shapes) == 1548
    for shape in shapes:
        for seed in range(3):
            proof = certify(BiregularGraph(balanced(*shape, seed), shape[1]))
            assert proof.verdict == "PROVED", (shape, seed)
            random = certify(random_biregular(*shape, rng=seed))
            assert proof.sigma2[1] <= random.sigma2[1] * (1 + 1e-9), (shape, seed)


@pytest.mark.parametrize(
    ("shape", "most"),
    [
        ((7, 7, 3), 1.0),  # the Fano plane
        ((13, 13, 4), 1.0),  # the projective plane of order 3
        ((12, 9, 3), 1.0),  # the affine plane of order 3
        ((40, 24, 3), 1.14),
        ((40, 25, 20), 1.16),
        ((1000, 24, 3), 1.008),
        ((768, 48, 2), 1.0),
        ((1000, 64, 8), 1.03),
        ((500, 500, 3), 1.04),
    ],
)
def test_how_near_the_limit(shape, most):
    assert certify(BiregularGraph(balanced(*shape, 0), shape[1])).ratio <= most + 1e-9


@pytest.mark.parametrize("n", [3, 4, 5, 12, 160])
def test_two_regular_squares_are_one_cycle_and_their_complements_too(n):
    square = certify(BiregularGraph(balanced(n, n, 2, 5), n))
    assert square.connected
    assert square.sigma2[0] == pytest.approx(2 * np.cos(np.pi / n))
    if n > 4:
        other = certify(BiregularGraph(balanced(n, n, n - 2, 5), n))
        assert other.sigma2[0] == pytest.approx(2 * np.cos(np.pi / n))


@pytest.mark.parametrize("shape", [(12, 6, 5), (9, 9, 8), (30, 5, 4)])
def test_all_but_one_label_is_best_possible(shape):
    assert certify(BiregularGraph(balanced(*shape, 1), shape[1])).ratio == pytest.approx(1)


GOLDEN = {
    (7, 7, 3, 0): "d2c259314f52ca7a218634931dc3ece26b065982b9043f5a8eb865cfbcc15bcf",
    (12, 12, 2, 2**64 - 1): "42b5107997ea0d9342cd45740e1624e0223770b39caacfb23422fbcf0194a951",
    (24, 18, 15, 5): "0ddae33d9d10188a4d295de4596712b11c87149c5b456e8d055751f99490b32e",
    (40, 24, 3, 1): "327a6a1a687f87ae1fb560373878b46f8f6bbb27dc7078f980fa0777c86fa503",
    (1000, 24, 3, 7): "810576147b7a5ce92714a1b7cf339bb2825a0e7ae9e40d7b720f0ccb164b3264",
    (1000, 64, 8, 0): "6510dbdbd4055da09c9a97f8c98191d1daab0d1adff71184818dda7098553069",
    (600, 300, 4, 0): "8d0eac54a45d0143ac95929b9c7fb51fbb42be63bf24caf24d38c71980e37c53",
}


@pytest.mark.parametrize("key", GOLDEN, ids=str)
def test_golden_hashes(key):
    *shape, seed = key
    assert BiregularGraph(balanced(*shape, seed), shape[1]).digest == GOLDEN[key]


def test_seeds_matter_and_repeat():
    first = balanced(40, 24, 3, 1)
    assert np.array_equal(first, balanced(40, 24, 3, 1))
    assert not np.array_equal(first, balanced(40, 24, 3, 2))


def test_too_large_for_memory_is_refused(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match=r"balancing a graph of shape \(20000, 20000, 3\)"):
        balanced(20_000, 20_000, 3, 0)


def test_a_barrier_that_is_reached_moves_up(monkeypatch):
    """From just above d2 the greedy must give up some times before it ends."""
    tried, plain = [], kernels.greedy_rows

    def greedy(n1, n2, d, x):
        tried.append(x)
        return plain(n1, n2, d, x)

    monkeypatch.setattr(balance, "isqrt", lambda _: -1)
    monkeypatch.setattr(balance._balance_kernels, "greedy_rows", greedy)
    rows = balance._greedy(40, 24, 3)
    assert len(tried) > 1
    assert certify(BiregularGraph(rows, 24)).verdict == "PROVED"


# -- the kernels; these run with the compiler off too ---------------------------------------------


@settings(max_examples=25)
@given(st.sampled_from(sparse_shapes(14)))
def test_kernel_greedy_takes_the_cheapest_by_definition(shape):
    n1, n2, d1 = shape
    x = barrier(*shape)
    rows, inside = kernels.greedy_rows(n1, n2, d1, x)
    if not inside:
        x *= 2
        rows, inside = kernels.greedy_rows(n1, n2, d1, x)
    assert inside
    BiregularGraph(rows, n2)
    assert max(oracle.greedy_regrets(rows.tolist(), n2, x)) < 1e-3


def test_kernel_greedy_refuses_a_barrier_it_reaches():
    assert not kernels.greedy_rows(20, 10, 2, 5)[1]


def test_kernel_greedy_refuses_to_update_beyond_the_barrier_or_the_exact_range():
    row, left = np.array([0, 1], dtype=np.int32), np.array([2, 2, 1, 1])
    for entry, scale, unchanged in [(2.0**20, 2.0**19, True), (2.0**27, 2.0**40, False)]:
        weight = entry * np.eye(4)
        assert not kernels._add_row(row, weight, weight @ left, left, 3, scale)
        assert np.array_equal(weight, entry * np.eye(4)) == unchanged
    weight = 2.0**20 * np.eye(4)
    assert kernels._add_row(row, weight, weight @ left, left, 3, 2.0**40)


def test_kernel_greedy_takes_first_what_every_later_row_needs():
    """Label 3 is the dearest by far, but must be in both rows that are left."""
    row, left = np.zeros(2, dtype=np.int32), np.array([1, 1, 0, 2])
    weight = np.diag([1.0, 5.0, 1.0, 1000.0])
    kernels._choose_row(row, weight, np.zeros(4), left, 2)
    assert row.tolist() == [3, 0]


@settings(max_examples=25)
@given(st.sampled_from(long_shapes(9)), seeds, st.integers(0, 7))
def test_kernel_powers_are_the_oracles_bit_for_bit(shape, seed, level):
    gram = random_biregular(*shape, rng=seed).gram()
    n, trivial = shape[1], int(gram[0].sum())
    for bits in (exact_bits(n), 12):
        ours, (exponent, trace) = kernels.power(gram, trivial, bits, level)
        theirs, halvings = oracle.power(gram.tolist(), bits, level)
        assert ours.tolist() == theirs
        exact = oracle.inner(theirs, theirs) * 4**halvings
        assert int(trace) * Fraction(2) ** exponent == exact
        assert 2**61 <= trace < 2**62


@settings(max_examples=10)
@given(st.sampled_from([(40, 24, 3), (64, 64, 3), (200, 50, 4)]), seeds)
def test_kernel_powers_do_not_depend_on_the_order_of_sums(shape, seed):
    gram = random_biregular(*shape, rng=seed).gram()
    n, trivial = shape[1], int(gram[0].sum())
    order = np.random.default_rng(seed).permutation(n)
    plain, score = kernels.power(gram, trivial, exact_bits(n), 6)
    moved, other = kernels.power(gram[np.ix_(order, order)].copy(), trivial, exact_bits(n), 6)
    assert np.array_equal(plain[np.ix_(order, order)], moved)
    assert score == other


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 1000, 4096, 20_000])
def test_kernel_integers_leave_room_for_exact_sums(n):
    bits = exact_bits(n)
    assert n * 4**bits <= 2**53
    assert n**2 * 4**bits <= 2**62
    assert bits >= 16


@settings(max_examples=25)
@given(st.sampled_from(sparse_shapes(8)), seeds, st.integers(0, 3))
def test_kernel_finds_the_steepest_switch_of_each_two_labels(shape, seed, level):
    rows, member, gram = drawn(shape, seed)
    weight, _ = kernels.power(gram, int(gram[0].sum()), 20, level)
    cost, who = kernels.cheapest_moves(rows, member, weight)
    both = cost + cost.T
    found = {p: both[p] for p in np.ndindex(both.shape) if p[0] > p[1] and np.isfinite(both[p])}
    assert found == oracle.half_changes(rows.tolist(), shape[1], weight.astype(int).tolist())
    for x, y in found:
        assert member[who[x, y], x]
        assert not member[who[x, y], y]


@settings(max_examples=25)
@given(st.sampled_from(sparse_shapes(10)), seeds, st.integers(0, 5), st.integers(1, 6))
def test_kernel_descent_never_rises_and_stays_simple(shape, seed, level, batch):
    rows, member, gram = drawn(shape, seed)
    trivial, bits = int(gram[0].sum()), exact_bits(shape[1])
    _, before = kernels.power(gram, trivial, bits, level)
    after = kernels.descend(rows, member, gram, trivial, bits, level, batch)
    assert after <= before
    assert after == kernels.power(gram, trivial, bits, level)[1]
    graph = BiregularGraph(rows, shape[1])
    assert np.array_equal(graph.gram(), gram)
    assert np.array_equal(graph.mask(), member)


def test_kernel_polish_is_no_worse_than_one_descent():
    rows, member, gram = drawn((12, 8, 2), 3)
    once = [a.copy() for a in (rows, member, gram)]
    trivial, bits = int(gram[0].sum()), exact_bits(8)
    for level in range(5):
        score = kernels.descend(*once, trivial, bits, level, 1)
    kernels.polish(rows, member, gram, bits, 4, 6, np.array([9], dtype=np.uint64))
    assert kernels.power(gram, trivial, bits, 4)[1] <= score
    graph = BiregularGraph(rows, 8)
    assert np.array_equal(graph.gram(), gram)
    assert np.array_equal(graph.mask(), member)


def test_kernel_relabelling_is_uniform():
    """A path has 144 images if the order of its rows, and within them, counts."""
    path = np.array([[0, 1], [1, 2], [2, 3]], dtype=np.int32)
    state = np.array([1], dtype=np.uint64)
    seen: Counter[bytes] = Counter()
    for _ in range(14_400):
        rows = path.copy()
        kernels.relabel(rows, 4, state)
        seen[rows.tobytes()] += 1
    assert len(seen) == 144
    assert chisquare(list(seen.values())).pvalue > 1e-4


def test_kernel_whole_run_gives_the_golden_graph(few_kicks):
    assert BiregularGraph(balanced(12, 8, 2, 3), 8).digest == FEW_KICKS


FEW_KICKS = "ba161a5a9b8f77224b55090efa37aa613004fd7cddc8a53e84d08ff2af4faa83"


@only_with_compiler
def test_the_kernels_pass_with_the_compiler_off():
    assert passed_without_compiler(__file__, "test_kernel") > 0
