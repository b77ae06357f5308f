"""import_peft(): a stock PEFT LoRA folder as an adapter of this library.

The inverse of `export_peft`, which leaves its plan in the file where PEFT does not look. Everything
is checked before the model is touched. The folder is read strictly: ``adapter_config.json`` has to
describe plain LoRA, and every field this reader does not know has to be off;
``adapter_model.safetensors`` has to hold whole pairs of factors. Pickles are not opened.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch
from torch import Tensor, nn

from expandermask.adapters.attach import attaching, require_free
from expandermask.adapters.attachment import (
    attachment,
    is_attached,
    masked_layers,
    saved_tensors,
)
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.files.saving import fill, require_alike, require_choice
from expandermask.adapters.fit import check_fit
from expandermask.adapters.layers.adapter import value_dtype
from expandermask.adapters.layers.factors import gather_values
from expandermask.adapters.layers.quantized import weight_of
from expandermask.adapters.training.distributed import whole
from expandermask.errors import AdapterError, FileFormatError, InvalidInputError, require_memory
from expandermask.files import parse_json, reading
from expandermask.graphs.named import complete_bipartite
from expandermask.io.tensors import open_tensors
from expandermask.masks.adapter_file import WEIGHTS_NAME
from expandermask.masks.peft_file import CONFIG_KEY, CONFIG_NAME, PLAN_KEY
from expandermask.masks.places import bare_at, bare_modules
from expandermask.masks.plan import MaskPair, MaskPlan, Support

_SAME_SCALE = 1e-9

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
    "peft_type": (
        None,
        ("LORA",),
        "only 'LORA' can be imported; PeftModel.from_pretrained loads 'XORA'",
    ),
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


def import_peft(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    plan: MaskPlan | None = None,
    name: str = "default",
    dtype: str | None = None,
) -> MaskPlan:
    """Put a LoRA that PEFT saved on ``model`` as a masked adapter; returns its plan.

    The model then computes what PEFT's would, and trains on under the masks. These are, in this
    order: those of ``plan``; those `export_peft` left in the file, if the factors are still zero
    off them; or complete ones, r entries in each column of A and row of B, which lose nothing and
    save nothing. An adapter trained under masks but without its plan comes in dense.

    A folder of `export_peft` gives back the adapter's plan and config. A is the same bit for bit;
    so is B where the scale is a power of two or the export was compact, and otherwise it is the
    same to one rounding.

    Parameters
    ----------
    model : torch.nn.Module
        Without adapters, or with others: see `attach`.
    folder : path
        With ``adapter_config.json`` and ``adapter_model.safetensors``. Rank-stabilised scaling,
        ``rank_pattern``, ``alpha_pattern``, embeddings and ``modules_to_save`` are understood.
        Where modules differ in scale, B makes up for it, to rounding. Trailing ranks that are zero
        in A and in B are padding and are left out. A weight of the base in the file, such as an
        embedding that was resized, has to be the model's own; if its values are others, its module
        becomes one to save.
    plan : MaskPlan, optional
        For exactly the folder's modules and rank.
    name : str
        The adapter's name on the model.
    dtype : {"file", "model"}, optional
        Which dtype the modules to save get where the file's is not the model's. With "file" a head
        in float32 stays so on a bfloat16 model, which then has to run under `torch.autocast`. None
        refuses such a file.

    Raises
    ------
    FileFormatError
        A file is missing, damaged, a pickle, or no plain LoRA.
    AdapterError
        Factors are not zero off the masks of ``plan`` (how many entries, and how large), or the
        adapter does not fit the plan or the model.

    Examples
    --------
    >>> import tempfile, torch
    >>> from expandermask.adapters import AdapterConfig, attach, export_peft, import_peft
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> _ = attach(model, AdapterConfig(r=8), rng=0)
    >>> fresh = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_peft(model, folder)
    ...     import_peft(fresh, folder)
    MaskPlan(1 modules, r=8, left_degree=2, 192 values)
    """
    require_choice(dtype)
    stored = _read_folder(Path(folder))
    plan, factors = _plan_for(stored, plan)
    config = _config(stored, plan)
    require_free(model, name)
    config = replace(config, modules_to_save=_modules_to_save(model, stored, config, plan, dtype))
    shapes = {place: pair.shape for place, pair in plan.items()}
    heads = {place: bare_at(model, place) for place in check_fit(model, shapes, config)}
    require_alike(stored.others, saved_tensors(heads), dtype)
    _require_exact(model, factors)
    with attaching(model, plan, config, name):
        values = _values(model, name, factors, stored.scales)
        fill(model, name, {**stored.others, **values}, dtype)
    return plan


# -- the folder ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Folder:
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


def _read_folder(folder: Path) -> _Folder:
    """Read and check a folder; `FileFormatError` for anything but plain LoRA in safetensors."""
    with reading(folder / CONFIG_NAME, within=folder) as (stream, size):
        require_memory(size, CONFIG_NAME)
        config = _plain_lora(stream.read())
    if not (folder / WEIGHTS_NAME).exists() and (folder / "adapter_model.bin").exists():
        raise FileFormatError(
            f"{str(folder)!r} holds adapter_model.bin, a pickle, which is not opened; save it "
            "again with PEFT's save_pretrained(safe_serialization=True)"
        )
    path = folder / WEIGHTS_NAME
    with reading(path, within=folder) as (stream, size):
        file = open_tensors(stream, size, repr(os.fspath(path)))
        factors, others = _sorted(file.read(), config)
    return _Folder(
        config=_shared_fields(config),
        factors=factors,
        scales={name: _scale(config, name) for name in factors},
        others=others,
        metadata=file.header.metadata,
    )


def _plain_lora(text: bytes) -> dict[str, Any]:
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
    return config


def _shared_fields(config: dict[str, Any]) -> AdapterConfig:
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
    if not all(factor.is_floating_point() and factor.itemsize > 1 for factor in (a, b)):
        raise FileFormatError(
            f"module {name!r}: factors must be floating-point numbers of 16 bits or more, got "
            f"{a.dtype} and {b.dtype}"
        )
    used = (a != 0).any(1) | (b != 0).any(0)  # NaN is not zero, so it counts as used
    rank = int(used.nonzero().max()) + 1 if used.any() else 1
    return a[:rank], b[:, :rank]


# -- the plan, the factors under it, and the config ------------------------------------------------


def _plan_for(stored: _Folder, plan: MaskPlan | None) -> tuple[MaskPlan, dict[str, Factors]]:
    """The masks of the import, and the factors, which are zero off them.

    Without a ``plan`` that which `export_peft` left in the file, if it still describes the factors.
    """
    if plan is not None:
        return plan, _under_masks(plan, stored)
    if PLAN_KEY in stored.metadata:
        try:
            plan = MaskPlan.from_json(stored.metadata[PLAN_KEY])
            return plan, _under_masks(plan, stored)
        except (AdapterError, FileFormatError) as error:
            warnings.warn(
                f"the plan in the file is not used, the import is dense: {error}", stacklevel=3
            )
    plan = _complete_plan(stored.factors)
    return plan, _at_plans_ranks(stored, plan)


def _complete_plan(factors: Mapping[str, Factors]) -> MaskPlan:
    """Masks that keep everything, of modules of a smaller rank the first ranks."""
    r = max(len(a) for a, _ in factors.values())
    if r >= 2 and all(len(a) == r for a, _ in factors.values()):
        pairs = {
            name: MaskPair(complete_bipartite(a.shape[1], r), complete_bipartite(len(b), r))
            for name, (a, b) in factors.items()
        }
        return MaskPlan(pairs, r=r, left_degree=r, seed=0)
    there = np.arange(r)
    ones = {
        name: (np.tile(there < len(a), (a.shape[1], 1)), np.tile(there < len(a), (len(b), 1)))
        for name, (a, b) in factors.items()
    }
    return MaskPlan.from_masks(ones, rng=0)


def _under_masks(plan: MaskPlan, stored: _Folder) -> dict[str, Factors]:
    """The factors at the plan's ranks; `AdapterError` unless it is for them and drops nothing."""
    if not isinstance(plan, MaskPlan):
        raise InvalidInputError(f"plan must be a MaskPlan, got {plan!r:.80}")
    if names := sorted(plan.keys() ^ stored.factors.keys()):
        where = "plan" if names[0] in plan else "file"
        raise AdapterError(f"module {names[0]!r} is only in the {where}; both must name the same")
    factors = _at_plans_ranks(stored, plan)
    dropped: dict[str, Tensor] = {}
    for name, pair in plan.items():
        a, b = factors[name]
        if pair.shape != (len(b), a.shape[1]):
            raise AdapterError(
                f"the plan's masks for {name!r} are for a (d, k) = {pair.shape} weight, and the "
                f"file's factors for {(len(b), a.shape[1])}"
            )
        off = torch.cat([_off_mask(pair.a, a.t()), _off_mask(pair.b, b)])
        if len(off):
            dropped[name] = off
    if dropped:
        every = torch.cat(list(dropped.values()))
        raise AdapterError(
            f"{len(every)} entries off the plan's masks are not zero, the largest "
            f"{float(every.abs().max()):.3g}, in {len(dropped)} modules (the first "
            f"{next(iter(dropped))!r}): this plan would drop them; without a plan they are kept"
        )
    return factors


