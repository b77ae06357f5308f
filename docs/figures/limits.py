"""The picture of the limits: against the Ramanujan bound, and in detail, with masks near them."""

import math
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

import expandermask as xm
from expandermask.certificates import Limits, limits, ramanujan_bound
from expandermask.graphs.designs import design

COLUMNS, ONES = 16, 2
DEGREES = list(range(4, 48, 2))
STYLES = {
    "integrality": ("tab:blue", ":"),
    "lattice": ("tab:orange", "-"),
    "schur": ("tab:green", "--"),
    "walks": ("tab:purple", "-."),
}


def main() -> None:
    """Draw sigma_2, and its square less the trace limit, over d2, into limits.png."""
    shapes = [(d * COLUMNS // ONES, COLUMNS, ONES) for d in DEGREES]
    found = [limits(*shape) for shape in shapes]
    masks = [xm.certify(design(*shape, rng=0)).sigma2[1] for shape in shapes]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    draw_bound(left, found, masks)
    draw_detail(right, found, masks)
    for ax in (left, right):
        ax.set_xlabel(rf"$d_2$, with $n_2$ = {COLUMNS} columns and $d_1$ = {ONES} ones per row")
    figure.savefig(Path(__file__).with_name("limits.png"), dpi=110, metadata={"Software": None})


def draw_bound(ax: Axes, found: list[Limits], masks: list[float]) -> None:
    """The Ramanujan bound, the best limit and the masks between them."""
    bound = [ramanujan_bound(ONES, d) for d in DEGREES]
    ax.plot(DEGREES, bound, color="tab:red", lw=1.4, label="Ramanujan bound")
    ax.plot(DEGREES, [math.sqrt(f.best) for f in found], "k-", lw=1, label="best limit")
    ax.plot(DEGREES, masks, "k.", ms=6, label="masks: design()")
    ax.set_ylabel(r"$\sigma_2$")
    ax.legend(fontsize=8)


def draw_detail(ax: Axes, found: list[Limits], masks: list[float]) -> None:
    """Each limit less the trace limit, and what is proved impossible."""
    for name, (color, style) in STYLES.items():
        above = [float(getattr(f, name) - f.trace) for f in found]
        ax.plot(DEGREES, above, color=color, ls=style, lw=1.4, label=f"{name} limit")
    best = [float(f.best - f.trace) for f in found]
    ax.fill_between(DEGREES, -0.1, best, color="0.92", label="proved impossible")
    squares = [s * s - float(f.trace) for s, f in zip(masks, found, strict=True)]
    ax.plot(DEGREES, squares, "k.", ms=6, label="masks: design()")
    ax.set(ylabel=r"$\sigma_2^2$ less the trace limit", ylim=(-0.1, 3.4))
    ax.legend(ncols=2, fontsize=8, loc="upper center")


if __name__ == "__main__":
    main()
