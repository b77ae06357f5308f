"""Does a larger spectral gap make a better mask? Accuracy against sigma_2 over its limit.

Masks of one rank and degree for all 36 layers, from disconnected through random to near-optimal
designs: in each run all masks of the model come from one stratum. The training seed, and with it
the head's first values, the batches and the dropout, is the same in every run, so only masks and
the values drawn for them differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis._masks import blocks, switched
from analysis._statistics import correlation, mean_and_spread, paired
from analysis._study import Mode, Run, Settings, Study
from analysis._task import LEARNING_RATES, SIZES, adapted, fine_tune, shapes
from expandermask import BiregularGraph, MaskPlan, certify
from expandermask.graphs import random_biregular
from expandermask.graphs.designs import design
from expandermask.graphs.random import derive_seed

R, DEGREE = 16, 2
COLORS = {"blocks": "#D55E00", "random": "#0072B2", "design": "#009E73"}


def strata(mode: Mode) -> list[dict[str, Any]]:
    """What kinds of masks there are, and how many sets of each."""
    cuts, shares, draws, whole = {
        "smoke": ((4,), (0.1,), 1, 1),
        "quick": ((4,), (0.0, 0.1), 1, 1),
        "full": ((8, 4, 2), (0.0, 0.02, 0.1, 0.3), 2, 9),
    }[mode]
    cut = [
        {"stratum": "blocks", "blocks": count, "switched": share, "draw": draw}
        for count in cuts
        for share in shares
        for draw in range(draws)
    ]
    return cut + [{"stratum": s, "draw": d} for s in ("random", "design") for d in range(whole)]


def runs(mode: Mode) -> list[Settings]:
    """One run for each set of masks."""
    return [{**SIZES[mode], "seed": 0, "r": R, "left_degree": DEGREE, **s} for s in strata(mode)]


def graph(settings: Settings, n: int, seed: int) -> BiregularGraph:
    """One mask of the stratum, n inputs or outputs by r ranks."""
    r, degree = settings["r"], settings["left_degree"]
    if settings["stratum"] == "random":
        return random_biregular(n, r, degree, rng=seed)
    if settings["stratum"] == "design":
        return design(n, r, degree, rng=seed)
    apart = blocks(n, r, degree, settings["blocks"], rng=seed)
    return switched(apart, settings["switched"], rng=seed)


def run(settings: Settings) -> dict[str, Any]:
    """Make the masks, measure them, train under them."""
    seed = derive_seed(settings["draw"], settings["stratum"])
    graphs = {
        name: tuple(
            graph(settings, n, derive_seed(seed, name, side)) for side, n in (("A", k), ("B", d))
        )
        for name, (d, k) in shapes().items()
    }
    proofs = [certify(g) for pair in graphs.values() for g in pair]
    plan = MaskPlan.from_masks(graphs, rng=settings["draw"])

    rate = LEARNING_RATES["masked"]
    found = fine_tune(settings, lambda model: adapted(model, plan), learning_rate=rate)
    return found | {
        "ratio": float(np.mean([proof.ratio for proof in proofs])),
        "gap": float(np.mean([p.gap / np.sqrt(p.d1 * p.d2) for p in proofs])),
        "connected": sum(proof.connected for proof in proofs),
        "proved": sum(proof.verdict == "PROVED" for proof in proofs),
    }


def summarise(found: list[Run]) -> dict[str, Any]:
    """The correlation over all sets of masks, over the connected ones, and each stratum's mean."""
    results = [r["result"] for r in found]
    summary: dict[str, Any] = {"strata": {}}
    for stratum in COLORS:
        own = [r["result"]["accuracy"] for r in found if r["settings"]["stratum"] == stratum]
        summary["strata"][stratum] = mean_and_spread(own)
    kinds = {"all": results, "connected": [r for r in results if r["connected"] == 72]}
    for kind, chosen in kinds.items():
        pairs = [(r["ratio"], r["accuracy"]) for r in chosen]
        if len({x for x, _ in pairs}) > 3 and len({y for _, y in pairs}) > 1:
            summary[kind] = correlation(*zip(*pairs, strict=True))
    both = [
        [r["result"]["accuracy"] for r in found if r["settings"]["stratum"] == s]
        for s in ("design", "random")
    ]
    summary["design - random"] = paired(*both)
    return summary


def draw(record: dict[str, Any]) -> Any:
    """Accuracy of every set of masks against its mean sigma_2 / limit."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for stratum, color in COLORS.items():
        own = [r["result"] for r in record["runs"] if r["settings"]["stratum"] == stratum]
        ax.plot(
            [r["ratio"] for r in own], [r["accuracy"] for r in own], "o", color=color, label=stratum
        )
    found = record["summary"].get("all")
    if found is not None:
        low, high = found["spearman_interval"]
        ax.set_title(
            f"Spearman {found['spearman']:.2f} [{low:.2f}, {high:.2f}], {found['n']} sets of masks",
            loc="left",
        )
    ax.set_xlabel(r"mean $\sigma_2$ / limit of the 72 masks")
    ax.set_ylabel("test accuracy, %")
    ax.legend(frameon=False)
    return figure


STUDY = Study(
    name="spectral_gap",
    question="Does a larger spectral gap make a better mask?",
    paper="XoRA's premise, section 4",
    runs=runs,
    run=run,
    summarise=summarise,
    draw=draw,
)

if __name__ == "__main__":
    STUDY.main()
