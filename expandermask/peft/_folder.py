"""A stock PEFT LoRA folder, read strictly: its factors, its scale, and what else it holds.

``adapter_config.json`` has to describe plain LoRA, and every field this reader does not know has to
be off; ``adapter_model.safetensors`` has to hold whole pairs of factors. Pickles are not opened.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import regex
from torch import Tensor

from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.files.tensors import open_tensors
from expandermask.errors import FileFormatError, InvalidInputError
from expandermask.files import parse_json, reading
from expandermask.masks.adapter_file import WEIGHTS_NAME
from expandermask.masks.peft_file import CONFIG_NAME

Factors = tuple[Tensor, Tensor]
"""Dense A (r, k) and B (d, r)."""

_PATIENCE = 1.0
"""Seconds for one pattern of a file to match one name: a few characters can ask for years."""
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(?:(embedding_)?([AB])|([AB])\.weight)")

_HARMLESS = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "fan_in_fan_out"),
    *("layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size"),
    *("loftq_config", "eva_config", "ensure_weight_tying"),
}
"""Fields that say how an adapter was made, or where: its tensors' names say that as well."""

_READ = {
    *("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "modules_to_save"),
    *("rank_pattern", "alpha_pattern", "bias", "init_lora_weights"),
}
_LARGEST = 1e30
"""No scale is near it, and integers beyond float's range would not divide."""
_ONLY: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "peft_type": (None, ("LORA",), "only 'LORA' can be imported"),
    "bias": ("none", ("none",), "only bias='none' can be imported"),
    "init_lora_weights": (
        True,
        (True, False, "gaussian", "eva", "orthogonal"),
        "it may change the base's weights; convert the folder to plain LoRA with PEFT first",
    ),
}
"""Fields that are read: the value of one that is missing, those that are understood, and why."""
_HINTS = {
    "target_parameters": "it adapts parameters that belong to no linear module, such as the 3-D "
    "weights of experts, and only linear modules and embeddings can have adapters here; keep using "
    "PEFT for this folder"
}


@dataclass(frozen=True)
class PeftFolder:
    """What a folder holds, checked against itself."""

    config: AdapterConfig
    """What the config says of all modules in the words of this library, but for the scale."""
    factors: Mapping[str, Factors]
    """By the module's name in the base model, each of its own rank without trailing zeros."""
    scales: Mapping[str, float]
    """The factor on B A x of each module."""
    others: Mapping[str, Tensor] = field(repr=False)
    """Every other tensor, by its name in the base model."""
    metadata: Mapping[str, str] = field(repr=False)


def read_folder(folder: Path) -> PeftFolder:
    """Read and check a folder; `FileFormatError` for anything but plain LoRA in safetensors."""
    with reading(folder / CONFIG_NAME, within=folder) as (stream, _):
        config = _config(stream.read())
    if not (folder / WEIGHTS_NAME).exists() and (folder / "adapter_model.bin").exists():
        raise FileFormatError(
            f"{str(folder)!r} holds adapter_model.bin, a pickle, which is not opened; save it "
            "again with PEFT's save_pretrained(safe_serialization=True)"
        )
    path = folder / WEIGHTS_NAME
    with reading(path, within=folder) as (stream, size):
        file = open_tensors(stream, size, repr(os.fspath(path)))
        factors, others = _sorted(file.read(), config)
    return PeftFolder(
        config=_adapter_config(config),
        factors=factors,
        scales={name: _scale(config, name) for name in factors},
        others=others,
        metadata=file.header.metadata,
    )


def _config(text: bytes) -> dict[str, Any]:
    """The fields of ``adapter_config.json``, if they describe plain LoRA."""
    config = parse_json(text)
    if not isinstance(config, dict):
        raise FileFormatError(f"{CONFIG_NAME} must be a JSON object")
    for name, (default, understood, rule) in _ONLY.items():
        value = config.get(name, default)
        if value not in understood:
            raise FileFormatError(f"{CONFIG_NAME} has {name}={value!r:.80}: {rule}")
    for name in sorted(config.keys() - _READ - _HARMLESS):
        value = config[name]
        if name == "target_parameters" and isinstance(value, list):
            # The weight of a module is that of a linear one, as `export_peft` may name it.
            value = [key for key in value if not str(key).endswith(".weight")]
        if value:
            hint = _HINTS.get(name, "this is no plain LoRA; convert it with PEFT first")
            raise FileFormatError(f"{CONFIG_NAME} has {name}={value!r:.80}: {hint}")
    _require_numbers(config)
    return config


