"""The pictures of interlacing families: the expected largest root, and how a run keeps below it."""

import importlib
import math
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from scipy.optimize import brentq

import expandermask as xm
from expandermask.graphs import gribinski_marcus, largest_expected_root
from expandermask.graphs._interlacing_contour import value_at
from expandermask.graphs._interlacing_quadrature import Node, children

run = importlib.import_module("expandermask.graphs.gribinski_marcus")

DEGREE, SIZES, DRAWS = 3, [6, 8, 12, 16, 20, 24, 28, 32], 400
SHAPE = (32, 16, 2)
COLORS = {"bound": "tab:red", "expected": "tab:blue", "graph": "black"}


def main() -> None:
    """Draw both panels into interlacing.png beside this script."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    draw_sizes(left)
    draw_run(right)
    figure.savefig(
        Path(__file__).with_name("interlacing.png"), dpi=110, metadata={"Software": None}
    )


def draw_sizes(ax: Axes) -> None:
    """Largest nontrivial eigenvalues over the size: expected, of random sums, of our graphs."""
    expected = [largest_expected_root(n, n, DEGREE)[0] for n in SIZES]
    drawn = [random_sums(n, DEGREE) for n in SIZES]
    found = [xm.certify(gribinski_marcus(n, n, DEGREE, rng=0)).sigma2[1] ** 2 for n in SIZES]
    bound = xm.certificates.ramanujan_bound(DEGREE, DEGREE) ** 2
    ax.axhline(bound, color=COLORS["bound"], lw=1.4, label=r"Ramanujan bound $\rho^2$")
    ax.boxplot(
        drawn, positions=SIZES, widths=1.2, whis=(5, 95), showfliers=False, manage_ticks=False
    )
    ax.plot(
        [], [], "k-", lw=1, label="random sums of 3 matchings (boxes: quartiles, whiskers: 5-95 %)"
    )
    ax.plot(
        SIZES,
        expected,
        "-o",
        ms=3,
        color=COLORS["expected"],
        label="root of the expected polynomial",
    )
    ax.plot(SIZES, found, "k*", ms=7, label="gribinski_marcus")
    ax.set(
        xlabel=r"$n$, for $n \times n$ with $d = 3$",
        ylabel=r"largest nontrivial eigenvalue of $M^\top M$",
    )
    ax.set_ylim(2.5, 9.6)
    ax.legend(fontsize=8, loc="lower right")


def random_sums(n: int, degree: int) -> list[float]:
    """The second largest eigenvalue of M'M for random sums of matchings."""
    random = np.random.default_rng(n)
    squares = []
    for _ in range(DRAWS):
        matrix = sum(np.eye(n)[random.permutation(n)] for _ in range(degree))
        squares.append(float(np.linalg.svd(matrix, compute_uv=False)[1] ** 2))
    return squares


def draw_run(ax: Axes) -> None:
    """The largest root of the conditional expectation over the rows of one run."""
    nodes: list[Node] = []

    def watched(node: Node, *arguments: object) -> object:
        nodes.append(node)
        return children(node, *arguments)  # type: ignore[arg-type]  # passed through

    run.children = watched
    graph = gribinski_marcus(*SHAPE, rng=0)
    run.children = children
    bound = xm.certificates.ramanujan_bound(graph.d1, graph.d2) ** 2
    roots = [largest_root(node, bound) for node in nodes]
    roots += [xm.certify(graph).sigma2[1] ** 2] * 2
    ax.axhline(bound, color=COLORS["bound"], lw=1.4, label=r"Ramanujan bound $\rho^2$")
    expected = largest_expected_root(*SHAPE)[0]
    ax.axhline(expected, color=COLORS["expected"], lw=1, ls="--", label="expected polynomial")
    ax.plot(
        range(len(roots)), roots, "k.-", ms=4, lw=0.8, label="largest root, given the rows so far"
    )
    ax.plot(len(roots) - 1, roots[-1], "k*", ms=9, label=r"$\sigma_2^2$ of the graph")
    ax.set(xlabel="rows chosen (32x16, $d_1$ = 2, second matching)", ylabel="root")
    ax.legend(fontsize=8, loc="lower left")


def largest_root(node: Node, bound: float) -> float:
    """Where the average over completions, positive at the bound, first vanishes below it.

    It does so above the largest eigenvalue of what is chosen already.
    """

    def value(x: float) -> float:
        log_scale, values, _ = children(node, value_at(x), None)
        return math.copysign(1.0, node.counts @ values) * math.exp(log_scale / len(values))

    lowest = float(np.linalg.eigvalsh(node.fixed)[-1]) + 1e-3
    x = bound
    while x > lowest and value(x) > 0:
        x -= 0.01 * bound
    if x <= lowest:
        return lowest
    root: float = brentq(value, x, x + 0.01 * bound, xtol=1e-3)
    return root


if __name__ == "__main__":
    main()
