"""Studies that train several arms over the same seeds and compare their accuracies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from analysis._arms import Arm, sized, train_arm
from analysis._statistics import adjusted, mean_and_spread, paired
from analysis._study import TRAINING, Mode, Run, Settings, Study

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MARKERS = "osD^v<>"
MOST_TICKS = 8
"""Up to so many values on a logarithmic axis each have a tick."""
MOST_WITHIN = 7
"""Up to so many curves have their legend within the axes."""


@dataclass(frozen=True)
class Comparison:
    """Arms by label, each with settings of its own, and how to build one from its settings.

    An arm's settings may have ``group`` and ``x``: they then make a curve of each group over x.
    One with ``times`` is trained so many times as long as others.
    """

    arms: Mapping[str, Settings]
    build: Callable[[Settings], Arm]
    reference: str | None = None
    """The arm that the others are compared with, seed by seed."""
    x_label: str = ""
    x_is: str = ""
    """A number of a run's result whose mean arms are drawn over, in place of ``x``."""
    y_label: str = "test accuracy, %"
    quick: tuple[str, ...] = ()
    """Arms of the quick mode; the first of them is the smoke mode's. All, if empty."""
    seeds: int = 3
    """Of the full mode."""
    log_x: bool = False
    measure: Callable[[nn.Module], dict[str, Any]] = lambda model: {}
    pairs: tuple[tuple[str, str], ...] = ()
    """More arms to compare, the first with the second."""
    what: tuple[str, ...] = ()
    """More numbers of a run to report the means of."""

    def runs(self, mode: Mode) -> list[Settings]:
        """Every arm over every seed."""
        quick = self.quick or tuple(self.arms)
        labels = {"smoke": quick[:1], "quick": quick, "full": tuple(self.arms)}[mode]
        seeds = self.seeds if mode == "full" else 1
        return [
            {**sized(mode), "arm": label, "seed": seed, **self.arms[label]}
            for label in labels
            for seed in range(seeds)
        ]

    def run(self, settings: Settings) -> dict[str, Any]:
        """Train and test one arm."""
        epochs = settings["epochs"] * settings.get("times", 1)
        return train_arm({**settings, "epochs": epochs}, self.build(settings), self.measure)

    def summarise(self, found: list[Run]) -> dict[str, Any]:
        """Mean and spread of every arm, and paired differences."""
        accuracy = by_arm(found, "accuracy")
        values = by_arm(found, "trainable_values")
        summary: dict[str, Any] = {
            label: {"accuracy": mean_and_spread(own), "trainable_values": values[label]}
            for label, own in accuracy.items()
        }
        for what in self.what:
            for label, own in by_arm(found, what).items():
                summary[label][what] = float(np.mean(own))
        pairs = [(a, self.reference) for a in accuracy if a != self.reference]
        summary["paired"] = adjusted(
            {
                f"{a} - {b}": paired(accuracy[a], accuracy[b])
                for a, b in (*pairs, *self.pairs)
                if a in accuracy and b in accuracy
            }
        )
        return summary

    def draw(self, record: dict[str, Any]) -> Any:
        """Every run as a dot, means joined where arms lie on an axis."""
        import matplotlib.pyplot as plt

        accuracy = by_arm(record["runs"], "accuracy")
        size = (7.0, 4.2) if self.x_label else (7.0, 1.3 + 0.34 * len(accuracy))
        figure, ax = plt.subplots(figsize=size, layout="constrained")
        if self.x_label:
            self.curves(ax, record["runs"])
        else:
            self._rows(ax, accuracy)
        count = max(len(own) for own in accuracy.values())
        ax.set_title(f"{record['question']} ({count} seeds)", loc="left", fontsize="medium")
        return figure

    def curves(self, ax: Any, found: list[Run]) -> None:
        """A curve for each group of arms, every run a faint dot."""
        accuracy, places = by_arm(found, "accuracy"), self._places(found)
        groups: dict[str, list[str]] = {}
        for label in accuracy:
            groups.setdefault(self.arms[label].get("group", label), []).append(label)
        for i, (group, labels) in enumerate(groups.items()):
            color, marker = COLORS[i % len(COLORS)], _MARKERS[i % len(_MARKERS)]
            x = [places[label] for label in labels]
            mean = [float(np.mean(accuracy[label])) for label in labels]
            if x[0] is None:  # an arm that lies on no axis: a line across
                ax.axhline(mean[0], color=color, ls="--", lw=1, label=group)
                continue
            dashes = "--" if i >= len(COLORS) else "-"
            ax.plot(x, mean, dashes, color=color, marker=marker, ms=5, label=group)
            for place, label in zip(x, labels, strict=True):
                own = accuracy[label]
                ax.plot([place] * len(own), own, marker, color=color, ms=3, alpha=0.4)
        if self.log_x:
            ax.set_xscale("log")
            ticks = sorted({x for x in places.values() if x is not None})
            if len(ticks) <= MOST_TICKS:
                ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
                ax.minorticks_off()
        ax.set_xlabel(self.x_label)
        ax.set_ylabel(self.y_label)
        if len(groups) > MOST_WITHIN:
            ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        else:
            ax.legend(frameon=False, fontsize="small")

    def _places(self, found: list[Run]) -> dict[str, float | None]:
        """Where every arm lies on the axis."""
        if self.x_is:
            return {arm: float(np.mean(own)) for arm, own in by_arm(found, self.x_is).items()}
        return {label: own.get("x") for label, own in self.arms.items()}

    def _rows(self, ax: Any, accuracy: Mapping[str, list[float]]) -> None:
        for row, (label, own) in enumerate(accuracy.items()):
            color = COLORS[1 if label == self.reference else 0]
            ax.plot(own, [row] * len(own), "o", color=color, ms=4, alpha=0.5)
            ax.plot(float(np.mean(own)), row, "|", color="black", ms=14, mew=1.6)
        ax.set_yticks(range(len(accuracy)), list(accuracy))
        ax.set_ylim(len(accuracy) - 0.5, -0.5)
        ax.set_xlabel("test accuracy, %; the bar is the mean")
        ax.grid(axis="x", color="0.9")

    def study(self, name: str, question: str, paper: str) -> Study:
        """The study that makes this comparison."""
        return Study(
            name=name,
            question=question,
            paper=paper,
            runs=self.runs,
            run=self.run,
            summarise=self.summarise,
            draw=self.draw,
        )


def by_arm(found: list[Run], what: str) -> dict[str, list[Any]]:
    """One number of every run, by arm and in the order of seeds."""
    groups: dict[str, list[Run]] = {}
    for run in found:
        groups.setdefault(run["settings"]["arm"], []).append(run)
    return {
        arm: [
            r[what] if what == TRAINING else r["result"][what]
            for r in sorted(own, key=lambda r: r["settings"]["seed"])
        ]
        for arm, own in groups.items()
    }
