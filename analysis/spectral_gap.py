"""Does a larger spectral gap make a better mask? Accuracy against sigma_2 over its limit.

Masks of one rank and degree for all 36 layers, from disconnected through random to near-optimal
designs: in each run all masks of the model come from one stratum. Within a training seed the head's
and the adapters' first values, the batches and the dropout are drawn from one seed in every run, so
only masks differ. All sets of masks are trained under each training seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis._masks import blocks, switched
from analysis._statistics import correlation, mean_and_spread, welch
from analysis._study import Mode, Run, Settings, Study
from analysis._task import LEARNING_RATES, SIZES, adapted, fine_tune, shapes
from expandermask import BiregularGraph, MaskPlan, certify
from expandermask.graphs import random_biregular
from expandermask.graphs.designs import design
from expandermask.graphs.random import derive_seed

DEGREE = 2
SEEDS: dict[Mode, dict[int, tuple[int, ...]]] = {
    "smoke": {16: (0,)},
    "quick": {16: (0,)},
    "full": {16: (0, 1, 2)},
}
"""Training seeds for each rank."""
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
    """One run for each rank, training seed and set of masks."""
    return [
        {**SIZES[mode], "seed": seed, "r": r, "left_degree": DEGREE, **stratum}
        for r, seeds in SEEDS[mode].items()
        for seed in seeds
        for stratum in strata(mode)
    ]


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
    plan = MaskPlan.from_masks(graphs, rng=settings["seed"])  # which also draws the first values

    rate = LEARNING_RATES["masked"]
    found = fine_tune(settings, lambda model: adapted(model, plan), learning_rate=rate)
    return found | {
        "ratio": float(np.mean([proof.ratio for proof in proofs])),
        "gap": float(np.mean([p.gap / np.sqrt(p.d1 * p.d2) for p in proofs])),
        "connected": sum(proof.connected for proof in proofs),
        "proved": sum(proof.verdict == "PROVED" for proof in proofs),
    }


def sets_of_masks(found: list[Run], r: int) -> list[dict[str, Any]]:
    """Every set of masks of one rank, with its accuracy under each training seed."""
    sets: dict[str, dict[str, Any]] = {}
    for run in found:
        settings, result = run["settings"], run["result"]
        if settings["r"] != r:
            continue
        key = str([settings.get(k) for k in ("stratum", "blocks", "switched", "draw")])
        own = {k: result[k] for k in ("ratio", "connected")} | {"stratum": settings["stratum"]}
        sets.setdefault(key, own | {"by_seed": {}})["by_seed"][settings["seed"]] = result[
            "accuracy"
        ]
    for own in sets.values():
        own["accuracy"] = float(np.mean(list(own["by_seed"].values())))
    return list(sets.values())


def summarise(found: list[Run]) -> dict[str, Any]:
    """For each rank: strata, and correlations of the mean over training seeds, and of each seed."""
    return {
        f"r = {r}": _of_rank(sets_of_masks(found, r))
        for r in dict.fromkeys(run["settings"]["r"] for run in found)
    }


def _of_rank(sets: list[dict[str, Any]]) -> dict[str, Any]:
    accuracy = {s: [own["accuracy"] for own in sets if own["stratum"] == s] for s in COLORS}
    summary: dict[str, Any] = {
        "strata": {stratum: mean_and_spread(own) for stratum, own in accuracy.items()},
        "design - random": welch(accuracy["design"], accuracy["random"]),
    }
    kinds = {"all": sets, "connected": [own for own in sets if own["connected"] == 72]}
    for kind, chosen in kinds.items():
        pairs = [(own["ratio"], own["accuracy"]) for own in chosen]
        summary |= {kind: correlation(*zip(*pairs, strict=True))} if _vary(pairs) else {}
    for seed in sets[0]["by_seed"]:
        pairs = [(own["ratio"], own["by_seed"][seed]) for own in sets]
        name = f"all, training seed {seed}"
        summary |= {name: correlation(*zip(*pairs, strict=True))} if _vary(pairs) else {}
    return summary


def _vary(pairs: list[tuple[float, float]]) -> bool:
    return len({x for x, _ in pairs}) > 3 and len({y for _, y in pairs}) > 1


def draw(record: dict[str, Any]) -> Any:
    """Accuracy of every set of masks against its mean sigma_2 / limit; a panel for each rank."""
    import matplotlib.pyplot as plt

    ranks = list(dict.fromkeys(run["settings"]["r"] for run in record["runs"]))
    figure, panels = plt.subplots(
        1, len(ranks), figsize=(6 * len(ranks), 4.4), layout="constrained", squeeze=False
    )
    for ax, r in zip(panels[0], ranks, strict=True):
        sets = sets_of_masks(record["runs"], r)
        for stratum, color in COLORS.items():
            own = [s for s in sets if s["stratum"] == stratum]
            x, y = [s["ratio"] for s in own], [s["accuracy"] for s in own]
            ax.plot(x, y, "o", color=color, label=stratum)
        seeds = len(sets[0]["by_seed"])
        title = f"r = {r}, {len(sets)} sets of masks, {seeds} training seed{'s' * (seeds > 1)}"
        found = record["summary"][f"r = {r}"].get("all")
        if found is not None:
            low, high = found["spearman_interval"]
            title += f"\nSpearman {found['spearman']:.2f} [{low:.2f}, {high:.2f}]"
        ax.set_title(title, loc="left", fontsize="medium")
        ax.set_xlabel(r"mean $\sigma_2$ / limit of the 72 masks")
        ax.set_ylabel("test accuracy, %, mean over training seeds")
    panels[0][0].legend(frameon=False)
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
