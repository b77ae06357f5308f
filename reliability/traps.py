"""Masks made to deceive a checker: none may be falsely PROVED, and none wrongly REFUTED.

    python reliability/traps.py [--times M]

The kinds: sigma_2 exactly on the bound, and a hair above or below; disconnected; one edge pair of
an extremal graph switched, or an edge moved; tiled; cropped or padded; parallel edges. The truth is
exact arithmetic (`tests.oracles.roots`) where the mask is biregular, and a refusal with one of the
library's errors where it is not. Writes results/traps.json; exits with 1 if anything is wrong.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import product
from random import Random
from typing import Any

import networkx as nx
import numpy as np
from _common import parser, print_table, workers, write_record
from _masks import Mask, box, complete, cycle, shape, subdivision, switched, uniform, union
from scipy.sparse import coo_array
from tqdm import tqdm

import expandermask as xm
from expandermask.errors import ExpanderMaskError
from tests.oracles.roots import truth

Trap = tuple[str, Any]
EXTREMAL = (
    xm.graphs.heawood,
    xm.graphs.pappus,
    xm.graphs.desargues,
    xm.graphs.tutte_coxeter,
    lambda: xm.graphs.hypercube(5),
    lambda: xm.graphs.hypercube(6),
    lambda: xm.graphs.projective_plane(3),
    lambda: xm.graphs.projective_plane(5),
    lambda: xm.graphs.generalized_quadrangle(3),
    lambda: xm.graphs.array_code(5, 3),
    lambda: xm.ramanujan_graph(48, 8, 2, method="design", rng=0),
    lambda: xm.ramanujan_graph(96, 16, 4, method="design", rng=0),
)


def cubic(random: Random) -> Mask:
    """Adjacency of a connected cubic graph on 4 to 12 vertices: pairings until one is simple."""
    while True:
        n = random.choice((4, 6, 8, 10, 12))
        ends = random.sample([v for v in range(n) for _ in range(3)], 3 * n)
        graph = nx.Graph((u, v) for u, v in zip(ends[::2], ends[1::2], strict=True) if u != v)
        if graph.number_of_edges() == 3 * n // 2 and nx.is_connected(graph):
            return nx.to_numpy_array(graph, nodelist=range(n), dtype=np.int64)


def ties(random: Random, count: int) -> Iterator[Trap]:
    """Degree 5 and lambda_2 = 4 = 2 sqrt(5 - 1): C_6 box a cubic graph with lambda_2 <= 2.

    As a double cover (5, 5) and as a subdivision (2, 5), rows and columns shuffled. The few cubic
    graphs with lambda_2 > 2 go over the bound, and are traps as well.
    """
    for k in range(count):
        adjacency = box(cycle(6), cubic(random))
        mask = subdivision(adjacency) if k % 2 else cover(adjacency)
        yield "C_6 box cubic", shuffled(mask, random)


def cover(adjacency: Mask) -> Mask:
    """The biadjacency matrix of a connected graph, or of its double cover if it has odd cycles."""
    graph = nx.from_numpy_array(adjacency)
    if not nx.is_bipartite(graph):
        return adjacency
    left = nx.bipartite.color(graph)
    sides = [[v for v in graph if left[v] == side] for side in (1, 0)]
    return adjacency[np.ix_(*sides)]


def closed_forms() -> Iterator[Trap]:
    """Products and blow-ups with known lambda_2 around 2 sqrt(d - 1), some of them on it.

    K_a box K_b has lambda_2 = max(a, b) - 2 and d = a + b - 2; C_m with each vertex k-fold has
    lambda_2 = 2 k cos(2 pi / m) and d = 2 k; C_m box K_k has the sums.
    """
    for a in range(5, 12):
        level = (a - 2) ** 2 / 4 + 3 - a  # b = level is the tie
        for b in range(2, min(a, 12) + 1):
            if abs(b - level) <= 2:
                yield "K_a box K_b", box(complete(a), complete(b))
    for m, k in product(range(4, 29), range(2, 9)):
        if m * k <= 120:
            yield "blown-up cycle", cover(np.kron(cycle(m), np.ones((k, k), dtype=np.int64)))
    for m, k in product(range(4, 13), (3, 4, 5)):
        yield "C_m box K_k", box(cycle(m), complete(k))
        yield "subdivided C_m box K_k", subdivision(box(cycle(m), complete(k)))
    for m in range(4, 31):
        yield "prism", cover(box(cycle(m), complete(2)))
        yield "cycle", cover(cycle(m))


def disconnected(random: Random, count: int) -> Iterator[Trap]:
    """Unions of Ramanujan graphs of the same degrees, of cycles too, shuffled."""
    for k in range(count):
        if k % 3 == 0:
            lengths = [random.randint(2, 9) for _ in range(random.randint(2, 5))]
            parts = [cycle(2 * n)[::2, 1::2] if n > 1 else np.ones((2, 2), int) for n in lengths]
        elif k % 3 == 1:
            each = shape(random, 12)
            parts = [uniform(each, random) for _ in range(random.randint(2, 4))]
        else:
            parts = [dense(random.choice(EXTREMAL)())] * 2
        yield "union", shuffled(union(parts), random)


def one_switch(random: Random, count: int) -> Iterator[Trap]:
    """An extremal graph, or one with a tie, with one pair of edges switched, or one edge moved."""
    tie = subdivision(box(cycle(6), complete(4)))
    for k in range(count):
        start = tie.copy() if k % 6 == 0 else dense(random.choice(EXTREMAL)())
        if k % 5:
            yield "switched", switched(start, random)
        else:
            i, x = random.choice(np.argwhere(start).tolist())
            start[i, [x, random.choice(np.flatnonzero(start[i] == 0).tolist())]] = 0, 1
            yield "one edge moved", start


def tilings(random: Random, count: int) -> Iterator[Trap]:
    """Good masks repeated to fill a larger shape; C_12 twice both ways is a tie."""
    yield "tiled", np.tile(cycle(12)[::2, 1::2], (2, 2))
    for _ in range(count):
        start = dense(random.choice(EXTREMAL)()) if random.random() < 0.5 else None
        mask = uniform(shape(random, 12), random) if start is None else start
        yield "tiled", np.tile(mask, (random.randint(1, 4), random.randint(1, 3)))


def cut_to_fit(random: Random, count: int) -> Iterator[Trap]:
    """Corners of good masks, of their tilings, and good masks with dead rows or columns added."""
    for k in range(count):
        mask = dense(random.choice(EXTREMAL)())
        if k % 3 == 0:
            yield "padded", np.pad(mask, ((0, random.randint(0, 3)), (0, random.randint(1, 3))))
        else:
            mask = np.tile(mask, (2, 2)) if k % 3 == 1 else mask
            n1, n2 = mask.shape
            yield "cropped", mask[: random.randint(2, n1), : random.randint(2, n2 - 1)]


def parallel(random: Random, count: int) -> Iterator[Trap]:
    """One edge twice, its place taken from another so that all degrees agree; in four forms."""
    for k in range(count):
        mask = with_double_edge(random)
        rows = [[x for x, many in enumerate(row) for _ in range(many)] for row in mask.tolist()]
        entries = np.array([(i, x) for i, row in enumerate(rows) for x in row]).T
        form = k % 4
        if form == 0:
            yield "parallel, matrix with a 2", mask
        elif form == 1:
            yield "parallel, neighbour lists", (rows, mask.shape[1])
        elif form == 2:
            yield "parallel, sparse", coo_array((np.ones(len(entries.T)), entries), mask.shape)
        else:
            graph = nx.MultiGraph()
            graph.add_nodes_from((("left", i) for i in range(len(mask))), bipartite=0)
            graph.add_nodes_from((("right", x) for x in range(mask.shape[1])), bipartite=1)
            graph.add_edges_from((("left", i), ("right", x)) for i, x in entries.T.tolist())
            yield "parallel, multigraph", graph


def with_double_edge(random: Random) -> Mask:
    """A random mask after one switch onto an edge that is there: degrees agree, an entry is 2."""
    while True:
        mask = uniform(shape(random, 10), random)
        (i, x), (j, y) = random.sample(np.argwhere(mask).tolist(), 2)
        if i != j and x != y and mask[i, y]:
            for row, column, change in ((i, x, -1), (j, y, -1), (i, y, 1), (j, x, 1)):
                mask[row, column] += change
            return mask


def dense(graph: xm.BiregularGraph) -> Mask:
    """The mask as integers that can be added up."""
    return graph.mask().astype(np.int64)


def shuffled(mask: Mask, random: Random) -> Mask:
    """Rows and columns in random order."""
    n1, n2 = mask.shape
    return mask[np.ix_(random.sample(range(n1), n1), random.sample(range(n2), n2))]


def expected(trap: Any) -> tuple[str, bool]:
    """PROVED, REFUTED or "refused", by exact arithmetic; and whether sigma_2 is on the bound."""
    if not isinstance(trap, np.ndarray) or trap.max() > 1:
        return "refused", False
    degrees = [set(trap.sum(axis=1).tolist()), set(trap.sum(axis=0).tolist())]
    if any(len(found) > 1 or min(found) < 2 for found in degrees):
        return "refused", False
    exact = truth(trap)
    return exact.verdict, exact.tied and exact.components == 1


def answered(trap: Any) -> str:
    """What the library says; any error that is not its own goes through."""
    try:
        return xm.certify(xm.BiregularGraph(*trap) if isinstance(trap, tuple) else trap).verdict
    except ExpanderMaskError:
        return "refused"


def judge(trap: Trap) -> tuple[str, str, bool, str]:
    """(kind, truth, whether it is a tie, answer)."""
    kind, subject = trap
    return kind, *expected(subject), answered(subject)


def all_traps(times: float) -> list[Trap]:
    """Every trap, the random ones multiplied."""
    random = Random(0)

    def many(count: int) -> int:
        return max(1, round(count * times))

    return [
        *closed_forms(),
        *ties(random, many(80)),
        *disconnected(random, many(120)),
        *one_switch(random, many(150)),
        *tilings(random, many(120)),
        *cut_to_fit(random, many(120)),
        *parallel(random, many(120)),
    ]


def main() -> int:
    """Judge every trap, print a table by kind, write the record."""
    arguments = parser(__doc__).parse_args()
    traps = all_traps(arguments.times)
    with workers(arguments.jobs) as spread:
        judged = list(tqdm(spread(judge, traps), total=len(traps), desc="traps", unit="trap"))
    wrong = {
        "falsely PROVED": sum(a == "PROVED" != t for _, t, _, a in judged),
        "wrongly REFUTED": sum(a == "REFUTED" != t for _, t, _, a in judged),
        "wrongly refused": sum(a == "refused" != t for _, t, _, a in judged),
        "UNDECIDED": sum(a == "UNDECIDED" for *_, a in judged),
    }
    counts = Counter((kind, "on the bound" if tie else t) for kind, t, tie, _ in judged)
    columns = ["PROVED", "on the bound", "REFUTED", "refused"]
    kinds = sorted({kind for kind, _ in counts})
    table = [[kind, *(counts[kind, c] for c in columns)] for kind in kinds]
    print_table(["kind, by truth", *columns], table)
    print_table(["fault", "count"], wrong.items())
    body = {
        "traps": len(traps),
        "on the bound": sum(tie for _, _, tie, _ in judged),
        "kinds": {row[0]: dict(zip(columns, row[1:], strict=True)) for row in table},
        "wrong": wrong,
        "passed": not any(wrong.values()),
    }
    print(f"{len(traps)} traps; record: {write_record(arguments, 'traps', body).name}")
    return 0 if body["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
