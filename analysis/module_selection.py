"""DiffoRA's selections against random ones, at several rates, with and without sharing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from analysis._allocators import RATES, dense_plan, fixed, labelled
from analysis._arms import Arm
from analysis._comparison import Comparison, by_arm
from analysis._study import Run, Settings, Study
from expandermask.allocation import DiffoRA, Policy
from expandermask.plots import rank_heatmap

R, SHARE = 8, 2
SELECT = (0.2, 0.4, 0.5, 0.7, 0.9)


def build(settings: Settings) -> Arm:
    """One selection."""

    def policy(steps: int) -> Policy:
        random = bool(settings["random"])
        return DiffoRA(
            validation=() if random else labelled(64, batch=16),
            search_steps=0 if random else max(1, steps // 3),
            select_rate=settings["rate"],
            share_rank=SHARE if settings["share"] else None,
            random=random,
        )

    plan = dense_plan(R, settings["seed"])
    return replace(fixed(plan, RATES["DiffoRA"]), policy=policy)


def arm(rate: float, *, random: bool = False, share: bool = True) -> dict[str, Any]:
    """Settings of one selection."""
    kind = ("random" if random else "DiffoRA") + ("" if share else ", not shared")
    return {"rate": rate, "random": random, "share": share, "group": kind, "x": rate}


_COMPARISON = Comparison(
    arms={
        **{f"DiffoRA {rate:g}": arm(rate) for rate in SELECT},
        **{f"random {rate:g}": arm(rate, random=True) for rate in SELECT},
        "DiffoRA 0.5, not shared": arm(0.5, share=False),
        "random 0.5, not shared": arm(0.5, random=True, share=False),
    },
    build=build,
    x_label="select rate",
    quick=("DiffoRA 0.5", "random 0.5"),
    pairs=(
        *((f"DiffoRA {rate:g}", f"random {rate:g}") for rate in SELECT),
        ("DiffoRA 0.5", "DiffoRA 0.5, not shared"),
        ("DiffoRA 0.5, not shared", "random 0.5, not shared"),
    ),
)


def summarise(found: list[Run]) -> dict[str, Any]:
    """Accuracies, and how often each module was selected at the rate of a half."""
    summary = _COMPARISON.summarise(found)
    summary["selected"] = selected(found)
    return summary


def selected(found: list[Run]) -> dict[str, float]:
    """The share of seeds in which DiffoRA selected a module, at a half."""
    ranks = by_arm(found, "ranks").get("DiffoRA 0.5", [])
    names = ranks[0] if ranks else {}
    return {name: float(np.mean([own[name] == R for own in ranks])) for name in names}


def draw(record: dict[str, Any]) -> Any:
    """Accuracy over the rate, and which modules were selected."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(14, 4.2), layout="constrained")
    _COMPARISON._curves(axes[0], by_arm(record["runs"], "accuracy"))
    if record["summary"]["selected"]:
        rank_heatmap(record["summary"]["selected"], axes[1], r=1, title="selected at a half")
        axes[1].figure.axes[-1].set_ylabel("share of seeds")
    return figure


STUDY: Study = replace(
    _COMPARISON.study(
        "module_selection",
        "Does it matter which modules are adapted?",
        "DiffoRA, tables 3 to 5 and figure 2",
    ),
    summarise=summarise,
    draw=draw,
)

if __name__ == "__main__":
    STUDY.main()
