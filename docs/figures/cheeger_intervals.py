"""What is proved of both Cheeger constants of ten graphs, exact ones as points."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

import expandermask as xm
from expandermask import graphs
from expandermask.expansion.cheeger import cheeger
from expandermask.plots.cuts import cheeger_intervals

GRAPHS = {
    "Heawood": graphs.heawood(),
    "Tutte-Coxeter": graphs.tutte_coxeter(),
    "5-cube": graphs.hypercube(5),
    "768x8, d1 = 2": xm.ramanujan_graph(768, 8, 2, rng=0),
    "768x16, d1 = 2": xm.ramanujan_graph(768, 16, 2, rng=0),
    "32x32, d1 = 3": graphs.random_biregular(32, 32, 3, rng=0),
    "100x100, d1 = 3": graphs.random_biregular(100, 100, 3, rng=0),
    "200x100, d1 = 3": graphs.random_biregular(200, 100, 3, rng=0),
    "768x64, d1 = 2": xm.ramanujan_graph(768, 64, 2, rng=0),
    "plane of order 5": graphs.projective_plane(5),
}


def main() -> None:
    """Draw the two kinds side by side into cheeger_intervals.png beside this script."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", sharey=True)
    for ax, kind, letter in zip(axes, ("edge", "vertex"), "EV", strict=True):
        cheeger_intervals({name: cheeger(g, kind, rng=0) for name, g in GRAPHS.items()}, ax)
        ax.set_xlabel(f"$h_{letter}$ ({kind} Cheeger constant)")
    path = Path(__file__).with_name("cheeger_intervals.png")
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
