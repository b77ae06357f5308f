"""How fast masks are judged: proofs, Cheeger constants, and the inspection of a whole plan.

    python benchmarks/diagnostics.py [--quick]

* the float proof from the Gram matrix, the Gram matrix itself, and numpy's eigenvalues of the same
  matrix, which prove nothing, in turn;
* exact edge Cheeger constants at 768 x 8 and 26 x 26, and at 15 x 15 against a compiled enumeration
  of all 2^30 vertex sets, which has to find the same value; exact vertex Cheeger at n2 = 18;
* `inspect_mask` of a plan for a 7B model: 256 masks of 4096 x 64;
* the stand-alone checker on certificates of 64 and 512 vertices, one- and two-sided, and `certify`
  at 8000, with the memory of the process.

One BLAS thread. Writes results/diagnostics.json.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from fractions import Fraction
from typing import Any

import numpy as np
from _common import interleaved, median_ratio, print_table, spread, write_record
from numba import njit
from threadpoolctl import threadpool_limits

import expandermask as xm
from expandermask.certificates.bounds import RamanujanBound
from expandermask.certificates.cholesky import proves_at_most
from expandermask.certificates.recheck import recheck

PROOFS = {8: (768, 8, 2), 64: (768, 64, 2), 256: (4096, 256, 4), 1024: (4096, 1024, 4)}
PROOF_BARS = {8: 0.03, 64: 0.06, 256: 2.0, 1024: 80.0}
EDGE = {"768 x 8": (768, 8, 2), "26 x 26": (26, 26, 3)}
EDGE_BARS = {"768 x 8": 0.020, "26 x 26": 5.0}
PLAIN = (15, 15, 3)
VERTEX = (18, 18, 3)
VERTEX_BAR = 5.0
LAYERS = {f"layers.{k}.{name}": (4096, 4096) for k in range(32) for name in "qkvo"}
PLAN_BAR = 2.0


def proofs(repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of the proof, of the Gram matrix and of eigvalsh, per smaller side."""
    rows = []
    for n, shape in PROOFS.items():
        graph = xm.graphs.random_biregular(*shape, rng=0)
        gram, trivial = graph.gram(), graph.d1 * graph.d2
        c = RamanujanBound(graph.d1, graph.d2).square_below()
        assert proves_at_most(gram, trivial, c)
        arms = {
            "proof": lambda k, gram=gram, trivial=trivial, c=c: proves_at_most(gram, trivial, c),
            "gram": lambda k, graph=graph: graph.gram(),
            "eigvalsh": lambda k, gram=gram: np.linalg.eigvalsh(gram),
        }
        seconds = interleaved(arms, repeats)
        medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
        rows.append(
            {
                "n2": n,
                "shape": shape,
                "milliseconds": medians,
                "bar": PROOF_BARS[n],
                "eigvalsh / proof": median_ratio(seconds["eigvalsh"], seconds["proof"]),
            }
        )
    return rows


def edge_cheeger(repeats: int) -> list[dict[str, Any]]:
    """Seconds of the exact edge Cheeger constant."""
    rows = []
    for name, shape in EDGE.items():
        graphs = [xm.graphs.random_biregular(*shape, rng=k) for k in range(repeats)]
        seconds = interleaved({"edge": lambda k, graphs=graphs: xm.cheeger(graphs[k])}, repeats)
        values = [xm.cheeger(graph) for graph in graphs[:1]]
        assert all(found.exact for found in values)
        rows.append({"graph": name, "bar": EDGE_BARS[name], **spread(seconds["edge"])})
    return rows


def against_plain(repeats: int) -> dict[str, Any]:
    """One compiled pass over all vertex sets, and how much longer it takes than `cheeger`."""
    graph = xm.graphs.random_biregular(*PLAIN, rng=0)
    n = graph.n1 + graph.n2
    plain_edge_cheeger(np.array([2, 1]))  # compiled
    start = time.perf_counter()
    boundary, size = plain_edge_cheeger(_neighbour_bits(graph))
    plain = time.perf_counter() - start
    ours = interleaved({"cheeger": lambda k: xm.cheeger(graph)}, repeats)["cheeger"]
    assert xm.cheeger(graph).lower == Fraction(int(boundary), int(size))
    return {
        "vertices": n,
        "value": str(Fraction(int(boundary), int(size))),
        "plain_seconds": plain,
        "seconds": spread(ours),
        "plain / ours": plain / statistics.median(ours),
        "bar": 1000,
    }


@njit
def plain_edge_cheeger(neighbours):
    """The least |cut| / |X| over all vertex sets X of at most half the vertices, one by one."""
    n = len(neighbours)
    best_cut, best_size = n * n, 1
    for subset in range(1, 1 << n):
        size, rest = 0, subset
        while rest:
            rest &= rest - 1
            size += 1
        if 2 * size > n:
            continue
        cut = 0
        for v in range(n):
            if subset >> v & 1:
                leaving = neighbours[v] & ~subset
                while leaving:
                    leaving &= leaving - 1
                    cut += 1
        if cut * best_size < best_cut * size:
            best_cut, best_size = cut, size
    return best_cut, best_size


