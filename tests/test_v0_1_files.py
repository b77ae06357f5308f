"""Every file that version 0.1.0 wrote is still read, and means the same numbers.

`tests/data/v0_1` was made once, by `tests/data/make_v0_1.py`. A test that fails here says that
somebody's saved work is lost: mend the reader, never the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from expandermask import Certificate, MaskPlan, certify, inspect_mask
from expandermask.adapters import (
    AdapterConfig,
    XoraConfig,
    attach,
    detach,
    import_peft,
    load_adapter,
    merge,
    set_adapters,
)
from expandermask.certificates.recheck import recheck
from expandermask.importance import SparsityResult, accuracy, derive_sparsity, svd_scores
from expandermask.masks import load_mask
from tests.data.v0_1_models import build, formula, oriented, output, probed, zero
from tests.data.v0_1_training import policies, trained, trainer_of

FOLDER = Path(__file__).parent / "data" / "v0_1"
INDEX: dict[str, Any] = json.loads((FOLDER / "index.json").read_text())
TOLERANCE = {
    "float64": {"rtol": 1e-10, "atol": 1e-12},
    "float32": {"rtol": 1e-5, "atol": 1e-5},
    "float16": {"rtol": 1e-2, "atol": 1e-2},
    "bfloat16": {"rtol": 5e-2, "atol": 5e-2},
}


def each(kind: str) -> pytest.MarkDecorator:
    """One test for every entry of a kind."""
    return pytest.mark.parametrize("name", INDEX[kind])


def entry_of(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = INDEX[kind][name]
    return found


def expected_of(kind: str, name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / kind / f"{name}.expected.safetensors")


def base_of(entry: Mapping[str, Any], *, zeroed: bool = False) -> nn.Module:
    model = build(entry["model"], getattr(torch, entry.get("dtype", "float32")))
    return zero(model) if zeroed else model


def assert_close(actual: Tensor, expected: Tensor, dtype: str = "float32") -> None:
    torch.testing.assert_close(actual.double(), expected.double(), **TOLERANCE[dtype])


def assert_deltas(
    plain: nn.Module, expected: Mapping[str, Tensor], dtype: str = "float32", prefix: str = "delta."
) -> None:
    """The weights of a model, all zero but for what was merged, are exactly these updates."""
    found = {key.removeprefix(prefix): t for key, t in expected.items() if key.startswith(prefix)}
    assert found
    for place, delta in found.items():
        assert delta.any()
        assert_close(probed(oriented(plain.get_submodule(place))), delta, dtype)


def merged(model: nn.Module) -> nn.Module:
    """The plain model with its adapters merged in."""
    merge(model)
    detach(model, keep_merged=True)
    return model


def test_everything_in_the_folder_is_in_the_index() -> None:
    for kind in ("attach", "peft", "exports"):
        folders = {path.name for path in (FOLDER / kind).iterdir() if path.is_dir()}
        assert folders == set(INDEX[kind])
    assert {path.stem for path in (FOLDER / "plans").iterdir()} == set(INDEX["plans"])
    assert {path.name for path in (FOLDER / "masks").iterdir()} == set(INDEX["masks"])


# -- adapters of save_adapter ---------------------------------------------------------------------


def loaded(name: str, entry: Mapping[str, Any], *, zeroed: bool = False) -> nn.Module:
    """The model with the adapter on it."""
    model = base_of(entry, zeroed=zeroed)
    if "converted" in entry:  # its values are not of the dtype a fresh adapter would have
        plan = MaskPlan.load(FOLDER / "attach" / f"{name}.plan.json")
        attach(model, plan, config=AdapterConfig.from_dict(entry["config"]))
        model.to(getattr(torch, entry["converted"]))
    plan = load_adapter(model, FOLDER / "attach" / name)
    assert plan.num_values == entry["num_values"]
    return model


@each("attach")
def test_an_adapter_computes_what_it_did(name: str) -> None:
    entry = entry_of("attach", name)
    dtype = entry.get("converted", entry["dtype"])
    model = loaded(name, entry)
    found = output(entry["model"], model, getattr(torch, dtype))
    assert_close(found, expected_of("attach", name)["output"], dtype)


@each("attach")
def test_an_adapter_changes_the_weights_as_it_did(name: str) -> None:
    entry = entry_of("attach", name)
    dtype = entry.get("converted", entry["dtype"])
    plain = merged(loaded(name, entry, zeroed=True))
    assert_deltas(plain, expected_of("attach", name), dtype)


@each("attach")
def test_an_adapters_masks_are_inspected(name: str) -> None:
    reports = inspect_mask(FOLDER / "attach" / name)
    assert sum(report.ones for report in reports.values()) == entry_of("attach", name)["num_values"]


def test_several_adapters_on_one_model() -> None:
    entry = INDEX["several"]
    model = base_of(entry)
    for name in entry["adapters"]:
        load_adapter(model, FOLDER / "several" / name, name=name)
    expected = load_file(FOLDER / "several" / "expected.safetensors")
    for active in entry["active"]:
        set_adapters(model, active.split("+"))
        assert_close(output(entry["model"], model), expected[active])


# -- PEFT -----------------------------------------------------------------------------------------


def peft_model(name: str, *, zeroed: bool = False) -> peft.PeftModel:
    """All adapters of a PEFT folder; the first lies at its top, others in folders of their own."""
    entry, folder = entry_of("peft", name), FOLDER / "peft" / name
    first, *others = entry["adapters"]
    model = peft.PeftModel.from_pretrained(base_of(entry, zeroed=zeroed), folder, first)
    for adapter in others:
        model.load_adapter(folder / adapter, adapter)
    assert all(isinstance(config, XoraConfig) for config in model.peft_config.values())
    return model.eval()


@each("peft")
def test_a_peft_folder_computes_what_it_did(name: str) -> None:
    entry, model = entry_of("peft", name), peft_model(name)
    dtype, expected = entry["dtype"], expected_of("peft", name)
    for adapter in entry["adapters"]:
        model.set_adapter(adapter)
        found = output(entry["model"], model, getattr(torch, dtype))
        assert_close(found, expected[f"{adapter}.output"], dtype)


@each("peft")
def test_a_peft_folder_changes_the_weights_as_it_did(name: str) -> None:
    entry = entry_of("peft", name)
    for adapter in entry["adapters"]:
        plain = peft_model(name, zeroed=True).merge_and_unload(adapter_names=[adapter])
        prefix = f"{adapter}.delta."
        assert_deltas(plain, expected_of("peft", name), entry["dtype"], prefix)


@each("exports")
def test_stock_peft_reads_an_export(name: str) -> None:
    entry, expected = entry_of("exports", name), expected_of("exports", name)
    folder = FOLDER / "exports" / name
    model = peft.PeftModel.from_pretrained(base_of(entry), folder).eval()
    assert_close(output(entry["model"], model), expected["output"])
    zeroed = peft.PeftModel.from_pretrained(base_of(entry, zeroed=True), folder)
    assert_deltas(zeroed.merge_and_unload(), expected)


@pytest.mark.filterwarnings("error:the plan in the file")
@each("exports")
def test_an_export_comes_back_with_its_masks(name: str) -> None:
    entry, expected = entry_of("exports", name), expected_of("exports", name)
    model, zeroed = base_of(entry), base_of(entry, zeroed=True)
    for target in (model, zeroed):
        plan = import_peft(target, FOLDER / "exports" / name)
        assert plan.num_values == entry["num_values"]
    assert_close(output(entry["model"], model), expected["output"])
    assert_deltas(merged(zeroed), expected)


def test_a_masked_lora_of_peft() -> None:
    folder = FOLDER / "masked_lora"
    expected = load_file(folder / "expected.safetensors")["output"]
    model = peft.PeftModel.from_pretrained(build("mlp"), folder).eval()
    assert_close(output("mlp", model), expected)
    masked = build("mlp").eval()
    plan = MaskPlan.load(folder / "plan.json")
    assert import_peft(masked, folder, plan=plan) == plan  # which drops nothing
    assert_close(output("mlp", masked), expected)


# -- training that was interrupted ----------------------------------------------------------------


@each("states")
def test_a_state_dict_is_loaded(name: str) -> None:
    entry, expected = entry_of("states", name), expected_of("states", name)
    state = load_file(FOLDER / "states" / f"{name}.safetensors")
    plan = MaskPlan.load(FOLDER / "states" / f"{name}.plan.json")
    config = None if entry["config"] is None else AdapterConfig.from_dict(entry["config"])
    model = base_of(entry)
    attach(model, plan, config=config)
    put_gates(model, state)
    model.load_state_dict(state)
    assert_close(output(entry["model"], model), expected["output"])
    with torch.no_grad():
        for place in plan:
            model.get_parameter(f"{place}.base.weight").zero_()
    assert_deltas(merged(model), expected)


def put_gates(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gates for the state to fill, where it has some."""
    for key, tensor in state.items():
        place, _, slot = key.rpartition(".")
        gate = nn.Parameter(torch.ones_like(tensor))
        if slot == "rank_gate":
            model.get_submodule(place).set_rank_gate(gate)
        elif slot == "module_gate":
            model.get_submodule(place).set_module_gate(gate)