def _require_numbers(config: dict[str, Any]) -> None:
    """The fields that are computed with are numbers of the right kind."""
    patterns = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(patterns.values() if type(patterns) is dict else [None])]
    if not all(type(r) is int and r >= 1 for r in ranks):
        raise FileFormatError(
            f"{CONFIG_NAME}: r and rank_pattern must be integers >= 1, got {ranks!r:.80}"
        )
    patterns = config.get("alpha_pattern") or {}
    alphas = [config.get("lora_alpha"), *(patterns.values() if type(patterns) is dict else [None])]
    if not all(type(alpha) in (int, float) and 0 < alpha <= _LARGEST for alpha in alphas):
        raise FileFormatError(
            f"{CONFIG_NAME}: lora_alpha and alpha_pattern must be positive numbers of at most "
            f"{_LARGEST:g}: {alphas!r:.80}"
        )


def _adapter_config(config: dict[str, Any]) -> AdapterConfig:
    try:
        return AdapterConfig(
            left_degree=None,
            lora_dropout=config.get("lora_dropout") or 0.0,
            scaling="paper",
            modules_to_save=config.get("modules_to_save") or (),
        )
    except InvalidInputError as error:
        raise FileFormatError(f"{CONFIG_NAME}: {error}") from None


def _scale(config: dict[str, Any], name: str) -> float:
    """The factor on a module's update, by PEFT's rules for patterns and rank-stabilised LoRA."""
    alpha, r = _of_pattern(config, "alpha", name), _of_pattern(config, "rank", name)
    return float(alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r)


def _of_pattern(config: dict[str, Any], what: str, name: str) -> Any:
    """A module's rank or alpha: that of the first pattern that ends its name, or the common one."""
    for pattern, value in (config.get(f"{what}_pattern") or {}).items():
        try:
            found = regex.match(rf"(.*\.)?({pattern})$", name, timeout=_PATIENCE)
        except (regex.error, TimeoutError) as error:
            raise FileFormatError(
                f"{CONFIG_NAME}: {what}_pattern {pattern!r:.80}: {error}"
            ) from None
        if found:
            return value
    return config["r" if what == "rank" else "lora_alpha"]


def _sorted(
    tensors: Mapping[str, Tensor], config: dict[str, Any]
) -> tuple[dict[str, Factors], dict[str, Tensor]]:
    """The factors in pairs, by module, and every other tensor."""
    sides: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not key.startswith(_PREFIX):
            raise FileFormatError(f"tensor {key!r} is not named as PEFT names tensors")
        name = key.removeprefix(_PREFIX)
        if match := _FACTOR.fullmatch(name):
            sides.setdefault(match[1], {})[match[3] or match[4]] = tensor
        else:
            others[name] = tensor
    if not sides:
        raise FileFormatError(f"{WEIGHTS_NAME} holds no lora_A and lora_B")
    factors = {n: _pair(n, both, _of_pattern(config, "rank", n)) for n, both in sides.items()}
    return factors, others


def _pair(name: str, sides: dict[str, Tensor], r: int) -> Factors:
    """A and B without trailing ranks that are zero in both, as padding is; at least one rank."""
    if set(sides) != {"A", "B"}:
        raise FileFormatError(f"module {name!r} has only lora_{next(iter(sides))}")
    a, b = sides["A"], sides["B"]
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != r or b.shape[1] != r:
        raise FileFormatError(
            f"module {name!r}: lora_A {list(a.shape)} and lora_B {list(b.shape)} must be "
            f"(r, k) and (d, r) with r={r}"
        )
    if not (a.is_floating_point() and b.is_floating_point()):
        raise FileFormatError(f"module {name!r}: factors must be floating-point, got {a.dtype}")
    used = (a != 0).any(1) | (b != 0).any(0)  # NaN is not zero, so it counts as used
    rank = int(used.nonzero().max()) + 1 if used.any() else 1
    return a[:rank], b[:, :rank]
