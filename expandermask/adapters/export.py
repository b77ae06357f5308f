"""export_peft(): the adapter as a stock Hugging Face PEFT LoRA checkpoint, dense.

Written are the two files PEFT reads, by its own names and with nothing it does not know, so that
``PeftModel.from_pretrained(base, folder)`` needs none of this library.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from expandermask.adapters.attach import Attachment, attachment, masked_layers, saved_tensors
from expandermask.adapters.files import CONFIG_NAME, WEIGHTS_NAME, require_folder
from expandermask.adapters.tensors import write_tensors
from expandermask.files import write_text

PEFT_METADATA = {"format": "pt"}


def export_peft(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write the adapter on ``model`` as a dense LoRA folder that stock PEFT loads.

    ``lora_A`` (r, k) and ``lora_B`` (d, r) hold zeros off the masks; PEFT's factor lora_alpha / r
    is made to equal this adapter's scale. The target modules are written as one regular expression
    of full names, so exactly the same modules are adapted. Values come back as they are, but the
    masks do not: training on in PEFT fills the zeros. To keep them use `save_adapter`.

    Raises
    ------
    AdapterError
        No adapters are attached, or ``folder`` holds an adapter of `save_adapter`, whose files
        have the same names.

    Examples
    --------
    >>> import json, tempfile, torch
    >>> from pathlib import Path
    >>> from expandermask.adapters import AdapterConfig, attach, export_peft
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> _ = attach(model, AdapterConfig(r=8, lora_alpha=16), rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_peft(model, folder)
    ...     config = json.loads((Path(folder) / "adapter_config.json").read_text())
    >>> config["lora_alpha"] / config["r"]
    4.0
    """
    record, target = attachment(model), Path(folder)
    require_folder(target, own=False)
    tensors: dict[str, Tensor] = {}
    layers = masked_layers(model)
    for name, layer in layers.items():
        a, b = layer.factors()
        tensors |= {peft_name(name, "A"): a, peft_name(name, "B"): b}
    for name, tensor in saved_tensors(model, record.saved_modules).items():
        tensors[f"base_model.model.{name}"] = tensor
    write_tensors(target / WEIGHTS_NAME, tensors, metadata=PEFT_METADATA)
    # PEFT sets the flag itself, layer by layer, where a model mixes both kinds.
    fan_in_fan_out = all(layer.is_transposed for layer in layers.values())
    config = _peft_config(record, fan_in_fan_out, getattr(model, "name_or_path", None))
    write_text(target / CONFIG_NAME, json.dumps(config, indent=2) + "\n")


def peft_name(module: str, side: str) -> str:
    """The name PEFT's checkpoints give factor ``side``, "A" or "B", of a module."""
    return f"base_model.model.{module}.lora_{side}.weight"


def _peft_config(record: Attachment, fan_in_fan_out: bool, base: str | None) -> dict[str, Any]:
    config = record.config
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base or None,
        "inference_mode": True,
        "r": config.r,
        "lora_alpha": config.scale * config.r,
        "lora_dropout": config.lora_dropout,
        "target_modules": "|".join(re.escape(name) for name in record.plan),
        "fan_in_fan_out": fan_in_fan_out,
        "bias": "none",
        "modules_to_save": list(record.saved_modules) or None,
    }
