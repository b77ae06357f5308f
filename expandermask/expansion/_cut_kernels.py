"""Numba kernels that look for sets of few outgoing edges, or few outer neighbours, per vertex.

The state of a search is a set of vertices ``inside`` and, for each vertex, the number ``inner`` of
its neighbours in the set and the change ``gain`` of the boundary if it is moved in or out; vertex v
has the neighbours ``targets[starts[v]:starts[v + 1]]``. Sets are compared by cross-multiplication
of integers, so a better ratio is always truly better. Slow, obvious versions are in
``tests/oracles/expansion.py``.
"""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel
from expandermask.graphs._kernels import below


@kernel()
def measure(starts, targets, on_edges, inside, inner, gain):
    """Fill ``inner`` and ``gain`` for the set ``inside``; return (boundary, size)."""
    n, size, boundary = inside.size, 0, 0
    for v in range(n):
        inner[v] = 0
        for k in range(starts[v], starts[v + 1]):
            inner[v] += inside[targets[k]]
    for v in range(n):
        gain[v] = _gain(starts, targets, on_edges, inside, inner, v)
        size += inside[v]
        if not inside[v]:
            boundary += inner[v] if on_edges else inner[v] > 0
    return boundary, size


@kernel()
def _gain(starts, targets, on_edges, inside, inner, v):
    """How the boundary changes if v is moved."""
    if on_edges:
        change = starts[v + 1] - starts[v] - 2 * inner[v]
    else:
        change = -np.int64(inner[v] > 0)
        alone = 1 if inside[v] else 0
        for k in range(starts[v], starts[v + 1]):
            w = targets[k]
            change += not inside[w] and inner[w] == alone
    return -change if inside[v] else change


@kernel()
def _counted(inside, inner, w, adding):
    """Whether moving a neighbour of w in (or, if not ``adding``, out) changes w's own part."""
    return not inside[w] and inner[w] == (0 if adding else 1)


@kernel()
def _announce(starts, targets, inside, gain, was_in, was_out, now_in, now_out, w):
    """Tell the neighbours of w that they matter differently to the outer boundary at w."""
    if was_in == now_in and was_out == now_out:
        return
    for k in range(starts[w], starts[w + 1]):
        u = targets[k]
        if inside[u]:
            gain[u] += np.int64(was_out) - np.int64(now_out)
        else:
            gain[u] += np.int64(now_in) - np.int64(was_in)


@kernel()
def flip(starts, targets, on_edges, inside, inner, gain, v):
    """Move v into the set or out of it, and bring ``inner`` and ``gain`` up to date."""
    step = -1 if inside[v] else 1
    if on_edges:
        inside[v] = not inside[v]
        gain[v] = -gain[v]
        for k in range(starts[v], starts[v + 1]):
            w = targets[k]
            inner[w] += step
            gain[w] += 2 * step if inside[w] else -2 * step
        return
    was_in, was_out = _counted(inside, inner, v, True), _counted(inside, inner, v, False)
    inside[v] = not inside[v]
    now_in, now_out = _counted(inside, inner, v, True), _counted(inside, inner, v, False)
    _announce(starts, targets, inside, gain, was_in, was_out, now_in, now_out, v)
    for k in range(starts[v], starts[v + 1]):
        w = targets[k]
        was_in, was_out = _counted(inside, inner, w, True), _counted(inside, inner, w, False)
        before = inner[w] > 0
        inner[w] += step
        now_in, now_out = _counted(inside, inner, w, True), _counted(inside, inner, w, False)
        if before != (inner[w] > 0):  # w itself joins the boundary, or leaves it, when moved
            change = np.int64(before) - np.int64(inner[w] > 0)
            gain[w] += -change if inside[w] else change
        _announce(starts, targets, inside, gain, was_in, was_out, now_in, now_out, w)
    gain[v] = _gain(starts, targets, on_edges, inside, inner, v)


@kernel()
def _counting_size(n, size, on_edges):
    """What a boundary is divided by; 0 if the set is not allowed. Complements have equal edges."""
    if on_edges:
        return min(size, n - size)
    return size if 2 * size <= n else 0


