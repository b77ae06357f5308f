"""export_peft(): the adapter as a stock Hugging Face PEFT LoRA checkpoint, dense.

Written are the two files PEFT reads, by its own names and with nothing it does not know, so that
``PeftModel.from_pretrained(base, folder)`` needs none of this library. The plan and the config go
into the metadata of the tensor file, where PEFT does not look and `import_peft` does.

Programs that read such folders disagree about the scale: some take lora_alpha / r of the config,
some lora_alpha / rank of the tensor, and not all know the patterns. The default form leaves them
nothing to disagree about: one rank, and a factor of 1.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from torch.nn.functional import pad

from expandermask.adapters.attachment import (
    NamedAdapter,
    attachment,
    masked_layers,
    saved_tensors,
)
from expandermask.adapters.files.stored import require_folder
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.layers.quantized import is_quantized, weight_of
from expandermask.adapters.training.distributed import on_writer, whole
from expandermask.errors import AdapterError
from expandermask.files import write_text
from expandermask.io.tensors import write_tensors
from expandermask.masks.adapter_file import WEIGHTS_NAME
from expandermask.masks.peft_file import (
    CONFIG_NAME,
    export_metadata,
    peft_name,
    scale_fields,
    written_ranks,
)
from expandermask.masks.places import bare_at, bare_modules, unwrapped
from expandermask.masks.plan import MaskPlan
from expandermask.masks.targets import is_conv1d, target_names
from expandermask.peft._readers import Contents, check_readers, require_readable

_HEADS = ("classifier", "score", "qa_outputs")
"""What PEFT's classes for classifying and answering add to the modules to save of every adapter."""
_BATCHED = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""The modules to save of which PEFT takes several in one batch."""


def export_peft(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    compact: bool = False,
    readers: Iterable[str] | None = None,
) -> None:
    """Write the adapter on ``model`` as a dense LoRA folder that stock PEFT loads.

    ``lora_A`` (r, k) and ``lora_B`` (d, r) hold zeros off the masks. All modules have one rank r,
    the largest that a module uses; smaller ones are padded with zeros, and modules without any rank
    are left out. The scale is multiplied into B, and ``lora_alpha`` is r, so every program that
    reads the folder computes the same update, and `peft.utils.hotswap` can exchange two of them.

    ``target_modules`` is a list of name endings. They match exactly the adapted modules of this
    model. In models such as DeepSeek's, PEFT takes names like ``down_proj`` for projections inside
    fused experts, so modules of these names come by their weights, in ``target_parameters``.

    The ``auto_mapping`` names the model's class, so that ``AutoPeftModel`` and each
    ``AutoPeftModelFor...`` load the folder. The latter train and save the head of a classifier with
    every adapter, so the file holds the head of a transformers model also where the adapter does
    not train it.

    Training on in PEFT fills the zeros; until then `import_peft` gives the masked adapter back.
    Under torch.distributed all ranks have to call it, and rank 0 writes.

    Parameters
    ----------
    model : torch.nn.Module
        With adapters attached.
    folder : path
        Made if it is not there.
    name : str, optional
        Which adapter, if several are active.
    compact : bool
        Write each module with its own rank and scale, as ``rank_pattern`` and ``alpha_pattern``.
        The file is smaller where ranks differ, `import_peft` gives B back bit for bit, and only
        programs that know the two patterns read it correctly: PEFT does, most servers do not.
        `parameter_report` has the size of both forms.
    readers : iterable of str, optional
        The programs that have to read the folder: "peft" (and transformers), "peft-batches"
        (``adapter_names``), "peft-hotswap", "llama.cpp" and "vllm". What one of them would refuse
        or compute wrong is an error. Without ``readers``, a warning names what would be computed
        wrong without a word.

    Raises
    ------
    AdapterError
        No adapters are attached, ``folder`` holds an adapter of `save_adapter`, whose files have
        the same names, PEFT would mistake a module to save for an adapted one, or a quantized
        module for a part of fused experts, or one of ``readers`` would not read the folder right.

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
    >>> config["lora_alpha"], config["r"], config["target_modules"]
    (8, 8, ['0'])
    """
    readers = check_readers(readers)
    name, adapter = attachment(model).adapter(name)
    target = Path(folder)
    require_folder(target, own=False)
    config, heads = _config(model, name, adapter, compact)
    tensors = _factors(model, name, adapter, compact)
    for key, tensor in saved_tensors(heads).items():
        tensors[f"base_model.model.{key}"] = whole(tensor)
    biases = _biases(model, name, adapter.plan)
    tensors |= biases
    require_readable(_contents(model, name, adapter, config, heads, biases), readers)
    metadata = export_metadata(adapter.plan, adapter.config.to_dict())

    def write() -> None:
        write_tensors(target / WEIGHTS_NAME, tensors, metadata=metadata)
        write_text(target / CONFIG_NAME, json.dumps(config, indent=2) + "\n")

    on_writer(write)


def _contents(
    model: nn.Module,
    name: str,
    adapter: NamedAdapter,
    config: dict[str, Any],
    heads: dict[str, nn.Module],
    biases: Iterable[str],
) -> Contents:
    """What the folder holds, as far as programs differ in reading it."""
    adapted = {place: adapter.plan[place].shape for place in written_ranks(adapter.plan)}
    layers = masked_layers(model, name)
    return Contents(
        config=config,
        adapted=tuple(adapted),
        tables=tuple(place for place in adapted if layers[place].is_embedding),
        saved={
            f"{place}.{key}": isinstance(head, _BATCHED)
            for place, head in heads.items()
            for key in head.state_dict()
        },
        biases=tuple(key.removeprefix("base_model.model.") for key in biases),
        latent=getattr(_text_config(model), "kv_lora_rank", None) is not None,
        conv1d={p: d == k for p, (d, k) in adapted.items() if is_conv1d(bare_at(model, p))},
    )


def _text_config(model: nn.Module) -> Any:
    """The config of a transformers model's language model; None of other models."""
    config = getattr(unwrapped(model), "config", None)
    return getattr(config, "text_config", config)