def _neighbour_bits(graph: xm.BiregularGraph) -> np.ndarray:
    """The neighbours of every vertex, left ones first, as the bits of one integer."""
    bits = [0] * (graph.n1 + graph.n2)
    for i, row in enumerate(graph.neighbors.tolist()):
        for j in row:
            bits[i] |= 1 << graph.n1 + j
            bits[graph.n1 + j] |= 1 << i
    return np.array(bits)


def vertex_cheeger(repeats: int) -> dict[str, Any]:
    """Seconds of the exact vertex Cheeger constant."""
    graphs = [xm.graphs.random_biregular(*VERTEX, rng=k) for k in range(repeats)]
    arms = {"vertex": lambda k: xm.cheeger(graphs[k], kind="vertex")}
    assert xm.cheeger(graphs[0], kind="vertex").exact
    return {"graph": "18 x 18", "bar": VERTEX_BAR, **spread(interleaved(arms, repeats)["vertex"])}


def plan_inspection(repeats: int) -> dict[str, Any]:
    """Seconds to inspect the masks of a 7B model, all different and all alike."""
    results = {}
    for method in ("random", "auto"):
        plan = xm.MaskPlan.for_shapes(LAYERS, r=64, left_degree=2, method=method, rng=0)
        seconds = interleaved({"plan": lambda k, plan=plan: xm.inspect_mask(plan)}, repeats)
        results[method] = {"masks": 2 * len(plan), "bar": PLAN_BAR, **spread(seconds["plan"])}
    return results


def rechecks(repeats: int) -> list[dict[str, Any]]:
    """Seconds the stand-alone checker takes, which is written in Python alone."""
    rows = []
    for n, shape in {64: (768, 64, 2), 512: (4096, 512, 4)}.items():
        graph = xm.graphs.random_biregular(*shape, rng=0)
        neighbors = graph.neighbors.tolist()
        texts = {d: xm.certify(graph, definition=d).to_json() for d in ("one-sided", "two-sided")}
        arms = {
            name: lambda k, text=text, n2=graph.n2, neighbors=neighbors: recheck(
                text, neighbors, n2
            )
            for name, text in texts.items()
        }
        assert all(run(0).outcome == "CONFIRMED" for run in arms.values())
        for name, seconds in interleaved(arms, repeats).items():
            rows.append({"n2": n, "definition": name, **spread(seconds)})
    return rows


def large_certificate() -> dict[str, Any]:
    """Seconds of one certificate by the whole matrix, and the peak memory of the process so far."""
    graph = xm.graphs.random_biregular(16_000, 8000, 3, rng=0)
    start = time.perf_counter()
    verdict = xm.certify(graph).verdict
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"n2": 8000, "verdict": verdict, "seconds": seconds, "peak_gib": peak}


def main() -> None:
    """Run everything, print tables, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Fewer rounds.")
    repeats = 3 if parser.parse_args().quick else 9
    with threadpool_limits(1):
        body = {
            "proofs": proofs(10 * repeats),
            "edge_cheeger": edge_cheeger(repeats),
            "against_plain": against_plain(repeats),
            "vertex_cheeger": vertex_cheeger(repeats),
            "plan": plan_inspection(repeats),
            "recheck": rechecks(3),
            "large": large_certificate(),
        }
    print_table(
        ["n2", "proof ms", "bar", "Gram ms", "eigvalsh ms", "eigvalsh / proof"],
        [
            [
                row["n2"],
                f"{row['milliseconds']['proof']:.4f}",
                row["bar"],
                f"{row['milliseconds']['gram']:.4f}",
                f"{row['milliseconds']['eigvalsh']:.4f}",
                f"{row['eigvalsh / proof']:.2f}",
            ]
            for row in body["proofs"]
        ],
    )
    timed = [*body["edge_cheeger"], body["vertex_cheeger"]]
    timed += [{"graph": f"7B plan, {name}", **row} for name, row in body["plan"].items()]
    print_table(
        ["", "median s", "max s", "bar s"],
        [[r["graph"], f"{r['median']:.4f}", f"{r['max']:.4f}", r["bar"]] for r in timed],
    )
    print_table(
        ["recheck, n2", "definition", "median s"],
        [[r["n2"], r["definition"], f"{r['median']:.3f}"] for r in body["recheck"]],
    )
    large = body["large"]
    print(f"certify at n2 = 8000: {large['seconds']:.1f} s, {large['peak_gib']:.2f} GiB at most")
    plain = body["against_plain"]
    print(f"enumeration of 2^{plain['vertices']} sets: {plain['plain / ours']:.0f} times as long")
    print(write_record("diagnostics", body))


if __name__ == "__main__":
    main()
