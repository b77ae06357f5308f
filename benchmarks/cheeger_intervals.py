"""How far apart the proved lower and the best upper bound on the Cheeger constants are.

    python benchmarks/cheeger_intervals.py [--quick]

For each graph of a table (LoRA shapes, random and designed; named and LPS graphs; irregular masks;
cycles, prisms and trees, which are bad expanders) and both kinds of boundary: every lower bound by
name, the best cut, the ratio of the ends, and the seconds each side took. The goal is a ratio of at
most 3 for graphs whose smaller side has up to 500 vertices. Writes results/cheeger_intervals.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
from _common import print_table, write_record
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import expandermask as xm
from expandermask.expansion import best_cut, lower_bounds
from expandermask.expansion.cuts import Kind
from expandermask.graphs.bipartite import BipartiteGraph, as_bipartite

GOAL = 3.0
QUICK_SIZE = 200
KINDS: tuple[Kind, ...] = ("edge", "vertex")


def bernoulli(n1: int, n2: int, density: float) -> Callable[[], BipartiteGraph]:
    """Independent entries, rows and columns without a one given a random one."""

    def make() -> BipartiteGraph:
        rng = np.random.default_rng(0)
        mask = rng.random((n1, n2)) < density
        for i in np.flatnonzero(~mask.any(axis=1)):
            mask[i, rng.integers(n2)] = True
        for j in np.flatnonzero(~mask.any(axis=0)):
            mask[rng.integers(n1), j] = True
        return as_bipartite(mask)

    return make


def random(n1: int, n2: int, d1: int) -> Callable[[], BipartiteGraph]:
    """A uniform random graph of a shape."""
    return lambda: as_bipartite(xm.graphs.random_biregular(n1, n2, d1, rng=0))


def design(n1: int, n2: int, d1: int) -> Callable[[], BipartiteGraph]:
    """A design of a shape."""
    return lambda: as_bipartite(xm.graphs.design(n1, n2, d1, rng=0))


def named(make: Callable[..., Any], *arguments: Any) -> Callable[[], BipartiteGraph]:
    """A graph of the library or of networkx."""
    return lambda: as_bipartite(make(*arguments))


CASES: dict[str, Callable[[], BipartiteGraph]] = {
    "768x8 d1=2 design": design(768, 8, 2),
    "768x16 d1=2 design": design(768, 16, 2),
    "768x32 d1=2 random": random(768, 32, 2),
    "768x32 d1=2 design": design(768, 32, 2),
    "768x64 d1=2 random": random(768, 64, 2),
    "768x64 d1=3 random": random(768, 64, 3),
    "768x64 d1=2 design": design(768, 64, 2),
    "4096x64 d1=2 random": random(4096, 64, 2),
    "4096x64 d1=2 design": design(4096, 64, 2),
    "100x100 d=3 random": random(100, 100, 3),
    "200x200 d=4 random": random(200, 200, 4),
    "300x150 d1=3 random": random(300, 150, 3),
    "500x500 d=3 random": random(500, 500, 3),
    "500x500 d=6 random": random(500, 500, 6),
    "500x500 d=250 random": random(500, 500, 250),
    "Heawood": named(xm.graphs.heawood),
    "Tutte-Coxeter": named(xm.graphs.tutte_coxeter),
    "PG(2,7)": named(xm.graphs.projective_plane, 7),
    "PG(2,19), 381x381 d=20": named(xm.graphs.projective_plane, 19),
    "K_{40,60}": named(xm.graphs.complete_bipartite, 40, 60),
    "hypercube Q_8": named(xm.graphs.hypercube, 8),
    "LPS X^{3,7}, 168x168 d=4": named(xm.graphs.lps, 3, 7),
    "LPS X^{5,13}, 1092x1092 d=6": named(xm.graphs.lps, 5, 13),
    "Bernoulli 768x64, density 0.05": bernoulli(768, 64, 0.05),
    "Bernoulli 256x256, density 0.02": bernoulli(256, 256, 0.02),
    "Bernoulli 500x500, density 0.5": bernoulli(500, 500, 0.5),
    "cycle C_1000": named(nx.cycle_graph, 1000),
    "prism C_250 x K_2": named(nx.circular_ladder_graph, 250),
    "torus 20x20": named(nx.grid_2d_graph, 20, 20, True),
    "path P_400": named(nx.path_graph, 400),
    "binary tree of depth 8": named(nx.balanced_tree, 2, 8),
    "star K_{1,300}": named(nx.star_graph, 300),
    "random tree, 400 vertices": lambda: as_bipartite(nx.random_labeled_tree(400, seed=0)),
}


def measure(name: str, kind: Kind) -> dict[str, Any]:
    """The interval for one graph and one kind of boundary."""
    graph = CASES[name]()
    start = time.perf_counter()
    lower = lower_bounds(graph, kind)
    middle = time.perf_counter()
    cut = best_cut(graph, kind, seed=0)
    end = time.perf_counter()
    best = max(lower, key=lambda bound: lower[bound])
    return {
        "graph": name,
        "shape": [graph.n1, graph.n2],
        "edges": graph.num_edges,
        "kind": kind,
        "lower": {bound: float(value) for bound, value in lower.items()},
        "best": best,
        "cut": {"size": cut.size, "boundary": cut.boundary, "ratio": float(cut.ratio)},
        "within": float(cut.ratio / lower[best]),
        "exact": cut.ratio == lower[best],
        "seconds": {"lower": middle - start, "cut": end - middle},
    }


def shown(row: dict[str, Any]) -> list[object]:
    """One line of the table."""
    return [
        row["graph"],
        row["kind"],
        *(f"{row['lower'].get(name, float('nan')):.4f}" for name in ("spectral", "mixing", "flow")),
        f"{row['cut']['ratio']:.4f}",
        "exact" if row["exact"] else f"{row['within']:.2f}",
        f"{row['seconds']['lower']:.1f}",
        f"{row['seconds']['cut']:.1f}",
    ]


def main() -> None:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"only up to {QUICK_SIZE} vertices")
    quick = parser.parse_args().quick
    for kind in KINDS:  # compile the kernels outside the clock
        measure("Heawood", kind)
    names = [
        name
        for name, make in CASES.items()
        if not quick or (graph := make()).n1 + graph.n2 <= QUICK_SIZE
    ]
    with threadpool_limits(1):
        rows = [measure(name, kind) for name in tqdm(names, unit="graph") for kind in KINDS]
    header = ["graph", "kind", "spectral", "mixing", "flow", "cut", "within", "s lower", "s cut"]
    print_table(header, [shown(row) for row in rows])
    for kind in KINDS:
        missed = [r["graph"] for r in rows if r["kind"] == kind and r["within"] > GOAL]
        print(f"{kind}: beyond a factor {GOAL:g}: {', '.join(missed) or 'none'}")
    if not quick:
        print(f"record: {write_record('cheeger_intervals', {'goal': GOAL, 'rows': rows}).name}")


if __name__ == "__main__":
    main()
