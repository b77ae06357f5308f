"""import_peft(): a stock PEFT LoRA folder as an adapter of this library.

The inverse of `export_peft`, which leaves its plan in the file where PEFT does not look. Everything
is checked before the model is touched.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from expandermask.adapters.attach import attaching, require_free
from expandermask.adapters.attachment import (
    NamedAdapter,
    attachment,
    is_attached,
    masked_layers,
    saved_in,
    saved_tensors,
)
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.files.dtypes import keep_dtypes, require_choice, require_dtype
from expandermask.adapters.fit import check_fit
from expandermask.adapters.layers.adapter import value_dtype
from expandermask.adapters.layers.factors import gather_values
from expandermask.adapters.layers.masked import weight_of
from expandermask.adapters.training.distributed import like, whole
from expandermask.errors import AdapterError, FileFormatError, InvalidInputError, require_memory
from expandermask.files import parse_json
from expandermask.graphs.named import complete_bipartite
from expandermask.masks.peft_file import CONFIG_KEY, PLAN_KEY
from expandermask.masks.places import bare_at, bare_modules, parameter_owners
from expandermask.masks.plan import MaskPair, MaskPlan
from expandermask.peft._folder import Factors, PeftFolder, read_folder

_SAME_SCALE = 1e-9


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
    stored = read_folder(Path(folder))
    if plan is None:
        plan = _embedded_plan(stored) or _complete_plan(stored)
    else:
        _require_plan(plan, stored)
    stored = replace(stored, factors=_at_plans_ranks(stored, plan))
    config = _config(stored, plan)
    require_free(model, name)
    config = replace(config, modules_to_save=_modules_to_save(model, stored, config, plan, dtype))
    heads = {place: bare_at(model, place) for place in check_fit(model, plan, config)}
    _require_heads(stored, NamedAdapter(plan, config, heads), dtype)
    _require_exact(model, stored)
    with attaching(model, plan, config, name):
        _copy(model, stored, name, dtype)
    return plan


class _OffMask(NamedTuple):
    """The entries of a module's factors that its masks would drop."""

    entries: int
    largest: float


def _embedded_plan(stored: PeftFolder) -> MaskPlan | None:
    """The plan `export_peft` left in the file, if it still describes the factors."""
    text = stored.metadata.get(PLAN_KEY)
    if text is None:
        return None
    try:
        plan = MaskPlan.from_json(text)
        _require_plan(plan, stored)
    except (AdapterError, FileFormatError) as error:
        warnings.warn(
            f"the plan in the file is not used, the import is dense: {error}", stacklevel=3
        )
        return None
    return plan


def _complete_plan(stored: PeftFolder) -> MaskPlan:
    """Masks that keep everything, of modules of a smaller rank the first ranks."""
    if stored.r < 2 or any(len(a) < stored.r for a, _ in stored.factors.values()):
        there = np.arange(stored.r)
        ones = {
            name: (np.tile(there < len(a), (a.shape[1], 1)), np.tile(there < len(a), (len(b), 1)))
            for name, (a, b) in stored.factors.items()
        }
        return MaskPlan.from_masks(ones, rng=0)
    pairs = {
        name: MaskPair(
            complete_bipartite(a.shape[1], stored.r), complete_bipartite(len(b), stored.r)
        )
        for name, (a, b) in stored.factors.items()
    }
    return MaskPlan(pairs, r=stored.r, left_degree=stored.r, seed=0)


def _require_plan(plan: MaskPlan, stored: PeftFolder) -> None:
    """The plan is for these modules and shapes, and its masks drop nothing."""
    if not isinstance(plan, MaskPlan):
        raise InvalidInputError(f"plan must be a MaskPlan, got {plan!r:.80}")
    if names := sorted(plan.keys() ^ stored.factors.keys()):
        where = "plan" if names[0] in plan else "file"
        raise AdapterError(f"module {names[0]!r} is only in the {where}; both must name the same")
    dropped: dict[str, _OffMask] = {}
    factors = _at_plans_ranks(stored, plan)
    for name, pair in plan.items():
        a, b = factors[name]
        if pair.shape != (len(b), a.shape[1]):
            raise AdapterError(
                f"the plan's masks for {name!r} are for a (d, k) = {pair.shape} weight, and the "
                f"file's factors for {(len(b), a.shape[1])}"
            )
        if (off := _off_mask(pair, (a, b))).entries:
            dropped[name] = off
    if dropped:
        raise AdapterError(
            f"{sum(off.entries for off in dropped.values())} entries off the plan's masks are not "
            f"zero, the largest {max(off.largest for off in dropped.values()):.3g}, in "
            f"{len(dropped)} modules (the first {next(iter(dropped))!r}): this plan would drop "
            "them; without a plan they are kept"
        )


