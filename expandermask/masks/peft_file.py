"""A dense LoRA in PEFT's files: their names, and which ranks of a plan are written.

An export has one tensor per factor. By default all of them have the largest rank that a module
uses, the others padded with zeros; in the compact form each module has its own. Nothing here needs
torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from expandermask.masks.plan import MaskPlan

Number = TypeVar("Number", int, float)

CONFIG_NAME = "adapter_config.json"
"""PEFT's config, beside its tensors; this library's own adapters have none."""
PEFT_METADATA = {"format": "pt"}
"""The metadata of the files that PEFT itself writes."""
PLAN_KEY, CONFIG_KEY = "expandermask_plan", "expandermask_config"


def peft_name(module: str, side: str, embedding: bool = False) -> str:
    """The name PEFT's checkpoints give factor ``side``, "A" or "B", of a module."""
    leaf = f"lora_embedding_{side}" if embedding else f"lora_{side}.weight"
    return f"base_model.model.{module}.{leaf}"


def written_ranks(plan: MaskPlan) -> dict[str, NDArray[np.int64]]:
    """The ranks of each module that an export holds: those in use.

    Modules without any are left out. If no module uses a rank, the first module keeps one, which
    is zero, because PEFT loads no adapter without modules.
    """
    ranks = {place: pair.used_ranks for place, pair in plan.items()}
    kept = {place: used for place, used in ranks.items() if len(used)}
    return kept or {next(iter(plan)): np.zeros(1, dtype=np.int64)}


def factor_shapes(
    plan: MaskPlan, *, compact: bool = False, tables: Collection[str] = ()
) -> dict[str, tuple[int, int]]:
    """The shape of every tensor of an export by its name; ``tables`` are the adapted embeddings."""
    ranks = {place: len(used) for place, used in written_ranks(plan).items()}
    largest = max(ranks.values())
    shapes = {}
    for place, rank in ranks.items():
        d, k = plan[place].shape
        r = rank if compact else largest
        shapes[peft_name(place, "A", place in tables)] = (r, k)
        shapes[peft_name(place, "B", place in tables)] = (d, r)
    return shapes


def scale_fields(
    ranks: Mapping[str, int], scales: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The fields of PEFT's config that say the rank and the scale of each module.

    Without ``scales``, which then are in B, all modules have the largest rank and a scale of 1.
    With them, the commonest rank and alpha, and patterns for the modules that differ.

    Examples
    --------
    >>> scale_fields({"q": 2, "v": 4})
    {'r': 4, 'lora_alpha': 4, 'rank_pattern': {}, 'alpha_pattern': {}}
    >>> scale_fields({"q": 2, "k": 2, "v": 4}, {"q": 1.0, "k": 1.0, "v": 0.5})
    {'r': 2, 'lora_alpha': 2.0, 'rank_pattern': {'^v$': 4}, 'alpha_pattern': {}}
    """
    if scales is None:
        largest = max(ranks.values())
        return {"r": largest, "lora_alpha": largest, "rank_pattern": {}, "alpha_pattern": {}}
    alphas = {place: scale * ranks[place] for place, scale in scales.items()}
    r, rank_pattern = _with_pattern(ranks)
    alpha, alpha_pattern = _with_pattern(alphas)
    return {
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
    }


def _with_pattern(values: Mapping[str, Number]) -> tuple[Number, dict[str, Number]]:
    """The commonest value, and a regular expression for each module that has another."""
    every = list(values.values())
    common = max(dict.fromkeys(every), key=every.count)
    return common, {f"^{re.escape(name)}$": v for name, v in values.items() if v != common}


def export_metadata(plan: MaskPlan, config: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of an export: the plan of its modules and the config, where PEFT looks at none.

    ``config`` has the fields of an `AdapterConfig`.
    """
    pairs = {place: plan[place] for place in written_ranks(plan)}
    kept = plan.with_masks(pairs, left_degree=plan.left_degree)
    return PEFT_METADATA | {PLAN_KEY: kept.to_json(), CONFIG_KEY: json.dumps(config)}
