"""Bases whose weights are quantized: told apart, decoded to merge into, kept as they were loaded.

Each library's weights are decoded by that library's own functions. Nothing is imported to find out
which it is: the classes' names say so, and one whose weight is at hand is loaded already.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from expandermask.errors import AdapterError
from expandermask.masks.places import bare_modules
from expandermask.masks.targets import adaptable_shape, adaptable_shapes

PLAIN_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""float8 is not among them: its numbers go with a scale that is stored elsewhere."""
_OWN_CLASSES = ("bitsandbytes", "hqq", "optimum")
"""Packages that put modules of their own in place of the model's; torchao puts only weights."""
_SWITCH = "support_avx512bf16_for_cpu"
"""bitsandbytes' attribute on each module: whether it may rearrange its weight."""
_MARKS = (
    *("hf_quantizer", "is_quantized", "quantization_method"),
    *("is_loaded_in_8bit", "is_loaded_in_4bit", "is_8bit_serializable", "is_4bit_serializable"),
)
_SKIP_LISTS = ("llm_int8_skip_modules", "modules_to_not_convert")
"""What configs of quantization call the list of modules that are left plain."""


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a linear module or embedding, maybe packed: for device, dtype and identity.

    Some quantized modules call it otherwise; theirs is the first tensor they have.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        weight = next(chain(module.parameters(recurse=False), module.buffers(recurse=False)))
    assert isinstance(weight, Tensor)
    return weight


def is_plain(weight: Tensor | None) -> TypeGuard[nn.Parameter]:
    """Whether ``weight`` holds its numbers as they are: no subclass, no integers, no float8."""
    return type(weight) is nn.Parameter and weight.dtype in PLAIN_DTYPES


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


# -- 4-bit weights of bitsandbytes on CPUs with AVX512-BF16 ---------------------------------------
#
# There a Linear4bit rearranges its weight when it first runs in eval mode, in place, and rounds its
# scales to bfloat16. From then on no gradient passes through it (PyTorch warns, and every adapter
# before it stays untrained), and `state_dict` puts the scales back in another order (0.50.2). So a
# model with adapters computes in the layout it was loaded in.


def require_unpacked(model: nn.Module) -> None:
    """Raise `AdapterError` if a weight of ``model`` was rearranged already."""
    for name, module in model.named_modules():
        state = getattr(module._parameters.get("weight"), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise AdapterError(
                f"bitsandbytes has packed the 4-bit weight of {name!r} for inference on this CPU, "
                "as it does at the first evaluation, and no gradient passes through it; load the "
                "model again and put the adapter on before it is evaluated"
            )


def forbid_packing(model: nn.Module) -> dict[str, int]:
    """Keep every weight in the layout it has; the switches turned off by this, by module name."""
    found = {n: m for n, m in model.named_modules() if getattr(m, _SWITCH, False)}
    switches = {name: getattr(module, _SWITCH) for name, module in found.items()}
    for module in found.values():
        setattr(module, _SWITCH, False)
    return switches


def allow_packing(model: nn.Module, switches: dict[str, int]) -> None:
    """Turn the switches back on, where the modules are still in the model."""
    modules = dict(model.named_modules())
    for name, switch in switches.items():
        if hasattr(modules.get(name), _SWITCH):
            setattr(modules[name], _SWITCH, switch)


# -- what a transformers model says of its quantization -----------------------------------------
#
# `from_pretrained` quantizes what the saved config says is quantized. So where merging has put in
# plain weights, the config must not say so any more.


def take_marks_off(model: nn.Module) -> dict[str, Any]:
    """Let the model and its config say what is still quantized; what they said, to put back."""
    config: Any = getattr(model, "config", None)
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return {}
    modules = dict(bare_modules(model))
    linear = adaptable_shapes(model)
    plain = [place for place in linear if not is_quantized(weight_of(modules[place]))]
    before = {name: vars(model)[name] for name in _MARKS if name in vars(model)}
    before["quantization_config"] = quantization
    if len(plain) == len(linear):
        for name in _MARKS:
            vars(model).pop(name, None)
        del config.quantization_config
        return before
    config.quantization_config = copy.copy(quantization)
    for name in _SKIP_LISTS:
        if hasattr(quantization, name):
            setattr(config.quantization_config, name, plain)
    return before


def put_marks_back(model: nn.Module, before: dict[str, Any]) -> None:
    """Undo `take_marks_off`."""
    config: Any = getattr(model, "config", None)
    for name, value in before.items():
        setattr(config if name == "quantization_config" else model, name, value)
