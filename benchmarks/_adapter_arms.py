"""The models that `adapters.py` times: one base, and the ways to adapt it.

Arms:

- floor: no adapters, frozen but for the classifier and the embeddings' LayerNorm, so that gradients
  of activations flow through the whole encoder, as any adapter in layer 0 needs;
- lora: peft's LoRA as it comes, dense;
- fused: dense LoRA factors in this library's function and wrapper, the same products as `portable`;
  what it gains over lora, ours gains for the same reason, which is not sparsity;
- masked_in: dense factors multiplied by 0/1 masks under plain autograd;
- portable: this library's adapters with PyTorch's own operations;
- kernel: the same with the CPU kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from expandermask import MaskPlan
from expandermask.adapters import AdapterConfig, MaskedLinear, attach
from expandermask.adapters.layers.factors import dense_factor

TARGETS = r"bert\.encoder\..*"
DEGREE = 2
SIZES = {"6x384": (6, 384, 12), "12x768": (12, 768, 12)}
"""Layers, width and heads of the BERT encoders; the inner width is four times the width."""


def bert(size: str) -> BertForSequenceClassification:
    """The base model with random weights, the same in every arm, all of it frozen."""
    layers, width, heads = SIZES[size]
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    return BertForSequenceClassification(config).requires_grad_(False)


def floor(size: str, r: int) -> nn.Module:
    """The classifier and the embeddings' LayerNorm train: a backward pass of full depth."""
    model = bert(size)
    model.classifier.requires_grad_(True)
    model.bert.embeddings.LayerNorm.requires_grad_(True)
    return model


def lora(size: str, r: int) -> nn.Module:
    """Stock PEFT LoRA on the same modules."""
    model = bert(size)
    names = MaskPlan.for_model(model, target_modules=TARGETS, r=r, rng=0)
    targets = "|".join(name.replace(".", r"\.") for name in names)
    return peft.get_peft_model(model, peft.LoraConfig(r=r, lora_alpha=r, target_modules=targets))


def ours(size: str, r: int) -> nn.Module:
    """This library's adapters."""
    model = bert(size)
    attach(model, AdapterConfig(r=r, left_degree=DEGREE, target_modules=TARGETS), rng=0)
    return model


def fused(size: str, r: int) -> nn.Module:
    """This library's wrapper with dense factors in its place."""
    return _wrapped(ours(size, r), FusedLinear)


def masked_in(size: str, r: int) -> nn.Module:
    """Dense factors times masks, under plain autograd."""
    return _wrapped(ours(size, r), MaskedInLinear)


class FusedAffine(torch.autograd.Function):
    """`MaskedAffine` line for line, with dense A (r, k) and B (r, d) as the parameters."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor, scale: float
    ) -> Tensor:
        """Compute x (W + scale * B A)' + bias."""
        ctx.save_for_backward(x, a, b, weight)
        ctx.scale = scale
        return nn.functional.linear(x, torch.addmm(weight, b.t(), a, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B."""
        x, a, b, weight = ctx.saved_tensors
        grad_b = torch.mm(torch.mm(x, a.t()).t(), grad) * ctx.scale
        grad_a = torch.mm((torch.mm(grad, b.t()) * ctx.scale).t(), x)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad, torch.addmm(weight, b.t(), a, alpha=ctx.scale))
        return grad_x, grad_a, grad_b, None, None, None


class FusedLinear(nn.Module):
    """Dense LoRA in one autograd function."""

    def __init__(self, layer: MaskedLinear) -> None:
        super().__init__()
        adapter = layer.adapter("default")
        self.base, self.scale = layer.base, adapter.scale
        a, b = adapter.factors()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """The adapted output."""
        rows = x.reshape(-1, x.shape[-1])
        weight, bias = self.base.weight, self.base.bias
        out = FusedAffine.apply(rows, self.a, self.b, weight, bias, self.scale)
        return out.view(*x.shape[:-1], out.shape[-1])


class MaskedInLinear(nn.Module):
    """Dense LoRA whose factors are multiplied by their masks in every forward pass."""

    def __init__(self, layer: MaskedLinear) -> None:
        super().__init__()
        adapter = layer.adapter("default")
        self.base, self.scale = layer.base, adapter.scale
        a, b = adapter.factors()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        for side, n in (("a", adapter.shape[1]), ("b", adapter.shape[0])):
            values, index = (
                getattr(adapter, f"lora_{side.upper()}"),
                getattr(adapter, f"index_{side}"),
            )
            ones = dense_factor(torch.ones_like(values), index, (adapter.r, n), torch.float32)
            self.register_buffer(f"mask_{side}", ones if side == "a" else ones.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """The adapted output."""
        h = nn.functional.linear(x, self.a * self.mask_a)
        return self.base(x) + self.scale * nn.functional.linear(h, self.b * self.mask_b)


def _wrapped(model: nn.Module, kind: Callable[[MaskedLinear], nn.Module]) -> nn.Module:
    """``model`` with every masked layer made into a ``kind``."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MaskedLinear):
                setattr(parent, name, kind(child))
    return model


ARMS: dict[str, Callable[[str, int], nn.Module]] = {
    "floor": floor,
    "lora": lora,
    "fused": fused,
    "masked_in": masked_in,
    "portable": ours,
    "kernel": ours,
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> None:
    """One whole training step."""
    optimizer.zero_grad(set_to_none=True)
    model(**batch).loss.backward()
    optimizer.step()


def training(arm: str, size: str, r: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """An arm's model in training mode, and fused AdamW over what trains."""
    model = ARMS[arm](size, r).train()
    values = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(values, lr=1e-3, fused=True)
