"""How near designs and random masks come to the limit, at the shapes of LoRA matrices."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

import expandermask as xm
from expandermask.graphs.designs import design

BLUE, ORANGE, GREY = "#2a78d6", "#eb6834", "#52514e"
WIDTHS, RANKS, DEGREES = (768, 1024, 3072, 4096, 11008, 14336), (8, 16, 32, 64), (2, 3, 4)
SEEDS = 7


def main() -> None:
    """One panel per degree, one group of marks per rank, one colour for each kind of mask."""
    figure, axes = plt.subplots(1, len(DEGREES), figsize=(13, 4), sharey=True, layout="constrained")
    for d1, ax in zip(DEGREES, axes, strict=True):
        places, random, designed = [], [], []
        for group, r in enumerate(RANKS):
            for k, width in enumerate(WIDTHS):
                places.append(group * (len(WIDTHS) + 2) + k)
                draws = [xm.graphs.random_biregular(width, r, d1, rng=s) for s in range(SEEDS)]
                random.append(statistics.median(xm.certify(graph).ratio for graph in draws))
                designed.append(xm.certify(design(width, r, d1, rng=0)).ratio)
        ax.plot(places, random, "o", color=ORANGE, label=f"random, median of {SEEDS}")
        ax.plot(places, designed, "D", color=BLUE, label="design")
        ax.axhline(1, color=GREY, linewidth=1)
        ax.axhline(1.01, color=GREY, linewidth=1, linestyle=":")
        middles = [g * (len(WIDTHS) + 2) + (len(WIDTHS) - 1) / 2 for g in range(len(RANKS))]
        ax.set_xticks(middles, [f"r = {r}" for r in RANKS])
        ax.set_title(f"{d1} ones per row")
        ax.set_xlabel(f"widths {WIDTHS[0]} to {WIDTHS[-1]}, left to right in each group")
    axes[0].set_ylabel("sigma_2 / limit")
    axes[0].legend(loc="upper left")
    figure.savefig(Path(__file__).with_name("designs.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
