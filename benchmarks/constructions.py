"""How good and how fast each construction is, against the provable limit and its bars.

    python benchmarks/constructions.py [--quick]

* designs: sigma_2 / limit and milliseconds, proof included, at every shape a transformer of width
  768 to 14336 asks for at rank 4 to 64, beside the median of random graphs;
* LPS graphs up to a million vertices, with the memory they take;
* quasi-cyclic graphs of 100000 x 50000, proved by blocks;
* interlacing families (Gribinski-Marcus).

One BLAS thread. Writes results/constructions.json.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from _common import interleaved, print_table, spread, write_record
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import expandermask as xm

WIDTHS = (768, 1024, 3072, 4096, 11008, 14336)
RANKS = (4, 8, 16, 32, 64)
DEGREES = (2, 3, 4)
LPS = [(5, 13), (5, 29), (5, 101), (5, 157)]
INTERLACING = [(24, 24, 3), (60, 60, 3), (768, 8, 2)]
LARGE = (100_000, 50_000, 3)
PEAK = """
import re
from expandermask.graphs import lps
def high_water():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
lps(3, 5)
open("/proc/self/clear_refs", "w").write("5")
before = high_water()
lps({}, {})
print(before, high_water())
"""
"""Linux's own account of a process's peak memory in kB, reset once everything is loaded."""


def lora_shapes() -> list[tuple[int, int, int]]:
    """Every width, rank and left degree of the study for which a mask exists."""
    return [
        (width, rank, degree)
        for width in WIDTHS
        for rank in RANKS
        for degree in DEGREES
        if degree < rank and width * degree % rank == 0
    ]


def designs(repeats: int) -> list[dict[str, Any]]:
    """Per LoRA shape: the design's ratio to the limit and its time, and the ratio of random graphs.

    The time is that of a proved graph by ``method="design"`` and of its whole certificate.
    """
    rows = []
    for shape in tqdm(lora_shapes(), desc="designs", unit="shape"):
        arms = {
            "made": lambda k, shape=shape: xm.ramanujan_graph(*shape, method="design", rng=k),
            "certified": lambda k, shape=shape: xm.certify(
                xm.ramanujan_graph(*shape, method="design", rng=k)
            ),
        }
        seconds = interleaved(arms, repeats)
        proof = xm.certify(xm.ramanujan_graph(*shape, method="design", rng=0))
        drawn = [
            xm.certify(xm.graphs.random_biregular(*shape, rng=k)).ratio for k in range(repeats)
        ]
        rows.append(
            {
                "shape": shape,
                "verdict": proof.verdict,
                "ratio": proof.ratio,
                "random_ratio": spread(drawn),
                "proved_ms": 1e3 * statistics.median(seconds["made"]),
                "certified_ms": 1e3 * statistics.median(seconds["certified"]),
            }
        )
    return rows


def lps_times(repeats: int) -> list[dict[str, Any]]:
    """Seconds to build X^{p,q}, kernels compiled, and the growth of a new process's peak memory."""
    rows = []
    for p, q in tqdm(LPS, desc="LPS", unit="graph"):
        seconds = interleaved({"lps": lambda k, p=p, q=q: xm.graphs.lps(p, q)}, repeats)["lps"]
        done = subprocess.run(
            [sys.executable, "-c", PEAK.format(p, q)], capture_output=True, text=True, check=True
        )
        before, after = map(int, done.stdout.split())
        graph = xm.graphs.lps(p, q)
        rows.append(
            {
                "p": p,
                "q": q,
                "vertices": 2 * graph.n1,
                "seconds": spread(seconds),
                "graph_bytes": graph.neighbors.nbytes,
                "peak_growth_bytes": 1024 * (after - before),
            }
        )
    return rows


def large_graph(seeds: int) -> dict[str, Any]:
    """Seconds, seed by seed, until a 100000 x 50000 (3, 6) graph is proved."""
    method = "quasi-cyclic"
    xm.ramanujan_graph(2000, 1000, 3, method=method, rng=0)
    seconds, proofs = [], []
    for seed in tqdm(range(seeds), desc="large", unit="graph"):
        start = time.perf_counter()
        graph = xm.ramanujan_graph(*LARGE, method=method, rng=seed)
        seconds.append(time.perf_counter() - start)
        proofs.append(xm.certify(graph))
    return {
        "shape": LARGE,
        "seconds": seconds,
        "median": statistics.median(seconds),
        "verdicts": sorted({proof.verdict for proof in proofs}),
        "sigma2_over_bound": spread([proof.sigma2[1] / proof.bound for proof in proofs]),
    }


def interlacing() -> list[dict[str, Any]]:
    """Seconds and verdict of each interlacing-family construction."""
    rows = []
    xm.graphs.gribinski_marcus(6, 6, 3)
    for shape in tqdm(INTERLACING, desc="interlacing", unit="graph"):
        start = time.perf_counter()
        graph = xm.graphs.gribinski_marcus(*shape)
        seconds = time.perf_counter() - start
        proof = xm.certify(graph)
        rows.append(
            {"shape": shape, "seconds": seconds, "verdict": proof.verdict, "ratio": proof.ratio}
        )
    return rows


def main() -> None:
    """Measure, print the tables, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    repeats = 3 if parser.parse_args().quick else 9
    with threadpool_limits(1):
        body = {
            "designs": designs(repeats),
            "lps": lps_times(repeats),
            "large": large_graph(repeats),
            "interlacing": interlacing(),
        }
    body["peak_memory_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    show(body)
    print(f"record: {write_record('constructions', body).name}")


def show(body: dict[str, Any]) -> None:
    """Print one table per part."""
    print_table(
        ["shape", "design/limit", "random/limit", "proved, ms", "with certificate, ms"],
        [
            [
                "{}x{} ({})".format(*row["shape"]),
                f"{row['ratio']:.4f}",
                f"{row['random_ratio']['median']:.3f}",
                f"{row['proved_ms']:.2f}",
                f"{row['certified_ms']:.2f}",
            ]
            for row in body["designs"]
        ],
    )
    print_table(
        ["LPS", "vertices", "seconds", "graph, MB", "peak growth, MB"],
        [
            [
                f"X^{{{row['p']},{row['q']}}}",
                row["vertices"],
                f"{row['seconds']['median']:.3f}",
                f"{row['graph_bytes'] / 1e6:.1f}",
                f"{row['peak_growth_bytes'] / 1e6:.1f}",
            ]
            for row in body["lps"]
        ],
    )
    large = body["large"]
    print(
        "{}x{} ({}): ".format(*large["shape"])
        + f"{', '.join(large['verdicts'])}, median {large['median']:.2f} s over "
        f"{len(large['seconds'])} seeds"
    )
    print_table(
        ["interlacing", "seconds", "verdict", "sigma_2/limit"],
        [
            [
                "{}x{} ({})".format(*row["shape"]),
                f"{row['seconds']:.2f}",
                row["verdict"],
                f"{row['ratio']:.4f}",
            ]
            for row in body["interlacing"]
        ],
    )


if __name__ == "__main__":
    main()
