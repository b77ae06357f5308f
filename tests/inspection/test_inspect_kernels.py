"""The kernels of `inspect_mask` against slow, obvious versions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.inspection import _kernels as kernels
from tests.inspection.matrices import matrices
from tests.oracles import inspection as oracle
from tests.without_compiler import only_with_compiler, passed_without_compiler


@settings(max_examples=150)
@given(matrices())
def test_classes(matrix):
    assert kernels.classes(*oracle.csr(matrix)).tolist() == oracle.classes(matrix)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_smallest_period(labels):
    assert kernels.smallest_period(np.array(labels)) == oracle.period(labels)


@settings(max_examples=150)
@given(matrices())
def test_components_and_bridges(matrix):
    labels, bridges = kernels.explore(*oracle.csr(matrix), *oracle.csr(matrix.T))
    assert bridges == oracle.bridges(matrix)
    components = oracle.live_components(matrix)
    assert {frozenset(np.flatnonzero(labels == k).tolist()) for k in range(labels.max() + 1)} == {
        frozenset(component) for component in components
    }
    live = set().union(*components)
    assert {v for v, label in enumerate(labels.tolist()) if label < 0} == (
        set(range(sum(matrix.shape))) - live
    )


@settings(max_examples=100)
@given(matrices(), st.integers(1, 3))
def test_unions_of_bit_rows(matrix, copies):
    wide = np.tile(matrix, (1, 13 * copies))  # more than one word of 64 bits
    bits = kernels.bit_rows(*oracle.csr(wide), wide.shape[1])
    unpacked = [
        [bits[i, j // 64] >> np.uint64(j % 64) & np.uint64(1) for j in range(wide.shape[1])]
        for i in range(len(wide))
    ]
    assert np.array_equal(unpacked, wide)
    sizes = kernels.union_sizes(*oracle.csr(matrix.T), bits)
    expected = [int(wide[column != 0].any(axis=0).sum()) for column in matrix.T]
    assert sizes.tolist() == expected


def test_rows_that_hash_alike_are_still_told_apart(monkeypatch):
    """With the hash made constant every row lands in one slot; labels must not change."""
    random = np.random.default_rng(0)
    matrix = (random.random((40, 6)) < 0.4).astype(int)
    monkeypatch.setattr(kernels, "_hash", lambda targets, first, last: np.uint64(0))
    plain = getattr(kernels.classes, "py_func", kernels.classes)
    assert plain(*oracle.csr(matrix)).tolist() == oracle.classes(matrix)


@only_with_compiler
def test_the_kernels_pass_with_the_compiler_off():
    assert passed_without_compiler(__file__) > 0
