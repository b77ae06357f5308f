"""All-pairs flows: a graph that can carry one between all vertices at once has no small cut.

Leighton and Rao, "Multicommodity max-flow min-cut theorems and their use in designing approximation
algorithms", J. ACM 46 (1999), section 2. The flows here are integers on explicit paths, so what
they prove is proved exactly; only which paths are chosen is left to floating point. Proofs:
``docs/theory/expansion_bounds.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from expandermask.expansion import _flow_kernels
from expandermask.expansion.adjacency import adjacency
from expandermask.expansion.cuts import Kind
from expandermask.graphs.bipartite import BipartiteGraph

_MOST_ROUNDS, _FEW_ROUNDS = 12, 6
_WORK = 60_000_000
"""Edges looked at, in all searches together: a few seconds."""
_RATE = 2.0
_BLOCK = 10
_TOTAL_BITS = 28
_UNIT_BITS = 12
_PATIENCE = 2.0


@dataclass(frozen=True)
class Congestion:
    """An integer flow in which every two vertices exchange the same amount, and its bottlenecks."""

    pair: int
    """The amount between each two vertices, both directions together."""
    edge: int
    """No edge carries more than this."""
    vertex: int
    """Through no vertex passes more than this, what starts or ends there not counted."""


def all_pairs_flow(graph: BipartiteGraph, kind: Kind) -> Congestion | None:
    """Route a flow between all pairs of vertices, and even out its load over edges or vertices.

    Parameters
    ----------
    graph : BipartiteGraph
        A connected graph with an edge.
    kind : {"edge", "vertex"}
        Whether the largest load of an edge is to become small, or that of a vertex.

    Returns
    -------
    Congestion or None
        None if the graph is so large that not even one round is within the budget.

    Notes
    -----
    In each round every vertex sends to every other along shortest paths, split evenly where there
    are several; all lengths are 1 at first and then grow with the load (multiplicative weights:
    Garg and Koenemann, "Faster and simpler algorithms for multicommodity flow", SIAM J. Comput. 37
    (2007), section 3; here the lengths change after every ten sources). Each round is a flow, and
    so is a sum of rounds: the first, or the last k for the best k, is taken. Up to 12 rounds of
    O(N E log N), fewer for large graphs. Where one side has few vertices and the graph is large,
    the others send to their neighbours evenly, and only those few are sources. No step is random.

    Examples
    --------
    >>> import numpy as np
    >>> from expandermask.graphs.bipartite import as_bipartite
    >>> path = as_bipartite(np.array([[1, 0], [1, 1]]))  # of 4 vertices: 2 * 2 pairs across
    >>> found = all_pairs_flow(path, "edge")
    >>> found.edge / found.pair, found.vertex / found.pair
    (4.0, 2.0)
    """
    n, smaller = graph.n1 + graph.n2, min(graph.n1, graph.n2)
    rounds = _affordable(graph, n)
    if rounds < _FEW_ROUNDS and 4 * smaller < n:
        if graph.n1 < graph.n2:
            graph = graph.transpose()
        hubs, rounds = np.arange(graph.n1, n), _affordable(graph, smaller)
    else:
        hubs = np.arange(n)
    if rounds == 0:
        return None
    unit = 1 << max(min(_UNIT_BITS, _TOTAL_BITS - n.bit_length()), 0)
    weights, entering, changing = _access(graph, hubs, unit)
    loads = _rounds(graph, kind, hubs, weights, rounds)
    best = min(
        map(_Sum.of, [loads[:1], *(loads[-k:] for k in range(1, rounds + 1))]),
        key=lambda total: total.largest(kind, entering, changing) / total.rounds,
    )
    edge, vertex = (best.largest(which, entering, changing) for which in ("edge", "vertex"))
    return Congestion(pair=2 * unit * unit * best.rounds, edge=edge, vertex=vertex)


def _affordable(graph: BipartiteGraph, sources: int) -> int:
    """How many rounds with so many sources are within the budget."""
    return int(min(_MOST_ROUNDS, _WORK // (2 * sources * max(graph.num_edges, 1))))


def _access(
    graph: BipartiteGraph, hubs: NDArray[np.int64], unit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Spread each vertex's ``unit`` over hubs: the hubs' weights, and the loads of getting there.

    A hub keeps its own. A left vertex that is none splits it over its neighbours, all hubs, as
    evenly as integers allow; per round, each part then meets the 2 ``unit`` of every other vertex
    on its first edge and, at the hub behind it, as flow that passes through.
    """
    n = graph.n1 + graph.n2
    weights = np.zeros(n, dtype=np.int64)
    weights[hubs] = unit
    if len(hubs) == n:
        return weights, np.zeros(graph.num_edges, dtype=np.int64), np.zeros(n, dtype=np.int64)
    degrees = graph.left_degrees[graph.lefts]
    rank = np.arange(graph.num_edges) - graph.starts[graph.lefts]
    parts = unit // degrees + (rank < unit % degrees)
    arriving = np.zeros(n, dtype=np.int64)
    np.add.at(arriving, graph.rights + graph.n1, parts)
    others = 2 * unit * (n - 1)
    return weights + arriving, others * parts, others * arriving


def _rounds(
    graph: BipartiteGraph,
    kind: Kind,
    hubs: NDArray[np.int64],
    weights: NDArray[np.int64],
    rounds: int,
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The loads of edges and of vertices in each round."""
    starts, targets, edges = adjacency(graph)
    on_edges = kind == "edge"
    edge_lengths = np.full(graph.num_edges, float(on_edges))
    vertex_lengths = np.full(graph.n1 + graph.n2, float(not on_edges))
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    bar = tqdm(range(rounds), desc="flow", unit="round", leave=False, disable=None, delay=_PATIENCE)
    for k in bar:
        scale = float(found[0][0 if on_edges else 1].max()) if k else 0.0
        load = np.zeros(graph.num_edges, dtype=np.int64)
        through = np.zeros(graph.n1 + graph.n2, dtype=np.int64)
        _flow_kernels.route(
            *(starts, targets, edges, hubs, weights, edge_lengths, vertex_lengths),
            *(on_edges, _RATE, scale, _BLOCK if k else len(hubs), load, through),
        )
        found.append((load, through))
    return found


@dataclass(frozen=True)
class _Sum:
    """Several rounds taken as one flow."""

    load: NDArray[np.int64]
    through: NDArray[np.int64]
    rounds: int

    @classmethod
    def of(cls, loads: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> _Sum:
        edges = np.sum([load for load, _ in loads], axis=0)
        return cls(edges, np.sum([through for _, through in loads], axis=0), len(loads))

    def largest(self, kind: str, entering: NDArray[np.int64], changing: NDArray[np.int64]) -> int:
        """The largest load, with what each round adds to it on the way to and from the hubs."""
        if kind == "edge":
            return int((self.load + self.rounds * entering).max())
        return int((self.through + self.rounds * changing).max())
