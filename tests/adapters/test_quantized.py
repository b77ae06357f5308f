"""Quantized bases: adapters train on them untouched; dequantized copies take merged updates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import (
    AdapterConfig,
    attach,
    detach,
    disable_adapters,
    export_peft,
    load_adapter,
    merge,
    save_adapter,
    unmerge,
)
from expandermask.adapters.layers import kernel
from expandermask.adapters.layers.compute import MaskedAffine
from expandermask.errors import AdapterError
from tests.adapters.models import layers, randomise, trainable
from tests.adapters.quantized import BASES, HEAD, batch, minilm, outputs, stored

CONFIG = AdapterConfig(r=16, modules_to_save=[HEAD])
Make = Callable[[], nn.Module]


def adapted(make: Make, *, drawn: bool = True) -> nn.Module:
    """A quantized model with an adapter on it whose values do something."""
    model = make()
    attach(model, CONFIG, rng=0)
    if drawn:
        draw(model)
    return model


def draw(model: nn.Module) -> None:
    """Values as after training: the updates are a fraction of the weights."""
    randomise(model)
    with torch.no_grad():
        for layer in layers(model):
            layer.adapter("default").lora_B.mul_(0.2)


def rounding(make: Make) -> float:
    """How far logits of about 3 may be apart: only bitsandbytes rounds activations to int8 too."""
    return 0.2 if make.__name__ == "bitsandbytes_int8" else 1e-4


def base_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t for n, t in stored(model).items() if ".adapters." not in n and HEAD not in n}


def unchanged(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(t.equal(second[n]) for n, t in first.items())


@pytest.mark.parametrize("make", BASES)
def test_training_moves_the_values_and_no_bit_of_the_base(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    shapes = {name: pair.shape for name, pair in MaskPlan.for_model(model, r=16, rng=0).items()}
    attach(model, CONFIG, rng=0)
    plain = minilm()
    assert shapes == {n: tuple(plain.get_submodule(n).weight.shape) for n in shapes}
    assert len(shapes) == 37
    forbid_fusing(monkeypatch)
    before = base_of(model)
    outputs(model)
    first = train(model, steps=1)
    grads = {n: p.grad.abs().max().item() for n, p in model.named_parameters() if p.requires_grad}
    assert len(grads) == 2 * len(shapes) + 2
    assert all(g > 0 for n, g in grads.items() if not n.endswith("lora_A"))
    last = train(model, steps=3)
    assert last < 0.5 * first
    assert unchanged(base_of(model), before)
    assert all(layer.adapter("default").lora_A.dtype == torch.float32 for layer in layers(model))


def forbid_fusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both functions that read a base's weight, instead of calling the base, fail."""

    def refuse(*_: Any) -> None:
        raise AssertionError("computed from the weight of the base, not from its output")

    monkeypatch.setattr(MaskedAffine, "apply", refuse)
    monkeypatch.setattr(kernel, "masked_linear", refuse)


def train(model: nn.Module, *, steps: int) -> float:
    """The loss before the last step."""
    optimizer = torch.optim.AdamW(trainable(model), lr=0.01)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
    model.eval()
    return loss.item()


def test_the_texts_are_enough_to_be_fused_on_a_plain_base(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_fusing(monkeypatch)
    with pytest.raises(AssertionError, match="not from its output"):
        outputs(adapted(minilm))


@pytest.mark.parametrize("make", BASES)
def test_what_stands_in_while_merged_is_the_weight_that_was_quantized(make: Make) -> None:
    model = adapted(make, drawn=False)
    merge(model, dequantize=True)
    four_bit = make.__name__.endswith("4")
    plain = minilm()
    for name, module in plain.named_modules():
        if isinstance(module, nn.Linear) and name != HEAD:
            own = model.get_submodule(name).base
            assert type(own) is nn.Linear
            assert torch.equal(own.bias, module.bias)
            error = (own.weight - module.weight).norm() / module.weight.norm()
            assert 0 < error < (0.2 if four_bit else 0.05)


@pytest.mark.parametrize("make", BASES)
def test_merging_and_its_undoing(make: Make) -> None:
    model = make()
    own = dict(model.named_modules())
    attach(model, CONFIG, rng=0)
    draw(model)
    modules, before, trained = dict(model.named_modules()), stored(model), outputs(model)
    with pytest.raises(AdapterError, match=r"quantized.*merge\(model, dequantize=True\)"):
        merge(model)
    assert unchanged(stored(model), before)
    with disable_adapters(model):
        bare = outputs(model)
    assert (trained - bare).abs().max() > 1

    merge(model, dequantize=True)
    merged = outputs(model)
    torch.testing.assert_close(merged, trained, rtol=0, atol=rounding(make))
    with disable_adapters(model):
        assert torch.equal(outputs(model), bare)
    assert torch.equal(outputs(model), merged)
    unmerge(model)
    assert all(model.get_submodule(name) is module for name, module in modules.items())
    assert unchanged(stored(model), before)
    assert torch.equal(outputs(model), trained)

    merge(model, dequantize=True)
    detach(model)
    assert all(model.get_submodule(name) is module for name, module in own.items())


@pytest.mark.parametrize("make", BASES)
def test_a_merged_model_can_be_kept_without_its_quantized_base(make: Make) -> None:
    model = adapted(make)
    merge(model, dequantize=True)
    merged = outputs(model)
    detach(model, keep_merged=True)
    assert not layers(model)
    assert list(model.state_dict()) == list(minilm().state_dict())
    assert all(type(p) is nn.Parameter for p in model.parameters())
    assert torch.equal(outputs(model), merged)


@pytest.mark.parametrize("make", BASES)
def test_saved_and_exported_on_a_freshly_quantized_model(make: Make, tmp_path: Path) -> None:
    model = adapted(make)
    expected = outputs(model)
    save_adapter(model, tmp_path / "own")
    export_peft(model, tmp_path / "peft")
    again = make()
    load_adapter(again, tmp_path / "own")
    assert torch.equal(outputs(again), expected)
    base = make()
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # or bitsandbytes rounds in PEFT's model
            module.support_avx512bf16_for_cpu = False
    stock = peft.PeftModel.from_pretrained(base, str(tmp_path / "peft")).eval()
    torch.testing.assert_close(outputs(stock), expected, rtol=0, atol=rounding(make))
