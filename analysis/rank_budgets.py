"""ROLoRA beside LoRA and AdaLoRA at three budgets, trained for a third of its steps and for all.

In the paper baselines are trained three times, each from the best checkpoint so far; here they have
one schedule of three times the steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from analysis._allocators import RATES, ROUNDS, allocator, lora_of_rank
from analysis._arms import Arm
from analysis._comparison import Comparison, by_arm
from analysis._study import Run, Settings

RANKS = (4, 8, 16)
LONGER_RATES = {"LoRA": 5e-4, "AdaLoRA": 5e-3, "ROLoRA": 1e-2}
"""Of what trains for longer: the best in the study `longer_rates`, at R = 8."""


def build(settings: Settings) -> Arm:
    """One method at one target rank."""
    kind, r, seed = settings["kind"], settings["r"], settings["seed"]
    rate = settings["rate"]
    return lora_of_rank(r, seed, rate) if kind == "LoRA" else allocator(kind, r, settings, rate)


def arm(kind: str, r: int, times: int) -> dict[str, Any]:
    """Settings of a method trained ``times`` as long as others."""
    name = kind if times == 1 or kind == "ROLoRA" else f"{kind}, {times} times as long"
    rate = RATES[kind] if times == 1 else LONGER_RATES[kind]
    return {"kind": kind, "r": r, "x": r, "group": name, "times": times, "rate": rate}


_METHODS = (("LoRA", 1), ("LoRA", ROUNDS), ("AdaLoRA", 1), ("AdaLoRA", ROUNDS), ("ROLoRA", ROUNDS))
_COMPARISON = Comparison(
    arms={
        f"{found['group']}, R={r}": found
        for r in RANKS
        for kind, times in _METHODS
        for found in [arm(kind, r, times)]
    },
    build=build,
    x_label="target rank R",
    quick=("ROLoRA, R=4", "LoRA, R=4"),
    pairs=tuple(
        (f"ROLoRA, R={r}", f"{other}, {ROUNDS} times as long, R={r}")
        for r in RANKS
        for other in ("LoRA", "AdaLoRA")
    ),
    log_x=True,
)


def summarise(found: list[Run]) -> dict[str, Any]:
    """Accuracies, and the mean rank that every arm ends with."""
    summary = _COMPARISON.summarise(found)
    with_ranks = [r for r in found if "ranks" in r["result"]]
    for label, own in by_arm(with_ranks, "ranks").items():
        summary[label]["mean rank"] = [sum(ranks.values()) / len(ranks) for ranks in own]
    return summary


STUDY = replace(
    _COMPARISON.study(
        "rank_budgets",
        "Does ROLoRA beat LoRA and AdaLoRA that train for as long?",
        "ROLoRA, tables 1, 3 and 4",
    ),
    summarise=summarise,
)

if __name__ == "__main__":
    STUDY.main()