def _at_plans_ranks(stored: PeftFolder, plan: MaskPlan) -> dict[str, Factors]:
    """The factors with as many ranks as the plan has, zero at those that the file has not.

    An export holds the ranks that the masks use, one after another. A file of more ranks than that
    has each in its own place.
    """
    found = {}
    for name, (a, b) in stored.factors.items():
        rank = len(a)
        if rank > plan.r:
            raise AdapterError(f"the plan has r={plan.r}, and {name!r} in the file r={rank}")
        used = plan[name].used_ranks
        ranks = torch.from_numpy(used[:rank]) if rank <= len(used) else torch.arange(rank)
        if rank < plan.r:
            require_memory(plan.r * (len(b) + a.shape[1]) * a.element_size(), f"rank {plan.r}")
            b = b.new_zeros(len(b), plan.r).index_copy_(1, ranks, b)
            a = a.new_zeros(plan.r, a.shape[1]).index_copy_(0, ranks, a)
        found[name] = a, b
    return found


def _off_mask(pair: MaskPair, factors: Factors) -> _OffMask:
    count, largest = 0, 0.0
    for support, factor in zip((pair.a, pair.b), (factors[0].t(), factors[1]), strict=True):
        outside = factor[torch.from_numpy(np.logical_not(support.mask()))]
        if wrong := int((outside != 0).sum()):  # NaN is no zero either
            count, largest = count + wrong, max(largest, float(outside.abs().max()))
    return _OffMask(count, largest)


def _config(stored: PeftFolder, plan: MaskPlan) -> AdapterConfig:
    """The config behind the file: the one exported with it, or one with the same scale."""
    own = _embedded_config(stored, plan)
    if own is not None:
        return own
    scales = list(stored.scales.values())
    return AdapterConfig(
        r=plan.r,
        left_degree=plan.left_degree,
        lora_alpha=max(dict.fromkeys(scales), key=scales.count) * plan.r,
        lora_dropout=stored.dropout,
        target_modules=tuple(plan),
        scaling="paper",
        modules_to_save=stored.modules_to_save,
    )


def _embedded_config(stored: PeftFolder, plan: MaskPlan) -> AdapterConfig | None:
    """The config `export_peft` left in the file, unless PEFT's own now says something else."""
    text = stored.metadata.get(CONFIG_KEY)
    if text is None:
        return None
    try:
        config = AdapterConfig.from_dict(parse_json(text))
    except FileFormatError:
        return None
    ours = (config.r, config.left_degree, config.lora_dropout)
    return config if ours == (plan.r, plan.left_degree, stored.dropout) else None


# -- what a file holds beside the factors ----------------------------------------------------------


def _modules_to_save(
    model: nn.Module,
    stored: PeftFolder,
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
    owners = parameter_owners(model)
    changed: dict[str, None] = {}
    for key, theirs in stored.others.items():
        if key.startswith(heads) or _is_models_own(key, theirs, own, dtype):
            continue
        plain = key.replace(".base_layer.", ".")
        place = plain.rpartition(".")[0]
        ties = [other for other in owners[id(own[plain])] if other != plain]
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
        for tensors in (module._parameters, module._buffers)
        for key, tensor in tensors.items()
        if tensor is not None
    }
    originals = attachment(model).originals if is_attached(model) else {}
    return own | {f"{place}.{key}": tensor for place, key, tensor in saved_in(originals)}


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


def _require_heads(stored: PeftFolder, adapter: NamedAdapter, dtype: str | None) -> None:
    """The file has every tensor of the modules to save, of the model's shape and dtype."""
    for key, tensor in saved_tensors(adapter).items():
        theirs = stored.others.get(key)
        if theirs is None:
            raise AdapterError(f"tensor {key!r} of the modules to save is only in the model")
        if theirs.shape != tensor.shape:
            raise AdapterError(
                f"tensor {key!r} is {tuple(theirs.shape)} in the file and {tuple(tensor.shape)} in "
                "the model"
            )
        require_dtype(key, theirs.dtype, tensor.dtype, dtype)


def _require_exact(model: nn.Module, stored: PeftFolder) -> None:
    """No factor is rounded on its way to the values' dtype."""
    for name, factors in stored.factors.items():
        dtype = value_dtype(weight_of(bare_at(model, name)))
        for factor in factors:
            if torch.promote_types(factor.dtype, dtype) != dtype:
                raise AdapterError(
                    f"the factors of {name!r} are {factor.dtype} and would be rounded to {dtype}; "
                    "convert the file, or the model to float64"
                )


def _copy(model: nn.Module, stored: PeftFolder, name: str, dtype: str | None) -> None:
    """The factors' entries and the modules to save into the new adapter."""
    attached = attachment(model).adapters[name]
    with torch.no_grad():
        for place, layer in masked_layers(model, name).items():
            adapter = layer.adapter(name)
            a, b = stored.factors[place]
            ratio = adapter.scale / stored.scales[place]
            if abs(ratio - 1) > _SAME_SCALE:
                b = b.to(adapter.values_b.dtype) / ratio
            for values, index, dense in (
                (adapter.values_a, adapter.index_a, a),
                (adapter.values_b, adapter.index_b, b.t()),
            ):
                found = gather_values(dense.contiguous().to(index.device), index, values)
                values.copy_(like(found, values))
        if dtype == "file":
            keep_dtypes(attached.heads, stored.others)
        for key, tensor in saved_tensors(attached).items():
            tensor.copy_(like(stored.others[key], tensor))