def renamed(key: str) -> str:
    """A parameter's name since then."""
    return key.replace("values_a", "lora_A").replace("values_b", "lora_B")


@each("checkpoints")
def test_a_trainer_goes_on_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(FOLDER / "checkpoints" / name, checkpoint)
    model, trainer, policy = trainer_of(name, tmp_path)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.state.global_step == 4
    found = trained(model, policy)
    expected = {renamed(key): t for key, t in expected_of("checkpoints", name).items()}
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        atol = 1e-3 * float(tensor.abs().max())  # a policy's numbers are as small as 1e-6
        torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=atol)


@each("checkpoints")
def test_the_adapter_in_a_checkpoint_is_loaded(name: str) -> None:
    folder = FOLDER / "checkpoints" / name
    state, model = load_file(folder / "model.safetensors"), build("bert")
    plan = load_adapter(model, folder / "adapter" / "default")
    own = model.state_dict()
    values = [key for key in state if ".adapters.default." in key]
    assert len([key for key in values if key.endswith("values_a")]) == len(plan)
    for key in values:
        assert torch.equal(own[renamed(key)], state[key])


@each("policies")
def test_a_policy_goes_on_from_its_state(name: str) -> None:
    policy, folder = policies()[name], FOLDER / "policies"
    state = load_file(folder / f"{name}.policy.safetensors")
    model = build("mlp")
    attach(model, AdapterConfig(r=4, left_degree=4), rng=0)
    policy.attach(model)
    policy.load_state_dict(state)
    model.load_state_dict(load_file(folder / f"{name}.model.safetensors"))
    assert policy.ranks() == entry_of("policies", name)["ranks"]
    assert_close(output("mlp", model.eval()), expected_of("policies", name)["output"])
    own = policy.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], tensor) for key, tensor in state.items())


