"""Numba kernels for orbit designs: plain loops over integers, all state passed in as arguments.

The search works on fixed-point numbers kept in float64 arrays. Every one of them, and every sum it
enters, is a whole number below 2**53, so all of its arithmetic is exact and no platform, compiler
or order of summation can change a choice it makes. Slow, obvious versions of each kernel are in
``tests/oracles/designs.py``.
"""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel
from expandermask.graphs._kernels import below

_CLIP = 2.0**22
_FINEST_STEP = 64.0


@kernel()
def orbit_representatives(add, negative, m):
    """One m-subset out of each orbit of a group of order r, and the orders of their stabilisers.

    ``add`` is the addition table (r, r), ``negative`` the inverses. A representative is the
    lexicographically least of its translates by -x, x in the set: those are the translates that
    contain 0, so only subsets that contain 0 are looked at.
    """
    r = add.shape[0]
    blocks, stabilisers = [], []
    block, moved = np.arange(m), np.empty(m, dtype=np.int64)
    while True:
        least, stabiliser = True, 0
        for x in block:
            for i in range(m):
                moved[i] = add[block[i], negative[x]]
            moved.sort()
            i = 0
            while i < m and moved[i] == block[i]:
                i += 1
            if i == m:
                stabiliser += 1
            elif moved[i] < block[i]:
                least = False
                break
        if least:
            blocks.append(block.copy())
            stabilisers.append(stabiliser)
        i = m - 1
        while i > 0 and block[i] == r - m + i:
            i -= 1
        if i == 0:
            return blocks, stabilisers
        block[i] += 1
        for j in range(i + 1, m):
            block[j] = block[j - 1] + 1


@kernel()
def shuffled(n, state):
    """A uniformly random permutation of 0..n-1, int32 (Fisher-Yates)."""
    order = np.arange(n, dtype=np.int32)
    for i in range(n - 1, 0, -1):
        j = below(state, i + 1)
        order[i], order[j] = order[j], order[i]
    return order


@kernel(fastmath=True)  # the sums are exact, so regrouping them changes nothing
def _overflow(base, row):
    """Sum of max(base + row, 0)**2, each term cut off at 2**44."""
    total = 0.0
    for c in range(base.size):
        x = min(max(base[c] + row[c], 0.0), _CLIP)
        total += x * x
    return total


@kernel()
def _replace_one(values, chosen, slot, first, last, sums, base, level):
    """Give one slot the choice in [first, last) with the least overflow; say if that changed it."""
    now = chosen[slot]
    base[:] = sums - values[now] - level
    least, best = _overflow(base, values[now]), now
    for o in range(first, last):
        energy = _overflow(base, values[o])
        if energy < least:
            least, best = energy, o
    if best == now:
        return False
    sums += values[best] - values[now]
    chosen[slot] = best
    return True


@kernel()
def descend(values, ranges, kinds, chosen, level, goal, steps, state):
    """Choose vectors, one per slot, so that the largest entry of their sum is small.

    Parameters
    ----------
    values : float64 (choices, characters), whole numbers
        The vectors to choose from.
    ranges : int64 (kinds, 2); kinds : int64 (slots,)
        Slot i takes a choice in [ranges[kinds[i], 0], ranges[kinds[i], 1]).
    chosen : int64 (slots,)
        The start; overwritten by the best choice met.
    level : float
        Where to start: what the sum exceeds ``level`` by is squared and added up.
    goal, steps
        Stop at a largest entry of at most ``goal``, or after so many slots.

    Slots are visited in random order, each taking the choice that lowers the overflow most. When a
    full round changes nothing the level moves a quarter of the way to the largest entry, which
    turns the objective from least squares into that largest entry. Returns the largest entry.
    """
    slots = chosen.size
    sums, base = np.zeros(values.shape[1]), np.empty(values.shape[1])
    for o in chosen:
        sums += values[o]
    least, best = sums.max(), chosen.copy()
    order, unchanged = shuffled(slots, state), 0
    for step in range(steps):
        if least <= goal:
            break
        if step % slots == 0:
            order = shuffled(slots, state)
        slot = order[step % slots]
        first, last = ranges[kinds[slot]]
        if _replace_one(values, chosen, slot, first, last, sums, base, level):
            unchanged = 0
            if sums.max() < least:
                least = sums.max()
                best[:] = chosen
        else:
            unchanged += 1
        if unchanged == slots:
            rise = np.floor((sums.max() - level) / 4)
            if rise < _FINEST_STEP:
                break
            level += rise
            unchanged = 0
    chosen[:] = best
    return least


@kernel()
def _fixes(move, block):
    """Whether a permutation of the columns maps the block to itself."""
    for x in block:
        inside = False
        for y in block:
            inside |= move[x] == y
        if not inside:
            return False
    return True


@kernel()
def expand(blocks, moves, copies, names, order, start, neighbors):
    """Write the orbits of ``blocks``, ``copies`` times over; return the number of rows so far.

    ``moves`` (h, r) says where each element of a group of order h takes each column, elements
    adding up as in ``moves[:, :h]``. A row is a translate of a block, each distinct one once. Row
    number i, counted from ``start``, goes to neighbors[order[i]], its labels renamed by ``names``.
    """
    at = start
    for block in blocks:
        fixing = [s for s in range(moves.shape[0]) if _fixes(moves[s], block)]
        for g in range(moves.shape[0]):
            least = True
            for s in fixing:
                least &= g <= moves[g, s]
            if least:
                for _ in range(copies):
                    row = neighbors[order[at]]
                    for i in range(block.size):
                        row[i] = names[moves[g, block[i]]]
                    at += 1
    return at
