"""Quantized layers one by one: packed ones, unknown ones, tables, dtypes, bitsandbytes' layout."""

from __future__ import annotations

import copy
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
    MaskedLinear,
    XoraConfig,
    attach,
    detach,
    load_adapter,
    merge,
    save_adapter,
    unmerge,
)
from expandermask.errors import AdapterError
from expandermask.masks.targets import find_targets
from tests.adapters.models import SMALL, attached, bert, layers, same, state, trainable


class PackedLinear(nn.Module):
    """No nn.Linear, no ``weight``: what AWQ's, GPTQ's and HQQ's layers have in common."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scales = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("qweight", (linear.weight / self.scales).round().to(torch.int8).t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.qweight.to(x.dtype) * self.scales.t())


class Rounded(nn.Linear):
    """A linear layer whose weight is stored as other numbers, with a scale of its own."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(64, 32)
        self.weight = nn.Parameter((self.weight * 100).to(dtype), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) / 100, self.bias)


def packed() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.Linear(64, 32, bias=False), nn.Linear(32, 64, bias=False)
    return nn.Sequential(PackedLinear(first), nn.Tanh(), PackedLinear(second))


def x_of(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))


def test_packed_linear_layers_are_adapted_and_saved(tmp_path: Path) -> None:
    model, x = packed(), x_of(5, 64)
    assert find_targets(model) == {"0": (32, 64), "2": (64, 32)}
    plain = model(x)
    attached(model)
    y = model(x)
    assert (y - plain).abs().max() > 0.1
    y.square().sum().backward()
    assert len(trainable(model)) == 4
    assert all(p.grad.abs().max() > 0 and p.dtype == torch.float32 for p in trainable(model))
    assert model[0].in_features == 64
    assert model[0].bias is None
    save_adapter(model, tmp_path)
    again = packed()
    load_adapter(again, tmp_path)
    assert torch.equal(again(x), y)
    with pytest.raises(AdapterError, match=r"'0' \(PackedLinear, nothing by that name\)"):
        merge(model, dequantize=True)
    detach(model)
    assert torch.equal(model(x), plain)


def test_what_only_looks_like_a_packed_linear_is_left_alone() -> None:
    class LinearNorm(nn.Module):
        """Integers, but no sizes of a linear layer."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.tensor(0))

    class TwoLinears(nn.Module):
        """The sizes, but its weights are those of its children."""

        def __init__(self) -> None:
            super().__init__()
            self.in_features, self.out_features = 64, 64
            self.inner = nn.Linear(64, 64)

    model = nn.Sequential(LinearNorm(), TwoLinears(), nn.Bilinear(8, 8, 8))
    assert find_targets(model) == {"1.inner": (64, 64)}


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_a_weight_no_library_can_decode_is_refused_whichever_way_is_asked(
    dtype: torch.dtype,
) -> None:
    model = nn.Sequential(nn.Linear(64, 64), Rounded(dtype))
    attached(model)
    before = state(model)
    for options in ({}, {"dequantize": True}):
        with pytest.raises(AdapterError, match="'1'"):
            merge(model, **options)
        assert same(state(model), before)
        assert not any(layer.merged for layer in layers(model))


def test_hqq_layers() -> None:
    quantize = pytest.importorskip("hqq.core.quantize")
    config = quantize.BaseQuantizeConfig(nbits=4, group_size=64)
    linear = nn.Linear(64, 32)
    base = quantize.HQQLinear(
        copy.deepcopy(linear), config, compute_dtype=torch.float32, device="cpu"
    )
    model, x = nn.Sequential(nn.Linear(64, 64), base), x_of(5, 64)
    attached(model)
    assert model[1].out_features == 32
    y = model(x)
    y.sum().backward()
    assert model[0].adapter("default").lora_B.grad.abs().max() > 0
    merge(model, dequantize=True)
    torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-4)
    unmerge(model)
    assert torch.equal(model(x), y)
    assert model[1].base is base


# -- torchao --------------------------------------------------------------------------------------


class ClampedEmbedding(nn.Embedding):
    """A model's own class: numbers beyond the table get its last row."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids.clamp(max=self.num_embeddings - 1))


def test_a_table_of_its_own_class_keeps_its_class_while_merged() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    model, ids = nn.Sequential(ClampedEmbedding(64, 32)), torch.arange(60, 70)
    config = torchao.IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=torchao.PerAxis(0))
    torchao.quantize_(model, config, filter_fn=lambda module, _: isinstance(module, nn.Embedding))
    own, plain = model[0], model(ids)
    attach(model, AdapterConfig(r=16, target_modules=["0"]), rng=0)
    merge(model, dequantize=True)
    assert type(model[0].base) is ClampedEmbedding
    assert type(model[0].base.weight) is nn.Parameter
    assert "Int8" not in repr(model[0].base)
    torch.testing.assert_close(model(ids), plain)
    unmerge(model)
    assert model[0].base is own
    assert "Int8" in type(own.weight).__name__


