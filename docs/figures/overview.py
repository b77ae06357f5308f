"""The picture at the top of the README: a graph, a mask, and a spectrum against bound and limit."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

import expandermask as xm
from expandermask import plots


def main() -> None:
    """Draw three certified graphs side by side into overview.png beside this script."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    plots.bipartite(xm.ramanujan_graph(12, 6, 3, rng=0), axes[0])
    plots.mask(xm.ramanujan_graph(96, 16, 2, rng=0), axes[1])
    plots.spectrum_against_bound(xm.ramanujan_graph(4096, 64, 2, rng=0), axes[2])
    figure.savefig(Path(__file__).with_name("overview.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
