"""One spectral report for every construction: sigma_2 over seeds beside the limit of the shape.

    python benchmarks/spectral_report.py [--quick]

For each shape and each method that `feasible` admits, graphs are made from several seeds and
certified; reported are the smallest, median and largest sigma_2 (upper ends of the enclosures), the
Ramanujan bound, and the best proved limit. Constructions that take no seed, or only to break ties,
are run once. Writes results/spectral_report.json, which ``docs/figures/spectral_report.py`` draws
and tabulates.
"""

from __future__ import annotations

import argparse
from typing import Any

from _common import print_table, spread, write_record
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import expandermask as xm

SHAPES = [
    (7, 7, 3),
    (12, 6, 3),
    (15, 15, 3),
    (24, 24, 3),
    (25, 15, 3),
    (48, 24, 3),
    (60, 60, 4),
    (168, 168, 4),
    (512, 512, 3),
    (1092, 1092, 6),
    (768, 8, 2),
    (768, 32, 3),
    (768, 64, 2),
    (1024, 64, 3),
    (4096, 64, 2),
    (4096, 64, 4),
    (14336, 64, 2),
    (2000, 1000, 3),
]
SEEDS, FEW = 20, 3
LARGE_SIDE = 256
ONCE = {"lps", "geometry", "interlacing"}
"""Methods that take no seed, or only to break ties."""

MOST_ENTRIES = 10_000
"""Interlacing families are left out above this n1 * n2, where a graph takes minutes to hours."""


def cases() -> list[tuple[tuple[int, int, int], str]]:
    """Every shape with every method that is run for it."""
    return [
        (shape, option.method)
        for shape in SHAPES
        for option in xm.feasible(*shape)
        if option.works and (option.method != "interlacing" or shape[0] * shape[1] <= MOST_ENTRIES)
    ]


def seeds_for(shape: tuple[int, int, int], method: str, quick: bool) -> int:
    """How many seeds a method gets: fewer where a graph takes a second, one where none matters."""
    if method in ONCE:
        return 1
    return FEW if quick or min(shape[:2]) > LARGE_SIDE else SEEDS


def measure(shape: tuple[int, int, int], method: str, seeds: int) -> dict[str, Any]:
    """sigma_2 of ``seeds`` proved graphs of one shape by one method."""
    proofs = [xm.certify(xm.ramanujan_graph(*shape, method=method, rng=k)) for k in range(seeds)]
    assert {proof.verdict for proof in proofs} == {"PROVED"}
    return {
        "shape": shape,
        "method": method,
        "seeds": seeds,
        "sigma2": spread([proof.sigma2[1] for proof in proofs]),
        "bound": proofs[0].bound,
        "limit": proofs[0].limit,
    }


def main() -> None:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three seeds")
    quick = parser.parse_args().quick
    with threadpool_limits(1):
        rows = [
            measure(shape, method, seeds_for(shape, method, quick))
            for shape, method in tqdm(cases(), desc="constructions", unit="case")
        ]
    print_table(
        ["shape", "method", "seeds", "min", "median", "max", "bound", "limit", "median/limit"],
        [
            [
                "{}x{} ({})".format(*row["shape"]),
                row["method"],
                row["seeds"],
                *(f"{row['sigma2'][k]:.4f}" for k in ("min", "median", "max")),
                f"{row['bound']:.4f}",
                f"{row['limit']:.4f}",
                f"{row['sigma2']['median'] / row['limit']:.4f}",
            ]
            for row in rows
        ],
    )
    print(f"record: {write_record('spectral_report', {'rows': rows}).name}")


if __name__ == "__main__":
    main()
