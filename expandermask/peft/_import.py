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
    masked_layers,
    saved_tensors,
)
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.fit import check_fit
from expandermask.adapters.layers.adapter import value_dtype
from expandermask.adapters.layers.factors import gather_values
from expandermask.adapters.layers.masked import weight_of
from expandermask.adapters.training.distributed import like
from expandermask.errors import AdapterError, FileFormatError, InvalidInputError, require_memory
from expandermask.files import parse_json
from expandermask.graphs.named import complete_bipartite
from expandermask.masks.places import bare_at
from expandermask.masks.plan import MaskPair, MaskPlan
from expandermask.peft._export import CONFIG_KEY, PLAN_KEY, written_ranks
from expandermask.peft._folder import Factors, PeftFolder, read_folder

_SAME_SCALE = 1e-9


def import_peft(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    plan: MaskPlan | None = None,
    name: str = "default",
) -> MaskPlan:
    """Put a LoRA that PEFT saved on ``model`` as a masked adapter; returns its plan.

    The model then computes what PEFT's would, and trains on under the masks. These are, in this
    order: those of ``plan``; those `export_peft` left in the file, if the factors are still zero
    off them; or complete ones, r entries in each column of A and row of B, which lose nothing and
    save nothing. An adapter trained under masks but without its plan comes in dense.

    Parameters
    ----------
    model : torch.nn.Module
        Without adapters, or with others: see `attach`.
    folder : path
        With ``adapter_config.json`` and ``adapter_model.safetensors``. Rank-stabilised scaling,
        ``rank_pattern``, ``alpha_pattern``, embeddings and ``modules_to_save`` are understood.
        Where modules differ in scale, B makes up for it, to rounding.
    plan : MaskPlan, optional
        For exactly the folder's modules and rank.
    name : str
        The adapter's name on the model.

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
    stored = read_folder(Path(folder))
    if plan is None:
        plan = _embedded_plan(stored) or _complete_plan(stored)
    else:
        _require_plan(plan, stored)
    stored = replace(stored, factors=_at_plans_ranks(stored, plan))
    config = _config(stored, plan)
    require_free(model, name)
    saved = check_fit(model, plan, config)
    _require_others(model, stored, NamedAdapter(plan, config, _heads(model, saved)))
    _require_exact(model, stored)
    with attaching(model, plan, config, name):
        _copy(model, stored, name)
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
    """The factors with as many ranks as the plan has, zero at those that its masks leave empty."""
    found = {}
    for name, (a, b) in stored.factors.items():
        if len(a) != plan.r:
            used = torch.from_numpy(written_ranks(plan[name]))
            if len(used) != len(a):
                raise AdapterError(
                    f"the plan has r={plan.r}, of which the masks of {name!r} use {len(used)}, and "
                    f"the file r={len(a)}"
                )
            require_memory(plan.r * (len(b) + a.shape[1]) * a.element_size(), f"rank {plan.r}")
            b = b.new_zeros(len(b), plan.r).index_copy_(1, used, b)
            a = a.new_zeros(plan.r, a.shape[1]).index_copy_(0, used, a)
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
    agrees = (
        (config.r, config.left_degree) == (plan.r, plan.left_degree)
        and config.lora_dropout == stored.dropout
        and set(config.modules_to_save) <= set(stored.modules_to_save)
        and all(
            abs(config.scale_of(pair) - stored.scales[name]) <= _SAME_SCALE * stored.scales[name]
            for name, pair in plan.items()
        )
    )
    return config if agrees else None


def _heads(model: nn.Module, saved: tuple[str, ...]) -> dict[str, nn.Module]:
    return {place: bare_at(model, place) for place in saved}


def _require_others(model: nn.Module, stored: PeftFolder, adapter: NamedAdapter) -> None:
    """What is not a factor is exactly the modules to save, or a base weight as the model has it."""
    own = saved_tensors(adapter)
    for key, tensor in stored.others.items():
        if key not in own and not _is_models_own(model, key, tensor):
            raise AdapterError(
                f"tensor {key!r} of the file is in no module to save, and is not the model's own"
            )
    for key, tensor in own.items():
        theirs = stored.others.get(key)
        if theirs is None:
            raise AdapterError(f"tensor {key!r} of the modules to save is only in the model")
        if (theirs.shape, theirs.dtype) != (tensor.shape, tensor.dtype):
            raise AdapterError(
                f"tensor {key!r} is {tuple(theirs.shape)} {theirs.dtype} in the file and "
                f"{tuple(tensor.shape)} {tensor.dtype} in the model"
            )


def _is_models_own(model: nn.Module, key: str, tensor: Tensor) -> bool:
    """Whether it is a base weight as the model has it: PEFT saves adapted tables along."""
    place, _, leaf = key.replace(".base_layer.", ".").rpartition(".")
    try:
        own = getattr(bare_at(model, place), leaf)
    except AttributeError:
        return False
    return (
        isinstance(own, Tensor)
        and own.dtype == tensor.dtype
        and torch.equal(own.detach().cpu(), tensor)
    )


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


def _copy(model: nn.Module, stored: PeftFolder, name: str) -> None:
    """The factors' entries and the modules to save into the new adapter."""
    targets: Mapping[str, Tensor] = saved_tensors(attachment(model).adapters[name])
    with torch.no_grad():
        for place, layer in masked_layers(model, name).items():
            adapter, (a, b) = layer.adapter(name), stored.factors[place]
            wanted = stored.scales[place]
            if abs(adapter.scale - wanted) > _SAME_SCALE * wanted:
                b = b * (wanted / adapter.scale)
            for values, index, dense in (
                (adapter.values_a, adapter.index_a, a),
                (adapter.values_b, adapter.index_b, b.t()),
            ):
                found = gather_values(dense.contiguous().to(index.device), index, values)
                values.copy_(like(found, values))
        for key, tensor in targets.items():
            tensor.copy_(like(stored.others[key], tensor))