# -- bitsandbytes ---------------------------------------------------------------------------------


def nf4(**options: Any) -> nn.Sequential:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    made = [bitsandbytes.nn.LinearNF4(64, 64, **options) for _ in range(2)]
    return nn.Sequential(made[0], nn.Tanh(), made[1]).to("cpu").eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_stands_in_has_the_dtype_the_model_computes_in(dtype: torch.dtype, bias: bool) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    linear = bitsandbytes.nn.Linear8bitLt(64, 64, bias=bias, has_fp16_weights=False)
    model = nn.Sequential(nn.Embedding(64, 64), linear.to("cpu")).to(dtype)
    attached(model, AdapterConfig(r=16, target_modules=["1"]))
    ids = torch.arange(9)
    before = model(ids)
    merge(model, dequantize=True)
    assert model[1].weight.dtype == model(ids).dtype == dtype
    torch.testing.assert_close(model(ids), before, rtol=0.05, atol=0.05)
    detach(model, keep_merged=True)
    assert model(ids).dtype == dtype


def test_a_quantized_base_goes_where_the_merged_model_goes() -> None:
    model = nf4()
    attached(model)
    merge(model, dequantize=True)
    model.to(torch.bfloat16)
    unmerge(model)
    assert all(layer.base.bias.dtype == torch.bfloat16 for layer in layers(model))
    assert model(x_of(5, 64).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["Embedding8bit", "EmbeddingNF4"])
def test_quantized_tables(kind: str) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model, ids = nn.Sequential(getattr(bitsandbytes.nn, kind)(128, 64).to("cpu")), torch.arange(9)
    attached(model, AdapterConfig(r=16, target_modules=["0"]))
    before = model(ids)
    merge(model, dequantize=True)
    torch.testing.assert_close(model(ids), before, rtol=1e-3, atol=1e-3)
    assert type(model[0].base) is nn.Embedding
    unmerge(model)
    assert torch.equal(model(ids), before)


def by_attach(model: nn.Module) -> Callable[[], None]:
    attach(model, SMALL, rng=0)
    return lambda: detach(model)


def by_peft(model: nn.Module) -> Callable[[], None]:
    targets = SMALL.target_modules
    names = targets if isinstance(targets, str) else list(targets)
    config = XoraConfig(r=SMALL.r, target_modules=names, mask_seed=0)
    return peft.get_peft_model(model, config).unload


@pytest.mark.parametrize("put_on", [by_attach, by_peft])
def test_weights_are_not_packed_for_inference_while_adapted(
    put_on: Callable[[nn.Module], Callable[[], None]],
) -> None:
    model, x = nf4(), x_of(5, 64)
    if not model[0].support_avx512bf16_for_cpu:
        pytest.skip("bitsandbytes packs weights only on CPUs with AVX512-BF16")
    take_off = put_on(model)
    with torch.no_grad():
        model(x)
    model(x).sum().backward()
    assert model[0].adapter("default").lora_B.grad.abs().max() > 0
    take_off()
    assert model[0].support_avx512bf16_for_cpu
    with torch.no_grad():
        model(x)
    assert model[0].weight.quant_state.packing_format_for_cpu
    with pytest.raises(AdapterError, match="packed the 4-bit weight of '0' for inference"):
        put_on(model)
    assert not layers(model)


def test_a_layer_left_out_of_the_targets_passes_gradients_too() -> None:
    model, x = nf4(), x_of(5, 64)
    attach(model, AdapterConfig(r=16, target_modules=["0"]), rng=0)
    with torch.no_grad():
        model(x)
    model(x).sum().backward()
    assert model[0].adapter("default").lora_B.grad.abs().max() > 0


# -- modules to save ------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["torchao", "bitsandbytes"])
def test_a_quantized_module_to_save_is_refused(library: str) -> None:
    pytest.importorskip(library)
    model = bert()
    if library == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(model, Int8WeightOnlyConfig(), lambda _, name: name == "classifier")
    else:
        model.classifier = nf4()[0]
    config = AdapterConfig(r=16, target_modules=["query"], modules_to_save=["classifier"])
    with pytest.raises(AdapterError, match=r"'classifier.weight'.*quantized.*cannot train"):
        attach(model, config, rng=0)
    assert not any(isinstance(module, MaskedLinear) for module in model.modules())
    assert len(MaskPlan.for_model(model, r=16, rng=0)) == 13
