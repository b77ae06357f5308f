"""Numba kernels for exact Cheeger constants: every subset of the right side, in integers.

A set X of vertices has a left part A and a right part B, and B is the bits of an integer. The right
side is the smaller one, so that no B is more than half of the vertices, the most X may be. Ratios
are pairs of integers, compared by cross-multiplication. Why it is enough to look at these sets is
shown in ``docs/theory/cheeger.md``; slow, obvious versions are in ``tests/oracles/cheeger.py``.
"""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel


@kernel()
def least_edge_ratio(starts, rows, degrees, weights, volumes, half, first, last, cut, size):
    """The least |edges leaving X| / |X| below ``cut`` / ``size``, |X| at most ``half``.

    B runs over the subsets ``first`` to ``last`` - 1, in the order of a Gray code, of the right
    vertices but the last, and over their complements. Left vertices with the same neighbours are
    one row: row r is ``weights[r]`` vertices of degree ``degrees[r]``, right vertex j has degree
    ``volumes[j]`` and is in the rows ``rows[starts[j]:starts[j + 1]]``; all int64.

    Returns (cut, size, B), or the ``cut`` and ``size`` given and -1 if nothing is below. The left
    part of X is the size - |B| vertices i with the least degree[i] - 2 |N(i) & B|.
    """
    n2, top = volumes.size, degrees.max()
    step = 2  # degree - 2 |N(i) & B| takes every second value where degrees have one parity
    for d in degrees:
        if (top - d) % 2:
            step = 1
    slots, counts = (degrees + top) // step, np.zeros(2 * top // step + 1, dtype=np.int64)
    for r in range(slots.size):
        counts[slots[r]] += weights[r]
    everything, edges = (1 << n2) - 1, volumes.sum()
    subset, many, volume, best = 0, 0, 0, -1
    code = first ^ (first >> 1)
    for j in range(n2):
        if code >> j & 1:
            many, volume = many + 1, volume + volumes[j]
            _move(starts, rows, weights, slots, counts, j, -2 // step)
    subset = code
    for k in range(first, last):
        for turned in range(2):
            if turned:
                c, s = _grow(counts, True, step, top, edges - volume, n2 - many, half)
            else:
                c, s = _grow(counts, False, step, top, volume, many, half)
            if s > 0 and c * size < cut * s:
                cut, size, best = c, s, everything ^ subset if turned else subset
        j = _trailing_zeros(k + 1)
        if k + 1 == last:
            break
        entering = not subset >> j & 1
        sign = 1 if entering else -1
        subset, many, volume = subset ^ (1 << j), many + sign, volume + sign * volumes[j]
        _move(starts, rows, weights, slots, counts, j, -2 * sign // step)
    return cut, size, best


@kernel()
def _move(starts, rows, weights, slots, counts, j, by):
    """Right vertex j enters B or leaves it: its rows move ``by`` slots."""
    for e in range(starts[j], starts[j + 1]):
        r = rows[e]
        t = slots[r]
        counts[t] -= weights[r]
        counts[t + by] += weights[r]
        slots[r] = t + by


@kernel()
def _grow(counts, turned, step, top, cut, size, half):
    """Add left vertices, the cheapest first, while that lowers ``cut`` / ``size``.

    ``counts[t]`` vertices add t * step - top each to the cut; if ``turned``, they take it away.
    """
    room, slots = half - size, counts.size
    for t in range(slots):
        added = t * step - top
        if added * size >= cut:
            break
        taken = min(counts[slots - 1 - t if turned else t], room)
        cut, size, room = cut + added * taken, size + taken, room - taken
        if room == 0:
            break
    return cut, size


@kernel()
def pruned_edge_ratio(
    starts, rows, degrees, weights, volumes, half, order, choices, fixed, moves, cut, size
):
    """`least_edge_ratio` by a depth-first search that leaves out what cannot be below.

    Right vertices are put in B or left out in the order of ``order``; those in its first ``fixed``
    places, by the bits of ``choices``. A row with a neighbours decided to be in B and b decided not
    to be has min(a, b) edges in the boundary at least, wherever its vertices go. If these add up to
    at least ``half`` * ``cut`` / ``size``, no set below that ratio is to be found further down.

    Returns (cut, size, B, moves left). A move is one row changed or looked at; if fewer than none
    are left, the search was given up.
    """
    n2, top = order.size, degrees.max()
    inside, outside = np.zeros(degrees.size, np.int64), np.zeros(degrees.size, np.int64)
    counts, tried = np.zeros(2 * top + 1, np.int64), np.zeros(n2 + 1, np.int8)
    forced, subset, best = 0, 0, -1
    for t in range(fixed):
        if choices >> t & 1:
            forced += _decide(starts, rows, weights, inside, outside, order[t], 1)
            subset |= 1 << order[t]
        else:
            forced += _decide(starts, rows, weights, outside, inside, order[t], 1)
    t = fixed if forced * size < cut * half else -1
    while t >= fixed and moves >= 0:
        if t == n2:
            moves -= degrees.size
            for turned in range(2):
                c, s = _complete(volumes, degrees, weights, inside, counts, subset, half, turned)
                if s > 0 and c * size < cut * s:
                    cut, size, best = c, s, (1 << n2) - 1 - subset if turned else subset
            t -= 1
            continue
        j = order[t]
        if tried[t] == 1:
            forced += _decide(starts, rows, weights, outside, inside, j, -1)
            forced += _decide(starts, rows, weights, inside, outside, j, 1)
            subset |= 1 << j
        elif tried[t] == 2:
            forced += _decide(starts, rows, weights, inside, outside, j, -1)
            subset ^= 1 << j
            tried[t] = 0
            t -= 1
            continue
        else:
            forced += _decide(starts, rows, weights, outside, inside, j, 1)
        tried[t] += 1
        moves -= starts[j + 1] - starts[j]
        if forced * size < cut * half:
            t += 1
    return cut, size, best, moves


@kernel()
def _decide(starts, rows, weights, mine, other, j, by):
    """Right vertex j is decided, or no longer so if ``by`` is -1; returns the change of the sum of
    min(mine, other)."""
    change = 0
    for e in range(starts[j], starts[j + 1]):
        r = rows[e]
        if by < 0:
            mine[r] -= 1
        if mine[r] < other[r]:
            change += by * weights[r]
        if by > 0:
            mine[r] += 1
    return change


@kernel()
def _complete(volumes, degrees, weights, inside, counts, subset, half, turned):
    """The best cut and size with B = ``subset``, or if ``turned`` its complement, as right part."""
    top = counts.size // 2
    counts[:] = 0
    for r in range(degrees.size):
        counts[degrees[r] - 2 * inside[r] + top] += weights[r]
    many, volume = 0, 0
    for j in range(volumes.size):
        if (subset >> j & 1) != turned:
            many, volume = many + 1, volume + volumes[j]
    return _grow(counts, turned == 1, 1, top, volume, many, half)


@kernel()
def _trailing_zeros(k):
    """The place of the lowest bit set in k > 0."""
    j = 0
    while not k >> j & 1:
        j += 1
    return j


@kernel()
def subset_counts(codes, weights, n2):
    """For every subset S of the right side, the number of left vertices with all neighbours in S.

    ``codes`` are the neighbour sets as integers, ``weights`` how many left vertices have each.
    int32, shape (2**n2,); n2 * 2**n2 additions.
    """
    inside = np.zeros(1 << n2, dtype=np.int32)
    for r in range(codes.size):
        inside[codes[r]] += weights[r]
    for j in range(n2):
        for subset in range(1 << n2):
            if subset >> j & 1:
                inside[subset] += inside[subset ^ (1 << j)]
    return inside


@kernel()
def subset_sizes(n2):
    """The number of elements of every subset: int8, shape (2**n2,)."""
    sizes = np.zeros(1 << n2, dtype=np.int8)
    for subset in range(1, 1 << n2):
        sizes[subset] = sizes[subset >> 1] + (subset & 1)
    return sizes


@kernel()
def least_vertex_ratio(inside, sizes, half, first, last, boundary, size):
    """The least |neighbours outside X| / |X| below ``boundary`` / ``size``, |X| at most ``half``.

    ``inside`` is from `subset_counts` and ``sizes`` from `subset_sizes`. The right part B of X runs
    over ``first`` to ``last`` - 1, and for each B the right boundary T over the subsets of the
    rest.

    Returns (boundary, size, B, T), or what was given and -1, 0 if nothing is below. The left part
    of X is size - |B| vertices with all neighbours in B | T, those with neighbours in B first.
    """
    everything = inside.size - 1
    best, best_edge = -1, 0
    for b in range(first, last):
        rest, many = everything ^ b, sizes[b]
        near, room = inside[everything] - inside[rest], half - many  # near: neighbours of B
        edge = rest
        while True:
            within = inside[b | edge]
            taken = min(within, room)
            out = sizes[edge] + near - min(taken, within - inside[edge])
            if out * size < boundary * (many + taken) and many + taken > 0:
                boundary, size, best, best_edge = out, np.int64(many + taken), b, edge
            if edge == 0:
                break
            edge = (edge - 1) & rest
    return boundary, size, best, best_edge
