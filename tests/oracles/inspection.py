"""What `inspect_mask` reports of a dense 0/1 matrix, straight from the definitions."""

from __future__ import annotations

from itertools import product
from math import comb

import networkx as nx
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]


def csr(matrix: Matrix) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Row starts and column numbers."""
    starts, targets = [0], []
    for row in matrix.tolist():
        targets += [j for j, entry in enumerate(row) if entry]
        starts.append(len(targets))
    return np.array(starts), np.array(targets, dtype=np.int32)


def classes(matrix: Matrix) -> list[int]:
    """Labels of equal rows, numbered as they appear."""
    seen: dict[tuple[int, ...], int] = {}
    return [seen.setdefault(tuple(row), len(seen)) for row in matrix.tolist()]


def period(labels: list[int]) -> int:
    """The smallest p with labels[i + p] == labels[i] wherever both exist."""
    return next(p for p in range(1, len(labels) + 1) if labels[p:] == labels[: len(labels) - p])


def graph(matrix: Matrix) -> nx.Graph:
    """The bipartite graph, rows first, the dead ones too."""
    found = nx.Graph()
    found.add_nodes_from(range(sum(matrix.shape)))
    found.add_edges_from((int(i), int(j) + len(matrix)) for i, j in np.argwhere(matrix))
    return found


def live_components(matrix: Matrix) -> list[set[int]]:
    """The vertex sets of the components with an edge."""
    return [c for c in nx.connected_components(graph(matrix)) if len(c) > 1]


def bridges(matrix: Matrix) -> int:
    """Edges whose removal leaves more components."""
    whole = graph(matrix)
    before, found = nx.number_connected_components(whole), 0
    for edge in list(whole.edges()):
        whole.remove_edge(*edge)
        found += nx.number_connected_components(whole) > before
        whole.add_edge(*edge)
    return found


def duplicates(matrix: Matrix) -> tuple[int, int]:
    """Rows with an entry that repeat an earlier one, and how many have to for their degrees."""
    live = [tuple(row) for row in matrix.tolist() if any(row)]
    degrees = [sum(row) for row in live]
    columns = matrix.shape[1]
    inevitable = sum(max(0, degrees.count(d) - comb(columns, d)) for d in set(degrees))
    return len(live) - len(set(live)), inevitable


def normalised_values(matrix: Matrix) -> NDArray[np.float64]:
    """Singular values of D1^(-1/2) M D2^(-1/2) without the dead rows and columns, descending."""
    live = matrix[matrix.any(axis=1)][:, matrix.any(axis=0)].astype(float)
    scale = np.sqrt(np.outer(live.sum(axis=1), live.sum(axis=0)))
    return np.linalg.svd(live / scale, compute_uv=False)


def joined(a: Matrix, b: Matrix) -> NDArray[np.bool_]:
    """Which outputs and inputs have a rank in common: a is ranks by inputs, b outputs by ranks."""
    found = np.zeros((len(b), a.shape[1]), dtype=bool)
    for i, j in product(range(len(b)), range(a.shape[1])):
        found[i, j] = any(b[i, t] and a[t, j] for t in range(len(a)))
    return found


def product_graph(a: Matrix, b: Matrix) -> nx.Graph:
    """Inputs, ranks and outputs, with the edges of both masks."""
    found = nx.Graph()
    for kind, count in (("input", a.shape[1]), ("rank", len(a)), ("output", len(b))):
        found.add_nodes_from((kind, i) for i in range(count))
    found.add_edges_from((("rank", int(t)), ("input", int(j))) for t, j in np.argwhere(a))
    found.add_edges_from((("output", int(i)), ("rank", int(t))) for i, t in np.argwhere(b))
    return found
