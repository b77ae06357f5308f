"""The demo's settings are those its tuning record says are best."""

import json
from pathlib import Path

from expandermask.demo import FULL, QUICK
from expandermask.demo.arms import LORA, MASKED

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "demo_tuning.json"


def test_each_arm_uses_the_best_candidate_of_the_recorded_sweep():
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    for arm, rate in ((MASKED, FULL.masked_learning_rate), (LORA, FULL.lora_learning_rate)):
        scores = {k: v["validation"] for k, v in record["adapters"].items() if k.startswith(arm)}
        assert max(scores, key=scores.get) == (
            f"{arm}, {rate:g}, batch {FULL.batch_size}, {FULL.epochs} epochs"
        )
        rates = sorted(float(key.split(", ")[1]) for key in scores)
        assert rates[0] < rate < rates[-1]  # a best at the edge would not be a best
    probes = {k: v["validation"] for k, v in record["probe"].items()}
    assert max(probes, key=probes.get) == f"probe, mean pooling, L2 {FULL.probe_penalty:g}"


def test_the_full_size_is_the_promised_one():
    assert (FULL.train, FULL.test, FULL.r, FULL.left_degree) == (2000, 1000, 64, 2)
    assert FULL.epochs >= 2
    assert FULL.is_full
    assert not QUICK.is_full
