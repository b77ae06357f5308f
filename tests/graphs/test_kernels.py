"""Each numba kernel against a plain-loop oracle, with the compiler on and off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from expandermask.graphs import _kernels
from expandermask.graphs.bipartite import as_bipartite
from tests.inspection.matrices import matrices
from tests.oracles import graphs as oracle
from tests.oracles.inspection import csr
from tests.strategies import seeds, shapes
from tests.without_compiler import only_with_compiler, passed_without_compiler

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"


def state(seed: int) -> np.ndarray:
    return np.array([seed], dtype=np.uint64)


def test_words_are_javas():
    known = json.loads((VECTORS / "splitmix64.json").read_text())["words"]
    for seed, words in known.items():
        ours, naive = state(int(seed)), oracle.SplitMix64(int(seed))
        assert [int(_kernels.next_word(ours)) for _ in words] == words
        assert [naive.word() for _ in words] == words


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 1000, 3 * 2**30, 2**31 - 1, 2**31 + 1, 2**32 - 1])
def test_below_agrees_with_the_oracle(n):
    for seed in (0, 1, 2**64 - 1):
        ours, naive = state(seed), oracle.SplitMix64(seed)
        drawn = [int(_kernels.below(ours, n)) for _ in range(60)]
        assert drawn == [naive.below(n) for _ in range(60)]
        assert all(0 <= x < n for x in drawn)
        assert int(ours[0]) == naive.state


@settings(max_examples=150)
@given(shapes(9), seeds)
def test_random_neighbors_agrees_with_the_oracle(shape, seed):
    n1, n2, d1 = shape
    if d1 > max(1, n2 // 2):  # drawn as complements: see test_random
        d1 = n2 - d1
        if d1 == 0:
            return
    for trials in (0, 37):
        ours = _kernels.random_neighbors(n1, n2, d1, np.uint64(seed), trials)
        assert ours.dtype == np.int32
        assert ours.tolist() == oracle.unsorted_rows(n1, n2, d1, seed, trials)


@settings(max_examples=100)
@given(shapes(9), seeds)
def test_row_kernels_agree_with_the_oracle(shape, seed):
    n1, n2, d1 = shape
    rows = oracle.random_rows(n1, n2, d1, seed)
    array = np.array(rows, dtype=np.int32)
    assert _kernels.transpose_rows(array, n2).tolist() == oracle.transposed(rows, n2)
    assert _kernels.codegrees(array, n2).tolist() == oracle.gram(oracle.dense(rows, n2))
    if d1 < n2:
        assert _kernels.complement_rows(array, n2).tolist() == oracle.complement(rows, n2)
    backwards = np.ascontiguousarray(array[:, ::-1])
    _kernels.sort_rows(backwards)
    assert backwards.tolist() == rows


@settings(max_examples=150)
@given(matrices())
def test_edges_of_any_degrees_are_transposed(matrix):
    found = _kernels.transpose_edges(*csr(matrix), matrix.shape[1])
    for ours, expected in zip(found, csr(matrix.T), strict=True):
        assert ours.dtype == expected.dtype
        assert ours.tolist() == expected.tolist()
    assert np.array_equal(as_bipartite(matrix).transpose().biadjacency().toarray(), matrix.T)


@settings(max_examples=150)
@given(shapes(12), seeds)
def test_components_agree_with_the_oracle(shape, seed):
    n1, n2, d1 = shape
    rows = oracle.random_rows(n1, n2, d1, seed)
    found = _kernels.right_components(np.array(rows, dtype=np.int32), n2).tolist()
    assert found == oracle.right_components(rows, n2)
    assert max(found) + 1 == oracle.components(oracle.dense(rows, n2))


def test_a_repair_that_cannot_succeed_gives_up():
    stuck = np.zeros((3, 2), dtype=np.int32)  # one label for two slots of each row
    assert not _kernels._repair(stuck, state(0))
    rows = [[0, 0] for _ in range(3)]
    assert not oracle.repaired(rows, oracle.SplitMix64(0))


@only_with_compiler
def test_the_kernels_pass_with_the_compiler_off():
    assert passed_without_compiler(__file__) > 0
