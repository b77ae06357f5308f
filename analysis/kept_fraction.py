"""How much of each layer a task needs, by three kinds of scores and several draws of examples."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis._sparsity import METHODS, sparsity
from analysis._statistics import mean_and_spread
from analysis._study import Mode, Run, Settings, Study
from expandermask.plots import heatmap, over_depth

SEEDS: dict[Mode, int] = {"smoke": 1, "quick": 1, "full": 3}


def runs(mode: Mode) -> list[Settings]:
    """Algorithm 1 for each kind of score and each draw of the few labelled examples."""
    methods = METHODS[:1] if mode == "smoke" else METHODS
    return [{"mode": mode, "method": m, "seed": s} for m in methods for s in range(SEEDS[mode])]


def run(settings: Settings) -> dict[str, Any]:
    """The fractions kept, and what it took."""
    found = sparsity(settings["method"], settings["mode"], settings["seed"])
    axes = [axis for m in found.modules.values() for axis in (m.rows, m.columns)]
    return {
        "baseline": found.baseline,
        "threshold": found.threshold,
        "evaluations": found.evaluations,
        "most_evaluations_of_an_axis": max(axis.evaluations for axis in axes),
        "rows": {n: m.density.rows for n, m in found.modules.items()},
        "columns": {n: m.density.columns for n, m in found.modules.items()},
        "nothing_kept": list(found.nothing_kept),
    }


def summarise(found: list[Run]) -> dict[str, Any]:
    """For each method the mean fraction kept over seeds and modules, and the search's cost."""
    summary = {}
    for method in dict.fromkeys(r["settings"]["method"] for r in found):
        own = [r["result"] for r in found if r["settings"]["method"] == method]
        summary[method] = {
            axis: mean_and_spread([float(np.mean(list(r[axis].values()))) for r in own])
            for axis in ("rows", "columns")
        } | {
            "modules of which nothing is needed": [len(r["nothing_kept"]) for r in own],
            "evaluations": [r["evaluations"] for r in own],
            "most evaluations of an axis": max(r["most_evaluations_of_an_axis"] for r in own),
        }
    return summary


def draw(record: dict[str, Any]) -> Any:
    """Curves over depth for rows and columns, and a heatmap of one method's rows."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    means: dict[str, dict[str, dict[str, float]]] = {"rows": {}, "columns": {}}
    for method in dict.fromkeys(r["settings"]["method"] for r in record["runs"]):
        own = [r["result"] for r in record["runs"] if r["settings"]["method"] == method]
        for axis, curves in means.items():
            curves[method] = {n: float(np.mean([r[axis][n] for r in own])) for n in own[0][axis]}
    for ax, (axis, curves) in zip(axes[:2], means.items(), strict=True):
        over_depth(curves, ax, label=f"fraction of {axis} kept", title=f"{axis}, mean of a layer")
        ax.set_ylim(0, 1)
    method, values = next(iter(means["rows"].items()))
    heatmap(values, axes[2], label="fraction of rows kept", title=method, limits=(0, 1))
    return figure


STUDY = Study(
    name="kept_fraction",
    question="What fraction of each layer does the task need?",
    paper="Partial-LoRA, figure 17",
    runs=runs,
    run=run,
    summarise=summarise,
    draw=draw,
)

if __name__ == "__main__":
    STUDY.main()
