"""Pictures of the LPS theory page: a spectrum, and girths and diameters against their bounds."""

import math
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from sympy import primerange

from expandermask.certificates import kesten_mckay, ramanujan_bound, spectrum
from expandermask.graphs.distances import diameter, girth, least_diameter
from expandermask.graphs.lps import lps

BLUE, ORANGE, GREY, RED = "#2a78d6", "#eb6834", "#52514e", "#d03b3b"


def draw_spectrum(p: int, q: int, ax: Axes) -> None:
    """How many nontrivial singular values of X^{p,q} are below x, and what the tree's law says."""
    values = spectrum(lps(p, q))
    bound = ramanujan_bound(p + 1, p + 1)
    ax.ecdf(values[1:], color=BLUE, label=f"{values.size - 1} nontrivial singular values")
    x = np.linspace(0, bound, 2000)
    density = kesten_mckay(p + 1, p + 1, x)
    law = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2) * x[1]])
    ax.plot(x, law, color=GREY, lw=2, label="Kesten-McKay law of the tree")
    ax.axvline(bound, color=RED, lw=1.5, label=rf"bound $2\sqrt{{{p}}}$ = {bound:.3f}")
    ax.plot(values[0], 1, "*", ms=10, color=ORANGE, clip_on=False, label=f"trivial, {p + 1}")
    ax.set(xlabel="x", ylabel="share of singular values up to x", title=f"$X^{{{p},{q}}}$")
    ax.legend(fontsize="small", loc="lower right")


def draw_distances(p: int, largest: int, ax: Axes) -> None:
    """Girth and diameter of every X^{p,q} with q up to ``largest``, against what is proved."""
    primes = [q for q in primerange(3, largest + 1) if q != p and q * q > p]
    graphs = [lps(p, q) for q in primes]
    sizes = [2 * graph.n1 for graph in graphs]
    ax.plot(sizes, [diameter(g, roots=[0]) for g in graphs], "s", color=ORANGE, label="diameter")
    ax.plot(sizes, [girth(g, roots=[0]) for g in graphs], "o", color=BLUE, label="girth")
    ax.plot(sizes, [2 * math.log(n, p) + 2 for n in sizes], "-", color=ORANGE,
            label=r"diameter $\leq 2\log_p N + 2$")  # fmt: skip
    least = [least_diameter(g.n1, g.n2, p + 1) for g in graphs]
    ax.plot(sizes, least, ":", color=ORANGE, label="diameter: least possible (Moore)")
    ax.plot(sizes, [4 * math.log(q, p) for q in primes], "--", color=BLUE,
            label=r"girth $\geq 4\log_p q$")  # fmt: skip
    ax.set(xscale="log", xlabel="N, vertices on both sides", ylabel="length", ylim=(0, None))
    ax.set_title(f"$X^{{{p},q}}$ for q up to {primes[-1]}")
    ax.legend(fontsize="small", ncols=2, loc="upper left")
    ax.set_ylim(0, 1.35 * max(2 * math.log(n, p) + 2 for n in sizes))


def main() -> None:
    """Draw both side by side into lps.png beside this script."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
    draw_spectrum(5, 13, axes[0])
    draw_distances(5, 61, axes[1])
    figure.savefig(Path(__file__).with_name("lps.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
