"""Hypothesis strategies: any masks, shapes of simple biregular graphs, boundaries, and seeds."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from expandermask.expansion.cuts import Kind

Shape = tuple[int, int, int]


def feasible_shapes(largest: int, least_degree: int = 1) -> list[Shape]:
    """Every (n1, n2, d1) with both sides up to ``largest`` and both degrees at least as asked."""
    return [
        (n1, n2, d1)
        for n1 in range(1, largest + 1)
        for n2 in range(1, largest + 1)
        for d1 in range(least_degree, n2 + 1)
        if n1 * d1 % n2 == 0 and n1 * d1 // n2 >= least_degree
    ]


def shapes(largest: int = 10, least_degree: int = 1) -> st.SearchStrategy[Shape]:
    return st.sampled_from(feasible_shapes(largest, least_degree))


seeds = st.integers(0, 2**64 - 1)

KINDS: tuple[Kind, ...] = ("edge", "vertex")
kinds = st.sampled_from(KINDS)


@st.composite
def masks(draw: st.DrawFn, largest: int = 6) -> NDArray[np.int64]:
    """Any 0/1 mask: dense, sparse, with empty rows and columns."""
    shape = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    return draw(arrays(np.int64, shape, elements=st.sampled_from([0, 1, 1])))
