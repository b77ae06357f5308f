"""Numba kernels for distances: breadth-first searches over a graph given as one list of neighbours.

Vertex v has the neighbours ``targets[starts[v]:starts[v + 1]]``. Working arrays come in as
arguments and go out as they came, so that many searches share them. Slow, obvious versions are in
``tests/oracles/distances.py``.
"""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel

_UNSEEN, _ROOT = -1, -2


@kernel()
def shortest_cycle(starts, targets, root, cap, branch, queue):
    """Length of the shortest cycle through ``root`` in a bipartite graph, or ``cap`` if none is
    shorter than that.

    ``branch`` is int32 of -1s and ``queue`` int32, one entry per vertex. Each vertex reached is
    marked with the neighbour of the root it was reached by; the first edge between two branches
    closes the cycle, and no vertex further than half of ``cap`` is looked at.
    """
    branch[root], queue[0] = _ROOT, root
    first, last, level, found = 0, 1, 0, cap
    while first < last and 2 * level + 2 < cap and found == cap:
        end = last
        for k in range(first, end):
            u = queue[k]
            for e in range(starts[u], starts[u + 1]):
                w = targets[e]
                label = w if level == 0 else branch[u]
                if branch[w] == _UNSEEN:
                    branch[w], queue[last] = label, w
                    last += 1
                elif branch[w] != label and branch[w] != _ROOT:
                    found = 2 * level + 2
        first, level = end, level + 1
    for k in range(last):
        branch[queue[k]] = _UNSEEN
    return found


@kernel()
def eccentricity(starts, targets, root, seen, queue):
    """Distance from ``root`` to the vertex furthest from it, or -1 if some vertex is not reached.

    ``seen`` is uint8 of zeros and ``queue`` int32, one entry per vertex.
    """
    seen[root], queue[0] = 1, root
    first, last, level = 0, 1, -1
    while first < last:
        end = last
        for k in range(first, end):
            u = queue[k]
            for e in range(starts[u], starts[u + 1]):
                w = targets[e]
                if not seen[w]:
                    seen[w], queue[last] = 1, w
                    last += 1
        first, level = end, level + 1
    for k in range(last):
        seen[queue[k]] = 0
    return level if last == seen.size else -1


@kernel()
def components(neighbors, n2):
    """Number of connected components of the graph with these rows, all d1 >= 1, and n2 right
    vertices: union-find over the right vertices, 4 bytes each."""
    parent = np.arange(n2, dtype=np.int32)
    count = n2
    for row in neighbors:
        top = _find(parent, row[0])
        for x in row[1:]:
            other = _find(parent, x)
            if other != top:
                parent[other] = top
                count -= 1
    return count


@kernel()
def _find(parent, x):
    """The representative of x, halving the path to it on the way."""
    while parent[x] != x:
        parent[x] = parent[parent[x]]
        x = parent[x]
    return x
