"""change_masks(): other masks under a training adapter, which keeps what survives the change.

Masks that move while the values train are what dynamic sparse training and rank allocation do
(for instance RigL: Evci et al. 2020, section 3). What an entry has gathered goes with it; an entry
that was not there before starts as it would have at the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from expandermask.adapters.attachment import attachment, masked_layers
from expandermask.adapters.layers.adapter import MaskedAdapter, first_values
from expandermask.adapters.layers.factors import dense_factor, gather_values, index_of
from expandermask.errors import AdapterError, InvalidInputError
from expandermask.graphs.random import derive_seed
from expandermask.masks.plan import MaskPlan


@dataclass(frozen=True)
class _Change:
    """What one factor gets: where its values sit, the values, the optimizer's state of them."""

    adapter: MaskedAdapter
    side: str
    index: Tensor
    values: Tensor
    state: dict[str, Any]


@torch.no_grad()
def change_masks(
    model: nn.Module,
    plan: MaskPlan,
    *,
    name: str | None = None,
    optimizer: Optimizer | None = None,
) -> None:
    """Give an adapter the masks of another plan, in the middle of its training.

    An entry that is in both masks keeps its value and, in ``optimizer``, its moments, bit for bit;
    one that is no longer there is gone. A newcomer gets the value it has in a fresh adapter of the
    new plan (in A uniform by its true fan-in, in B zero; for an embedding A zero and B normal) and
    moments of zero; the optimizer's step counters stay. So with masks that have all changed, the
    update is zero and trains on as a new one would.

    Parameters
    ----------
    model : torch.nn.Module
        With adapters attached.
    plan : MaskPlan
        Masks for the same modules, of the same rank. Where ``left_degree`` changes, scaling
        "matched" follows it.
    name : str, optional
        Which adapter, if several are active.
    optimizer : torch.optim.Optimizer, optional
        The one that trains the adapter. Where a parameter keeps its shape it stays the same object;
        where it does not, the new one takes its place in the optimizer's groups.

    Raises
    ------
    AdapterError
        The plan is for other modules or another rank; the adapter is merged or sharded; or the
        optimizer does not train the adapter's values (those that are frozen apart), or holds state
        that is neither a number nor shaped as the values. Nothing is changed.

    Examples
    --------
    >>> import torch
    >>> from expandermask import MaskPlan
    >>> from expandermask.adapters import AdapterConfig, attach, change_masks
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> _ = attach(model, AdapterConfig(r=8, left_degree=2), rng=0)
    >>> change_masks(model, MaskPlan.for_model(model, r=8, left_degree=4, rng=1))
    >>> model[0].adapters["default"].lora_A.shape
    torch.Size([64, 4])
    """
    name, adapter = attachment(model).adapter(name)
    _require_same_modules(adapter.plan, plan)
    owned = changeable(model, name)
    config = replace(adapter.config, left_degree=plan.left_degree)
    changes = [c for place in plan for c in _changes(owned[place], place, plan, optimizer)]
    for change in changes:  # nothing from here on can fail
        _apply(change, optimizer)
    for place, own in owned.items():
        changed = own.scale / adapter.config.scale_of(place, adapter.plan[place])  # by set_scale
        own.scale = changed * config.scale_of(place, plan[place])
    attachment(model).replace(name, plan, config)


def changeable(model: nn.Module, name: str) -> dict[str, MaskedAdapter]:
    """One adapter's part in each module of its plan; `AdapterError` while it is merged."""
    layers = masked_layers(model, name)
    if any(layer.merges for layer in layers.values()):
        raise AdapterError(f"the adapter {name!r} is merged; call unmerge(model) first")
    return {place: layers[place].adapter(name) for place in attachment(model).plans[name]}


