"""add_weighted_adapter: the weighted sum of updates as one adapter, to the rounding of floats."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from expandermask import inspect_mask
from expandermask.adapters import (
    export_peft,
    load_adapter,
    merge,
    parameter_report,
    save_adapter,
    unmerge,
)
from expandermask.errors import AdapterError
from expandermask.peft import XoraConfig
from tests.adapters.models import bits, mlp
from tests.peft.cases import CASES, Case, layers, stir

NAMES, WEIGHTS = ["default", "third", "other"], [0.5, 1.25, -2.0]
RANKS = {"default": 16, "other": 32, "third": 16}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def three(case: Case) -> peft.PeftModel:
    """Adapters of unlike masks, ranks and scales; "third" has one module only."""
    model = case.adapted(lora_alpha=24)
    model.add_adapter("other", case.config(mask_seed=7, r=32, left_degree=4, scaling="paper"))
    first = next(iter(model.base_model.mask_plans["default"]))
    model.add_adapter("third", case.config(mask_seed=8, target_modules=f".*{first}|{first}"))
    stir(model, seed=2)
    return model.eval()


def summed(case: Case) -> peft.PeftModel:
    model = three(case)
    model.add_weighted_adapter(NAMES, WEIGHTS, "sum")
    return model


def float64_update(layer: nn.Module, names: list[str], weights: list[float]) -> Tensor:
    """The weighted sum of one layer's updates, from dense factors in float64."""
    total = 0
    for name, weight in zip(names, weights, strict=True):
        if name in layer.xora_adapter:
            one = layer.xora_adapter[name]
            a, b = one.factors(torch.float64)
            total = total + weight * one.scale * (b @ a)
    return total


def test_the_update_is_the_weighted_sum_to_float_rounding(case: Case) -> None:
    model = summed(case)
    for layer in layers(model).values():
        a, b = layer.xora_adapter["sum"].factors(torch.float64)
        expected = float64_update(layer, NAMES, WEIGHTS)
        # Each entry of B is rounded once or twice, and nothing else is.
        allowed = 2**-22 * (b.abs() @ a.abs())
        assert ((b @ a - expected).abs() <= allowed).all()
        assert expected.norm() > 0.1


def test_factors_are_stacked_and_weights_signs_and_scales_are_in_b(case: Case) -> None:
    model = summed(case)
    config = model.peft_config["sum"]
    plan = model.base_model.mask_plans["sum"]
    assert (plan.r, plan.left_degree, config.r, config.lora_alpha) == (64, None, 64, 64)
    assert plan.num_values == sum(64 * sum(pair.shape) for pair in plan.values())
    for layer in layers(model).values():
        own = layer.xora_adapter["sum"]
        assert own.scale == 1
        a, b = own.factors()
        start = 0
        for name, weight in zip(NAMES, WEIGHTS, strict=True):
            block = slice(start, start := start + RANKS[name])
            if name not in layer.xora_adapter:
                assert not a[block].any()
                assert not b[:, block].any()
                continue
            one_a, one_b = layer.xora_adapter[name].factors()
            assert torch.equal(a[block], one_a)
            expected = one_b * (weight * layer.xora_adapter[name].scale)
            torch.testing.assert_close(b[:, block], expected)


