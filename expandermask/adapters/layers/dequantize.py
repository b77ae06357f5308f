"""A plain module in place of a quantized one, to merge an update into.

Each library's weights are decoded by that library's own functions. Nothing is imported to find out
which it is: the classes' names say so, and one whose weight is at hand is loaded already.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from expandermask.adapters.layers.merging import PLAIN_DTYPES, is_plain
from expandermask.errors import AdapterError
from expandermask.masks.places import bare_modules
from expandermask.masks.targets import adaptable_shape

_OWN_CLASSES = ("bitsandbytes", "hqq", "optimum")
"""Packages that put modules of their own in place of the model's; torchao puts only weights."""


@torch.no_grad()
def full_precision(base: nn.Module, what: str, dtype: torch.dtype) -> nn.Module:
    """``base`` itself if its weight is plain, else a module with the plain weight it stands for.

    That is in the dtype of the module's bias, which is added to what it computes, or if it has none
    in ``dtype``.

    Raises
    ------
    AdapterError
        Naming ``what``: a weight that no known library made, or that decodes to another shape.
    """
    if is_plain(base._parameters.get("weight")):
        return base
    bias = getattr(base, "bias", None)
    dense, shape = _decoded(base, what), adaptable_shape(base)
    if shape is not None and isinstance(base, nn.Embedding):
        shape = shape[::-1]
    if tuple(dense.shape) != shape:
        raise AdapterError(
            f"the quantized weight of {what!r} decodes to shape {tuple(dense.shape)}, and the "
            f"module's is {shape}; use the adapter unmerged"
        )
    dtype = dtype if bias is None else bias.dtype
    weight = nn.Parameter(dense.to(dtype, copy=True), requires_grad=False)
    return _with_weight(base, weight, bias).train(base.training)


def is_quantized(weight: Tensor) -> bool:
    """Whether the numbers in ``weight`` stand for others, so that they cannot be trained."""
    if type(weight).__module__.startswith("bitsandbytes"):
        return not weight.is_floating_point()
    return _decodes_itself(weight) or (
        weight.is_floating_point() and weight.dtype not in PLAIN_DTYPES
    )


def _decodes_itself(weight: Tensor) -> bool:
    """Whether the class of ``weight`` has a ``dequantize`` of its own.

    Every tensor has a method of this name, which makes floats of integers without any scale.
    """
    return getattr(type(weight), "dequantize", Tensor.dequantize) is not Tensor.dequantize


def working_dtype(model: nn.Module) -> torch.dtype:
    """The dtype ``model`` computes in: that of its first floating-point parameter."""
    for _, module in bare_modules(model):
        for parameter in module.parameters(recurse=False):
            if parameter.dtype in PLAIN_DTYPES:
                return parameter.dtype
    return torch.get_default_dtype()


def _decoded(base: nn.Module, what: str) -> Tensor:
    """The numbers that a quantized weight stands for."""
    weight: Any = base._parameters.get("weight")
    if hasattr(base, "W_q"):  # HQQ; PEFT asks so too
        return base.dequantize()  # type: ignore[operator, no-any-return]
    if type(weight).__module__.startswith("bitsandbytes"):
        return _decoded_bitsandbytes(base, weight)
    if _decodes_itself(weight):
        return weight.dequantize()  # type: ignore[no-any-return]
    held = "nothing by that name" if weight is None else f"{type(weight).__name__} {weight.dtype}"
    raise AdapterError(
        f"the weight of {what!r} ({type(base).__name__}, {held}) cannot be dequantized: only those "
        "of torchao, bitsandbytes, optimum-quanto and HQQ can; use the adapter unmerged"
    )


def _decoded_bitsandbytes(base: nn.Module, weight: Any) -> Tensor:
    from bitsandbytes import functional

    if weight.is_floating_point():  # not quantized yet, or only during the forward pass
        return weight.detach().as_subclass(Tensor)  # type: ignore[no-any-return]
    if (state := getattr(weight, "quant_state", None)) is not None:
        return functional.dequantize_4bit(weight.data, state)  # type: ignore[no-any-return]
    # The forward pass moves the scales of int8 weights from the weight to the module's state.
    scales = getattr(getattr(base, "state", None), "SCB", None)
    scales = weight.SCB if scales is None else scales
    return functional.int8_vectorwise_dequant(weight.data, scales)  # type: ignore[no-any-return]


def _with_weight(base: nn.Module, weight: nn.Parameter, bias: Tensor | None) -> nn.Module:
    """A module that computes with ``weight`` as ``base`` does with its own."""
    if type(base).__module__.split(".")[0] not in _OWN_CLASSES:
        twin: nn.Module = copy.copy(base)
        twin.__dict__ = {**vars(base), "_parameters": {**base._parameters, "weight": weight}}
        twin.__dict__.pop("extra_repr", None)  # torchao's, which tells of the quantized weight
        return twin
    if isinstance(base, nn.Embedding):
        rows, width = weight.shape
        table = nn.Embedding(rows, width, padding_idx=base.padding_idx, device="meta")
        table.weight = weight
        return table
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    plain.weight = weight
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return plain
