"""Speed of certified masks beside the peers: networkx + SVD, igraph + eigvalsh.

    python benchmarks/masks.py [--quick]

Every arm makes a mask and decides the Ramanujan property for it; the peers' decisions are floating
point, ours are proofs. The arms take turns, and the figures are medians of round-by-round ratios.
One BLAS thread throughout. Writes results/masks.json.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any

import igraph
import networkx as nx
import numpy as np
from _common import interleaved, median_ratio, print_table, spread, write_record
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import expandermask as xm

SHAPES = [(768, 8, 2), (1024, 64, 2), (4096, 64, 2), (14336, 64, 2)]
FIRST_CALL = (
    "import time; t = time.perf_counter(); import expandermask as xm; "
    "xm.generate_ramanujan_mask(768, 8, 2, rng=0); print(time.perf_counter() - t)"
)


def ours(n1: int, n2: int, d1: int, seed: int) -> np.ndarray:
    """A proved mask."""
    return xm.generate_ramanujan_mask(n1, n2, d1, rng=seed)


def with_networkx(n1: int, n2: int, d1: int, seed: int) -> bool:
    """configuration_model, then singular values of the dense biadjacency matrix by numpy's SVD.

    Its parallel edges are merged, as they are when such a graph is used as a mask.
    """
    d2 = n1 * d1 // n2
    graph = nx.bipartite.configuration_model([d1] * n1, [d2] * n2, seed=seed)
    dense = nx.bipartite.biadjacency_matrix(nx.Graph(graph), range(n1)).toarray()
    sigma = np.linalg.svd(dense != 0, compute_uv=False)
    return bool(sigma[1] <= math.sqrt(d1 - 1) + math.sqrt(d2 - 1))


def with_igraph(n1: int, n2: int, d1: int, seed: int) -> bool:
    """fast_heur_simple as a directed left-to-right realisation, then eigvalsh of the Gram matrix.

    igraph draws from its own C generator here (its fastest), so ``seed`` is not used.
    """
    d2 = n1 * d1 // n2
    graph = igraph.Graph.Degree_Sequence(
        [d1] * n1 + [0] * n2, [0] * n1 + [d2] * n2, method="fast_heur_simple"
    )
    edges = np.array(graph.get_edgelist())
    dense = np.zeros((n1, n2), dtype=np.float32)
    dense[edges[:, 0], edges[:, 1] - n1] = 1
    eigenvalues = np.linalg.eigvalsh((dense.T @ dense).astype(np.float64))
    return bool(eigenvalues[-2] <= (math.sqrt(d1 - 1) + math.sqrt(d2 - 1)) ** 2)


def compare(repeats: int) -> list[dict[str, Any]]:
    """One row per shape: our milliseconds and how many times longer each peer takes."""
    rows = []
    for shape in tqdm(SHAPES, desc="shapes", unit="shape"):
        mine, theirs, slower = (partial(f, *shape) for f in (ours, with_igraph, with_networkx))
        fast = interleaved({"ours": mine, "igraph": theirs}, 10 * repeats)
        slow = interleaved({"ours": mine, "networkx": slower}, repeats)
        rows.append(
            {
                "shape": shape,
                "ours_ms": {k: 1e3 * v for k, v in spread(fast["ours"]).items()},
                "igraph_over_ours": median_ratio(fast["igraph"], fast["ours"]),
                "networkx_over_ours": median_ratio(slow["networkx"], slow["ours"]),
            }
        )
    return rows


def generation_rate(repeats: int) -> dict[str, float]:
    """Edges per second of random_biregular at 14336 x 64, mixing and row sorting included."""
    edges = 14336 * 2
    arm = {"draw": lambda k: xm.graphs.random_biregular(14336, 64, 2, rng=k)}
    seconds = interleaved(arm, 10 * repeats)["draw"]
    return {"edges": edges, "edges_per_second": edges / statistics.median(seconds)}


def plan_time(repeats: int) -> dict[str, float]:
    """Seconds for all 256 masks of Llama-2-7B's q, k, v, o in 32 layers at r = 64, all proved."""
    shapes = {f"layers.{i}.{p}_proj": (4096, 4096) for i in range(32) for p in "qkvo"}
    arm = {"plan": lambda k: xm.MaskPlan.for_shapes(shapes, r=64, left_degree=2, rng=k)}
    seconds = interleaved(arm, repeats)["plan"]
    plan = xm.MaskPlan.for_shapes(shapes, r=64, left_degree=2, rng=0)
    start = time.perf_counter()
    verdicts = [c.verdict for c in plan.certify().values()]
    return {
        "masks": len(verdicts),
        "proved": verdicts.count("PROVED"),
        **spread(seconds),
        "full_certificates_seconds": time.perf_counter() - start,
    }


def first_call(repeats: int) -> dict[str, float]:
    """Seconds from the start of `import expandermask` to the first mask, in new processes."""
    seconds = []
    for _ in range(repeats + 1):
        done = subprocess.run(
            [sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True
        )
        seconds.append(float(done.stdout))
    return spread(seconds[1:])


def main() -> None:
    """Measure, print the tables, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    repeats = 3 if parser.parse_args().quick else 9
    igraph.set_random_number_generator(None)
    with threadpool_limits(1):
        body = {
            "compare": compare(repeats),
            "random_biregular_14336x64": generation_rate(repeats),
            "plan_llama2_7b": plan_time(repeats),
            "first_call_seconds": first_call(repeats),
        }
    print_table(
        ["shape", "ours, ms", "networkx + SVD", "igraph + eigvalsh"],
        [
            [
                "{}x{} ({})".format(*row["shape"]),
                f"{row['ours_ms']['median']:.3f}",
                f"{row['networkx_over_ours']:.0f}x",
                f"{row['igraph_over_ours']:.1f}x",
            ]
            for row in body["compare"]
        ],
    )
    plan, first = body["plan_llama2_7b"], body["first_call_seconds"]
    rate = body["random_biregular_14336x64"]["edges_per_second"]
    print(f"random_biregular 14336x64: {rate / 1e6:.1f} M edges/s")
    print(f"Llama-2-7B plan: {plan['proved']}/{plan['masks']} proved in {plan['median']:.2f} s")
    print(f"import and first call, warm cache: {first['median']:.2f} s")
    print(f"record: {write_record('masks', body).name}")


if __name__ == "__main__":
    main()
