"""The update of a few tokens in plain loops, as numba compiles them: what decoding needs."""

from __future__ import annotations

import numpy as np


def add_few(out, x, values_a, values_b, index_a, index_b, r, scale):
    """out += scale * x A' B', for arrays of `masked_update`'s shapes."""
    h = np.empty(r, np.float32)
    for t in range(len(x)):
        h[:] = 0
        for i in range(len(values_a)):
            for slot in range(len(index_a)):
                h[index_a[slot, i]] += values_a[i, slot] * x[t, i]
        for j in range(len(values_b)):
            total = np.float32(0)
            for slot in range(len(index_b)):
                total += values_b[j, slot] * h[index_b[slot, j]]
            out[t, j] += scale * total
