"""Slow, obvious versions of what bounds Cheeger constants: every set, and every edge of it.

Graphs are given as dense 0/1 masks; vertices are numbered left first.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import networkx as nx
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.int64]


def neighbors(mask: Mask) -> list[set[int]]:
    """The neighbours of every vertex."""
    n1, n2 = mask.shape
    lists: list[set[int]] = [set() for _ in range(n1 + n2)]
    for i in range(n1):
        for j in range(n2):
            if mask[i, j]:
                lists[i].add(n1 + j)
                lists[n1 + j].add(i)
    return lists


def networkx_graph(mask: Mask) -> nx.Graph:
    """The same as a networkx graph."""
    return nx.Graph({v: list(near) for v, near in enumerate(neighbors(mask))})


def connected(mask: Mask) -> bool:
    """Whether every vertex can be reached from every other."""
    return nx.is_connected(networkx_graph(mask))


def boundary(lists: list[set[int]], inside: set[int], kind: str) -> int:
    """Edges that leave a set, or vertices outside it next to it."""
    if kind == "edge":
        return sum(len(lists[v] - inside) for v in inside)
    return len(set().union(*(lists[v] for v in inside)) - inside)


def conductance(mask: Mask) -> Fraction:
    """The least number of edges that leave a set, per edge end in it, up to half of the ends."""
    lists = neighbors(mask)
    n, ends = len(lists), 2 * int(mask.sum())
    found = []
    for size in range(1, n):
        for chosen in combinations(range(n), size):
            volume = sum(len(lists[v]) for v in chosen)
            if 2 * volume <= ends:
                found.append(Fraction(boundary(lists, set(chosen), "edge"), volume))
    return min(found)


def edge_counts(mask: Mask, s: int, t: int) -> tuple[int, int]:
    """The least and the most ones that any s rows and t columns share."""
    n1, n2 = mask.shape
    found = [
        int(mask[np.ix_(rows, columns)].sum())
        for rows in combinations(range(n1), s)
        for columns in combinations(range(n2), t)
    ]
    return min(found), max(found)


def gains(mask: Mask, inside: set[int], kind: str) -> list[int]:
    """How the boundary changes when each vertex is moved in or out."""
    lists = neighbors(mask)
    now = boundary(lists, inside, kind) if inside else 0
    changes = []
    for v in range(len(lists)):
        moved = inside ^ {v}
        changes.append((boundary(lists, moved, kind) if moved else 0) - now)
    return changes


def distances(mask: Mask, lengths: dict[tuple[int, int], float], source: int) -> dict[int, float]:
    """Shortest distances from a vertex when the step from u to v costs ``lengths[u, v]``."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(sum(mask.shape)))
    graph.add_weighted_edges_from((u, v, length) for (u, v), length in lengths.items())
    return dict(nx.single_source_dijkstra_path_length(graph, source))


def betweenness(mask: Mask) -> list[float]:
    """How much flow each vertex passes if all pairs send 1, split over last steps evenly."""
    lists = neighbors(mask)
    n = len(lists)
    passed = [0.0] * n
    for source in range(n):
        steps = {(u, v): 1.0 for u in range(n) for v in lists[u]}
        dist = distances(mask, steps, source)
        arriving = [1.0] * n
        for v in sorted(dist, key=lambda v: -dist[v]):
            if v == source:
                continue
            passed[v] += arriving[v] - 1
            before = [u for u in lists[v] if dist[u] + 1 == dist[v]]
            for u in before:
                arriving[u] += arriving[v] / len(before)
    return [p / 2 for p in passed]
