"""A masked layer and the dense oracle with the same values."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from expandermask import MaskPlan
from expandermask.adapters import MaskedAdapter, MaskedLinear
from expandermask.adapters.layers.adapter import value_dtype
from expandermask.adapters.layers.masked import masked_layer
from expandermask.masks import MaskPair
from tests.oracles.masked_lora import DenseMaskedLoRA, scatter_rows

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def build(
    d: int,
    k: int,
    r: int,
    degree: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    conv: bool = False,
    bias: bool = True,
) -> tuple[MaskedLinear, DenseMaskedLoRA]:
    """A masked layer with random values, and the oracle with the same ones."""
    torch.manual_seed(seed)
    base: nn.Module = Conv1D(d, k) if conv else nn.Linear(k, d, bias=bias)
    base = base.to(dtype).requires_grad_(False)
    pair = MaskPlan.for_shapes({"m": (d, k)}, r=r, left_degree=degree, rng=seed)["m"]
    layer = wrapped(base, pair, scale=0.7, seed=seed)
    adapter = the_adapter(layer)
    with torch.no_grad():
        adapter.lora_B.normal_()
    mask_a, mask_b = pair.a.mask(), pair.b.mask()
    a = scatter_rows(adapter.lora_A.detach().numpy(), mask_a).T
    b = scatter_rows(adapter.lora_B.detach().numpy(), mask_b)
    oracle = DenseMaskedLoRA(
        base.weight.T if conv else base.weight,
        base.bias,
        torch.from_numpy(a),
        torch.from_numpy(b),
        (torch.from_numpy(mask_a.T.copy()), torch.from_numpy(mask_b)),
        0.7,
    )
    return layer, oracle


def wrapped(base: nn.Module, pair: MaskPair, *, scale: float, seed: int = 0) -> MaskedLinear:
    """``base`` with one active adapter."""
    layer = masked_layer(base)
    layer.adapters["default"] = MaskedAdapter(
        pair, scale=scale, dropout=0.0, seed=seed, dtype=value_dtype(base.weight)
    )
    layer.active = ("default",)
    return layer


def the_adapter(layer: nn.Module) -> MaskedAdapter:
    """The only adapter of a layer."""
    (adapter,) = layer.adapters.values()
    return adapter


def close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Within the dtype's tolerance, relative to the largest entry."""
    scale = float(expected.detach().double().abs().max()) or 1.0
    return (
        float((actual.detach().double() - expected.detach().double()).abs().max())
        <= TOLERANCE[dtype] * scale
    )