def _off_mask(support: Support, factor: Tensor) -> Tensor:
    """The entries of a factor that its mask would drop; NaN is no zero either."""
    outside = factor[torch.from_numpy(np.logical_not(support.mask()))]
    return outside[outside != 0].double()


def _at_plans_ranks(stored: _Folder, plan: MaskPlan) -> dict[str, Factors]:
    """The factors with as many ranks as the plan has, zero at those that the file has not.

    An export holds the ranks that the masks use, one after another. A file of more ranks than that
    has each in its own place.
    """
    found = {}
    for name, (a, b) in stored.factors.items():
        rank = len(a)
        r = plan[name].r
        if rank > r:
            raise AdapterError(f"the plan has r={r}, and {name!r} in the file r={rank}")
        used = plan[name].used_ranks
        ranks = torch.from_numpy(used[:rank]) if rank <= len(used) else torch.arange(rank)
        if rank < r:
            require_memory(r * (len(b) + a.shape[1]) * a.element_size(), f"rank {r}")
            b = b.new_zeros(len(b), r).index_copy_(1, ranks, b)
            a = a.new_zeros(r, a.shape[1]).index_copy_(0, ranks, a)
        found[name] = a, b
    return found


def _config(stored: _Folder, plan: MaskPlan) -> AdapterConfig:
    """The config exported with the file, unless PEFT's own says otherwise; or one of its scale."""
    if CONFIG_KEY in stored.metadata:
        with suppress(FileFormatError):
            config = AdapterConfig.from_dict(parse_json(stored.metadata[CONFIG_KEY]))
            ranks = {place: pair.r for place, pair in plan.items()}
            same_dropout = config.lora_dropout == stored.config.lora_dropout
            if same_dropout and config.fits(ranks, plan.left_degree):
                return config
    scales = list(stored.scales.values())
    return replace(
        stored.config,
        r=plan.r,
        rank_pattern=AdapterConfig.of_plan(plan).rank_pattern,
        left_degree=plan.left_degree,
        lora_alpha=max(dict.fromkeys(scales), key=scales.count) * plan.r,
        target_modules=tuple(plan),
    )


