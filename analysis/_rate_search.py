"""Studies that try every method at several learning rates, measured on validation snippets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from analysis._arms import Arm
from analysis._comparison import Comparison
from analysis._study import Mode, Run, Settings, Study


def rate_search(
    grid: Mapping[str, tuple[float, ...]],
    method: Callable[[str, float], Settings],
    build: Callable[[Settings], Arm],
    quick: tuple[str, ...],
    x_label: str = "learning rate",
) -> Callable[[str, str, str], Study]:
    """Of name, question and paper, the study of ``grid``, rates by method, over two seeds.

    ``method`` gives the settings of one at a rate, kind and rate among them. The seeds are none of
    those that other studies have, so that what is tuned and what is reported share no randomness.
    """
    comparison = Comparison(
        arms={
            f"{kind}, {rate:g}": {**method(kind, rate), "group": kind, "x": rate, "validate": True}
            for kind, rates in grid.items()
            for rate in rates
        },
        build=build,
        x_label=x_label,
        y_label="validation accuracy, %",
        quick=quick,
        seeds=2,
        log_x=True,
    )

    def runs(mode: Mode) -> list[Settings]:
        return [{**settings, "seed": 1000 + settings["seed"]} for settings in comparison.runs(mode)]

    def summarise(found: list[Run]) -> dict[str, Any]:
        return {**comparison.summarise(found), "best": best(found)}

    return lambda name, question, paper: replace(
        comparison.study(name, question, paper), runs=runs, summarise=summarise
    )


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
