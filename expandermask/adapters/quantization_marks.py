"""What a transformers model says of its quantization, while plain copies stand in for its weights.

`from_pretrained` quantizes what the saved config says is quantized. So where merging has put plain
weights in, the config must not say so any more.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from expandermask.adapters.layers.dequantize import is_quantized
from expandermask.adapters.layers.masked import weight_of
from expandermask.masks.places import bare_modules
from expandermask.masks.targets import adaptable_shapes

_MARKS = (
    *("hf_quantizer", "is_quantized", "quantization_method"),
    *("is_loaded_in_8bit", "is_loaded_in_4bit", "is_8bit_serializable", "is_4bit_serializable"),
)
_SKIP_LISTS = ("llm_int8_skip_modules", "modules_to_not_convert")
"""What configs of quantization call the list of modules that are left plain."""


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