# -- what a file holds beside the factors ----------------------------------------------------------


def _modules_to_save(
    model: nn.Module,
    stored: _Folder,
    config: AdapterConfig,
    plan: MaskPlan,
    dtype: str | None,
) -> tuple[str, ...]:
    """The config's modules to save that the model has, and those whose weights the file changes.

    PEFT lists the names of all usual heads, whichever of them the model has. It also saves base
    weights along, such as resized embeddings.
    """
    places = [place for place, _ in bare_modules(model, remove_duplicate=False)]
    named = {
        item: [place for place in places if f".{place}".endswith(f".{item}")]
        for item in config.modules_to_save
    }
    heads = tuple(f"{place}." for found in named.values() for place in found)
    own = _own_tensors(model)
    changed: dict[str, None] = {}
    for key, theirs in stored.others.items():
        if key.startswith(heads) or _is_models_own(key, theirs, own, dtype):
            continue
        plain = key.replace(".base_layer.", ".")
        place = plain.rpartition(".")[0]
        ties = [other for other, ours in own.items() if ours is own[plain] and other != plain]
        if place in plan or ties:
            reason = f"it is tied to {ties[0]!r}" if ties else "it is adapted"
            raise AdapterError(
                f"tensor {key!r} of the file is not the model's own, and {place!r} cannot become a "
                f"module to save, because {reason}; copy the tensor into the model before the "
                "import"
            )
        changed[place] = None
    return (*(item for item, found in named.items() if found), *changed)


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's own parameters and buffers by name, without any adapter's copies."""
    own = {
        f"{place}.{key}": tensor
        for place, module in bare_modules(model, remove_duplicate=False)
        for key, tensor in (module._parameters | module._buffers).items()
        if tensor is not None
    }
    return own | saved_tensors(attachment(model).originals if is_attached(model) else {})


def _is_models_own(key: str, theirs: Tensor, own: Mapping[str, Tensor], dtype: str | None) -> bool:
    """Whether a tensor of the file has the model's values; raises where it cannot replace them."""
    ours = own.get(key.replace(".base_layer.", "."))
    if ours is None:
        raise AdapterError(
            f"tensor {key!r} of the file is in no module to save, and is not the model's own"
        )
    if ours.shape != theirs.shape:
        rows = theirs.shape[0] if theirs.dim() else 0
        raise AdapterError(
            f"tensor {key!r} is {tuple(theirs.shape)} in the file and {tuple(ours.shape)} in the "
            "model; if its embeddings were resized before training, call "
            f"model.resize_token_embeddings({rows}) before the import"
        )
    if dtype == "model":
        theirs = theirs.to(ours.dtype)
    wide = torch.promote_types(ours.dtype, theirs.dtype)
    return not ours.is_meta and torch.equal(whole(ours.detach()).cpu().to(wide), theirs.to(wide))


