"""How large the loss's gradient is in every module of the pretrained model."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis._sparsity import few_shots, probed
from analysis._statistics import mean_and_spread
from analysis._study import Mode, Run, Settings, Study
from analysis._task import shapes
from analysis.allocated_ranks import by_kind
from expandermask.importance import gradient_norms
from expandermask.plots import gradient_norms as draw_norms

SEEDS: dict[Mode, int] = {"smoke": 1, "quick": 2, "full": 5}


def runs(mode: Mode) -> list[Settings]:
    """One draw of labelled examples each."""
    return [{"mode": mode, "seed": seed} for seed in range(SEEDS[mode])]


def run(settings: Settings) -> dict[str, Any]:
    """The Frobenius norm of dL/dW of every linear module of the encoder."""
    mode = settings["mode"]
    batches = few_shots(mode, settings["seed"])
    return {"norms": gradient_norms(probed(mode), batches, tuple(shapes()))}


def mean_norms(found: list[Run]) -> dict[str, float]:
    """The mean over draws."""
    own = [r["result"]["norms"] for r in found]
    return {name: float(np.mean([norms[name] for norms in own])) for name in own[0]}


def summarise(found: list[Run]) -> dict[str, Any]:
    """The mean over layers of each kind of module, and value against query and key."""
    each = [by_kind(r["result"]["norms"]) for r in found]
    kinds = {kind: mean_and_spread([own[kind] for own in each]) for kind in each[0]}
    value, query, key = (f"attention.self.{kind}" for kind in ("value", "query", "key"))
    return {
        "by kind of module": kinds,
        "value over query": mean_and_spread([own[value] / own[query] for own in each]),
        "value over key": mean_and_spread([own[value] / own[key] for own in each]),
    }


def draw(record: dict[str, Any]) -> Any:
    """A line over the layers for each kind of module."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(9, 4.4), layout="constrained")
    draw_norms(mean_norms(record["runs"]), ax, title=record["question"])
    return figure


STUDY = Study(
    name="gradient_norms",
    question="How large is the loss's gradient in each module?",
    paper="ROLoRA, figure 3",
    runs=runs,
    run=run,
    summarise=summarise,
    draw=draw,
)

if __name__ == "__main__":
    STUDY.main()
