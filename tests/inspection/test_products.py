"""The product graph B A against a walk through every pair."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.errors import InvalidInputError, TooLargeError
from expandermask.graphs import random_biregular
from expandermask.inspection.products import inspect_product
from tests.inspection.matrices import of_shape
from tests.oracles import inspection as oracle

sides = st.integers(1, 6)
pairs = st.tuples(sides, sides, sides).flatmap(
    lambda sizes: st.tuples(of_shape(sizes[0], sizes[1]), of_shape(sizes[2], sizes[0]))
)


@settings(max_examples=200)
@given(pairs)
def test_the_report_is_the_walks(pair):
    a, b = pair
    report = inspect_product(a, b)
    joined = oracle.joined(a, b)
    assert (report.outputs, report.ranks, report.inputs) == (len(b), len(a), a.shape[1])
    assert report.joined == joined.sum() == np.count_nonzero(b @ a)
    assert report.dead_inputs == (~joined.any(axis=0)).sum()
    assert report.dead_outputs == (~joined.any(axis=1)).sum()
    in_a, in_b = a.any(axis=1), b.any(axis=0)
    assert report.ranks_only_in_a == (in_a & ~in_b).sum()
    assert report.ranks_only_in_b == (in_b & ~in_a).sum()
    assert report.dead_ranks == (~in_a & ~in_b).sum()
    components = list(nx.connected_components(oracle.product_graph(a, b)))
    assert report.components == sum(len(c) > 1 for c in components)
    alive = (in_a & in_b).all() and joined.any(axis=0).all() and joined.any(axis=1).all()
    assert report.is_sound == (len(components) == 1 and alive)


def test_a_lora_pair_of_expanders():
    a, b = random_biregular(304, 16, 2, rng=0), random_biregular(200, 16, 2, rng=1)
    report = inspect_product(a.transpose(), b)
    assert report.joined == np.count_nonzero(b.mask().astype(int) @ a.mask().T.astype(int))
    assert report.is_sound
    assert json.loads(report.to_json())["fraction"] == report.fraction
    assert "through 16 ranks" in str(report)
    assert all(len(row) == 2 for row in report.rows())


def test_dense_factors_join_everything():
    report = inspect_product(np.ones((4, 70)), np.ones((30, 4)))
    assert report.fraction == 1.0
    assert report.is_sound


def test_ranks_must_agree_and_bits_must_fit(monkeypatch):
    with pytest.raises(InvalidInputError, match="as b has columns, got 4 and 3"):
        inspect_product(np.ones((4, 5)), np.ones((6, 3)))
    with pytest.raises(InvalidInputError, match="b must be 2-D"):
        inspect_product(np.ones((4, 5)), np.ones(4))
    from scipy.sparse import coo_array

    memory = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    wide = coo_array(([1], ([0], [0])), shape=(10**6, 10**6))
    with pytest.raises(TooLargeError, match="1000000 ranks as bits"):
        inspect_product(wide, wide)
