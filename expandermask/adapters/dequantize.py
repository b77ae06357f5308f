"""A plain linear module in place of a quantized one, to merge an update into."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expandermask.errors import AdapterError


@torch.no_grad()
def full_precision(base: nn.Module, what: str) -> nn.Module:
    """``base`` itself if its weight is plain, else an nn.Linear with the weight it stands for.

    Takes every quantized module whose weight has a method ``dequantize``, as torchao's tensors do.
    Raises `AdapterError`, naming ``what``, for any other.
    """
    weight = base._parameters.get("weight")
    if type(weight) is nn.Parameter and weight.is_floating_point():
        return base
    dequantize = getattr(weight, "dequantize", None)
    if dequantize is None:
        raise AdapterError(
            f"the weight of {what!r} ({type(weight).__name__}) cannot be dequantized"
        )
    dense: Tensor = dequantize()
    bias = getattr(base, "bias", None)
    plain = nn.Linear(dense.shape[1], dense.shape[0], bias=bias is not None, device="meta")
    plain.weight = nn.Parameter(dense, requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return plain.train(base.training)
