"""How large the trained updates are over depth: LoRA, Partial-LoRA and Targeted-LoRA."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from analysis._arms import norms
from analysis._comparison import Comparison, by_arm
from analysis._study import Study
from analysis.partial_sources import build
from expandermask.plots import over_depth

KINDS = {
    "first feed-forward": "intermediate.dense",
    "second feed-forward": ".output.dense",
    "attention, inward": "self.",
}
R = 16

COMPARISON = Comparison(
    arms={
        "LoRA": {"r": R},
        "Partial SVD": {"select": "bernoulli", "source": "SVD", "r": R},
        "Targeted SVD": {"select": "targeted", "source": "SVD", "r": R},
        "Targeted SNIP": {"select": "targeted", "source": "SNIP", "r": R},
        "Targeted IMP": {"select": "targeted", "source": "IMP", "r": R},
    },
    build=build,
    reference="LoRA",
    quick=("Partial SVD", "LoRA"),
    measure=norms,
)


def is_kind(name: str, ending: str) -> bool:
    """Whether a module is of a kind; attention's own output layer is of none of them."""
    return ending in name and "attention.output" not in name


def draw(record: dict[str, Any]) -> Any:
    """The mean norm over seeds, a panel for each kind of module; a module left out has norm 0."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for ax, (title, ending) in zip(axes, KINDS.items(), strict=True):
        names = [n for n in record["summary"]["modules"] if is_kind(n, ending)]
        ax.set_title(title, loc="left")
        if not names:  # none of them is adapted by any arm
            continue
        curves = {}
        for arm, own in by_arm(record["runs"], "norms").items():
            curves[arm] = {n: float(np.mean([r.get(n, 0.0) for r in own])) for n in names}
        over_depth(curves, ax, label=r"$\|\Delta W\|_F$, 0 where not adapted", title=title)
        ax.set_ylim(bottom=0)
    return figure


def summarise(found: list[Any]) -> dict[str, Any]:
    """The comparison's summary, all modules, and each arm's mean norm where it adapts."""
    summary = COMPARISON.summarise(found)
    every = by_arm(found, "norms")
    summary["modules"] = list(dict.fromkeys(n for own in every.values() for r in own for n in r))
    summary["mean norm"] = {
        arm: float(np.mean([v for r in own for v in r.values()])) for arm, own in every.items()
    }
    return summary


STUDY: Study = replace(
    COMPARISON.study(
        "residual_norms",
        "How large are the updates of each layer after training?",
        "Partial-LoRA, figures 7 to 10",
    ),
    summarise=summarise,
    draw=draw,
)

if __name__ == "__main__":
    STUDY.main()
