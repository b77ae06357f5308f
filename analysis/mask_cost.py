"""How the time to make and to prove a mask grows with its size."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from analysis._study import Mode, Run, Settings, Study
from expandermask import certify, ramanujan_graph

WIDTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
REPEATS: dict[Mode, int] = {"smoke": 1, "quick": 5, "full": 25}
METHODS = {"design": "#009E73", "random": "#0072B2"}


def runs(mode: Mode) -> list[Settings]:
    """Every width by both methods, at rank 64 and two entries a row."""
    widths = WIDTHS[:2] if mode == "smoke" else WIDTHS[:-2] if mode == "quick" else WIDTHS
    return [
        {"n": n, "r": 64, "left_degree": 2, "method": m, "repeats": REPEATS[mode]}
        for m in METHODS
        for n in widths
    ]


def run(settings: Settings) -> dict[str, Any]:
    """Seconds to make a proved mask, and of its full certificate alone; one seed after another."""
    made, proved = [], []
    shape = settings["n"], settings["r"], settings["left_degree"]
    for seed in range(-1, settings["repeats"]):
        start = time.perf_counter()
        graph = ramanujan_graph(*shape, method=settings["method"], rng=max(seed, 0))
        middle = time.perf_counter()
        verdict = certify(graph).verdict
        if seed >= 0:  # the first call compiles
            made.append(middle - start)
            proved.append(time.perf_counter() - middle)
        assert verdict == "PROVED"
    return {"make": statistics.median(made), "certify": statistics.median(proved)}


def summarise(found: list[Run]) -> dict[str, Any]:
    """The exponent of each method's time in the width, by least squares on logarithms."""
    summary: dict[str, Any] = {}
    for method in METHODS:
        own = [r for r in found if r["settings"]["method"] == method]
        n = np.log([r["settings"]["n"] for r in own])
        summary[method] = {
            what: {
                "exponent": float(np.polyfit(n, np.log([r["result"][what] for r in own]), 1)[0]),
                "milliseconds": {
                    str(r["settings"]["n"]): round(1000 * r["result"][what], 4) for r in own
                },
            }
            for what in ("make", "certify")
        }
    return summary


def draw(record: dict[str, Any]) -> Any:
    """Milliseconds over the width, both axes logarithmic."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for method, color in METHODS.items():
        own = [r for r in record["runs"] if r["settings"]["method"] == method]
        n = [r["settings"]["n"] for r in own]
        for what, told, style in (
            ("make", "made, with the quickest proof", "o-"),
            ("certify", "the full certificate alone", "s--"),
        ):
            label = f"{method}: {told}"
            seconds = [1000 * r["result"][what] for r in own]
            ax.plot(n, seconds, style, color=color, ms=4, label=label)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("width n of the n x 64 mask, two entries a row")
    ax.set_ylabel("milliseconds")
    ax.legend(frameon=False, fontsize="small")
    return figure


STUDY = Study(
    name="mask_cost",
    question="How does the cost of a certified mask grow with its size?",
    paper="XoRA, section 4.1.1",
    runs=runs,
    run=run,
    summarise=summarise,
    draw=draw,
)

if __name__ == "__main__":
    STUDY.main()
