"""The search loops against every set of vertices, range by range, with and without the compiler."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.expansion import _exact_kernels as kernels
from expandermask.expansion._exact_search import _Rows
from expandermask.graphs.bipartite import as_bipartite
from tests.oracles import cheeger as oracle
from tests.strategies import masks
from tests.without_compiler import only_with_compiler, passed_without_compiler

tall_masks = masks(6).map(lambda mask: mask if len(mask) >= len(mask.T) else mask.T.copy())
ends = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


def ranges(total, share):
    """A range of 0 .. total - 1, not empty."""
    first = min(int(share[0] * total), total - 1)
    return first, max(first + 1, round(share[1] * total))


def with_right_part(mask, rows, subsets):
    """Which sets of vertices have one of these subsets, numbered as in ``rows``, as right part."""
    powers = 1 << np.arange(mask.shape[1])
    words = [int(rows.right(subset) @ powers) for subset in subsets]
    return np.isin(oracle.vertex_sets(sum(mask.shape)) >> mask.shape[0], words)


def edge_search(rows, first, last, cut, size):
    return kernels.least_edge_ratio(*rows.kernel_arguments(), first, last, cut, size)


@settings(max_examples=150)
@given(tall_masks, ends)
def test_least_edge_ratio_over_a_range(mask, share):
    n1, n2 = mask.shape
    rows = _Rows(as_bipartite(mask))
    first, last = ranges(1 << (n2 - 1), share)
    subsets = [k ^ (k >> 1) for k in range(first, last)]
    subsets = [b for b in subsets + [(1 << n2) - 1 - b for b in subsets] if b]
    least = oracle.least_ratio(mask, "edge", with_right_part(mask, rows, subsets))
    cut, size, subset = edge_search(rows, first, last, int(mask.sum()) + 1, 1)
    assert Fraction(int(cut), int(size)) == least
    assert subset in subsets
    again = edge_search(rows, first, last, cut, size)
    assert again == (cut, size, -1)


@settings(max_examples=150)
@given(tall_masks, ends)
def test_least_vertex_ratio_over_a_range(mask, share):
    n1, n2 = mask.shape
    rows = _Rows(as_bipartite(mask))
    first, last = ranges(1 << n2, share)
    subsets = range(first, last)
    least = oracle.least_ratio(mask, "vertex", with_right_part(mask, rows, subsets))
    inside = kernels.subset_counts(rows.codes, rows.weights, n2)
    tables = inside, kernels.subset_sizes(n2), rows.half
    boundary, size, subset, edge = kernels.least_vertex_ratio(*tables, first, last, n1 + n2, 1)
    assert Fraction(int(boundary), int(size)) == least
    assert subset in subsets
    assert subset & edge == 0
    again = kernels.least_vertex_ratio(*tables, first, last, boundary, size)
    assert again == (boundary, size, -1, 0)


@settings(max_examples=150)
@given(tall_masks, st.permutations(range(6)), st.integers(0, 6), st.integers(0, 63))
def test_pruned_edge_ratio_over_a_range(mask, order, fixed, choices):
    """B and its complement with some vertices fixed; bounds at the least ratio prune nothing."""
    n1, n2 = mask.shape
    rows = _Rows(as_bipartite(mask))
    order = np.array([j for j in order if j < n2])
    fixed = min(fixed, n2)
    subsets = [
        b
        for b in range(1 << n2)
        if all(b >> order[t] & 1 == choices >> t & 1 for t in range(fixed))
    ]
    subsets = [b for b in subsets + [(1 << n2) - 1 - b for b in subsets] if b]
    search = kernels.pruned_edge_ratio
    arguments = *rows.kernel_arguments(), order, choices, fixed
    cut, size, subset, left = search(*arguments, 10**6, int(mask.sum()) + 1, 1)
    if not subsets:
        assert subset == -1
        return
    least = oracle.least_ratio(mask, "edge", with_right_part(mask, rows, subsets))
    assert Fraction(int(cut), int(size)) == least
    assert subset in subsets
    assert 0 <= left < 10**6
    assert search(*arguments, 10**6, cut, size)[:3] == (cut, size, -1)
    assert search(*arguments, 0, int(mask.sum()) + 1, 1)[3] < 0


@settings(max_examples=40)
@given(tall_masks)
def test_tables_of_subsets(mask):
    n2 = mask.shape[1]
    rows = _Rows(as_bipartite(mask))
    inside = kernels.subset_counts(rows.codes, rows.weights, n2)
    sizes = kernels.subset_sizes(n2)
    assert inside.size == sizes.size == 1 << n2
    for subset in range(1 << n2):
        chosen = rows.right(subset)
        assert sizes[subset] == chosen.sum()
        assert inside[subset] == (mask[:, ~chosen].sum(axis=1) == 0).sum()


@only_with_compiler
def test_the_kernels_pass_with_the_compiler_off():
    assert passed_without_compiler(__file__, "range or tables") == 4
