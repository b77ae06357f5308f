"""Hypothesis strategies for 0/1 matrices of any degrees, dead rows and columns among them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


def matrices(largest: int = 7) -> st.SearchStrategy[np.ndarray]:
    """Matrices of up to ``largest`` rows and columns, drawn entry by entry."""
    sides = st.integers(1, largest)
    return st.tuples(sides, sides).flatmap(lambda shape: of_shape(*shape))


def of_shape(rows: int, columns: int) -> st.SearchStrategy[np.ndarray]:
    line = st.integers(0, 2**columns - 1)
    return st.lists(line, min_size=rows, max_size=rows).map(
        lambda words: np.array([[w >> j & 1 for j in range(columns)] for w in words])
    )