# -- plans, masks, certificates -------------------------------------------------------------------


def edges(support: Any) -> list[int]:
    found: list[int] = np.flatnonzero(support.mask().ravel()).tolist()
    return found


@each("plans")
def test_a_plan_has_the_masks_it_had(name: str) -> None:
    entry, path = entry_of("plans", name), FOLDER / "plans" / f"{name}.json"
    plan = MaskPlan.load(path)
    assert MaskPlan.from_json(path.read_text()).num_values == plan.num_values
    assert (plan.r, plan.left_degree, plan.seed) == (
        entry["r"],
        entry["left_degree"],
        entry["seed"],
    )
    found = {
        place: [[g.n1, g.n2, edges(g)] for g in (pair.a, pair.b)] for place, pair in plan.items()
    }
    assert found == entry["masks"]
    assert sum(report.ones for report in inspect_mask(path).values()) == plan.num_values


@each("masks")
def test_a_mask_is_what_it_was(name: str) -> None:
    entry, path = entry_of("masks", name), FOLDER / "masks" / name
    graph = load_mask(path)
    assert [graph.n1, graph.n2] == entry["shape"]
    assert edges(graph) == entry["edges"]
    assert graph.digest == entry["sha256"]
    assert inspect_mask(path).verdict == entry["verdict"]


@each("certificates")
def test_a_certificate_is_read_and_checked_again(name: str) -> None:
    entry, folder = entry_of("certificates", name), FOLDER / "certificates"
    text = (folder / f"{name}.json").read_text()
    proof, graph = Certificate.from_json(text), load_mask(folder / f"{name}.mask.json")
    assert proof.is_about(graph)
    assert (proof.verdict, proof.method) == (entry["verdict"], entry["method"])
    assert list(proof.sigma2) == entry["sigma2"]
    assert proof.definition == entry.get("definition", "one-sided")
    assert recheck(text, graph.neighbors.tolist(), graph.n2).outcome == entry["recheck"]
    asked = {key: entry[key] for key in ("definition", "eps") if key in entry}
    assert certify(graph, **asked).verdict == entry["verdict"]


# -- importance -----------------------------------------------------------------------------------


def test_a_sparsity_search_goes_on_from_its_file(tmp_path: Path) -> None:
    result = SparsityResult.load(FOLDER / "sparsity" / "result.json")
    progress = tmp_path / "progress.json"
    shutil.copy(FOLDER / "sparsity" / "progress.json", progress)
    model, calls = build("mlp"), []
    x = formula("sparsity", (40, 24))
    with torch.no_grad():
        metric = accuracy([(x, model(x).argmax(dim=1))])

    def counted(model: nn.Module) -> float:
        calls.append(None)
        return metric(model)

    found = derive_sparsity(model, svd_scores(model), counted, resume=progress, progress=False)
    assert found == result
    assert len(calls) == 1  # that of the untouched model; every axis is in the file
