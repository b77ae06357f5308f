"""The picture of comparisons: masks drifting apart, two plans over depth, and a plan's gaps."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from expandermask import MaskPlan
from expandermask.graphs import random_biregular
from expandermask.masks.compare import compare
from expandermask.plots.compare import layer_overlap, overlap
from expandermask.plots.plans import spectral_gaps

LAYERS, WIDTH = 12, 768


def main() -> None:
    """Draw a heatmap above two pictures over depth into compare.png beside this script."""
    figure = plt.figure(figsize=(12.5, 9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    left, right = top.subplots(1, 2, width_ratios=[1, 1.25])
    overlap(drifting(), left)
    same_start = joined(plan(8, "random", 0), plan(8, "random", 1))
    layer_overlap(compare(plan(8, "random", 0), same_start), right)
    right.set_title("", loc="left")
    gaps = bottom.subplots()
    spectral_gaps(joined(plan(64, "random", 0), plan(64, "auto", 0)), gaps)
    gaps.set_title("Random masks in layers 0 to 5, designs in 6 to 11", loc="left")
    figure.savefig(Path(__file__).with_name("compare.png"), dpi=110, metadata={"Software": None})


def drifting() -> dict[str, NDArray[np.uint8]]:
    """A random mask with ever more of its rows taken from another one."""
    first, last = (random_biregular(WIDTH, 8, 2, rng=seed).mask() for seed in (0, 1))
    masks = {"seed 0": first}
    for part in (25, 50, 75):
        rows = WIDTH * part // 100
        masks[f"{part} % redrawn"] = np.vstack([last[:rows], first[rows:]])
    return {**masks, "seed 1": last, "seed 2": random_biregular(WIDTH, 8, 2, rng=2).mask()}


def plan(rank: int, method: str, seed: int) -> MaskPlan:
    """Masks for the query and a feed-forward matrix of each layer of a small transformer."""
    shapes = {
        f"encoder.layer.{layer}.{name}": (width, WIDTH)
        for layer in range(LAYERS)
        for name, width in (("attention.query", WIDTH), ("intermediate.dense", 4 * WIDTH))
    }
    return MaskPlan.for_shapes(shapes, r=rank, method=method, rng=seed)


def joined(first: MaskPlan, second: MaskPlan) -> MaskPlan:
    """The first half of the layers from one plan, the second half from another."""
    pairs = {
        name: pair if int(name.split(".")[2]) < LAYERS // 2 else second[name]
        for name, pair in first.items()
    }
    return MaskPlan(pairs, r=first.r, left_degree=first.left_degree, seed=first.seed)


if __name__ == "__main__":
    main()
