"""Each method of `methods` at four learning rates, measured on validation snippets.

`methods` takes the best of each, so that none is at another's rate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from analysis._comparison import Comparison
from analysis._study import Mode, Run, Settings
from analysis.methods import build, method

GRID = {
    "LoRA": (5e-4, 1e-3, 2e-3, 4e-3),
    "DoRA": (5e-4, 1e-3, 2e-3, 4e-3),
    "AdaLoRA": (1.6e-2, 3.2e-2, 6.4e-2, 1.28e-1),
    "LoRA+": (1.25e-4, 2.5e-4, 5e-4, 1e-3),
    "VeRA": (2e-2, 4e-2, 8e-2, 1.6e-1),
    "Partial-LoRA": (1.25e-3, 2.5e-3, 5e-3, 1e-2),
    "XoRA": (2.5e-3, 5e-3, 1e-2, 2e-2),
}
"""Half, one, two and four times, or so, what each paper or PEFT's examples take."""


def best(found: list[Run]) -> dict[str, float]:
    """Each method's learning rate of the highest mean accuracy; of equals the smaller."""
    rates: dict[str, dict[float, list[float]]] = {}
    for run in found:
        own = rates.setdefault(run["settings"]["kind"], {})
        own.setdefault(run["settings"]["rate"], []).append(run["result"]["accuracy"])
    return {
        kind: max(sorted(own), key=lambda rate: sum(own[rate]) / len(own[rate]))
        for kind, own in rates.items()
    }


_COMPARISON = Comparison(
    arms={
        f"{kind}, {rate:g}": {**method(kind, rate), "group": kind, "x": rate, "validate": True}
        for kind, rates in GRID.items()
        for rate in rates
    },
    build=build,
    x_label="learning rate (LoRA+: of A)",
    y_label="validation accuracy, %",
    quick=tuple(f"{kind}, {GRID[kind][1]:g}" for kind in ("VeRA", "LoRA+", "DoRA", "AdaLoRA")),
    seeds=2,
    log_x=True,
)


def runs(mode: Mode) -> list[Settings]:
    """Every method at every rate, over seeds that `methods` does not have."""
    return [{**settings, "seed": 1000 + settings["seed"]} for settings in _COMPARISON.runs(mode)]


def summarise(found: list[Run]) -> dict[str, Any]:
    """Mean and spread of every rate, and the best of each method."""
    return {**_COMPARISON.summarise(found), "best": best(found)}


STUDY = replace(
    _COMPARISON.study(
        "learning_rates",
        "Which learning rate suits which method?",
        "Partial-LoRA, section 5: 20 models of a method, the best by validation",
    ),
    runs=runs,
    summarise=summarise,
)

if __name__ == "__main__":
    STUDY.main()
