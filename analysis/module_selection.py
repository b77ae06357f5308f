"""DiffoRA's selections against random ones, at several rates, with and without sharing.

The search is a run of its own, of half as many steps and at DiffoRA's learning rate, which gives
nothing but its module weights; what is selected by them, or at random, then trains alike, at the
rate of LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis._allocators import RATES, VALIDATION, dense_plan, fixed, labelled
from analysis._arms import train_arm
from analysis._comparison import Comparison
from analysis._study import Run, Settings, Study
from expandermask.allocation import DiffoRA, Policy
from expandermask.plots import module_weights

R, SHARE = 8, 2
SELECT = (0.2, 0.4, 0.5, 0.7, 0.9)


class Search(DiffoRA):
    """DiffoRA's search, of which the module weights are kept."""

    found: dict[str, float]

    def finish(self) -> dict[str, int]:
        """As `DiffoRA.finish`."""
        self.found = self.module_weights()
        return super().finish()


class Selection(DiffoRA):
    """Modules selected at once, by weights that were found before."""

    def __init__(self, weights: Mapping[str, float], **options: Any) -> None:
        super().__init__(random=True, search_steps=0, **options)
        self.weights = weights

    def _scores(self) -> NDArray[np.float64]:
        return np.array([self.weights[place] for place in self._masks])


def run(settings: Settings) -> dict[str, Any]:
    """Search, unless the selection is random, and train what is selected."""
    start = fixed(dense_plan(R, settings["seed"]), RATES["LoRA"])
    options = {
        "select_rate": settings["rate"],
        "share_rank": SHARE if settings["share"] else None,
    }
    if settings["random"]:
        arm = replace(start, policy=lambda _: DiffoRA(random=True, search_steps=0, **options))
        return train_arm(settings, arm)
    weights = search(settings)
    arm = replace(start, policy=lambda _: Selection(weights, **options))
    return train_arm(settings, arm) | {"weights": weights}


def search(settings: Settings) -> dict[str, float]:
    """The module weights after one pass over the train snippets."""
    start = fixed(dense_plan(R, settings["seed"]), RATES["DiffoRA"])
    made: list[Search] = []

    def policy(steps: int) -> Policy:
        made.append(Search(validation=labelled(VALIDATION, batch=16), search_steps=steps))
        return made[0]

    train_arm({**settings, "epochs": 1}, replace(start, policy=policy))
    return made[0].found


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
    build=lambda settings: fixed(dense_plan(R, settings["seed"]), RATES["LoRA"]),
    x_label="select rate",
    quick=("DiffoRA 0.5", "random 0.5"),
    pairs=(
        *((f"DiffoRA {rate:g}", f"random {rate:g}") for rate in SELECT),
        ("DiffoRA 0.5", "DiffoRA 0.5, not shared"),
        ("DiffoRA 0.5, not shared", "random 0.5, not shared"),
    ),
)


def summarise(found: list[Run]) -> dict[str, Any]:
    """Accuracies; the mean of gamma-bar over seeds, and how often each was selected at a half."""
    summary = _COMPARISON.summarise(found)
    own = [r["result"] for r in found if r["settings"]["arm"] == "DiffoRA 0.5"]
    for what, of in (
        ("module weights", lambda r, name: r["weights"][name]),
        ("selected", lambda r, name: r["ranks"][name] == R),
    ):
        names = own[0]["weights"] if own else ()
        summary[what] = {name: float(np.mean([of(r, name) for r in own])) for name in names}
    return summary


def draw(record: dict[str, Any]) -> Any:
    """Accuracy over the rate, and gamma-bar, modules framed that most seeds selected."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(14, 4.2), layout="constrained")
    _COMPARISON.curves(axes[0], record["runs"])
    if weights := record["summary"]["module weights"]:
        selected = {name: x > 0.5 for name, x in record["summary"]["selected"].items()}
        title = "after the search, mean over seeds; framed: selected at a half"
        module_weights(weights, axes[1], selected=selected, title=title)
    return figure


STUDY: Study = replace(
    _COMPARISON.study(
        "module_selection",
        "Does it matter which modules are adapted?",
        "DiffoRA, tables 3 to 5 and figure 2",
    ),
    run=run,
    summarise=summarise,
    draw=draw,
)

if __name__ == "__main__":
    STUDY.main()
