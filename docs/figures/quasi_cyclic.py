"""The largest singular values per character of two quasi-cyclic graphs, against the bound."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import expandermask as xm
from expandermask.certificates.blocks import Blocks
from expandermask.graphs.quasi_cyclic import quasi_cyclic
from expandermask.plots._axes import BOUND, VALUES

SHAPE = (8000, 4000, 3)
SEEDS = (9, 0)


def per_character(ax: Axes, seed: int) -> None:
    """A column of singular values for each character 0 .. r/2; those above the bound are marked."""
    graph = quasi_cyclic(*SHAPE, rng=seed)
    proof = xm.certify(graph)
    assert graph.recipe is not None
    assert graph.recipe.base is not None
    r = graph.recipe.n1 // graph.recipe.base.n1
    characters = np.arange(r // 2 + 1)
    squares = np.linalg.eigvalsh(Blocks(graph, r).blocks(characters))
    values = np.sqrt(np.maximum(squares, 0))
    where = np.broadcast_to(characters[:, None], values.shape)
    above = values > proof.bound
    above[0, -1] = False  # the trivial singular value, far above the window
    ax.plot(where[~above], values[~above], ".", ms=4, color=VALUES)
    ax.plot(where[above], values[above], "o", ms=6, color=BOUND)
    ax.axhline(proof.bound, color=BOUND, lw=1.2)
    lo, hi = proof.sigma2
    n1, n2, _ = SHAPE
    ax.set_title(
        f"{n1} x {n2}, r = {r}, seed {seed}: {proof.verdict}\n"
        rf"$\sigma_2 \in$ [{lo:.4f}, {hi:.4f}], bound {proof.bound:.4f}",
        fontsize="medium",
    )
    ax.set(xlabel="character k", ylim=(proof.bound - 0.3, proof.bound + 0.04))


def main() -> None:
    """Draw a proved and a refuted draw side by side into quasi_cyclic.png beside this script."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), sharey=True, layout="constrained")
    for ax, seed in zip(axes, SEEDS, strict=True):
        per_character(ax, seed)
    axes[0].set_ylabel(r"singular values of $B_k$")
    figure.savefig(
        Path(__file__).with_name("quasi_cyclic.png"), dpi=110, metadata={"Software": None}
    )


if __name__ == "__main__":
    main()
