"""prune(): an adapter without its gates, and without the terms they close.

What is left is a masked adapter of different ranks in different modules: a plan in which closed
ranks have no entries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expandermask.adapters.attachment import attachment
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.remask import changeable
from expandermask.allocation.resize import restricted, swap_masks
from expandermask.allocation.terms import Terms
from expandermask.errors import AdapterError


@torch.no_grad()
def prune(model: nn.Module, *, name: str | None = None) -> dict[str, int]:
    """Multiply the gates of an adapter into B, and drop every term whose gate is 0.

    The update of the weights stays what it is, to rounding. Modules of which nothing is left are no
    longer adapted. `save_adapter` then writes ranks that differ from module to module, and
    `export_peft` one rank for all, or with ``compact=True`` each module's own. Masks that lost no
    rank stay as they are, certified if they were.

    Parameters
    ----------
    model : torch.nn.Module
        With adapters attached, not merged.
    name : str, optional
        Which adapter, if several are active.

    Returns
    -------
    dict of str to int
        The rank of every module the adapter had, 0 for those that are gone.

    Raises
    ------
    AdapterError
        The adapter is merged or sharded, or every gate is 0. Nothing is changed.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach
    >>> from expandermask.allocation import prune
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    >>> _ = attach(model, AdapterConfig(r=4, left_degree=4), rng=0)
    >>> model[0].adapters["default"].set_rank_gate(torch.tensor([1.0, 0.0, 2.0, 0.0]))
    >>> prune(model)
    {'0': 2, '1': 4}
    >>> model[0].adapters["default"].lora_A.shape
    torch.Size([16, 2])
    """
    attached = attachment(model)
    name, adapter = attached.adapter(name)
    owned = changeable(model, name)
    Terms(owned)  # refuses sharded values
    kept = {place: _open_terms(own) for place, own in owned.items()}
    pairs = {p: restricted(pair, kept[p]) for p, pair in adapter.plan.items()}
    left = {p: pair for p, pair in pairs.items() if pair.a.num_edges and pair.b.num_edges}
    if not left:
        raise AdapterError(
            f"every gate of {name!r} is 0 and nothing would be left; detach(model) takes it off"
        )
    for place, own in owned.items():
        own.lora_B.copy_(own.steady_b())
        own.set_rank_gate(None)
        own.set_module_gate(None)
        if place not in left:
            attached.drop(place, name)
    same = {place: adapter.plan[place] for place in left}
    plan = adapter.plan.with_masks(same, left_degree=adapter.plan.left_degree)
    attached.replace(name, plan, adapter.config)
    if left != same:
        swap_masks(model, plan.with_masks(left, left_degree=None), name=name)
    return {place: len(left[place].used_ranks) if place in left else 0 for place in owned}


def _open_terms(adapter: MaskedAdapter) -> Tensor:
    """Which ranks have gates that are not 0: bool, shape (r,)."""
    own = adapter.steady_gate
    gate = torch.ones(adapter.r) if own is None else own.detach().cpu()
    if adapter.module_gate is not None:
        gate = gate * adapter.module_gate.detach().cpu()
    return gate.reshape(-1) != 0