def _factors(
    model: nn.Module, name: str, adapter: NamedAdapter, compact: bool
) -> dict[str, Tensor]:
    """A and B of every module, by the names of the file."""
    tensors: dict[str, Tensor] = {}
    layers = masked_layers(model, name)
    ranks = written_ranks(adapter.plan)
    largest = max(len(kept) for kept in ranks.values())
    for place, kept in ranks.items():
        own, table = layers[place].adapter(name), layers[place].is_embedding
        a, b = own.factors() if compact else _scaled_factors(own)
        missing = 0 if compact else largest - len(kept)
        index = torch.from_numpy(kept).to(a.device)
        tensors[peft_name(place, "A", table)] = pad(a[index], (0, 0, 0, missing))
        tensors[peft_name(place, "B", table)] = pad(b[:, index], (0, missing)).contiguous()
    return tensors


def _biases(model: nn.Module, name: str, plan: MaskPlan) -> dict[str, Tensor]:
    """The biases that train with the adapter, by the names of the file."""
    adapted = written_ranks(plan)
    found = {}
    for key, bias in attachment(model).biases(name).items():
        place = key.removesuffix(".bias")
        inside = f"{place}.base_layer" if place in adapted else place
        found[f"base_model.model.{inside}.bias"] = whole(bias.detach())
    return found


def _scaled_factors(adapter: MaskedAdapter) -> tuple[Tensor, Tensor]:
    """A and B with gates and scale in B, which is rounded to the values' dtype only then."""
    dtype = adapter.lora_B.dtype
    a, b = adapter.factors(torch.promote_types(dtype, torch.float32))
    return a.to(dtype), (b * adapter.scale).to(dtype)


# -- the config ------------------------------------------------------------------------------------