def _require_exact(model: nn.Module, factors: Mapping[str, Factors]) -> None:
    """No factor is rounded on its way to the values' dtype."""
    for name, pair in factors.items():
        dtype = value_dtype(weight_of(bare_at(model, name)))
        for factor in pair:
            if torch.promote_types(factor.dtype, dtype) != dtype:
                raise AdapterError(
                    f"the factors of {name!r} are {factor.dtype} and would be rounded to {dtype}; "
                    "convert the file, or the model to float64"
                )


def _values(
    model: nn.Module, name: str, factors: Mapping[str, Factors], scales: Mapping[str, float]
) -> dict[str, Tensor]:
    """The factors' entries as the values of the new adapter, by their names in its own files."""
    found = {}
    for place, layer in masked_layers(model, name).items():
        adapter = layer.adapter(name)
        a, b = factors[place]
        ratio = adapter.scale / scales[place]
        if abs(ratio - 1) > _SAME_SCALE:
            b = b.to(adapter.lora_B.dtype) / ratio
        for side, values, index, dense in (
            ("A", adapter.lora_A, adapter.index_a, a),
            ("B", adapter.lora_B, adapter.index_b, b.t()),
        ):
            dense = dense.contiguous().to(index.device)
            found[f"{place}.{side}"] = gather_values(dense, index, values)
    return found
