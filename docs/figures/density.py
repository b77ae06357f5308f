"""Singular values of large graphs against the biregular Kesten-McKay law."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from expandermask import plots
from expandermask.graphs import random_biregular
from expandermask.graphs.lps import lps


def main() -> None:
    """Draw two random graphs and an LPS graph side by side into density.png beside this script."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    plots.density(random_biregular(512, 512, 3, rng=0), axes[0])
    plots.density(random_biregular(3000, 1500, 3, rng=0), axes[1])
    plots.density(lps(5, 13), axes[2])
    for ax, name in zip(axes, ("random", "random", "LPS $X^{5,13}$"), strict=True):
        ax.set_title(f"{name}: {ax.get_title()}")
    figure.savefig(Path(__file__).with_name("density.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
