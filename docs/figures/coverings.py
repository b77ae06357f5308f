"""A base, a 2-covering of it, and how the spectrum of a tower of 2-coverings grows: old and new."""

from math import sqrt
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import expandermask as xm
from expandermask.certificates import ramanujan_bound
from expandermask.graphs.coverings import two_lift_tower
from expandermask.plots._axes import BOUND, LIMIT, VALUES

LAYERS = (VALUES, "#E69F00")
LEVELS = 5


def draw(graph: xm.BiregularGraph, layers: int, ax: Axes, title: str) -> None:
    """The graph as two facing rows, layer by layer; each edge in the colour of its left layer."""
    x = [(np.arange(n) + 0.5) / n for n in (graph.n1, graph.n2)]
    places = []
    for n, spots in zip((graph.n1, graph.n2), x, strict=True):
        base = n // layers
        vertex = np.arange(n)
        places.append(spots[vertex % layers * base + vertex // layers])
    for v, row in enumerate(graph.neighbors):
        for w in row:
            ends = places[0][v], places[1][w]
            ax.plot(ends, (1, 0), color=LAYERS[v % layers], lw=0.9, zorder=1)
    for side, height in enumerate((1.0, 0.0)):
        colours = [LAYERS[v % layers] for v in range(len(places[side]))]
        ax.scatter(places[side], np.full(len(places[side]), height), c=colours, s=40, zorder=2)
    ax.set_title(title)
    ax.set_axis_off()


def draw_growth(ax: Axes) -> None:
    """Singular values of K_{6,3} and of the first levels of a tower over it."""
    base = xm.graphs.complete_bipartite(6, 3)
    old = np.array([])
    for level in range(LEVELS + 1):
        values = xm.spectrum(two_lift_tower(base, level, rng=0))
        new = values
        for value in old:
            new = np.delete(new, np.argmin(abs(new - value)))
        for found, colour, label, shift in ((old, "0.6", "old", -0.16), (new, VALUES, "new", 0.16)):
            spots, name = np.full(len(found), level + shift), label if level == 1 else None
            ax.plot(spots, found, "_", ms=16, mew=1.5, color=colour, label=name)
        old = values
    bound = ramanujan_bound(3, 6)
    ax.axhline(bound, color=BOUND, lw=1.5, label=f"Ramanujan bound {bound:.3f}")
    ax.axhline(
        sqrt(6),
        color=LIMIT,
        lw=1.2,
        ls="--",
        label=r"$\sigma_2$ of every covering is at least 2.449",
    )
    ticks = [f"{6 * 2**k}x{3 * 2**k}" for k in range(LEVELS + 1)]
    ax.set(ylabel="singular values", ylim=(-0.2, 5.9))
    ax.set_xticks(range(LEVELS + 1), ticks)
    ax.set_title("A tower of 2-coverings of $K_{6,3}$")
    ax.legend(fontsize="small", loc="upper right", ncols=2)


def main() -> None:
    """Draw the three panels into coverings.png beside this script."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), width_ratios=(2, 4, 5), layout="constrained")
    base = xm.graphs.complete_bipartite(6, 3)
    draw(base, 1, axes[0], "base $K_{6,3}$")
    draw(two_lift_tower(base, 1, rng=0), 2, axes[1], "a 2-covering, 12 x 6 (3, 6)")
    draw_growth(axes[2])
    figure.savefig(Path(__file__).with_name("coverings.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
