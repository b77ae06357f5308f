"""The measured tables of the theory pages, one function per page.

    python benchmarks/theory_tables.py [coverings|quasi_cyclic|balance|geometries|interlacing ...]

Without names all are measured, in about ten minutes; with names the others keep what they had.
Shares and ratios are the same on every run, since the seeds are 0, 1, 2, ...; seconds are of one
BLAS thread. Prints Markdown as it stands in docs/theory, and writes results/theory_tables.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from _common import RESULTS, interleaved, write_record
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import expandermask as xm
from expandermask import graphs
from expandermask.certificates.certify import is_proved_ramanujan
from expandermask.graphs import balance

Table = list[dict[str, Any]]
Shape = tuple[int, int, int]

COVERED = [(12, 6, 3), (768, 8, 2), (4096, 64, 2), (1024, 64, 4), (64, 64, 4), (512, 512, 8)]
LIFTED = {(20_000, 10_000, 3): 300, (30_000, 30_000, 3): 200, (100_000, 50_000, 3): 80}
ORDERS = (50, 80, 100, 125)
LARGER = [(256, 256, 3), (256, 256, 6), (400, 160, 4), (1000, 64, 8), (768, 48, 2), (2000, 48, 3)]
RUNS = [(24, 24, 3), (30, 30, 3), (48, 24, 3), (80, 40, 3), (768, 8, 2)]
LONG_RUNS = [(60, 60, 3), (60, 60, 4), (60, 60, 5), (768, 64, 2)]


def coverings() -> Table:
    """Share of coverings of K_{d2,d1} that are proved, and sigma_2 over its least value."""
    rows = []
    for n1, n2, d1 in tqdm(COVERED, desc="coverings"):
        a, b, r = graphs.cover_of(n1, n2, d1).bases[0]
        base = graphs.complete_bipartite(a, b)
        makers: dict[str, Callable[[int], xm.BiregularGraph]] = {
            "random": lambda k, base=base, r=r: graphs.covering(base, r, rng=k),
            "cyclic": lambda k, base=base, r=r: graphs.cyclic_covering(base, r, rng=k),
            "tower": lambda k, base=base, r=r: graphs.two_lift_tower(
                base, r.bit_length() - 1, rng=k
            ),
        }
        seeds = 60 if n2 > 256 else 200
        row: dict[str, Any] = {"shape": f"{n1}x{n2} ({d1}, {a})", "r": r}
        row["bound"] = round(xm.certificates.ramanujan_bound(d1, a) / math.sqrt(max(d1, a)), 3)
        for name, make in makers.items():
            proofs = [xm.certify(make(k)) for k in range(seeds)]
            share = 100 * sum(p.verdict == "PROVED" for p in proofs) / seeds
            sigma = np.array([p.sigma2[1] for p in proofs]) / math.sqrt(max(d1, a))
            spread = " / ".join(f"{f(sigma):.3f}" for f in (np.min, np.median, np.max))
            row[name] = f"{share:.1f} %, {spread}"
        rows.append(row)
    return rows


def quasi_cyclic() -> Table:
    """Share of quasi-cyclic draws that are proved, by the order of the group."""
    rows = []
    for (n1, n2, d1), draws in tqdm(LIFTED.items(), desc="quasi-cyclic"):
        row: dict[str, Any] = {"shape": f"{n1} x {n2}, ({d1}, {n1 * d1 // n2}), {draws} draws"}
        for r in ORDERS if n1 < 100_000 else [80]:
            drawn = (graphs.quasi_cyclic(n1, n2, d1, r=r, rng=k) for k in range(draws))
            proved = sum(map(is_proved_ramanujan, tqdm(drawn, total=draws, leave=False)))
            row[f"r = {r}"] = f"{100 * proved / draws:.0f} %"
        rows.append(row)
    return rows


def ratio(rows: Any, n2: int) -> float:
    """sigma_2 over the limit of the graph with these rows."""
    return float(xm.certify(xm.BiregularGraph(rows, n2)).ratio)


def small_shapes() -> list[Shape]:
    """Every shape with 2 <= d1 < n2 <= n1 <= 40."""
    return [
        (n1, n2, d1)
        for n1 in range(3, 41)
        for n2 in range(3, n1 + 1)
        for d1 in range(2, n2)
        if n1 * d1 % n2 == 0
    ]


def balanced_against_random() -> Table:
    """Percentiles of sigma_2 / limit over all small shapes and two seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    unproved = worse = 0
    for n1, n2, d1 in tqdm(small_shapes(), desc="balance"):
        kind = "n2 divides n1" if n1 % n2 == 0 else "n2 does not divide n1"
        for seed in range(2):
            drawn = xm.certify(graphs.random_biregular(n1, n2, d1, rng=seed))
            ours = xm.certify(xm.BiregularGraph(balance.balanced(n1, n2, d1, seed), n2))
            assert ours.verdict == "PROVED"
            unproved += drawn.verdict != "PROVED"
            worse += ours.ratio > drawn.ratio * (1 + 1e-9)
            found.setdefault((kind, "balanced"), []).append(ours.ratio)
            found.setdefault((kind, "random"), []).append(drawn.ratio)
    rows: Table = []
    for (kind, name), values in sorted(found.items(), reverse=True):
        cuts = np.percentile(values, [0, 25, 50, 75, 95, 100])
        at_limit = 100 * np.mean(np.array(values) < 1 + 1e-6)
        row = {"shapes": f"{kind}, {name}", "at the limit": f"{at_limit:.0f} %"}
        names = ["least", "25", "50", "75", "95", "most"]
        rows.append({**row, **{n: f"{c:.3f}" for n, c in zip(names, cuts, strict=True)}})
    print(f"{unproved} random graphs not proved, {worse} balanced ones worse than the random one")
    return rows