def _config(
    model: nn.Module, name: str, adapter: NamedAdapter, compact: bool
) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """The fields of adapter_config.json, and the modules that PEFT expects in the file with it."""
    base = unwrapped(model)
    layers = masked_layers(model, name)
    ranks = {place: len(kept) for place, kept in written_ranks(adapter.plan).items()}
    usual = [head for head in _HEADS if head in base._modules and hasattr(base, "name_or_path")]
    # A usual head that is itself adapted is left to PEFT's plain class, which adds none.
    heads = _saved_by_peft(model, adapter, usual) or _saved_by_peft(model, adapter, [])
    if heads is None:
        raise AdapterError(
            f"PEFT finds modules to save by the end of their names, and one of "
            f"{list(adapter.heads)} ends, or contains, the name of an adapted module; leave that "
            "module out of the targets"
        )
    linear = [is_conv1d(bare_at(model, place)) for place in ranks if not layers[place].is_embedding]
    mistaken = _mistaken(model, ranks)
    scales = {place: layers[place].adapter(name).scale for place in ranks}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {
            "base_model_class": type(base).__name__,
            "parent_library": type(base).__module__,
        },
        "base_model_name_or_path": getattr(base, "name_or_path", None) or None,
        "inference_mode": True,
        **scale_fields(ranks, scales if compact else None),
        "use_rslora": False,
        "lora_dropout": 0.0 if mistaken else adapter.config.lora_dropout,
        "target_modules": _target_names(model, [p for p in ranks if p not in mistaken]),
        **({"target_parameters": [f"{p}.weight" for p in mistaken]} if mistaken else {}),
        # PEFT sets the flag itself, layer by layer, where a model mixes both kinds.
        "fan_in_fan_out": bool(linear) and all(linear),
        "bias": "all" if attachment(model).biases(name) else "none",
        "modules_to_save": list(heads) or None,
    }, heads


def _target_names(model: nn.Module, places: list[str]) -> str | list[str]:
    return target_names(places, [place for place, _ in bare_modules(model)]) if places else []


def _mistaken(model: nn.Module, places: Iterable[str]) -> list[str]:
    """The modules whose names PEFT takes for those of projections inside fused experts.

    In DeepSeek and its kin they are the same projections of dense and of shared experts. Where PEFT
    is given the name of the weight, of which dropout is not possible, it takes it as it is.
    """
    verdicts = {}
    for leaf in {place.rpartition(".")[2] for place in places}:
        asked = peft.LoraConfig(target_modules=[leaf])
        try:
            convert_peft_config_for_transformers(asked, unwrapped(model), None)
        except ValueError:  # one projection of two that are fused
            asked.target_parameters = [leaf]
        verdicts[leaf] = bool(asked.target_parameters)
    found = [place for place in places if verdicts[place.rpartition(".")[2]]]
    for place in found:
        if is_quantized(weight_of(bare_at(model, place))):
            raise AdapterError(
                f"PEFT would take {place!r} for a part of fused experts, and cannot be given its "
                "weight instead, which is quantized; keep the adapter by save_adapter, or attach "
                "with this module in exclude_modules"
            )
    return found


def _saved_by_peft(
    model: nn.Module, adapter: NamedAdapter, added: list[str]
) -> dict[str, nn.Module] | None:
    """Every module that PEFT copies for these modules to save; None if one is, or has, a target.

    PEFT takes all modules whose names end so, "pre_classifier" for "classifier" as well, and stops
    if one of them is not in the file.
    """
    endings = (*adapter.heads, *added)
    originals = attachment(model).originals
    found = dict(adapter.heads)
    for place, module in bare_modules(model, remove_duplicate=False):
        if place and place.endswith(endings) and place not in found:
            found[place] = originals.get(place, module)
    for target in written_ranks(adapter.plan):
        if any(f"{target}.".startswith(f"{h}.") or h.startswith(f"{target}.") for h in found):
            return None
    return found
