"""The kernels of the coverings against plain-loop oracles, with the compiler on and off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.graphs import _covering_kernels as kernels
from expandermask.graphs import random_biregular
from expandermask.graphs.projections import covering_projection
from tests.oracles import coverings as oracle
from tests.oracles import graphs
from tests.strategies import seeds, shapes
from tests.without_compiler import only_with_compiler, passed_without_compiler

layers = st.integers(1, 7)


@settings(max_examples=100)
@given(shapes(6), layers, seeds)
def test_lifts_agree_with_the_oracle(shape, r, seed):
    base = random_biregular(*shape, rng=3)
    rows, word = base.neighbors.tolist(), np.uint64(seed)
    lifted = kernels.permuted_rows(base.neighbors, r, word)
    assert lifted.dtype == np.int32
    assert lifted.tolist() == oracle.random_rows(rows, r, seed)
    drawn = kernels.random_voltages(base.n1, base.d1, r, word)
    assert drawn.tolist() == oracle.random_voltages(rows, r, seed)


@settings(max_examples=60)
@given(shapes(6, least_degree=2), seeds, st.sampled_from([1.0, 0.4, 0.1]))
def test_greedy_signs_agree_with_exact_arithmetic(shape, seed, tightness):
    """At rho**2 the form stays definite; at levels just above d2 it is lost, in the same row."""
    base = random_biregular(*shape, rng=3)
    rows, d1, d2 = base.neighbors.tolist(), base.d1, base.d2
    above = tightness * (d1 - 2 + 2 * np.sqrt((d1 - 1) * (d2 - 1)))
    if (d1, d2) == (2, 2):
        above = 2 * tightness
    x = float(d2 + above)
    signs, held = kernels.greedy_signs(base.neighbors, base.n2, x, np.uint64(seed))
    expected, expected_held = oracle.greedy_signs(rows, base.n2, x, seed)
    assert held == expected_held
    assert signs[: len(expected)].tolist() == expected
    gram = kernels.signed_codegrees(base.neighbors, signs, base.n2)
    if held:
        assert gram.tolist() == oracle.signed_gram(rows, expected, base.n2)
        assert np.linalg.eigvalsh(gram)[-1] < x + 1e-9


@pytest.mark.parametrize(
    ("above", "below"), [((6, 6, 2), (2, 2, 2)), ((6, 4, 2), (3, 2, 2)), ((6, 6, 2), (3, 3, 2))]
)
def test_the_search_agrees_with_trying_all_maps(above, below):
    """Every simple graph of the shape; the base is complete, or a hexagon."""
    base = random_biregular(*below, rng=0)
    base_rows, found = base.neighbors.tolist(), set()
    every = list(graphs.all_simple(*above))
    for rows in every[:: max(1, len(every) // 40)]:
        rows = [list(row) for row in rows]
        check = covering_projection(np.array(graphs.dense(rows, above[1])), base)
        maps = oracle.covering_maps(rows, above[1], base_rows, below[1])
        assert check.verdict == ("PROVED" if next(maps, None) else "REFUTED")
        found.add(check.verdict)
        if check.verdict == "PROVED":
            halves = check.left.tolist(), check.right.tolist()
            assert oracle.is_covering_map(rows, above[1], base_rows, below[1], *halves)
    assert found == {"PROVED", "REFUTED"}


@only_with_compiler
def test_the_kernels_pass_with_the_compiler_off():
    assert passed_without_compiler(__file__) > 0
