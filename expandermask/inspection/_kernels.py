"""Numba kernels for `inspect_mask`: linear scans over the edges of graphs of any degrees.

A graph comes as the arrays of a CSR matrix without its ones: row i has the targets
``targets[starts[i]:starts[i + 1]]``, ascending. Slow, obvious versions are in
``tests/oracles/inspection.py``.
"""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel

_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)
_ONE, _TWO, _FOUR, _TOP = (np.uint64(s) for s in (1, 2, 4, 56))
_PAIRS = np.uint64(0x5555555555555555)
_QUADS = np.uint64(0x3333333333333333)
_BYTES = np.uint64(0x0F0F0F0F0F0F0F0F)
_SUM = np.uint64(0x0101010101010101)
_SIX_BITS = 63


@kernel()
def classes(starts, targets):
    """Which rows are equal: int64 labels, equal for equal rows, numbered as they appear.

    A hash table of rows; rows that hash alike are compared entry by entry, so that the labels are
    exact. O(edges) expected.
    """
    rows = starts.size - 1
    slots = 4
    while slots < 2 * rows:
        slots *= 2
    table, labels, count = np.full(slots, -1), np.empty(rows, dtype=np.int64), 0
    for i in range(rows):
        slot = np.int64(_hash(targets, starts[i], starts[i + 1]) & np.uint64(slots - 1))
        while table[slot] >= 0 and not _equal(starts, targets, table[slot], i):
            slot = (slot + 1) & (slots - 1)
        if table[slot] < 0:
            table[slot] = i
            labels[i] = count
            count += 1
        else:
            labels[i] = labels[table[slot]]
    return labels


@kernel()
def _hash(targets, first, last):
    state = np.uint64(last - first)
    for e in range(first, last):
        state = (state ^ np.uint64(targets[e])) * _MIX
        state ^= state >> _SHIFT
    return state


@kernel()
def _equal(starts, targets, i, j):
    length = starts[i + 1] - starts[i]
    if length != starts[j + 1] - starts[j]:
        return False
    k = 0
    while k < length and targets[starts[i] + k] == targets[starts[j] + k]:
        k += 1
    return k == length


@kernel()
def smallest_period(labels):
    """The smallest p >= 1 with labels[i + p] == labels[i] wherever both exist; O(length).

    The length less the longest border, by the failure function of Knuth, Morris and Pratt.
    """
    border = np.zeros(labels.size, dtype=np.int64)
    k = 0
    for i in range(1, labels.size):
        while k > 0 and labels[i] != labels[k]:
            k = border[k - 1]
        if labels[i] == labels[k]:
            k += 1
        border[i] = k
    return labels.size - k


@kernel()
def explore(starts, targets, back, sources):
    """Components and bridges of a bipartite graph, given by its rows and by its columns.

    Returns int64 labels of the rows and then the columns, -1 for a vertex without neighbours and
    otherwise its component, numbered as they appear, and the number of bridges: the tree edges of a
    depth-first search under which no edge leads back past their upper end (Tarjan, "A note on
    finding the bridges of a graph", 1974). O(vertices + edges).
    """
    rows = starts.size - 1
    n = rows + back.size - 1
    labels, order, parent = np.full(n, -1), np.full(n, -1), np.full(n, -1)
    low, cursor = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    cursor[:rows], cursor[rows:] = starts[:-1], back[:-1]
    components, bridges, clock = 0, 0, 0
    for root in range(rows):  # a column that is alone has no edge
        if order[root] >= 0 or starts[root] == starts[root + 1]:
            continue
        v = np.int64(root)
        order[v], low[v], labels[v] = clock, clock, components
        clock += 1
        while v >= 0:
            e = cursor[v]
            if e < (starts[v + 1] if v < rows else back[v - rows + 1]):
                w = rows + targets[e] if v < rows else np.int64(sources[e])
                cursor[v] += 1
                if order[w] < 0:
                    order[w], low[w], labels[w], parent[w] = clock, clock, components, v
                    clock += 1
                    v = w
                elif w != parent[v]:
                    low[v] = min(low[v], order[w])
            else:
                u = parent[v]
                if u >= 0:
                    low[u] = min(low[u], low[v])
                    bridges += low[v] > order[u]
                v = u
        components += 1
    return labels, bridges


@kernel()
def bit_rows(starts, targets, columns):
    """Each row as a string of bits: uint64, shape (rows, columns / 64 rounded up)."""
    bits = np.zeros((starts.size - 1, (columns + _SIX_BITS) // 64), dtype=np.uint64)
    for i in range(starts.size - 1):
        for e in range(starts[i], starts[i + 1]):
            j = targets[e]
            bits[i, j >> 6] |= _ONE << np.uint64(j & _SIX_BITS)
    return bits


@kernel()
def union_sizes(starts, targets, bits):
    """How many bits are set in at least one of the rows of ``bits`` that each row lists."""
    sizes = np.zeros(starts.size - 1, dtype=np.int64)
    union = np.empty(bits.shape[1], dtype=np.uint64)
    for i in range(sizes.size):
        union[:] = 0
        for e in range(starts[i], starts[i + 1]):
            row = bits[targets[e]]
            for k in range(union.size):
                union[k] |= row[k]
        for k in range(union.size):
            sizes[i] += _count_bits(union[k])
    return sizes


@kernel()
def _count_bits(word):
    word -= (word >> _ONE) & _PAIRS
    word = (word & _QUADS) + ((word >> _TWO) & _QUADS)
    word = (word + (word >> _FOUR)) & _BYTES
    return np.int64((word * _SUM) >> _TOP)
