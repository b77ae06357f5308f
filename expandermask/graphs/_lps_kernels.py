"""Numba kernels for the Lubotzky-Phillips-Sarnak graphs: 2 x 2 matrices modulo q, up to scalars.

Slow, obvious versions, with every matrix written out, are in ``tests/oracles/lps.py``.
"""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel


@kernel()
def cayley_rows(generators, p, q, squares, ranks, inverses):
    """Right neighbours (n, k), int32, of the elements g of PSL_2(q): the labels of all g s.

    ``generators`` is int64 (k, 4), the entries of matrices s of determinant p; ``squares`` lists
    the squares modulo q, ``ranks[x]`` is the place of x among the squares or among the nonsquares,
    ``inverses[x]`` is 1/x. See `lps` for the labels. A row of g s is a row of g times s, so all g
    with one first row share its image: per edge only the second row's free entry and the
    determinant are left to compute.
    """
    half, k = squares.size, generators.shape[0]
    rows = np.empty(((q + 1) * q * half, k), dtype=np.int32)
    base, left, right, turn = np.empty((4, k), dtype=np.int64)
    i = 0
    for point in range(q + 1):
        top, bottom = (1, point) if point < q else (0, 1)
        for a in range(k):
            s00, s01, s10, s11 = generators[a]
            x, y = (top * s00 + bottom * s10) % q, (top * s01 + bottom * s11) % q
            scale = inverses[x] if x else inverses[y]
            base[a] = (y * scale % q if x else q) * q
            left[a], right[a] = (s00, s10) if x else (s01, s11)
            left[a], right[a] = left[a] * scale % q, right[a] * scale % q
            turn[a] = p * scale % q * scale % q
        for free in range(q):
            for det in squares:
                c, d = (free, (det + point * free) % q) if point < q else (q - det, free)
                for a in range(k):
                    entry = (c * left[a] + d * right[a]) % q
                    rows[i, a] = (base[a] + entry) * half + ranks[det * turn[a] % q]
                i += 1
    return rows


@kernel()
def is_simple_biregular(rows, n2):
    """Whether sorted rows have no repeated label, all labels are in [0, n2), and all as often."""
    n1, d1 = rows.shape
    times = np.zeros(n2, dtype=np.int32)
    for row in rows:
        if row[0] < 0 or row[-1] >= n2:
            return False
        for a in range(d1):
            if a and row[a] <= row[a - 1]:
                return False
            times[row[a]] += 1
    return times.min() * n2 == n1 * d1 == times.max() * n2
