"""Choose the demo's settings: each arm's learning rate, and the probe's pooling and penalty.

Every candidate is trained on the demo's training snippets and scored on the validation snippets;
the test snippets are never touched. Candidates already in the record are not run again, so the
sweep can be stopped and taken up later; delete the record to start over.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import RESULTS, print_table, write_record

from expandermask.demo import FULL
from expandermask.demo.arms import LORA, MASKED, Materials, dense_lora, make_plan, masked_adapter
from expandermask.demo.data import load_snippets
from expandermask.demo.model import load_model, model_source
from expandermask.demo.probe import features, fit_probe

NAME = "demo_tuning"
SEED = 1000
"""Not a seed of demo_accuracy, so that what is tuned and what is reported share no randomness."""
MASKED_RATES = (2e-3, 5e-3, 1e-2)
LORA_RATES = (5e-4, 1e-3, 2e-3)
PENALTIES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


def main() -> None:
    """Run what is missing from the record, write it after every candidate, print the table."""
    materials = _materials()
    record = _earlier()
    if "probe" not in record:
        record["probe"] = _sweep_probe(materials)
        write_record(NAME, record)
    for arm, rates in ((MASKED, MASKED_RATES), (LORA, LORA_RATES)):
        for rate in rates:
            key = f"{arm}, {rate:g}, batch {FULL.batch_size}, {FULL.epochs} epochs"
            if key not in record["adapters"]:
                record["adapters"][key] = _train(materials, arm, rate)
                write_record(NAME, record)
    rows = [(key, f"{found['validation']:.1f}") for key, found in record["probe"].items()]
    rows += [(key, f"{found['validation']:.1f}") for key, found in record["adapters"].items()]
    print_table(("candidate", "validation accuracy %"), rows)


def _materials() -> Materials:
    parts = load_snippets()
    return Materials.load(model_source(None), parts["train"], parts["validation"], FULL, SEED)


def _earlier() -> dict[str, Any]:
    """The parts of an earlier record that can be taken up."""
    path = RESULTS / f"{NAME}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = {name: found[name] for name in ("probe", "adapters") if name in found}
    return {"seed": SEED, "adapters": {}, **kept}


def _sweep_probe(materials: Materials) -> dict[str, Any]:
    model = load_model(materials.source, materials.seed)
    record = {}
    for pooling in ("mean", "head"):
        train = features(model, materials.train, pooling=pooling)
        held_out = features(model, materials.held_out, pooling=pooling)
        for penalty in PENALTIES:
            probe = fit_probe(train, materials.train.labels, penalty)
            record[f"probe, {pooling} pooling, L2 {penalty:g}"] = {
                "train": probe.accuracy(train, materials.train.labels),
                "validation": probe.accuracy(held_out, materials.held_out.labels),
                "converged": probe.converged,
            }
    return record


def _train(materials: Materials, arm: str, rate: float) -> dict[str, Any]:
    settings = replace(FULL, masked_learning_rate=rate, lora_learning_rate=rate)
    materials = replace(materials, settings=settings)
    with TemporaryDirectory() as folder:
        if arm == MASKED:
            result = masked_adapter(materials, make_plan(materials), Path(folder, "adapter"))[0]
        else:
            result = dense_lora(materials, Path(folder))
    return {
        "validation": result.accuracy,
        "final_loss": result.final_loss,
        "seconds": result.seconds,
    }


if __name__ == "__main__":
    main()
