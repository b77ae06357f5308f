"""Theorem 4.1 of Partial-LoRA tried on small nets: how many masked random weights make a target.

Of n candidate weights, uniform on [-1, 1], each is left by the mask with probability p, and the
best subset of those left is looked for, exactly (meet in the middle), to come near a target weight.
What is asked: the least n with an error of at most eps in 9 of 10 trials.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
EPS = (0.1, 0.03, 0.01, 0.003, 0.001)
DENSITIES = (0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95, 1.0)
TRIALS, SHARE = 200, 0.9
NET_EPS = 0.03


def subset_sums(values: np.ndarray) -> np.ndarray:
    """All sums of subsets, sorted."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums, sums + value])
    return np.sort(sums)


def best_error(target: float, values: np.ndarray) -> float:
    """How near a subset's sum comes to the target, of all 2^n subsets."""
    half = len(values) // 2
    first, second = subset_sums(values[:half]), subset_sums(values[half:])
    places = np.searchsorted(second, target - first)
    near = [
        np.abs(first + second[np.clip(places + s, 0, len(second) - 1)] - target) for s in (-1, 0)
    ]
    return float(min(n.min() for n in near))


def errors(p: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """The best error of every trial."""
    found = np.empty(TRIALS)
    for t in range(TRIALS):
        left = rng.uniform(-1, 1, rng.binomial(n, p))
        found[t] = best_error(rng.uniform(-1, 1), left[:26])
    return found


def least_width(p: float, eps: float, curves: dict[int, np.ndarray]) -> int:
    """The least n tried at which enough trials come near."""
    return next(n for n, found in curves.items() if np.mean(found <= eps) >= SHARE)


def measured() -> dict[float, list[int]]:
    """For every density the widths needed, one for each eps."""
    widths = {}
    for i, p in enumerate(DENSITIES):
        rng = np.random.default_rng(i)
        curves: dict[int, np.ndarray] = {}
        n = 1
        while not curves or np.mean(curves[max(curves)] <= min(EPS)) < SHARE:
            curves[n] = errors(p, n, rng)
            n = max(n + 1, round(n * 1.06))
        widths[p] = [least_width(p, eps, curves) for eps in EPS]
    return widths


def net_error(p: float, n: int, rng: np.random.Generator) -> float:
    """The largest error over the square [-1, 1]^2 of a masked net of 2, 3 and 1 neurons.

    Each of the target's nine weights is made of the best subset of its own n masked candidates: a
    net n times as wide in the layer that is put between, as the theorem's proof builds it.
    """
    first, second = rng.uniform(-1, 1, (3, 2)), rng.uniform(-1, 1, (1, 3))

    def near(weights: np.ndarray) -> np.ndarray:
        found = np.empty_like(weights)
        for place, target in np.ndenumerate(weights):
            left = rng.uniform(-1, 1, rng.binomial(n, p))[:26]
            error = best_error(target, left)
            found[place] = target + error * rng.choice((-1, 1))
        return found

    grid = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, 21)]), axis=-1).reshape(-1, 2)
    own, other = (
        np.maximum(grid @ a.T, 0) @ b.T for a, b in ((first, second), (near(first), near(second)))
    )
    return float(np.abs(own - other).max())


def net_shares() -> dict[float, tuple[list[int], list[float]]]:
    """For some densities, widths and the share of nets that come within 0.03 of their target."""
    shares = {}
    for i, p in enumerate((0.2, 0.5, 0.95)):
        rng = np.random.default_rng(100 + i)
        widths = [round(k / p) for k in range(1, 19)]
        near = [np.mean([net_error(p, n, rng) <= NET_EPS for _ in range(60)]) for n in widths]
        shares[p] = widths, list(map(float, near))
    return shares


def main() -> None:
    """Draw width against error, what the theorem's factor leaves of p's part, and small nets."""
    widths = measured()
    figure, (left, right, nets) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for color, p in zip(COLORS, (0.1, 0.2, 0.35, 0.5, 1.0), strict=True):
        left.plot([1 / e for e in EPS], widths[p], "o-", ms=4, color=color, label=f"p = {p:g}")
    left.set_xscale("log")
    left.set_xlabel("1 / eps")
    left.set_ylabel("random weights needed for one target weight")
    left.set_title("The width grows like log(1 / eps)", loc="left")
    left.legend(frameon=False, fontsize="small")
    inner = DENSITIES[:-1]
    lines = {
        "times log(1 / (1 - p)): the theorem": [math.log(1 / (1 - p)) for p in inner],
        "times p: the weights that are left": list(inner),
    }
    for color, (label, factors) in zip(COLORS, lines.items(), strict=False):
        scaled = [widths[p][2] * f for p, f in zip(inner, factors, strict=True)]
        right.plot(inner, scaled, "o-", ms=4, color=color, label=label)
    right.axhline(widths[1.0][2], color="black", lw=0.8, ls=":", label="needed at p = 1")
    right.set_xlabel("density p")
    right.set_ylabel("width needed for eps = 0.01, times ...")
    right.set_ylim(bottom=0)
    right.set_title("A constant is what a true law would leave", loc="left")
    right.legend(frameon=False, fontsize="small")
    for color, (p, (n, share)) in zip(COLORS, net_shares().items(), strict=False):
        nets.plot([p * w for w in n], share, "o-", ms=3, color=color, label=f"p = {p:g}")
    nets.set_xlabel("p times the width for each target weight")
    nets.set_ylabel(f"share of nets within {NET_EPS:g} of their target")
    nets.set_title("Whole nets of 2, 3 and 1 neurons", loc="left")
    nets.legend(frameon=False, fontsize="small")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110, metadata={"Software": None})
    for p, row in widths.items():
        print(p, dict(zip(EPS, row, strict=True)))


if __name__ == "__main__":
    main()
