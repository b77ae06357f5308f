"""resize(): give an adapter other ranks in the middle of its training.

Masks are drawn, and certified, once at the largest rank. A smaller rank is some of its terms, so
the graph in use is a part of that graph, and claims nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from expandermask.adapters.attachment import attachment
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.remask import change_masks, changeable
from expandermask.graphs.bipartite import BipartiteGraph, as_bipartite, from_ones
from expandermask.masks.plan import MaskPair, MaskPlan, Support


def resize(
    model: nn.Module,
    masks: MaskPlan,
    terms: Mapping[str, Tensor],
    *,
    name: str,
    optimizer: Optimizer | None = None,
) -> None:
    """Leave an adapter exactly these terms of ``masks``, which are those of the largest rank.

    A term that stays keeps its values and, in ``optimizer``, its moments; one that comes gets those
    of a fresh adapter, B being zero, and moments of zero. The model computes what it did, to
    rounding, unless a term that did something went.

    ``terms`` are bool tensors of shape (r,), one for every module, and may be all False.
    """
    pairs = {place: restricted(pair, terms[place]) for place, pair in masks.items()}
    swap_masks(
        model,
        masks.with_masks(pairs, left_degree=None),
        name=name,
        optimizer=optimizer,
    )


@torch.no_grad()
def swap_masks(
    model: nn.Module, plan: MaskPlan, *, name: str, optimizer: Optimizer | None = None
) -> None:
    """`change_masks`, but where "matched" scaling follows the degree, B makes up for it."""
    name, adapter = attachment(model).adapter(name)
    config = replace(adapter.config, left_degree=plan.left_degree)
    owned = changeable(model, name)
    ratios = {
        place: own.scale / config.scale_of(place, plan[place]) for place, own in owned.items()
    }
    _multiply_b(owned, ratios)
    try:
        change_masks(model, plan, name=name, optimizer=optimizer)
    except BaseException:
        _multiply_b(owned, {place: 1 / ratio for place, ratio in ratios.items()})
        raise


def _multiply_b(adapters: Mapping[str, MaskedAdapter], factors: Mapping[str, float]) -> None:
    for place, adapter in adapters.items():
        if factors[place] != 1:
            adapter.lora_B.mul_(factors[place])


def restricted(pair: MaskPair, kept: Tensor) -> MaskPair:
    """Masks without the entries of other ranks than those ``kept``: bool, shape (r,)."""
    if bool(kept.all()):
        return pair
    return MaskPair(_without(pair.a, kept), _without(pair.b, kept))


def _without(support: Support, kept: Tensor) -> BipartiteGraph:
    graph = as_bipartite(support)
    stays = kept.numpy()[graph.rights]
    return from_ones(graph.lefts[stays], graph.rights[stays], (graph.n1, graph.n2))


def first_ranks(pair: MaskPair, count: int) -> Tensor:
    """The first ranks at which both masks keep something: bool, shape (r,), at most ``count``."""
    kept = torch.zeros(pair.r, dtype=torch.bool)
    kept[torch.from_numpy(pair.used_ranks[:count])] = True
    return kept
