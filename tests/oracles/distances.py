"""Girth and diameter of a bipartite graph, by their definitions, in plain Python."""

from __future__ import annotations

import math

Rows = list[list[int]]
Lists = dict[int, set[int]]


def neighbours(rows: Rows, n2: int) -> Lists:
    """Left vertices 0..n1-1, right ones after them."""
    n1 = len(rows)
    lists: Lists = {v: set() for v in range(n1 + n2)}
    for i, row in enumerate(rows):
        for x in row:
            lists[i].add(n1 + x)
            lists[n1 + x].add(i)
    return lists


def distances(lists: Lists, root: int) -> dict[int, int]:
    """Distance from the root to every vertex that can be reached from it."""
    found, level = {root: 0}, [root]
    while level:
        level = sorted({w for u in level for w in lists[u]} - found.keys())
        found.update(dict.fromkeys(level, max(found.values()) + 1))
    return found


def shortest_cycle(rows: Rows, n2: int, root: int) -> float:
    """Through the root: for each edge there, the way back to its other end without that edge."""
    lists = neighbours(rows, n2)
    best = math.inf
    for w in sorted(lists[root]):
        without = {v: set(near) for v, near in lists.items()}
        without[root].discard(w)
        without[w].discard(root)
        best = min(best, 1 + distances(without, w).get(root, math.inf))
    return best


def girth(rows: Rows, n2: int) -> float:
    return min(shortest_cycle(rows, n2, root) for root in range(len(rows)))


def eccentricity(rows: Rows, n2: int, root: int) -> float:
    lists = neighbours(rows, n2)
    found = distances(lists, root)
    return max(found.values()) if len(found) == len(lists) else math.inf


def diameter(rows: Rows, n2: int) -> float:
    return max(eccentricity(rows, n2, root) for root in range(len(rows) + n2))
