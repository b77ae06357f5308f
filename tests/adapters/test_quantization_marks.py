"""A quantized model whose weights are plain after merging is saved as what it is then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    TorchAoConfig,
)

from expandermask.adapters import AdapterConfig, attach, detach, merge, unmerge
from expandermask.adapters.layers.quantized import forbid_packing
from tests.adapters.models import randomise

KINDS: dict[str, Any] = {
    "int8": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "nf4": lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "torchao": lambda: TorchAoConfig(Int8WeightOnlyConfig()),
}
IDS = torch.arange(10)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def quantized(base: Path, kind: str) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(
        base, quantization_config=KINDS[kind](), dtype=torch.float32, device_map="cpu"
    ).eval()


def merged(base: Path, kind: str, targets: str | list[str]) -> nn.Module:
    model = quantized(base, kind)
    attach(model, AdapterConfig(r=8, target_modules=targets), rng=0)
    randomise(model)
    merge(model, dequantize=True)
    return model


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_dequantized_model_loads_and_computes_the_same(
    kind: str, detached: bool, targets: str | list[str], base: Path, tmp_path: Path
) -> None:
    model = merged(base, kind, targets)
    if detached:
        detach(model, keep_merged=True)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for one in (model, again):  # packing rounds the scales, on processors that have AVX512-BF16
        forbid_packing(one)
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)
    assert hasattr(again.config, "quantization_config") is (targets != "all-linear")
    for name in ("q_proj", "down_proj"):
        places = [n for n, _ in again.named_modules() if n.endswith(name)]
        assert all(type(again.get_submodule(n)) is nn.Linear for n in places)


@pytest.mark.parametrize("back", [unmerge, detach])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_model_that_is_quantized_again_says_so(kind: str, back: Any, base: Path) -> None:
    plain = quantized(base, kind)
    model = merged(base, kind, "all-linear")
    assert not getattr(model, "is_quantized", False)
    back(model)
    assert model.is_quantized
    assert model.hf_quantizer is not None
    assert model.config.quantization_config.to_dict() == plain.config.quantization_config.to_dict()


def test_a_model_that_was_never_quantized_is_left_alone(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    attach(model, AdapterConfig(r=8), rng=0)
    before = model.config.to_dict()
    merge(model, dequantize=True)
    unmerge(model)
    assert model.config.to_dict() == before