def test_the_output_is_that_of_the_summed_updates(case: Case) -> None:
    model = summed(case)
    plain = case.make().eval()
    for name, layer in layers(model.get_base_model()).items():
        update = float64_update(layer, NAMES, WEIGHTS)
        weight = plain.get_submodule(name).weight.data
        weight += (update.t() if layer.is_transposed else update).float()
    model.set_adapter("sum")
    torch.testing.assert_close(case.out(model), case.out(plain), rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("name", ["mlp", "gpt2", "embedding"])
def test_stock_peft_adds_the_exports_up_to_the_same(name: str, tmp_path: Path) -> None:
    case = CASES[name]  # with BERT's, PEFT saves the classifier, and then it adds nothing up
    model = summed(case)
    for name in [*NAMES, "sum"]:
        export_peft(model, tmp_path / name, name=name)
    stock = peft.PeftModel.from_pretrained(
        case.make().eval(), str(tmp_path / "default"), adapter_name="default"
    )
    for name in ("other", "third", "sum"):
        stock.load_adapter(str(tmp_path / name), name)
    stock.add_weighted_adapter(NAMES, WEIGHTS, "theirs", combination_type="cat")
    for one in layers(stock).values():
        theirs, ours = (one.get_delta_weight(name) for name in ("theirs", "sum"))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    model.set_adapter("sum")
    stock.set_adapter("sum")
    torch.testing.assert_close(case.out(stock.eval()), case.out(model), rtol=1e-4, atol=1e-4)


def test_what_is_there_stays_as_it_is(case: Case) -> None:
    model = three(case)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    first = case.out(model)
    model.add_weighted_adapter(NAMES, WEIGHTS, "sum")
    assert model.active_adapters == ["default"]
    torch.testing.assert_close(case.out(model), first)
    after = model.state_dict()
    assert all(bits(after[name]).equal(bits(tensor)) for name, tensor in before.items())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == flags.get(name, False)
    for name in NAMES:
        model.delete_adapter(name)
    assert list(model.base_model.mask_plans) == model.active_adapters == ["sum"]


def test_a_sum_is_not_changed_by_what_its_parts_learn_later() -> None:
    model = summed(CASES["mlp"])
    values = {n: p.clone() for n, p in model.named_parameters() if ".sum." in n}
    for layer in layers(model).values():
        nn.init.zeros_(layer.xora_adapter["default"].lora_B)
    assert values
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, values.get(name, parameter))


def test_it_trains_on_as_any_adapter() -> None:
    case = CASES["mlp"]
    model = summed(case)
    model.set_adapter("sum")
    model(case.inputs).pow(2).sum().backward()
    grads = {
        n.split(".xora_adapter.")[1] for n, p in model.named_parameters() if p.grad is not None
    }
    assert grads == {"sum.lora_A", "sum.lora_B"}


def test_sums_can_be_summed_and_run_in_one_batch_with_their_parts(case: Case) -> None:
    model = summed(case)
    model.add_weighted_adapter(["sum", "default"], [1.0, -0.5], "rest")
    model.add_weighted_adapter(["other", "third"], [-2.0, 1.25], "expected")
    names = ["rest", "expected"]
    rows = case.inputs[:1].repeat(2, *[1] * (case.inputs.dim() - 1))
    with torch.no_grad():
        found = model(rows, adapter_names=names)
    found = found if isinstance(found, Tensor) else found.logits
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)
    assert model.peft_config["rest"].r == 80


def test_gates_and_changed_scales_are_in_the_sum() -> None:
    case = CASES["mlp"]
    model = three(case)
    layer = layers(model.get_base_model())["0"]
    layer.xora_adapter["default"].set_rank_gate(torch.linspace(-1, 1, 16))
    layer.xora_adapter["other"].set_module_gate(torch.tensor(0.5))
    layer.set_scale("third", 3)
    model.add_weighted_adapter(NAMES, WEIGHTS, "sum")
    expected = sum(
        weight * layer.get_delta_weight(name) for name, weight in zip(NAMES, WEIGHTS, strict=True)
    )
    torch.testing.assert_close(layer.get_delta_weight("sum"), expected, rtol=1e-4, atol=1e-5)


def test_adapters_whose_modules_differ_in_rank_are_added_up() -> None:
    model = CASES["mlp"].adapted(rank_pattern={"2": 8}, alpha_pattern={"0": 3})
    model.add_adapter("other", CASES["mlp"].config(mask_seed=7, rank_pattern={"0": 32}))
    stir(model, seed=2)
    model.add_weighted_adapter(["default", "other"], [1.5, -2.0], "sum")
    for layer in layers(model.get_base_model()).values():
        expected = float64_update(layer, ["default", "other"], [1.5, -2.0])
        found = layer.get_delta_weight("sum").double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# -- files -----------------------------------------------------------------------------------------


