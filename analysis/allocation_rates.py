"""Each policy at four learning rates, measured on validation snippets.

The other studies of policies take the best of each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from analysis._allocators import allocator, lora_of_rank
from analysis._arms import Arm
from analysis._comparison import Comparison
from analysis._study import Mode, Run, Settings
from analysis.learning_rates import best

R = 8
GRID = {
    "LoRA": (1e-3, 2e-3, 3e-3, 4e-3),
    "AdaLoRA": (1e-2, 2e-2, 4e-2, 8e-2),
    "SoRA": (1e-3, 2e-3, 4e-3, 8e-3),
    "SaLoRA": (1e-3, 2e-3, 4e-3, 8e-3),
    "ALoRA": (1e-3, 2e-3, 4e-3, 8e-3),
    "ROLoRA": (1e-2, 2e-2, 4e-2, 8e-2),
    "DiffoRA": (1e-3, 2e-3, 4e-3, 8e-3),
}


def build(settings: Settings) -> Arm:
    """One policy at one learning rate."""
    kind, rate = settings["kind"], settings["rate"]
    if kind == "LoRA":
        return lora_of_rank(R, settings["seed"], rate)
    return allocator(kind, R, settings, rate)


_COMPARISON = Comparison(
    arms={
        f"{kind}, {rate:g}": {
            "kind": kind,
            "rate": rate,
            "group": kind,
            "x": rate,
            "validate": True,
        }
        for kind, rates in GRID.items()
        for rate in rates
    },
    build=build,
    x_label="learning rate",
    y_label="validation accuracy, %",
    quick=("AdaLoRA, 0.04", "SaLoRA, 0.002", "DiffoRA, 0.002"),
    seeds=2,
    log_x=True,
)


def runs(mode: Mode) -> list[Settings]:
    """Every policy at every rate, over seeds that no other study has."""
    return [{**settings, "seed": 1000 + settings["seed"]} for settings in _COMPARISON.runs(mode)]


def summarise(found: list[Run]) -> dict[str, Any]:
    """Mean and spread of every rate, and the best of each policy."""
    return {**_COMPARISON.summarise(found), "best": best(found)}


STUDY = replace(
    _COMPARISON.study(
        "allocation_rates",
        "Which learning rate suits which policy?",
        "what the papers leave to a search",
    ),
    runs=runs,
    summarise=summarise,
)

if __name__ == "__main__":
    STUDY.main()