@contextmanager
def parts(start: str, switches: bool, kicks: bool) -> Iterator[None]:
    """`balanced` with another start, or without its switches or kicks."""
    greedy, size, most = balance._greedy, balance.POLISH_SIZE, balance._MOST_KICKS
    if start == "random":
        balance._greedy = lambda n1, n2, d: np.array(
            graphs.random_biregular(n1, n2, d, rng=0).neighbors
        )
    balance.POLISH_SIZE = size if switches else 0
    balance._MOST_KICKS = most if kicks else 0
    try:
        yield
    finally:
        balance._greedy, balance.POLISH_SIZE, balance._MOST_KICKS = greedy, size, most


def balance_parts() -> Table:
    """Mean sigma_2 / limit by what is left out, over every sixth small shape and larger ones."""
    rows = []
    for label, switches, kicks in (
        ("alone", False, False),
        ("then switches", True, False),
        ("then switches and kicks", True, True),
    ):
        for start in ("random", "greedy"):
            row = {"made by": f"{start} {label}"}
            with parts(start, switches, kicks):
                for name, shapes in (("up to 40", small_shapes()[::6]), ("larger", LARGER)):
                    values = [
                        ratio(balance.balanced(*s, seed=0), s[1])
                        for s in tqdm(shapes, desc=row["made by"], leave=False)
                    ]
                    row[name] = f"{statistics.mean(values):.3f}"
            rows.append(row)
    return rows


def geometries() -> Table:
    """Milliseconds to build some geometries, median of 15."""
    calls: dict[str, Callable[[], xm.BiregularGraph]] = {
        "projective_plane(31)": lambda: graphs.projective_plane(31),
        "array_code(64, 8)": lambda: graphs.array_code(64, 8),
        "generalized_quadrangle(16)": lambda: graphs.generalized_quadrangle(16),
        "hermitian_quadrangle(5)": lambda: graphs.hermitian_quadrangle(5),
    }
    rows = []
    for name, call in calls.items():
        seconds = interleaved({name: lambda k, call=call: call()}, 15)[name]
        graph = call()
        ms = f"{1e3 * statistics.median(seconds):.1f} ms"
        rows.append(
            {"call": name, "n1": graph.n1, "n2": graph.n2, "edges": graph.num_edges, "median": ms}
        )
    return rows


def interlacing() -> Table:
    """Seconds of one run of Gribinski and Marcus's construction; the short ones median of 3."""
    rows = []
    graphs.gribinski_marcus(6, 6, 3, rng=0)
    for shape in tqdm(RUNS + LONG_RUNS, desc="interlacing"):
        seconds = []
        for seed in range(1 if shape in LONG_RUNS else 3):
            start = time.perf_counter()
            graphs.gribinski_marcus(*shape, rng=seed)
            seconds.append(time.perf_counter() - start)
        n1, n2, d1 = shape
        label = f"{n1} x {n2}, ({d1}, {n1 * d1 // n2})"
        rows.append({"shape": label, "seconds": f"{statistics.median(seconds):.2g}"})
    return rows


MEASURES: dict[str, list[Callable[[], Table]]] = {
    "coverings": [coverings],
    "quasi_cyclic": [quasi_cyclic],
    "balance": [balanced_against_random, balance_parts],
    "geometries": [geometries],
    "interlacing": [interlacing],
}


def markdown(rows: Table) -> str:
    """A table as the docs have it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names)]
    lines += [[str(row.get(name, "")) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure what was asked for, print it, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *MEASURES], metavar="NAME")
    names = parser.parse_args().names or list(MEASURES)
    path = RESULTS / "theory_tables.json"
    tables = json.loads(path.read_text(encoding="utf-8"))["tables"] if path.exists() else {}
    with threadpool_limits(1):
        for measure in (m for name in names for m in MEASURES[name]):
            tables[measure.__name__] = measure()
            print(f"\n{measure.__name__}\n{markdown(tables[measure.__name__])}", flush=True)
    write_record("theory_tables", {"tables": tables})


if __name__ == "__main__":
    main()
