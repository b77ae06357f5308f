"""Numba kernels for graphs: plain integer loops, all state passed in as arguments.

Randomness is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014), written out here so that one seed gives one graph on every platform and in every
release of numpy. Slow, obvious versions of each kernel are in ``tests/oracles``.
"""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_LOW32 = np.uint64(0xFFFFFFFF)
_TWO32 = np.uint64(1 << 32)
_S27, _S30, _S31, _S32 = (np.uint64(s) for s in (27, 30, 31, 32))


@kernel()
def next_word(state):
    """The next 64 random bits of SplitMix64; ``state`` is a uint64 array of length 1."""
    state[0] += _GAMMA
    z = state[0]
    z = (z ^ (z >> _S30)) * _MIX_A
    z = (z ^ (z >> _S27)) * _MIX_B
    return z ^ (z >> _S31)


@kernel()
def below(state, n):
    """An integer uniform on [0, n), 0 < n < 2**32, without bias (Lemire's rejection)."""
    bound = np.uint64(n)
    product = (next_word(state) >> _S32) * bound
    if (product & _LOW32) < bound:
        threshold = (_TWO32 - bound) % bound
        while (product & _LOW32) < threshold:
            product = (next_word(state) >> _S32) * bound
    return np.int64(product >> _S32)


@kernel()
def _contains(row, label):
    for x in row:
        if x == label:
            return True
    return False


@kernel()
def _shuffled_stubs(neighbors, n2, d2, state):
    """Fill ``neighbors`` with d2 copies of each label, in uniformly random order."""
    flat = neighbors.reshape(-1)
    for e in range(flat.size):
        flat[e] = e // d2
    for e in range(flat.size - 1, 0, -1):
        f = below(state, e + 1)
        flat[e], flat[f] = flat[f], flat[e]


@kernel()
def _switch(neighbors, i, a, j, b):
    """Exchange the labels of slots (i, a) and (j, b) if both rows stay simple; say if it did."""
    x, y = neighbors[i, a], neighbors[j, b]
    if i == j or x == y or _contains(neighbors[i], y) or _contains(neighbors[j], x):
        return False
    neighbors[i, a], neighbors[j, b] = y, x
    return True


@kernel()
def _repair(neighbors, state):
    """Switch repeated labels away, row by row; False if a repeat resists its share of tries."""
    n1, d1 = neighbors.shape
    for i in range(n1):
        for a in range(1, d1):
            tries = 0
            while _contains(neighbors[i, :a], neighbors[i, a]):
                if tries == 64 * n1:
                    return False
                tries += 1
                _switch(neighbors, i, a, below(state, n1), below(state, d1))
    return True


@kernel()
def _mix(neighbors, trials, state):
    """Walk the switch chain: symmetric moves, so its stationary law is uniform."""
    n1, d1 = neighbors.shape
    edges = n1 * d1
    for _ in range(trials):
        e, f = below(state, edges), below(state, edges)
        _switch(neighbors, e // d1, e % d1, f // d1, f % d1)


@kernel()
def sort_rows(neighbors):
    """Insertion sort of each (short) row, in place."""
    for row in neighbors:
        for a in range(1, row.size):
            x, b = row[a], a
            while b > 0 and row[b - 1] > x:
                row[b] = row[b - 1]
                b -= 1
            row[b] = x


@kernel()
def random_neighbors(n1, n2, d1, seed, trials):
    """Neighbour array (n1, d1), int32, of a random simple biregular graph; rows unsorted.

    Configuration model, repair of repeated labels by switches, then ``trials`` steps of the
    switch chain. Meant for d1 <= n2 / 2, where a repeat can nearly always be switched away; where
    it cannot, the shuffle starts over.
    """
    state = np.array([seed], dtype=np.uint64)
    neighbors = np.empty((n1, d1), dtype=np.int32)
    _shuffled_stubs(neighbors, n2, n1 * d1 // n2, state)
    while not _repair(neighbors, state):
        _shuffled_stubs(neighbors, n2, n1 * d1 // n2, state)
    _mix(neighbors, trials, state)
    return neighbors


@kernel()
def complement_rows(neighbors, n2):
    """Sorted neighbour array (n1, n2 - d1) of the bipartite complement."""
    n1, d1 = neighbors.shape
    other = np.empty((n1, n2 - d1), dtype=np.int32)
    owner = np.full(n2, -1, dtype=np.int64)
    for i in range(n1):
        for x in neighbors[i]:
            owner[x] = i
        a = 0
        for x in range(n2):
            if owner[x] != i:
                other[i, a] = x
                a += 1
    return other


@kernel()
def transpose_rows(neighbors, n2):
    """Sorted neighbour array (n2, d2) of the right vertices."""
    n1, d1 = neighbors.shape
    other = np.empty((n2, n1 * d1 // n2), dtype=np.int32)
    filled = np.zeros(n2, dtype=np.int64)
    for i in range(n1):
        for x in neighbors[i]:
            other[x, filled[x]] = i
            filled[x] += 1
    return other


@kernel()
def transpose_edges(starts, targets, columns):
    """The same edges by column: its ``starts`` (int64) and ``targets`` (int32, ascending).

    Rows may differ in length: the targets of row i are ``targets[starts[i]:starts[i + 1]]``.
    """
    back = np.zeros(columns + 1, dtype=np.int64)
    for j in targets:
        back[j + 1] += 1
    for j in range(columns):
        back[j + 1] += back[j]
    cursor = back[:-1].copy()
    sources = np.empty(targets.size, dtype=np.int32)
    for i in range(starts.size - 1):
        for e in range(starts[i], starts[i + 1]):
            j = targets[e]
            sources[cursor[j]] = i
            cursor[j] += 1
    return back, sources


@kernel()
def codegrees(neighbors, n2):
    """Gram matrix M'M, int64 (n2, n2): how many left vertices each two right vertices share.

    Rows must ascend, as a graph's do.
    """
    gram = np.zeros((n2, n2), dtype=np.int64)
    n1, d1 = neighbors.shape
    for i in range(n1):
        row = neighbors[i]
        for a in range(d1):
            for b in range(a + 1):
                gram[row[a], row[b]] += 1
    for x in range(n2):
        for y in range(x):
            gram[y, x] = gram[x, y]
    return gram


@kernel()
def right_components(neighbors, n2):
    """Which connected component each right vertex is in: int64 (n2,), numbered as they appear.

    Union-find with path halving: each left vertex joins its neighbours.
    """
    parent = np.arange(n2)
    for row in neighbors:
        a = _root(parent, row[0])
        for x in row[1:]:
            b = _root(parent, x)
            if a != b:
                parent[b] = a
    labels, count = np.full(n2, -1), 0
    for x in range(n2):
        a = _root(parent, x)
        if labels[a] < 0:
            labels[a] = count
            count += 1
        labels[x] = labels[a]
    return labels


@kernel()
def _root(parent, x):
    while parent[x] != x:
        parent[x] = parent[parent[x]]
        x = parent[x]
    return x
