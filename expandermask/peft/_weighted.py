"""The weighted sum of several adapters as one more adapter, exactly.

The sum of w_i s_i B_i A_i is one product, [w_1 s_1 B_1, w_2 s_2 B_2, ...] times the A_i stacked. So
the ranks add up, and weights, signs and scales go into B. All entries of these factors are kept:
the new adapter is a dense LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from peft import PeftConfig

from expandermask.adapters.layers.factors import gather_values
from expandermask.adapters.layers.masked import AdaptedLayer
from expandermask.errors import AdapterError, check_real
from expandermask.graphs.bipartite import BipartiteGraph, from_kept
from expandermask.masks.places import bare_modules
from expandermask.masks.plan import MaskPlan
from expandermask.masks.targets import target_names
from expandermask.peft._config import XoraConfig
from expandermask.peft._layer import PeftAttachment


def require_summable(
    attached: PeftAttachment, adapters: Sequence[str], weights: Sequence[float], kind: str
) -> None:
    """Raise `AdapterError` for what `XoraModel.add_weighted_adapter` cannot add up."""
    for name in adapters:
        if name not in attached.plans:
            raise AdapterError(f"Adapter {name} does not exist; there are {list(attached.plans)}")
        if attached.biases(name):
            raise AdapterError(
                f"adapter {name!r} trains biases of the base, which a weighted sum would not have; "
                'add up adapters with bias="none" only'
            )
    if not adapters or len(adapters) != len(weights):
        raise AdapterError(
            "adapters and weights must be equally many and at least one, got "
            f"{len(adapters)} adapters and {len(weights)} weights"
        )
    for weight in weights:
        check_real("each of weights", weight)
    if kind != "cat":
        raise AdapterError(
            f'combination_type must be "cat", got {kind!r}: it is the one that gives exactly the '
            'weighted sum of the updates; pass combination_type="cat"'
        )
    saved = [place for name in adapters for place in attached.named(name).heads]
    twice = len(saved) - len(set(saved))
    if twice:
        raise AdapterError(
            "Cannot add weighted adapters if they target the same module with modules_to_save, but "
            f"found {twice} such instance(s)."
        )


def sum_config(attached: PeftAttachment, adapters: Sequence[str]) -> XoraConfig:
    """The config of the sum: its scale is 1, and its plan keeps every entry of the factors."""
    configs = [attached.xora_config(name) for name in adapters]
    plans = [attached.plans[name] for name in adapters]
    r = sum(plan.r for plan in plans)
    shapes = {place: pair.shape for plan in plans for place, pair in plan.items()}
    masks = {place: (_complete(k, r), _complete(d, r)) for place, (d, k) in shapes.items()}
    plan = MaskPlan.from_masks(masks, rng=plans[0].seed)
    saved = [name for config in configs for name in config.modules_to_save or ()]
    every = [place for place, _ in bare_modules(attached.model)]
    shared = {field.name: getattr(configs[0], field.name) for field in fields(PeftConfig)}
    return XoraConfig(
        **shared,
        r=r,
        left_degree=r,
        lora_alpha=r,
        lora_dropout=configs[0].lora_dropout,
        scaling="paper",
        target_modules=target_names(shapes, every),
        modules_to_save=saved or None,
        mask_seed=plan.seed,
        mask_plan=plan.to_dict(),
    )


@torch.no_grad()
def fill_sum(
    attached: PeftAttachment, total: str, adapters: Sequence[str], weights: Sequence[float]
) -> None:
    """Put the factors of the sum into the adapter ``total``, and the modules to save."""
    for layer in attached.layers_of(total).values():
        _fill_layer(layer, total, [(n, attached.plans[n].r) for n in adapters], weights)
    heads = attached.named(total).heads
    for name in adapters:
        for place, head in attached.named(name).heads.items():
            heads[place].load_state_dict(head.state_dict())


def _fill_layer(
    layer: AdaptedLayer, total: str, ranks: Sequence[tuple[str, int]], weights: Sequence[float]
) -> None:
    """Stack the factors of one module; ranks that an adapter does not have there are zeros."""
    target = layer.adapter(total)
    (d, k), r = target.shape, target.r
    dtype = torch.promote_types(target.lora_B.dtype, torch.float32)
    a = torch.zeros(r, k, dtype=dtype, device=target.lora_A.device)
    b = torch.zeros(r, d, dtype=dtype, device=target.lora_B.device)
    start = 0
    for (name, rank), weight in zip(ranks, weights, strict=True):
        if name in layer.adapters:
            one = layer.adapter(name)
            one_a, one_b = one.factors(dtype)
            block = slice(start, start + one.r)
            a[block] = one_a
            b[block] = one_b.t() * (one.scale * weight)
        start += rank
    target.lora_A.copy_(gather_values(a, target.index_a, target.lora_A))
    target.lora_B.copy_(gather_values(b, target.index_b, target.lora_B))


def _complete(n: int, r: int) -> BipartiteGraph:
    """The mask that keeps every entry of an (n, r) matrix."""
    return from_kept(np.arange(n), n, r)
