"""Numba kernels that route integer flows: shortest paths, and demands sent back along them.

Vertex v has the neighbours ``targets[starts[v]:starts[v + 1]]``, joined to it by the edges of the
same places in ``edges``. Amounts are int64 and are split without remainder; lengths are floats and
decide only where a flow goes, never what it is worth. A slow, obvious version is in
``tests/oracles/expansion.py``.
"""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel

_LEAST_LENGTH = 1e-9


@kernel()
def _push(heap, keys, size, vertex, key):
    """Add a vertex to the binary heap; its new size."""
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if keys[parent] <= key:
            break
        heap[i], keys[i] = heap[parent], keys[parent]
        i = parent
    heap[i], keys[i] = vertex, key
    return size + 1


@kernel()
def _pop(heap, keys, size):
    """Drop the first vertex of the binary heap; its new size."""
    size -= 1
    vertex, key, i = heap[size], keys[size], 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        heap[i], keys[i] = heap[child], keys[child]
        i = child
    heap[i], keys[i] = vertex, key
    return size


@kernel()
def nearest_first(starts, targets, edges, edge_lengths, vertex_lengths, source, dist, order, place):
    """Dijkstra's algorithm: fill ``dist``, the ``order`` of arrival and each vertex's ``place``.

    Going from u to v costs the length of the edge and that of v. Vertices that are not reached keep
    place -1. Returns how many are reached.
    """
    heap = np.empty(targets.size + 1, dtype=np.int64)
    keys = np.empty(targets.size + 1)
    dist[:], place[:] = np.inf, -1
    dist[source] = 0.0
    size, reached = _push(heap, keys, 0, source, 0.0), 0
    while size > 0:
        u = heap[0]
        size = _pop(heap, keys, size)
        if place[u] >= 0:
            continue
        order[reached], place[u] = u, reached
        reached += 1
        for k in range(starts[u], starts[u + 1]):
            v = targets[k]
            there = dist[u] + (edge_lengths[edges[k]] + vertex_lengths[v])
            if there < dist[v]:
                dist[v] = there
                size = _push(heap, keys, size, v, there)
    return reached


@kernel()
def send_back(
    starts, targets, edges, edge_lengths, vertex_lengths, dist, order, place, reached, amount,
    load, through,
):  # fmt: skip
    """Carry ``amount[v]`` from every reached vertex v to the source, along shortest paths only.

    At each vertex the flow is split over the last steps of all its shortest paths, as evenly as
    integers allow. Adds to ``load`` of the edges and to ``through``, what passes the inside of a
    path. On return ``amount`` holds what left each vertex, at the source what arrived.
    """
    for k in range(reached - 1, 0, -1):
        v = order[k]
        flow, steps = amount[v], 0
        if flow == 0:
            continue
        for j in range(starts[v], starts[v + 1]):
            u = targets[j]
            steps += _is_last_step(u, v, edge_lengths[edges[j]] + vertex_lengths[v], dist, place)
        share, rest = flow // steps, flow % steps
        for j in range(starts[v], starts[v + 1]):
            u = targets[j]
            if _is_last_step(u, v, edge_lengths[edges[j]] + vertex_lengths[v], dist, place):
                part = share + (rest > 0)
                rest -= 1
                load[edges[j]] += part
                amount[u] += part
                if place[u] > 0:
                    through[u] += part


@kernel()
def _is_last_step(u, v, length, dist, place):
    """Whether a shortest path to v ends with u, v; u came before v, so flows have no circles."""
    return 0 <= place[u] < place[v] and dist[u] + length <= dist[v]


@kernel()
def route(
    starts, targets, edges, sources, weights, edge_lengths, vertex_lengths, on_edges, rate,
    scale, block, load, through,
):  # fmt: skip
    """Send ``weights[s] * weights[v]`` from v to s for all s in ``sources`` and v other than s.

    After every ``block`` sources the lengths (of edges, or else of vertices) are multiplied by
    1 + rate * (what was added to the load since) / scale; a scale of 0 stands for the largest load.
    """
    n = starts.size - 1
    dist, amount = np.empty(n), np.empty(n, dtype=np.int64)
    order, place = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    lengths, loads = (edge_lengths, load) if on_edges else (vertex_lengths, through)
    before = np.zeros_like(loads)
    for k in range(sources.size):
        source = sources[k]
        reached = nearest_first(
            starts, targets, edges, edge_lengths, vertex_lengths, source, dist, order, place
        )
        amount[:] = weights[source] * weights
        send_back(
            starts, targets, edges, edge_lengths, vertex_lengths, dist, order, place, reached,
            amount, load, through,
        )  # fmt: skip
        if k + 1 == sources.size or (k + 1) % block == 0:
            lengths *= 1 + rate * (loads - before) / (scale if scale > 0 else max(loads.max(), 1))
            lengths /= lengths.max()
            for i in range(lengths.size):
                lengths[i] = max(lengths[i], _LEAST_LENGTH)
            before[:] = loads
