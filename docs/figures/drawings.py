"""One certified 12 x 6 graph of degrees (3, 6) with sigma_2 = sqrt 5, drawn in two ways."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

import expandermask as xm
from expandermask import plots


def main() -> None:
    """Draw the graph between two rows and on a circle into drawings.png beside this script."""
    blocks = [(0, 1, 3), (0, 1, 2)]  # each with its translates in Z_6
    rows = [[(x + g) % 6 for x in block] for block in blocks for g in range(6)]
    graph = xm.BiregularGraph(rows, 6)
    certificate = xm.certify(graph)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
    plots.bipartite(graph, axes[0])
    plots.circular(graph, axes[1])
    figure.suptitle(
        rf"{certificate.verdict}: $\sigma_2$ = {certificate.sigma2[1]:.4f}, "
        f"Ramanujan bound {certificate.bound:.4f}"
    )
    figure.savefig(Path(__file__).with_name("drawings.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
