"""Numba kernel for supports of no structure; its slow version is in ``tests/oracles``."""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel
from expandermask.graphs._kernels import below


@kernel()
def random_cells(cells, kept, seed):
    """A uniformly random subset of ``kept`` of the numbers 0 .. cells-1, ascending, int64.

    Selection sampling (Knuth, The Art of Computer Programming, volume 2, section 3.4.2, algorithm
    S): each number in turn is kept with probability (still needed) / (still to come). ``cells``
    must be below 2**32.
    """
    state = np.array([seed], dtype=np.uint64)
    chosen = np.empty(kept, dtype=np.int64)
    found = 0
    for cell in range(cells):
        if found == kept:
            break
        if below(state, cells - cell) < kept - found:
            chosen[found] = cell
            found += 1
    return chosen
