"""What an adapted module computes: its base's output plus the update of every running adapter.

Four ways to one result, chosen call by call:

- the base alone, where no adapter runs;
- the CPU kernel, where it is available and faster (`set_backend`);
- one product with W + scale * B A, for many tokens in float32 and wider;
- the update added to whatever the base gives, which works with every base.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from expandermask.adapters.layers import kernel
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.layers.function import MaskedAffine, MaskedUpdate
from expandermask.errors import InvalidInputError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
BACKENDS = ("auto", "portable")


def set_backend(name: str) -> None:
    """Choose how adapters compute, for the whole process.

    "auto" takes the CPU kernel where it is available and faster than PyTorch's own operations, and
    the latter elsewhere; "portable" takes the latter always. The environment variable
    ``EXPANDERMASK_BACKEND`` sets the first choice; without it that is "auto".

    Raises `InvalidInputError` for any other name.
    """
    global _chosen
    if name not in BACKENDS:
        raise InvalidInputError(f"the backend must be one of {BACKENDS}, got {name!r}")
    _chosen = name


def get_backend() -> str:
    """The choice in force: see `set_backend`."""
    return _chosen


_chosen = "auto"
set_backend(os.environ.get("EXPANDERMASK_BACKEND", "auto"))


def adapted_linear(base: nn.Module, adapters: Sequence[MaskedAdapter], x: Tensor) -> Tensor:
    """The output of a linear module or Conv1D, (..., d), and the updates of ``adapters`` on it.

    ``x`` is (..., k). Where x is of another dtype than the base's output, the updates are computed
    in the output's.
    """
    if not adapters:
        output: Tensor = base(x)
        return output
    rows = x.reshape(-1, x.shape[-1])
    out = _at_once(base, adapters[0], rows) if len(adapters) == 1 else None
    if out is None:
        out = base(rows)
        # What a plain layer gave is read by nothing else, so it may be written over.
        private = is_plain_linear(base)
        for adapter in adapters:
            out = _with_update(out, rows, adapter, inplace=private)
    return out.view(*x.shape[:-1], out.shape[-1])


def adapted_embedding(base: nn.Module, adapters: Sequence[MaskedAdapter], ids: Tensor) -> Tensor:
    """The rows of an embedding, (..., d), and the updates of ``adapters`` to them.

    Dropout is not applied: a number cannot be dropped, and PEFT leaves it out too.
    """
    out: Tensor = base(ids)
    if not adapters:
        return out
    shape, flat = out.shape, ids.reshape(-1)
    padding = -1 if base.padding_idx is None else int(base.padding_idx)  # type: ignore[arg-type]
    out = out.reshape(-1, shape[-1])
    for adapter in adapters:
        table = (adapter.shape[1], padding)
        out = MaskedUpdate.apply(out, flat, *adapter.stored(), adapter.r, adapter.scale, table)
    return out.view(shape)


def _with_update(y: Tensor, rows: Tensor, adapter: MaskedAdapter, *, inplace: bool) -> Tensor:
    """``y`` (tokens, d) plus one adapter's update for inputs ``rows`` (tokens, k)."""
    x = functional.dropout(rows, adapter.dropout, adapter.training).to(y.dtype)
    factors = (*adapter.stored(), adapter.r, adapter.scale)
    if _chosen == "auto" and kernel.supports(x, *factors[:4], y=y):
        return kernel.masked_update(y, x, *factors, inplace=inplace)
    out: Tensor = MaskedUpdate.apply(y, x, *factors)
    return out


def _at_once(base: nn.Module, adapter: MaskedAdapter, rows: Tensor) -> Tensor | None:
    """The base's product and the update in one function, where that is the same and faster.

    Not for a subclass of nn.Linear or of its weight (quantized), a base with hooks or a replaced
    forward, an unfrozen base, under autocast, or with dropout, which falls on the update's input
    alone. Without the kernel, nor for few tokens or half precision (see `MaskedAffine`).
    """
    if (
        not is_plain_linear(base)
        or rows.dtype != base.weight.dtype
        or (adapter.training and adapter.dropout)
        or any(parameter.requires_grad for parameter in base.parameters())
        or torch.is_autocast_enabled(rows.device.type)
    ):
        return None
    values_a, values_b, *index = adapter.stored()
    weight: Any = base.weight
    bias: Any = base.bias
    rest: Any = (*index, adapter.r, adapter.scale)
    if _chosen == "auto" and kernel.supports(rows, values_a, values_b, *index):
        return kernel.masked_linear(rows, weight, bias, values_a, values_b, *rest)
    d, k = adapter.shape
    many = rows.shape[0] * (d + k) >= 2 * d * k
    if many and rows.dtype == values_a.dtype and rows.dtype in (torch.float32, torch.float64):
        fused: Tensor = MaskedAffine.apply(rows, values_a, values_b, weight, bias, *rest)
        return fused
    return None


def is_plain_linear(base: nn.Module) -> bool:
    """Whether ``base`` computes x W' + b with its own plain weight, and nothing else."""
    return (
        type(base) is nn.Linear
        and type(base.weight) in (nn.Parameter, Tensor)
        and not any(getattr(base, name) for name in _HOOKS)
        and "forward" not in vars(base)
    )