@kernel()
def sweep(starts, targets, on_edges, order, best):
    """The best set among the first k vertices of ``order``, for all k: (boundary, size).

    The set is written to ``best``. Size 0 is returned if no set is allowed.
    """
    n = order.size
    inside, inner = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.int64)
    gain = np.zeros(n, dtype=np.int64)
    boundary, _ = measure(starts, targets, on_edges, inside, inner, gain)
    least, part, length = np.int64(1), np.int64(0), 0
    for k in range(n - 1):
        boundary += gain[order[k]]
        flip(starts, targets, on_edges, inside, inner, gain, order[k])
        size = _counting_size(n, k + 1, on_edges)
        if size > 0 and (part == 0 or boundary * part < least * size):
            least, part, length = boundary, np.int64(size), k + 1
    best[:] = False
    for k in range(length):
        best[order[k]] = True
    return least, part


@kernel()
def _cheapest(inside, gain, locked, boundary, size, n, on_edges, least, part, start):
    """The unlocked vertex whose move leaves the least boundary * part - least * size, or -1."""
    grown = _counting_size(n, size + 1, on_edges)
    shrunk = _counting_size(n, size - 1, on_edges)
    found, lowest = -1, np.int64(0)
    for k in range(n):
        v = k + start if k + start < n else k + start - n
        after = shrunk if inside[v] else grown
        if locked[v] or after == 0:
            continue
        score = (boundary + gain[v]) * part - least * after
        if found < 0 or score < lowest:
            found, lowest = v, score
    return found


@kernel()
def descend(starts, targets, on_edges, inside, patience, state):
    """Improve the set ``inside`` in place by passes of single moves; return (boundary, size).

    In a pass each vertex moves at most once, always the cheapest, for better or worse; the best
    set on the way is kept (Fiduccia and Mattheyses). A pass ends after ``patience`` moves without
    a better set, the search after a pass without one.
    """
    n = inside.size
    inner, gain = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    trail, locked = np.empty(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    boundary, size = measure(starts, targets, on_edges, inside, inner, gain)
    least, part = boundary, _counting_size(n, size, on_edges)
    kept = 1
    while kept > 0:
        locked[:] = False
        moves, kept = 0, 0
        while moves < n and moves - kept < patience:
            start = below(state, n)
            v = _cheapest(inside, gain, locked, boundary, size, n, on_edges, least, part, start)
            if v < 0:
                break
            size += -1 if inside[v] else 1
            boundary += gain[v]
            flip(starts, targets, on_edges, inside, inner, gain, v)
            locked[v], trail[moves] = True, v
            moves += 1
            counted = _counting_size(n, size, on_edges)
            if boundary * part < least * counted:
                least, part, kept = boundary, counted, moves
        for k in range(moves - 1, kept - 1, -1):
            v = trail[k]
            size += -1 if inside[v] else 1
            boundary += gain[v]
            flip(starts, targets, on_edges, inside, inner, gain, v)
    return boundary, size


@kernel()
def kick(starts, targets, on_edges, inside, length, state):
    """Move ``length`` vertices of a random neighbourhood, all in or all out, as far as allowed."""
    n = inside.size
    size = np.int64(inside.sum())
    queue, seen = np.empty(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    queue[0] = below(state, n)
    seen[queue[0]] = True
    adding, first, last = not inside[queue[0]], 0, 1
    while first < last and length > 0:
        u = queue[first]
        first += 1
        after = size + (1 if adding else -1)
        if inside[u] != adding and _counting_size(n, after, on_edges) > 0:
            inside[u], size = adding, after
            length -= 1
        for k in range(starts[u], starts[u + 1]):
            w = targets[k]
            if not seen[w]:
                seen[w], queue[last] = True, w
                last += 1


@kernel()
def search(starts, targets, on_edges, inside, patience, kicks, state):
    """Descend, then kick and descend again ``kicks`` times, going on from the best set so far."""
    n = inside.size
    boundary, size = descend(starts, targets, on_edges, inside, patience, state)
    least, part = boundary, _counting_size(n, size, on_edges)
    trial = np.empty_like(inside)
    for _ in range(kicks):
        trial[:] = inside
        kick(starts, targets, on_edges, trial, 1 + below(state, max(n // 8, 1)), state)
        boundary, size = descend(starts, targets, on_edges, trial, patience, state)
        counted = _counting_size(n, size, on_edges)
        if boundary * part <= least * counted:
            least, part = boundary, counted
            inside[:] = trial
    return least, part
