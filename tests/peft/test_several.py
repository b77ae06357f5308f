"""Several adapters of PEFT at once: in one batch, in a list, and each with a scale of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from expandermask import MaskPlan
from expandermask.adapters import change_masks, export_peft
from expandermask.peft import XoraConfig
from tests.adapters.models import gpt2, tokens
from tests.peft.cases import CASES, Case, frozen, layers, outputs, stir


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def three(case: Case, **settings: object) -> peft.PeftModel:
    """Adapters of unlike masks, ranks and values; the third has one module only."""
    model = case.adapted(**settings)
    model.add_adapter("other", case.config(mask_seed=7, r=32, left_degree=4, **settings))
    first = next(iter(model.base_model.mask_plans["default"]))
    model.add_adapter("third", case.config(mask_seed=8, target_modules=[first], **settings))
    stir(model, seed=2)
    return model.eval()


def alone(model: peft.PeftModel, name: str, inputs: Tensor) -> Tensor:
    """What one adapter computes, the others being off."""
    with torch.no_grad():
        if name == "__base__":
            with model.disable_adapter():
                return outputs(model, inputs)
        model.set_adapter(name)
        return outputs(model, inputs)


def in_one_batch(model: peft.PeftModel, names: list[str], inputs: Tensor) -> Tensor:
    with torch.no_grad():
        found = model(inputs, adapter_names=names)
    return found if isinstance(found, Tensor) else found.logits


def batch(case: Case) -> tuple[Tensor, list[str]]:
    names = ["other", "default", "__base__", "third", "other", "default"]
    rows = torch.cat([case.inputs, case.inputs.flip(0)])[: len(names)]
    rows[:, 0] = 0  # for an embedding, the padding
    return rows, names


def row_by_row(model: peft.PeftModel, names: list[str], inputs: Tensor) -> Tensor:
    each = [alone(model, name, inputs[i : i + 1]) for i, name in enumerate(names)]
    return torch.cat(each)


def test_each_row_is_computed_with_its_own_adapter(case: Case) -> None:
    model = three(case)
    inputs, names = batch(case)
    expected = row_by_row(model, names, inputs)
    assert not torch.allclose(expected[0], alone(model, "default", inputs[:1])[0], atol=1e-3)
    torch.testing.assert_close(in_one_batch(model, names, inputs), expected, rtol=1e-4, atol=1e-5)
    assert model.active_adapters == ["default"]


@pytest.mark.parametrize("name", ["bert", "embedding"])
def test_each_row_has_the_head_of_its_own_adapter(name: str) -> None:
    case = CASES[name]
    model = three(case, modules_to_save=[case.head])
    inputs, names = batch(case)
    expected = row_by_row(model, names, inputs)
    model.set_adapter("third")
    torch.testing.assert_close(in_one_batch(model, names, inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_a_batch_is_what_stock_peft_computes_of_the_exports(case: Case, tmp_path: Path) -> None:
    model = three(case)
    inputs, names = batch(case)
    for name in model.peft_config:
        export_peft(model, tmp_path / name, name=name)
    stock = peft.PeftModel.from_pretrained(
        case.make().eval(), str(tmp_path / "default"), adapter_name="default"
    )
    for name in ("other", "third"):
        stock.load_adapter(str(tmp_path / name), name)
    found = in_one_batch(model, names, inputs)
    expected = in_one_batch(stock.eval(), names, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_in_half_precision(case: Case) -> None:
    model = three(case)
    inputs, names = batch(case)
    expected = in_one_batch(model, names, inputs)
    for layer in layers(model).values():
        layer.base_layer.to(torch.bfloat16)
    rows = inputs.bfloat16() if inputs.is_floating_point() else inputs
    model.get_base_model().to(torch.bfloat16)
    found = in_one_batch(model, names, rows)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.05 * expected.norm()


def test_a_batch_without_rows_has_the_shape_of_the_base_s(case: Case) -> None:
    model = three(case)
    empty = case.inputs[:0]
    if isinstance(model(case.inputs), Tensor):
        assert in_one_batch(model, [], empty).shape == case.out(model)[:0].shape


@pytest.mark.parametrize("two", [torch.tensor(2.0), np.float32(2), np.int64(2), 2])
def test_a_scale_may_be_any_kind_of_number(two: object) -> None:
    model = CASES["mlp"].adapted()
    layer = layers(model)["base_model.model.0"]
    x = torch.randn(1, 64)
    once = layer.base_layer(x) + x @ layer.get_delta_weight("default").t()
    layer.set_scale("default", two)
    layer.scale_layer(two)
    layer.unscale_layer(two)
    with torch.no_grad():  # a few tokens
        expected = 2 * once - layer.base_layer(x)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_a_scale_that_was_changed_stays_so_when_masks_change() -> None:
    model = CASES["mlp"].adapted()
    layer = layers(model)["base_model.model.0"]
    layer.set_scale("default", 0.5)
    plan = model.base_model.mask_plans["default"]
    shapes = {place: pair.shape for place, pair in plan.items()}
    change_masks(model, MaskPlan.for_shapes(shapes, r=16, left_degree=4, rng=5))
    assert layer.adapter("default").scale == pytest.approx(0.5 * 16 / (16 * 4) ** 0.5)
    assert layers(model)["base_model.model.2"].adapter("default").scale == 16 / (16 * 4) ** 0.5


def test_the_base_is_computed_once_for_all_rows() -> None:
    case = CASES["mlp"]
    model = three(case)
    inputs, names = batch(case)
    seen = []
    base = layers(model)["base_model.model.0"].base_layer
    base.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    in_one_batch(model, names, inputs)
    assert seen == [6]


def test_a_batch_has_the_gradients_of_its_rows(case: Case) -> None:
    model = three(case)
    inputs, names = batch(case)
    expected: dict[str, Tensor] = {}
    for i, name in enumerate(names):
        if name == "__base__":
            continue
        model.set_adapter(name)
        model.zero_grad()
        outputs(model, inputs[i : i + 1]).pow(2).sum().backward()
        for own, parameter in model.named_parameters():
            if parameter.grad is not None:
                expected[own] = expected.get(own, 0) + parameter.grad
    model.zero_grad()
    model.set_requires_grad(["default", "other", "third"])
    found = model(inputs, adapter_names=names)
    (found if isinstance(found, Tensor) else found.logits).pow(2).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() == expected.keys()
    for own, grad in grads.items():
        torch.testing.assert_close(grad, expected[own], rtol=1e-3, atol=1e-3, msg=own)


def test_a_batch_that_does_not_fit_is_refused_and_leaves_the_model() -> None:
    case = CASES["mlp"]
    model = three(case)
    names = ["default"] * len(case.inputs)
    before = case.out(model)

    def hooks() -> list[int]:
        return [len(layer._forward_pre_hooks) for layer in layers(model).values()]

    waiting = hooks()

    def refused(names: list[str], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            model(case.inputs, adapter_names=names)
        assert hooks() == waiting

    refused(names[1:], "same as the number of inputs, but got 4 and 5 respectively")
    refused([*names[2:], "new", "a"], r"non-existing adapter\(s\): a, new; there are \['default'")
    model.train()
    refused(names, "in training mode")
    model.eval()
    model.merge_adapter()
    refused(names, "there are merged adapters")
    model.unmerge_adapter()
    torch.testing.assert_close(case.out(model), before)


def test_names_of_rows_mean_nothing_while_adapters_are_disabled(case: Case) -> None:
    model = three(case)
    with model.disable_adapter():
        found = in_one_batch(model, ["default"] * len(case.inputs), case.inputs)
    assert torch.equal(found, case.out(case.make().eval()))


def t5() -> nn.Module:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=90,
        d_model=64,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).eval()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("make", "task"), [(gpt2, "CAUSAL_LM"), (t5, "SEQ_2_SEQ_LM")])
def test_each_row_generates_with_its_own_adapter(make: object, task: str, beams: int) -> None:
    config = XoraConfig(r=16, mask_seed=0, target_modules="all-linear", task_type=task)
    model = peft.get_peft_model(make(), config)
    model.add_adapter("other", XoraConfig(r=16, mask_seed=1, task_type=task))
    stir(model)
    names = ["other", "default", "__base__"]
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "num_beams": beams}
    prompts = tokens()[:, :5] + 1 if task == "SEQ_2_SEQ_LM" else tokens()[:, :5]
    prompts = prompts.clamp(max=89)
    found = model.eval().generate(input_ids=prompts, adapter_names=names, **settings)
    for i, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                expected = model.generate(input_ids=prompts[i : i + 1], **settings)
        else:
            model.set_adapter(name)
            expected = model.generate(input_ids=prompts[i : i + 1], **settings)
        assert torch.equal(found[i : i + 1], expected)


# -- a list of adapters ----------------------------------------------------------------------------


@pytest.mark.parametrize("inference", [False, True])
def test_a_list_of_adapters_runs_and_trains_unless_for_inference(
    case: Case, inference: bool
) -> None:
    model = three(case)
    updates = {n: layer.get_delta_weight for n, layer in layers(model).items()}
    chosen = ["third", "default"]
    model.base_model.set_adapter(chosen, inference_mode=inference)
    assert model.active_adapters == chosen
    trained = {n.split(".xora_adapter.")[1] for n, p in model.named_parameters() if p.requires_grad}
    expected = {f"{name}.lora_{side}" for name in chosen for side in "AB"}
    assert trained == (set() if inference else expected)
    found = case.out(model)
    plain = case.make().eval()
    for place, update in updates.items():
        weight = plain.get_submodule(place.removeprefix("base_model.model.")).weight.data
        for name in chosen:
            if name in layers(model)[place].xora_adapter:
                weight += update(name).detach()
    torch.testing.assert_close(found, case.out(plain), rtol=1e-4, atol=1e-4)


def test_two_adapters_that_save_one_module_are_not_activated_together() -> None:
    case = CASES["bert"]
    model = three(case, modules_to_save=[case.head])
    with pytest.raises(ValueError, match="Only one adapter can be set at a time"):
        model.base_model.set_adapter(["default", "other"])


def test_an_unknown_adapter_is_not_deleted_or_activated() -> None:
    model = three(CASES["mlp"])
    for holder in (model, model.base_model):
        with pytest.raises(ValueError, match="Adapter new does not exist"):
            holder.delete_adapter("new")
    with pytest.raises(ValueError, match="Adapter new not found"):
        model.set_adapter("new")
    assert list(model.peft_config) == ["default", "other", "third"]


# -- scales ----------------------------------------------------------------------------------------


def scaled(model: peft.PeftModel, case: Case) -> list[Tensor]:
    """The outputs after each of PEFT's ways to change scales."""
    changes = [
        lambda layer: layer.set_scale("default", -0.5),
        lambda layer: layer.scale_layer(3),
        lambda layer: layer.scale_layer(1),
        lambda layer: layer.set_scale("not there", 9),
        lambda layer: layer.unscale_layer(4),
        lambda layer: layer.set_scale("other", 2),
        lambda layer: layer.unscale_layer(),
        lambda layer: layer.set_scale("default", 2),
    ]
    found = []
    for change in changes:
        for layer in layers(model).values():
            change(layer)
        found.append(case.out(model))
    return found


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("name", ["mlp", "gpt2"])
def test_scales_change_as_those_of_stock_peft(name: str, tmp_path: Path) -> None:
    case = CASES[name]  # PEFT's own scale_layer passes over embeddings
    model = three(case)
    model.delete_adapter("third")
    for name in model.peft_config:
        export_peft(model, tmp_path / name, name=name, compact=True)
    stock = peft.PeftModel.from_pretrained(case.make().eval(), str(tmp_path / "default"))
    stock.load_adapter(str(tmp_path / "other"), "other")
    for one in (model, stock):
        one.base_model.set_adapter(["default", "other"])
    first = case.out(model)
    found, expected = scaled(model, case), scaled(stock.eval(), case)
    assert not torch.allclose(found[0], first, atol=1e-3)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_scales_multiply_the_updates_of_the_active_adapters(case: Case) -> None:
    model = three(case)
    model.base_model.set_adapter(["default", "third"])
    for layer in layers(model).values():
        update = {name: layer.get_delta_weight(name) for name in layer.xora_adapter}
        layer.set_scale("default", -0.5)
        layer.scale_layer(4)
        layer.unscale_layer(2)
        for name, factor in {"default": -1, "other": 1, "third": 2}.items():
            if name in update:
                torch.testing.assert_close(layer.get_delta_weight(name), factor * update[name])
        layer.unscale_layer()
        for name, before in update.items():
            torch.testing.assert_close(layer.get_delta_weight(name), before)


def test_a_changed_scale_is_merged_and_taken_out_again(case: Case) -> None:
    model = case.adapted()
    rest = frozen(model)
    for layer in layers(model).values():
        layer.set_scale("default", 0.25)
    expected = case.out(model)
    model.merge_adapter()
    torch.testing.assert_close(case.out(model), expected, rtol=1e-4, atol=1e-4)
    for layer in layers(model).values():
        layer.unscale_layer()
    model.unmerge_adapter()
    for name, tensor in frozen(model).items():
        assert torch.equal(tensor, rest[name])


def test_pefts_helpers_work_on_these_layers(case: Case) -> None:
    model = three(case)
    expected = case.out(model)
    with disable_input_dtype_casting(model):
        torch.testing.assert_close(case.out(model), expected)
    trained, total = model.get_nb_trainable_parameters()
    assert trained == model.base_model.mask_plans["default"].num_values
    assert total == sum(p.numel() for p in model.parameters())
    status = model.get_layer_status()
    assert {one.name for one in status} == {n.removeprefix("base_model.") for n in layers(model)}
    assert model.get_model_status().available_adapters == ["default", "other", "third"]