def _changes(
    adapter: MaskedAdapter, place: str, plan: MaskPlan, optimizer: Optimizer | None
) -> Iterator[_Change]:
    """Both factors of one module, at their new places."""
    pair = plan[place]
    seed = derive_seed(plan.seed, place, "A", "values")
    firsts = first_values(pair, seed, embedding=adapter.embedding)
    for side, graph, first in zip("ab", (pair.a, pair.b), firsts, strict=True):
        parameter = getattr(adapter, f"lora_{side.upper()}")
        if isinstance(parameter, DTensor):
            raise AdapterError(
                f"the values of {place!r} are sharded over processes; change masks before sharding"
            )
        index = index_of(graph).to(parameter.device)
        state = _state(parameter, optimizer)
        # Moments start at zero, values where a fresh adapter's do.
        carried = {
            key: _carried(adapter, side, index, moment, torch.zeros_like(first, dtype=moment.dtype))
            for key, moment in state.items()
            if isinstance(moment, Tensor) and moment.dim()
        }
        values = _carried(adapter, side, index, parameter.data, first.to(parameter))
        yield _Change(adapter, side, index, values, state | carried)


def _carried(
    adapter: MaskedAdapter, side: str, index: Tensor, values: Tensor, newcomers: Tensor
) -> Tensor:
    """Values or moments at their new places ``index``, ``newcomers`` where there were none."""
    newcomers = newcomers.to(values.device)
    old = getattr(adapter, f"index_{side}")
    shape = (adapter.r, adapter.shape["ba".index(side)])
    ones = dense_factor(torch.ones_like(values), old, shape, torch.float32)
    there = gather_values(ones, index, newcomers) > 0
    dense = dense_factor(values, old, shape, values.dtype)
    return torch.where(there, gather_values(dense, index, newcomers), newcomers)


def _state(parameter: nn.Parameter, optimizer: Optimizer | None) -> dict[str, Any]:
    """The optimizer's state of one parameter, of which every moment can follow its value."""
    if optimizer is None:
        return {}
    if not any(p is parameter for group in optimizer.param_groups for p in group["params"]):
        if not parameter.requires_grad:
            return {}
        raise AdapterError(
            "the optimizer does not train the adapter's values; give the one that does, or none"
        )
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
            raise AdapterError(
                f"the optimizer's state {key!r} has shape {tuple(value.shape)} for values of shape "
                f"{tuple(parameter.shape)}, so it cannot follow them; leave the optimizer out and "
                "make a new one"
            )
    return state


def _apply(change: _Change, optimizer: Optimizer | None) -> None:
    """Put one factor's values, index and optimizer state in place."""
    values = f"lora_{change.side.upper()}"
    parameter = getattr(change.adapter, values)
    setattr(change.adapter, f"index_{change.side}", change.index)
    parameter.grad = None
    if change.values.shape == parameter.shape:
        parameter.copy_(change.values)
        if optimizer is not None and change.state:
            optimizer.state[parameter].update(change.state)
        return
    new = nn.Parameter(change.values.contiguous(), requires_grad=parameter.requires_grad)
    setattr(change.adapter, values, new)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new if p is parameter else p for p in group["params"]]
    if optimizer.state.pop(parameter, None) is not None:
        optimizer.state[new] = change.state


def _require_same_modules(own: MaskPlan, plan: object) -> None:
    if not isinstance(plan, MaskPlan):
        raise InvalidInputError(f"plan must be a MaskPlan, got {plan!r:.80}")
    same_ranks = [pair.r for pair in plan.values()] == [pair.r for pair in own.values()]
    if not same_ranks or list(plan) != list(own):
        odd = sorted(set(plan) ^ set(own))[:1]
        raise AdapterError(
            f"the new plan must be for the adapter's {len(own)} modules with r={own.r}, got "
            f"{len(plan)} modules with r={plan.r}" + (f", differing in {odd[0]!r}" if odd else "")
        )
    for place, pair in plan.items():
        if pair.shape != own[place].shape:
            raise AdapterError(
                f"the new masks of {place!r} are for (d, k) = {pair.shape}, not {own[place].shape}"
            )
