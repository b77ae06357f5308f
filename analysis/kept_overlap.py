"""Do SVD, SNIP and IMP keep the same rows and columns, and does one method on other examples?

Twice: of as many as Algorithm 1 keeps, which leaves most modules out in some draws of examples, and
of the same share of every module.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from analysis._sparsity import METHODS, highest, kept
from analysis._statistics import mean_and_spread
from analysis._study import Mode, Run, Settings, Study
from analysis._task import shapes
from analysis.kept_fraction import SEEDS
from expandermask.plots import over_depth

TOP = 0.3
"""The share of every module's rows and columns taken alike."""


def runs(mode: Mode) -> list[Settings]:
    """Every two methods on one draw of examples, and every two draws for one method."""
    seeds = range(2 if mode == "smoke" else max(SEEDS[mode], 2))
    methods = METHODS[:2] if mode == "smoke" else METHODS
    pairs = [
        ((a, s), (b, s))
        for a, b in combinations(methods, 2)
        for s in seeds[: 1 if mode != "full" else None]
    ]
    pairs += [((m, s), (m, t)) for m in methods for s, t in combinations(seeds, 2)]
    return [{"mode": mode, "first": list(a), "second": list(b)} for a, b in pairs]


def run(settings: Settings) -> dict[str, Any]:
    """For every module the overlap of what is kept, common / smaller, and what chance gives.

    Other examples change only how many rows SVD keeps, so two of its sets overlap wholly.
    """
    mode, pair = settings["mode"], (settings["first"], settings["second"])
    found = overlaps(*(kept(method, mode, seed) for method, seed in pair))
    top = overlaps(*(highest(method, mode, seed, TOP) for method, seed in pair))
    return found | {"top": top["overlap"]}


def overlaps(first: dict[str, Any], second: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The overlap of rows and columns taken together, of every module in which both have some."""
    overlap: dict[str, float] = {}
    chance: dict[str, float] = {}
    for name in first:
        common = smaller = expected = 0.0
        for axis, size in zip(("rows", "columns"), shapes()[name], strict=True):
            a, b = set(first[name][axis]), set(second[name][axis])
            common += len(a & b)
            smaller += min(len(a), len(b))
            expected += len(a) * len(b) / size
        if smaller:
            overlap[name], chance[name] = common / smaller, expected / smaller
    return {"overlap": overlap, "chance": chance}


def summarise(found: list[Run]) -> dict[str, Any]:
    """Mean overlap over modules, beside what two random choices of these sizes would have.

    Of the highest `TOP` of every module chance gives `TOP`.
    """
    groups: dict[str, list[Run]] = {}
    for r in found:
        groups.setdefault(_label(r), []).append(r)
    return {
        label: {
            what: mean_and_spread([float(np.mean(list(r["result"][what].values()))) for r in own])
            for what in ("overlap", "chance", "top")
            if all(r["result"][what] for r in own)  # where nothing is kept nothing overlaps
        }
        | {"modules": [len(r["result"]["overlap"]) for r in own]}
        for label, own in groups.items()
    }


def draw(record: dict[str, Any]) -> Any:
    """Overlap of the highest scored over depth: between methods, and between draws of examples."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    panels: list[dict[str, list[dict[str, float]]]] = [{}, {}]
    for r in record["runs"]:
        same = r["settings"]["first"][0] == r["settings"]["second"][0]
        panels[same].setdefault(_label(r), []).append(r["result"]["top"])
    titles = ("Two methods, same examples", "One method, other examples")
    for ax, own, title in zip(axes, panels, titles, strict=True):
        curves = {
            label: {name: float(np.mean([x[name] for x in each])) for name in each[0]}
            for label, each in own.items()
        }
        over_depth(
            curves, ax, label=f"overlap of the highest {TOP:.0%} of rows, columns", title=title
        )
        ax.axhline(TOP, color="black", ls=":", lw=1, label="by chance")
        ax.legend(frameon=False, fontsize="small")
        ax.set_ylim(0, 1.02)
    return figure


def _label(r: Run) -> str:
    (a, _), (b, _) = r["settings"]["first"], r["settings"]["second"]
    return a if a == b else f"{a} and {b}"


STUDY = Study(
    name="kept_overlap",
    question="Do different scores, or other examples, keep the same rows and columns?",
    paper="Partial-LoRA, figures 12 to 15",
    runs=runs,
    run=run,
    summarise=summarise,
    draw=draw,
)

if __name__ == "__main__":
    STUDY.main()
