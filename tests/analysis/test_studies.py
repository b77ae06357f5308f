"""Every study runs in its smoke mode, and its record and picture are what they should be."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import matplotlib as mpl
import pytest
import torch

mpl.use("agg")

import analysis
from analysis import _sparsity
from analysis._study import RESULTS, Study

FOLDER = Path(analysis.__file__).parent
NAMES = sorted(p.stem for p in FOLDER.glob("[a-z]*.py"))
SCHEMA = json.loads((FOLDER / "schema.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _one_thread_and_nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    threads = torch.get_num_threads()
    monkeypatch.setattr(_sparsity, "KEPT", tmp_path / "sparsity")
    yield
    torch.set_num_threads(threads)


def study(name: str) -> Study:
    found: Study = import_module(f"analysis.{name}").STUDY
    return found


@pytest.mark.parametrize("name", NAMES)
def test_smoke(name: str, tmp_path: Path) -> None:
    own = study(name)
    assert own.name == name
    record = own.record("smoke", place=tmp_path)
    jsonschema.validate(record, SCHEMA)
    assert json.loads((tmp_path / f"{name}.json").read_text()) == record
    assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    assert record["num_runs"] == len(own.runs("smoke"))


@pytest.mark.parametrize("name", NAMES)
def test_runs_are_distinct_and_ready_for_json(name: str) -> None:
    for mode in ("smoke", "quick", "full"):
        settings = [json.dumps(s, sort_keys=True) for s in study(name).runs(mode)]
        assert len(set(settings)) == len(settings) > 0
        assert [json.loads(s) for s in settings] == study(name).runs(mode)


@pytest.mark.parametrize(
    "name",
    [
        "allocation_methods",
        "allocation_rates",
        "longer_rates",
        "rank_budgets",
        "structured_pruning",
    ],
)
def test_policies_of_the_smaller_modes_fit_their_few_steps(name: str) -> None:
    from analysis._task import steps_of

    build = import_module(f"analysis.{name}").build
    for mode in ("smoke", "quick"):
        for settings in study(name).runs(mode):
            arm = build(settings)
            if arm.policy is not None:
                longer = {**settings, "epochs": settings["epochs"] * settings.get("times", 1)}
                arm.policy(steps_of(longer))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_committed_records_are_full_and_of_todays_runs(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(record, SCHEMA)
    own = study(path.stem)
    assert record["mode"] == "full"
    assert (record["question"], record["paper"]) == (own.question, own.paper)
    assert [run["settings"] for run in record["runs"]] == own.runs("full")
    assert_same_numbers(json.loads(json.dumps(own.summarise(record["runs"]))), record["summary"])
    assert path.with_suffix(".png").exists()


def assert_same_numbers(found: Any, wanted: Any) -> None:
    """Equal but for the last digits, in which processors differ."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_same_numbers(found[key], value)
    elif isinstance(wanted, list):
        for one, other in zip(found, wanted, strict=True):
            assert_same_numbers(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    else:
        assert found == wanted


def test_methods_have_the_best_rates_that_were_found() -> None:
    """Of the committed record of `learning_rates`; dense LoRA has its best everywhere."""
    from analysis import methods
    from analysis._task import LEARNING_RATES

    record = json.loads((RESULTS / "learning_rates.json").read_text(encoding="utf-8"))
    assert record["summary"]["best"] == methods.RATES
    assert LEARNING_RATES["dense"] == methods.RATES["LoRA"]


def test_policies_have_the_best_rates_that_were_found() -> None:
    """Of the committed record of `allocation_rates`; ALoRA has LoRA's."""
    from analysis._allocators import RATES

    record = json.loads((RESULTS / "allocation_rates.json").read_text(encoding="utf-8"))
    best = record["summary"]["best"]
    assert {kind: best[kind] for kind in RATES if kind != "ALoRA"} | {
        "ALoRA": best["LoRA"]
    } == RATES


def test_longer_arms_have_the_best_rates_that_were_found() -> None:
    """Of the committed record of `longer_rates`."""
    from analysis.rank_budgets import LONGER_RATES

    record = json.loads((RESULTS / "longer_rates.json").read_text(encoding="utf-8"))
    assert record["summary"]["best"] == LONGER_RATES


def test_longer_arms_are_trained_as_long_and_at_rates_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from analysis import _comparison
    from analysis._allocators import RATES
    from analysis.rank_budgets import LONGER_RATES

    trained: dict[str, tuple[int, float]] = {}

    def note(settings: dict[str, Any], arm: Any, *_: Any) -> dict[str, Any]:
        trained[settings["arm"]] = settings["epochs"], arm.learning_rate
        return {}

    monkeypatch.setattr(_comparison, "train_arm", note)
    own = study("rank_budgets")
    for settings in own.runs("full"):
        own.run(settings)
    for kind in ("LoRA", "AdaLoRA"):
        assert trained[f"{kind}, R=4"] == (2, RATES[kind])
        assert trained[f"{kind}, 3 times as long, R=4"] == (6, LONGER_RATES[kind])
    assert trained["ROLoRA, R=16"] == (6, LONGER_RATES["ROLoRA"])


def test_aloras_terms_have_loras_scale() -> None:
    from analysis._allocators import allocator, lora_of_rank
    from analysis._task import pretrained
    from tests.allocation.models import adapters

    arm = allocator("ALoRA", 8, {"seed": 0})
    model = arm.adapt(pretrained())
    arm.policy(50).attach(model)
    plain = lora_of_rank(8, 0).adapt(pretrained())
    for own in (model, plain):
        assert {round(one.scale, 6) for one in adapters(own).values()} == {2.0}


@pytest.mark.parametrize("name", ["equal_sparsity", "partial_sources"])
def test_a_run_again_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    own = study(name)
    first = own.record("smoke", place=tmp_path / "first")
    second = own.record("smoke", place=tmp_path / "second")
    assert [r["result"] for r in first["runs"]] == [r["result"] for r in second["runs"]]


def test_what_follows_a_layer_is_what_reads_it() -> None:
    from analysis._arms import following
    from analysis._task import shapes

    found, layer = following(shapes()), "bert.encoder.layer.{}.{}".format
    assert found[layer(0, "attention.self.value")] == layer(0, "attention.output.dense")
    assert found[layer(4, "attention.output.dense")] == layer(4, "intermediate.dense")
    assert found[layer(5, "intermediate.dense")] == layer(5, "output.dense")
    assert found[layer(1, "output.dense")] == layer(2, "attention.self.value")
    assert not {name for name in found if "query" in name or "key" in name}
    assert len(found) == 4 * 6 - 1  # nothing follows the last layer's output
