"""A quantized base from loading to a plain model: trained, saved, loaded, merged, detached, saved.

The yardstick is the base alone. Its own outputs change when its weights are decoded, since int8
kernels round their inputs too; a merged adapter may change them by as much, and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from expandermask.adapters import (
    AdapterConfig,
    XoraConfig,
    attach,
    detach,
    load_adapter,
    merge,
    save_adapter,
)
from expandermask.adapters.layers.quantized import forbid_packing, is_quantized, weight_of
from tests.adapters.models import randomise
from tests.adapters.test_quantization_marks import IDS, KINDS, logits, quantized
from tests.adapters.test_quantization_marks import base as base

TARGETS = ["q_proj", "v_proj", "down_proj"]
ALL = "all-linear"


def by_attach(model: nn.Module, targets: Any) -> nn.Module:
    attach(model, AdapterConfig(r=8, target_modules=targets), rng=0)
    return model


def by_peft(model: nn.Module, targets: Any) -> nn.Module:
    return get_peft_model(model, XoraConfig(r=8, target_modules=targets, mask_seed=0))


def reload_attached(model: nn.Module, folder: Path) -> nn.Module:
    load_adapter(model, folder)
    return model


def reload_peft(model: nn.Module, folder: Path) -> nn.Module:
    return PeftModel.from_pretrained(model, folder)


WAYS: dict[str, tuple[Callable[..., nn.Module], Callable[..., None], Callable[..., nn.Module]]] = {
    "attach": (by_attach, save_adapter, reload_attached),
    "peft": (by_peft, lambda model, folder: model.save_pretrained(folder), reload_peft),
}


def step(model: nn.Module) -> list[Tensor]:
    """One step of training; how far each trained tensor moved."""
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    model.train()
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    model.eval()
    return [(p - b).abs().max() for p, b in zip(trained, before, strict=True)]


def decoding_error(base: Path, kind: str, targets: Any) -> float:
    """By how much the base's own outputs change when its weights are decoded."""
    model = quantized(base, kind)
    forbid_packing(model)
    expected = logits(model)
    merge(by_attach(model, targets), dequantize=True)
    return float((logits(model) - expected).abs().max())


def plain_model(model: nn.Module, way: str) -> nn.Module:
    """The model with its adapter merged and off."""
    if way == "attach":
        merge(model, dequantize=True)
        detach(model, keep_merged=True)
        return model
    merge(model, dequantize=True)
    return model.merge_and_unload()


@pytest.mark.parametrize("targets", [TARGETS, ALL], ids=["some", "all"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_from_loading_to_a_plain_model(
    kind: str, way: str, targets: Any, base: Path, tmp_path: Path
) -> None:
    adapt, save, load = WAYS[way]
    model = adapt(quantized(base, kind), targets)
    forbid_packing(model)
    unchanged = logits(model)
    randomise(model)
    assert min(step(model)) > 0
    trained = logits(model)
    assert (trained - unchanged).abs().max() > 0.1

    save(model, tmp_path / "adapter")
    again = load(quantized(base, kind), tmp_path / "adapter").eval()
    forbid_packing(again)
    torch.testing.assert_close(logits(again), trained, rtol=1e-5, atol=1e-5)

    plain = plain_model(again, way)
    forbid_packing(plain)  # which those that stay quantized may do again
    error = float((logits(plain) - trained).abs().max())
    assert error <= decoding_error(base, kind, targets) + 1e-5
    plain.save_pretrained(tmp_path / "plain")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32).eval()
    forbid_packing(loaded)
    torch.testing.assert_close(logits(loaded), logits(plain), rtol=1e-5, atol=1e-5)
    for name, module in loaded.named_modules():
        if name.endswith(tuple(TARGETS)):
            assert not is_quantized(weight_of(module))
