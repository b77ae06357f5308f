"""Where the policies put their ranks: the mean rank of every module over seeds, for each policy.

The runs are those of `allocation_methods`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis import allocation_methods
from analysis._statistics import mean_and_spread
from analysis._study import Mode, Run, Settings, Study
from analysis.allocation_methods import POLICIES, R
from expandermask.plots import rank_heatmap


def runs(mode: Mode) -> list[Settings]:
    """Those runs of `allocation_methods` that have a policy."""
    return [s for s in allocation_methods.STUDY.runs(mode) if s["arm"] in POLICIES]


def means(found: list[Run], kind: str) -> dict[str, float]:
    """The mean rank of every module over seeds."""
    own = [r["result"]["ranks"] for r in found if r["settings"]["arm"] == kind]
    return {name: float(np.mean([ranks[name] for ranks in own])) for name in own[0]}


def summarise(found: list[Run]) -> dict[str, Any]:
    """Totals, how far ranks spread, and how alike seeds and policies are."""
    summary: dict[str, Any] = {}
    kinds = list(dict.fromkeys(r["settings"]["arm"] for r in found))
    for kind in kinds:
        own = [r["result"] for r in found if r["settings"]["arm"] == kind]
        ranks = [np.array(list(r["ranks"].values()), dtype=float) for r in own]
        summary[kind] = {
            "accuracy": mean_and_spread([r["accuracy"] for r in own]),
            "total rank": [int(x.sum()) for x in ranks],
            "largest rank": [int(x.max()) for x in ranks],
            "modules of rank 0": [int((x == 0).sum()) for x in ranks],
            "by kind of module": by_kind(means(found, kind)),
            "correlation between seeds": _mean_correlation(ranks),
        }
    averages = {kind: np.array(list(means(found, kind).values())) for kind in kinds}
    summary["correlation between policies"] = {
        f"{a}, {b}": _correlation(averages[a], averages[b])
        for i, a in enumerate(kinds)
        for b in kinds[i + 1 :]
    }
    return summary


def by_kind(ranks: dict[str, float]) -> dict[str, float]:
    """The mean over layers for each kind of module."""
    kinds: dict[str, list[float]] = {}
    for name, rank in ranks.items():
        kinds.setdefault(name.split("layer.")[-1].split(".", 1)[-1], []).append(rank)
    return {kind: float(np.mean(own)) for kind, own in kinds.items()}


def _mean_correlation(ranks: list[np.ndarray]) -> float | None:
    pairs = [_correlation(a, b) for i, a in enumerate(ranks) for b in ranks[i + 1 :]]
    known = [c for c in pairs if c is not None]
    return float(np.mean(known)) if known else None


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's, None where one of them is constant."""
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else None


def draw(record: dict[str, Any]) -> Any:
    """A heatmap for each policy, colours on one scale."""
    import matplotlib.pyplot as plt

    kinds = list(dict.fromkeys(r["settings"]["arm"] for r in record["runs"]))
    rows = -(-len(kinds) // 2)
    figure, axes = plt.subplots(
        rows, 2, figsize=(12, 2.9 * rows), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(kinds) :]:
        ax.set_axis_off()
    for ax, kind in zip(axes.flat, kinds, strict=False):
        rank_heatmap(means(record["runs"], kind), ax, r=2 * R, title=kind)
    return figure


STUDY = Study(
    name="allocated_ranks",
    question="Where do the policies put their ranks?",
    paper="AdaLoRA, figure 3; SaLoRA, figure 7; ALoRA, figure 3; ROLoRA, figure 2",
    runs=runs,
    run=allocation_methods.STUDY.run,
    summarise=summarise,
    draw=draw,
    kept_by=allocation_methods.STUDY.name,
)

if __name__ == "__main__":
    STUDY.main()
