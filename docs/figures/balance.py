"""How near the limit balanced masks come: random, after the greedy, and after the switches."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

import expandermask as xm
from expandermask.graphs import balance

BLUE, ORANGE, GREEN, GREY = "#2a78d6", "#eb6834", "#2f9e6e", "#52514e"
STRIDE = 4


def shapes() -> list[tuple[int, int, int]]:
    """Every fourth shape up to 40 whose shorter side does not divide the longer."""
    every = [
        (n1, n2, d1)
        for n1 in range(2, 41)
        for n2 in range(2, n1 + 1)
        for d1 in range(2, n2)
        if n1 % n2 and n1 * d1 % n2 == 0
    ]
    return every[::STRIDE]


def ratio(n1: int, n2: int, d1: int, largest_polished: int) -> float:
    """sigma_2 / limit of a balanced mask, polished only up to the size given."""
    size, balance.POLISH_SIZE = balance.POLISH_SIZE, largest_polished
    try:
        rows = balance.balanced(n1, n2, d1, seed=0)
    finally:
        balance.POLISH_SIZE = size
    return xm.certify(xm.BiregularGraph(rows, n2)).ratio


def main() -> None:
    """Three curves: for each share of the shapes, the sigma_2 / limit that many stay below."""
    random, greedy, polished = [], [], []
    for n1, n2, d1 in shapes():
        random.append(xm.certify(xm.graphs.random_biregular(n1, n2, d1, rng=0)).ratio)
        greedy.append(ratio(n1, n2, d1, 0))
        polished.append(ratio(n1, n2, d1, balance.POLISH_SIZE))
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    share = [100 * (i + 0.5) / len(random) for i in range(len(random))]
    ax.plot(share, sorted(random), color=ORANGE, label="random")
    ax.plot(share, sorted(greedy), color=GREEN, label="greedy alone")
    ax.plot(share, sorted(polished), color=BLUE, label="greedy and switches")
    ax.axhline(1, color=GREY, linewidth=1)
    ax.set_xlabel(f"percent of {len(random)} shapes up to 40, the shorter side not a divisor")
    ax.set_ylabel("sigma_2 / limit")
    ax.legend(loc="upper left")
    figure.savefig(Path(__file__).with_name("balance.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
