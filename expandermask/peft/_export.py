"""export_peft(): the adapter as a stock Hugging Face PEFT LoRA checkpoint, dense.

Written are the two files PEFT reads, by its own names and with nothing it does not know, so that
``PeftModel.from_pretrained(base, folder)`` needs none of this library. The plan and the config go
into the metadata of the tensor file, where PEFT does not look and `import_peft` does.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expandermask.adapters.attachment import (
    NamedAdapter,
    attachment,
    masked_layers,
    saved_tensors,
)
from expandermask.adapters.files.folder import CONFIG_NAME, require_folder
from expandermask.adapters.files.tensors import write_tensors
from expandermask.adapters.layers.masked import MaskedEmbedding, MaskedLinear
from expandermask.adapters.training.distributed import on_writer, whole
from expandermask.files import write_text
from expandermask.masks.adapter_file import PEFT_METADATA, WEIGHTS_NAME, peft_name
from expandermask.masks.plan import MaskPair

PLAN_KEY, CONFIG_KEY = "expandermask_plan", "expandermask_config"


def export_peft(
    model: nn.Module, folder: str | os.PathLike[str], *, name: str | None = None
) -> None:
    """Write the adapter on ``model`` as a dense LoRA folder that stock PEFT loads.

    ``lora_A`` (r, k) and ``lora_B`` (d, r) hold zeros off the masks; PEFT's factor lora_alpha / r
    is made to equal this adapter's scale. The target modules are written as one regular expression
    of full names, so exactly the same modules are adapted. Ranks whose masks are empty, as
    `expandermask.allocation.prune` leaves them, are not written: where modules then differ, their
    ranks are in ``rank_pattern`` and their scales in ``alpha_pattern``. Training on in PEFT fills
    the zeros; until then `import_peft` gives the masked adapter back. Under torch.distributed all
    ranks have to call it, and rank 0 writes.

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
    (name, adapter), target = attachment(model).adapter(name), Path(folder)
    require_folder(target, own=False)
    tensors: dict[str, Tensor] = {}
    layers = masked_layers(model, name)
    for place, layer in layers.items():
        ranks = torch.from_numpy(written_ranks(adapter.plan[place]))
        a, b = layer.adapter(name).factors()
        a, b = a[ranks.to(a.device)], b[:, ranks.to(b.device)].contiguous()
        if isinstance(layer, MaskedEmbedding):
            tensors |= {peft_name(place, "A", True): a, peft_name(place, "B", True): b}
        else:
            tensors |= {peft_name(place, "A"): a, peft_name(place, "B"): b}
    for key, tensor in saved_tensors(adapter).items():
        tensors[f"base_model.model.{key}"] = whole(tensor)
    own = {PLAN_KEY: adapter.plan.to_json(), CONFIG_KEY: json.dumps(adapter.config.to_dict())}
    # PEFT sets the flag itself, layer by layer, where a model mixes both kinds.
    linear = [layer for layer in layers.values() if isinstance(layer, MaskedLinear)]
    fan_in_fan_out = bool(linear) and all(layer.is_transposed for layer in linear)
    scales = {place: layer.adapter(name).scale for place, layer in layers.items()}
    config = _peft_config(adapter, scales, fan_in_fan_out, getattr(model, "name_or_path", None))

    def write() -> None:
        write_tensors(target / WEIGHTS_NAME, tensors, metadata=PEFT_METADATA | own)
        write_text(target / CONFIG_NAME, json.dumps(config, indent=2) + "\n")

    on_writer(write)


def written_ranks(pair: MaskPair) -> NDArray[np.int64]:
    """The ranks of a module that a file has: those in use, or the first if none is."""
    return pair.used_ranks if len(pair.used_ranks) else np.zeros(1, dtype=np.int64)


def _peft_config(
    adapter: NamedAdapter, scales: dict[str, float], fan_in_fan_out: bool, base: str | None
) -> dict[str, Any]:
    config = adapter.config
    ranks = {place: len(written_ranks(pair)) for place, pair in adapter.plan.items()}
    alphas = {place: scale * ranks[place] for place, scale in scales.items()}
    r, alpha = _commonest(ranks), _commonest(alphas)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base or None,
        "inference_mode": True,
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": _pattern(ranks, r),
        "alpha_pattern": _pattern(alphas, alpha),
        "lora_dropout": config.lora_dropout,
        "target_modules": "|".join(re.escape(place) for place in adapter.plan),
        "fan_in_fan_out": fan_in_fan_out,
        "bias": "none",
        "modules_to_save": list(adapter.saved_modules) or None,
    }


def _commonest(values: dict[str, Any]) -> Any:
    return max(dict.fromkeys(values.values()), key=list(values.values()).count)


def _pattern(values: dict[str, Any], common: Any) -> dict[str, Any]:
    """PEFT's form of the modules that differ: a regular expression for each."""
    return {f"^{re.escape(place)}$": v for place, v in values.items() if v != common}
