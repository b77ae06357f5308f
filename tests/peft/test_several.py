"""Several adapters of PEFT at once: in one batch, in a list, and each with a scale of its own."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from expandermask.adapters import export_peft
from expandermask.errors import AdapterError
from expandermask.peft import XoraConfig
from tests.adapters.models import bert, gpt2, tokens
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


def test_the_base_is_computed_once_for_all_rows() -> None:
    case = CASES["mlp"]
    model = three(case)
    inputs, names = batch(case)
    seen = []
    base = layers(model)["base_model.model.0"].base_layer
    base.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    in_one_batch(model, names, inputs[: len(names)][:5].repeat(2, 1)[:6])
    assert seen == [6]


def test_gradients_flow_through_a_batch_in_evaluation_mode(case: Case) -> None:
    model = three(case)
    inputs, names = batch(case)

    def grads() -> dict[str, Tensor]:
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found

    model.set_requires_grad(["default", "other", "third"])
    found = model(inputs, adapter_names=names)
    (found if isinstance(found, Tensor) else found.logits).pow(2).sum().backward()
    together = grads()
    for i, name in enumerate(names):
        if name == "__base__":
            continue
        model.set_adapter(name)
        outputs(model, inputs[i : i + 1]).pow(2).sum().backward()
        for own, parameter in model.named_parameters():
            if parameter.grad is not None:
                together[own] -= parameter.grad
        model.zero_grad()
    scale = max(float(tensor.abs().max()) for tensor in found_norms(together))
    assert scale < 1e-2
    assert together


def found_norms(tensors: dict[str, Tensor]) -> list[Tensor]:
    return list(tensors.values())
