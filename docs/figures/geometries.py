"""Pictures of finite geometries: on a circle, as a mask, and at the limit of their shapes."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from expandermask import certify, plots
from expandermask.graphs import BiregularGraph, random_biregular, tutte_coxeter
from expandermask.graphs.geometries import (
    array_code,
    generalized_quadrangle,
    hermitian_quadrangle,
    projective_plane,
)

SEEDS = 30


def rows(graph: BiregularGraph) -> list[tuple[str, str, list[float]]]:
    """sigma_2 / limit of a geometry and of random graphs of its shape."""
    shape = f"{graph.n1}x{graph.n2} d={graph.d1}"
    others = [random_biregular(graph.n1, graph.n2, graph.d1, rng=seed) for seed in range(SEEDS)]
    return [
        (shape, "geometry", [certify(graph).ratio]),
        (shape, "random", [certify(other).ratio for other in others]),
    ]


def main() -> None:
    """Draw three panels into geometries.png beside this script."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    plots.circular(tutte_coxeter(), axes[0])
    axes[0].set_title("the quadrangle W(3, 2): points and lines")
    plots.mask(projective_plane(7), axes[1])
    axes[1].set_title("the plane PG(2, 7)")
    axes[1].set(xlabel="line", ylabel="point", aspect="equal")
    graphs = [
        array_code(8, 2),
        array_code(16, 4),
        projective_plane(8),
        projective_plane(13),
        generalized_quadrangle(3),
        generalized_quadrangle(5),
        hermitian_quadrangle(2),
        hermitian_quadrangle(3),
    ]
    plots.ratios([row for graph in graphs for row in rows(graph)], axes[2])
    figure.savefig(Path(__file__).with_name("geometries.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
