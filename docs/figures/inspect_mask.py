"""Three masks of one size under inspect_mask: proved, tiled and cropped, and random by entry."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

import expandermask as xm

SHAPE = (96, 32)


def masks() -> dict[str, np.ndarray]:
    """A mask of each kind, all with about three entries in a row."""
    n1, n2 = SHAPE
    block = xm.graphs.lps(3, 5).mask()[:40, :26]
    tiled = np.tile(block, (n1 // 40 + 1, n2 // 26 + 1))[:n1, :n2]
    random = np.random.default_rng(3).random(SHAPE) < 3 / n2
    return {
        "proved": xm.ramanujan_graph(n1, n2, 3, rng=0).mask(),
        "tiled and cropped": tiled,
        "entries at random": random.astype(np.uint8),
    }


def main() -> None:
    """Draw inspect_mask.png beside this script: a column for each mask, a row for each panel."""
    figure, axes = plt.subplots(4, 3, figsize=(12, 13), layout="constrained")
    for column, (name, mask) in zip(axes.T, masks().items(), strict=True):
        xm.plots.report(xm.inspect_mask(mask), mask, column)
        column[0].set_title(f"{name}\n{column[0].get_title()}")
    figure.savefig(
        Path(__file__).with_name("inspect_mask.png"), dpi=80, metadata={"Software": None}
    )


if __name__ == "__main__":
    main()
