"""The demo's arms over three seeds: accuracy on the test snippets, mean and spread.

A seed changes the masks, the first values of adapter and head, the dropout and the order of the
batches; the split is fixed. The frozen probe is convex and has no seed. The bar: the masked adapter
at least 2 points above the probe, on the mean; its distance to dense LoRA is reported as it is.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import print_table, write_record

from expandermask.demo import FULL
from expandermask.demo.arms import (
    LORA,
    MASKED,
    PROBE,
    Materials,
    dense_lora,
    frozen_probe,
    make_plan,
    masked_adapter,
)
from expandermask.demo.data import load_snippets
from expandermask.demo.model import model_source

NAME = "demo_accuracy"
SEEDS = (0, 1, 2)
BAR = 2.0


def main() -> int:
    """Run every arm at every seed, write the record after each seed, print the table."""
    found: dict[str, list[dict[str, Any]]] = {PROBE: [], MASKED: [], LORA: []}
    record: dict[str, Any] = {}
    for seed in SEEDS:
        for name, result in _arms(seed).items():
            found[name].append(result)
        record = _record(found)
        write_record(NAME, record)
    rows = [
        (name, f"{a['mean']:.2f}", f"{a['deviation']:.2f}", ", ".join(f"{v:.1f}" for v in a["all"]))
        for name, a in record["accuracy"].items()
    ]
    print_table(("arm", "mean %", "deviation", "seeds"), rows)
    for other, gain in record["masked_minus"].items():
        print(f"masked adapter against the {other}: {gain:+.2f} points")
    print(f"bar, {BAR:g} points above the probe: {'met' if record['bar_met'] else 'NOT met'}")
    return 0 if record["bar_met"] else 1


def _arms(seed: int) -> dict[str, dict[str, Any]]:
    parts = load_snippets()
    materials = Materials.load(model_source(None), parts["train"], parts["test"], FULL, seed)
    with TemporaryDirectory() as folder:
        masked = masked_adapter(materials, make_plan(materials), Path(folder, "adapter"))[0]
        lora = dense_lora(materials, Path(folder, "lora"))
    arms = (frozen_probe(materials), masked, lora)
    return {arm.name: {"seed": seed, **vars(arm)} for arm in arms}


def _record(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    accuracy = {name: _summary([arm["accuracy"] for arm in arms]) for name, arms in found.items()}
    ours = accuracy[MASKED]["mean"]
    against = {name: ours - accuracy[name]["mean"] for name in (PROBE, LORA)}
    return {
        "settings": vars(FULL),
        "accuracy": accuracy,
        "masked_minus": against,
        "bar_points_above_probe": BAR,
        "bar_met": against[PROBE] >= BAR,
        "runs": found,
    }


def _summary(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "deviation": deviation, "all": values}


if __name__ == "__main__":
    sys.exit(main())