def test_a_saved_sum_is_loaded_alone(case: Case, tmp_path: Path) -> None:
    model = summed(case)
    model.set_adapter("sum")
    model.save_pretrained(str(tmp_path), selected_adapters=["sum"])
    again = peft.PeftModel.from_pretrained(case.make(), str(tmp_path / "sum")).eval()
    torch.testing.assert_close(case.out(again), case.out(model))
    assert again.base_model.mask_plans["default"] == model.base_model.mask_plans["sum"]
    assert len(inspect_mask(tmp_path / "sum").masks) == 2 * len(layers(model))
    fields = json.loads((tmp_path / "sum" / "adapter_config.json").read_text())
    assert (fields["r"], fields["lora_alpha"], fields["scaling"]) == (64, 64, "paper")


def test_a_saved_sum_is_loaded_in_a_new_process(tmp_path: Path) -> None:
    case = CASES["mlp"]
    model = summed(case)
    model.set_adapter("sum")
    model.save_pretrained(str(tmp_path), selected_adapters=["sum"])
    torch.save((case.make().state_dict(), case.inputs, case.out(model)), tmp_path / "case.pt")
    code = """
import sys, torch, peft, expandermask.peft
state, inputs, expected = torch.load(sys.argv[1] + "/case.pt")
model = torch.nn.Sequential(
    torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 64, bias=False)
)
model.load_state_dict(state)
model = peft.PeftModel.from_pretrained(model, sys.argv[1] + "/sum")
torch.testing.assert_close(model(inputs), expected)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_the_verbs_of_adapters_work_on_a_sum(tmp_path: Path) -> None:
    model = summed(CASES["mlp"])
    model.set_adapter("sum")
    inputs = CASES["mlp"].inputs
    expected = CASES["mlp"].out(model)
    save_adapter(model, tmp_path, name="sum")
    fresh = mlp()
    assert load_adapter(fresh, tmp_path) == model.base_model.mask_plans["sum"]
    torch.testing.assert_close(fresh(inputs), expected, rtol=1e-4, atol=1e-5)
    report = parameter_report(model, name="sum")
    assert report.masked.trainable_values == report.lora.trainable_values == 2 * 64 * (64 + 32)
    merge(model)
    torch.testing.assert_close(CASES["mlp"].out(model), expected, rtol=1e-4, atol=1e-4)
    unmerge(model)
    assert torch.equal(model.get_base_model()[0].weight, mlp()[0].weight)


# -- modules to save, and what is refused ----------------------------------------------------------


def test_the_module_that_one_adapter_saves_goes_into_the_sum(tmp_path: Path) -> None:
    case = CASES["bert"]
    model = case.adapted(modules_to_save=["classifier"])
    model.add_adapter("other", case.config(target_modules=["query"], mask_seed=7))
    stir(model, seed=2)
    model.add_weighted_adapter(["other", "default"], [0.0, 1.0], "sum")
    expected = case.out(model.eval())
    model.set_adapter("sum")
    torch.testing.assert_close(case.out(model), expected)
    model.save_pretrained(str(tmp_path), selected_adapters=["sum"])
    again = peft.PeftModel.from_pretrained(case.make(), str(tmp_path / "sum")).eval()
    torch.testing.assert_close(case.out(again), expected)
    model.set_adapter("default")
    nn.init.zeros_(model.get_base_model().classifier.modules_to_save["default"].weight)
    model.set_adapter("sum")
    torch.testing.assert_close(case.out(model), expected)


def test_targets_that_a_list_of_endings_cannot_name_are_named_one_by_one(tmp_path: Path) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        inner = nn.ModuleDict({"fc": nn.LayerNorm(64)})
        return nn.ModuleDict({"fc": nn.Linear(64, 64), "inner": inner, "out": nn.Linear(64, 64)})

    model = peft.get_peft_model(make(), XoraConfig(r=16, target_modules="fc", mask_seed=0))
    model.add_adapter("other", XoraConfig(r=16, target_modules=["out"], mask_seed=1))
    model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum")
    assert list(model.base_model.mask_plans["sum"]) == ["fc", "out"]
    model.save_pretrained(str(tmp_path))
    again = peft.PeftModel.from_pretrained(make(), str(tmp_path / "sum"))
    assert set(layers(again.get_base_model())) == {"fc", "out"}


OTHER_WAYS = ["svd", "linear", "ties", "ties_svd", "dare_ties", "dare_linear", "magnitude_prune"]


@pytest.mark.parametrize("way", [*OTHER_WAYS, "sum"])
def test_ways_that_are_not_exact_are_refused_by_name(way: str) -> None:
    model = three(CASES["mlp"])
    with pytest.raises(AdapterError, match=f'got {way!r}.* pass combination_type="cat"'):
        model.add_weighted_adapter(
            NAMES, WEIGHTS, "sum", combination_type=way, svd_rank=8, density=0.5
        )
    assert set(model.peft_config) == set(model.base_model.mask_plans) == set(NAMES)


@pytest.mark.parametrize(
    ("adapters", "weights", "words"),
    [
        (["default", "new"], [1.0, 1.0], "Adapter new does not exist; there are .'default'"),
        (["default", "other"], [1.0], "got 2 adapters and 1 weights"),
        ([], [], "at least one, got 0 adapters"),
        (["default"], ["much"], "each of weights must be a real number, got 'much'"),
    ],
)
def test_sums_that_make_no_sense_are_refused(
    adapters: list[str], weights: list[float], words: str
) -> None:
    model = three(CASES["mlp"])
    with pytest.raises(ValueError, match=words):
        model.add_weighted_adapter(adapters, weights, "sum")
    assert set(model.peft_config) == set(model.base_model.mask_plans) == set(NAMES)


def test_a_name_that_is_taken_is_left_alone() -> None:
    case = CASES["mlp"]
    model = three(case)
    before = case.out(model)
    model.add_weighted_adapter(NAMES, WEIGHTS, "default")
    assert torch.equal(case.out(model), before)


def test_a_name_that_no_module_can_have_leaves_nothing_behind() -> None:
    model = three(CASES["mlp"])
    with pytest.raises(KeyError):
        model.add_weighted_adapter(NAMES, WEIGHTS, "a.b")
    assert set(model.peft_config) == set(model.base_model.mask_plans) == set(NAMES)


def test_two_adapters_that_save_one_module_are_not_added_up() -> None:
    case = CASES["bert"]
    model = case.adapted(modules_to_save=["classifier"])
    model.add_adapter("other", case.config(mask_seed=7, modules_to_save=["classifier"]))
    with pytest.raises(ValueError, match="same module with modules_to_save, but found 1 such"):
        model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum")


def test_modules_of_unlike_ranks_are_added_up() -> None:
    case = CASES["mlp"]
    model = case.adapted(rank_pattern={"0": 4})
    model.add_adapter("other", case.config(mask_seed=7, rank_pattern={"0": 32}))
    stir(model, seed=2)
    model.add_weighted_adapter(["default", "other"], [0.5, -2.0], "sum")
    for layer in layers(model).values():
        expected = float64_update(layer, ["default", "other"], [0.5, -2.0])
        torch.testing.assert_close(
            layer.get_delta_weight("sum").double(), expected, rtol=1e-5, atol=1e-5
        )


def test_adapters_that_train_biases_are_not_added_up() -> None:
    model = CASES["mlp"].adapted(bias="lora_only")
    with pytest.raises(AdapterError, match="adapter 'default' trains biases"):
        model.add_weighted_adapter(["default"], [1.0], "sum")
    assert list(model.peft_config) == ["default"]
