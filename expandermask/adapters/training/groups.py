"""parameter_groups(): what trains, in an optimizer's groups, with a rate of their own for B's."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from expandermask.adapters.attachment import masked_layers
from expandermask.errors import AdapterError, InvalidInputError, check_real


def parameter_groups(
    model: nn.Module, *, lr: float, lr_ratio: float = 16.0
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer in which B learns ``lr_ratio`` times as fast as A (LoRA+).

    In LoRA B starts at zero and A does not, and for wide models one rate cannot suit both (Hayou,
    Ghosh, Yu 2024). Of an adapted embedding it is A that starts at zero, and that gets the rate of
    B.

    Parameters
    ----------
    model : torch.nn.Module
        With adapters of `attach` or a PeftModel with XoRA adapters.
    lr : float
        The rate of A, and of everything else that trains: gates, biases, modules to save.
    lr_ratio : float
        The rate of B is ``lr * lr_ratio``; the paper's choice is 16.

    Returns
    -------
    list of dict
        Two groups, with "params" and "lr": every parameter that requires gradients, once.

    Raises
    ------
    AdapterError
        No adapter is on the model, or none trains.
    InvalidInputError
        A rate that is not positive.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach, parameter_groups
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> _ = attach(model, AdapterConfig(r=8), rng=0)
    >>> groups = parameter_groups(model, lr=1e-3, lr_ratio=16)
    >>> optimizer = torch.optim.AdamW(groups)
    >>> [(len(group["params"]), group["lr"]) for group in optimizer.param_groups]
    [(1, 0.001), (1, 0.016)]
    """
    for name, value in (("lr", lr), ("lr_ratio", lr_ratio)):
        if not 0 < check_real(name, value) < math.inf:
            raise InvalidInputError(f"{name} must be positive and finite, got {value}")
    fast: dict[int, nn.Parameter] = {}
    for layer in masked_layers(model).values():
        for adapter in map(layer.adapter, layer.adapters):
            first_zero = adapter.lora_A if adapter.embedding else adapter.lora_B
            if first_zero.requires_grad:
                fast[id(first_zero)] = first_zero
    if not fast:
        raise AdapterError("no B of this model trains; attach an adapter, or make one active")
    slow = [p for p in model.parameters() if p.requires_grad and id(p) not in fast]
    return [{"params": slow, "lr": lr}, {"params": list(fast.values()), "lr": lr * lr_ratio}]
