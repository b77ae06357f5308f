"""The best cut of a 12 x 8 graph, and the smallest graph with h_E > h_V: the star of four."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

import expandermask as xm
from expandermask.expansion.cheeger import cheeger
from expandermask.plots.cuts import cut


def main() -> None:
    """Draw three panels into cheeger.png beside this script."""
    figure, axes = plt.subplots(
        1, 3, figsize=(13.5, 4.2), layout="constrained", width_ratios=(1.9, 1, 1)
    )
    best = cheeger(xm.ramanujan_graph(12, 8, 2, rng=0))
    cut(best, axes[0])
    axes[0].set_title(
        f"12 x 8, degrees (2, 3): {best.cut.boundary} edges leave {best.cut.size} vertices, "
        f"$h_E$ = {best.upper}"
    )
    star = np.ones((1, 3), dtype=int)
    edge, vertex = cheeger(star), cheeger(star, "vertex")
    cut(edge, axes[1])
    axes[1].set_title(f"$K_{{1,3}}$: every leaf costs an edge, $h_E$ = {edge.upper}")
    cut(vertex, axes[2])
    axes[2].set_title(f"two leaves share a neighbour, $h_V$ = {vertex.upper}")
    figure.savefig(Path(__file__).with_name("cheeger.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
