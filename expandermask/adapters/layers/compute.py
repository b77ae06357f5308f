"""What an adapted module computes: its base's output plus the update of every running adapter.

Six ways to one result, chosen call by call:

- the base alone, where no adapter runs;
- the CPU kernel, where it is available and faster (`set_backend`);
- one product with W + scale * B A, for many tokens in float32 and wider;
- the update added to whatever the base gives, which works with every base;
- for a few tokens, as in decoding, the update gathered value by value, without a dense factor;
- plain operations, which `torch.func` and forward mode differentiate, and traces and exports keep.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from expandermask.adapters.layers import kernel
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.layers.factors import Factors, dense_factor, gather_values
from expandermask.adapters.layers.plain import (
    differentiable_gradients,
    gathered_update,
    plain_update,
)
from expandermask.errors import InvalidInputError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
BACKENDS = ("auto", "portable")
_FEW = 4
"""For up to r / (4 * left_degree) tokens gathering was measured to be faster than dense factors."""


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
        return base(x)  # type: ignore[no-any-return]
    rows = x.reshape(-1, x.shape[-1])
    out = _at_once(base, adapters[0], rows) if len(adapters) == 1 else None
    if out is None:
        out = base(rows)
        for adapter in adapters:
            out = _with_update(out, rows, adapter, base)
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
    embed_scale = getattr(base, "embed_scale", None)
    total = out if embed_scale is None else torch.zeros_like(out)
    for adapter in adapters:
        table = (adapter.shape[1], padding)
        factors = adapter.stored()
        if _are_operations_watched():
            total = plain_update(total, flat, factors, table)
        else:
            total = MaskedUpdate.apply(total, flat, *factors, table)
    if embed_scale is not None:
        total = out + total * embed_scale
    return total.view(shape)


def _with_update(y: Tensor, rows: Tensor, adapter: MaskedAdapter, base: nn.Module) -> Tensor:
    """``y`` (tokens, d) plus one adapter's update for inputs ``rows`` (tokens, k)."""
    x = rows
    if adapter.training and adapter.dropout:
        x = functional.dropout(rows, adapter.dropout)
    x = x.to(y.dtype)
    factors = adapter.stored()
    if _are_operations_watched():
        return plain_update(y, x, factors)
    # Checkpointing runs a pass of training without gradients and then again with them: both alike.
    if not adapter.training:
        if _chosen == "auto" and kernel.supports_few(y, x, factors):
            return kernel.few_update(y, x, factors)
        if _are_few(x, factors):
            return gathered_update(y, x, factors)
    if _chosen == "auto" and kernel.supports(x, *factors[:4], y=y):
        # What a plain layer gave is read by nothing else, so it may be written over.
        return kernel.masked_update(y, x, *factors, inplace=is_plain_linear(base))
    return MaskedUpdate.apply(y, x, *factors)  # type: ignore[no-any-return]


def _are_few(x: Tensor, factors: Factors) -> bool:
    """Whether these are so few tokens, as in decoding, that gathering is faster.

    Not where gradients are taken, so that how tokens are batched does not change how one trains.
    """
    if torch.is_grad_enabled() or not factors.is_regular:
        return False
    return _FEW * len(x) * len(factors.index_a) <= factors.r


def _are_operations_watched() -> bool:
    """Whether the operations themselves are taken: differentiated, traced or exported.

    A trace serves any number of tokens, and where this library is not installed. So nothing that
    is chosen by that number may enter it, nor an operation or autograd function of this library.
    """
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or torch.compiler.is_exporting()
    )


def _at_once(base: nn.Module, adapter: MaskedAdapter, rows: Tensor) -> Tensor | None:
    """The base's product and the update in one function, where that is the same and faster.

    Not for a subclass of nn.Linear or of its weight (quantized), a base with hooks or a replaced
    forward, an unfrozen base, under autocast, or with dropout, which falls on the update's input
    alone. Without the kernel, nor for half precision (see `MaskedAffine`).
    """
    if (
        _are_operations_watched()
        or len(rows) < kernel.LEAST_TOKENS
        or not is_plain_linear(base)
        or rows.dtype != base.weight.dtype
        or (adapter.training and adapter.dropout)
        or any(parameter.requires_grad for parameter in base.parameters())
        or torch.is_autocast_enabled(rows.device.type)
    ):
        return None
    factors = adapter.stored()
    weight: Any = base.weight
    bias: Any = base.bias
    if _chosen == "auto" and kernel.supports(rows, *factors[:4]):
        return kernel.masked_linear(rows, weight, bias, *factors)
    d, k = adapter.shape
    many = rows.shape[0] * (d + k) >= 2 * d * k
    if (
        many
        and rows.dtype == factors.values_a.dtype
        and rows.dtype in (torch.float32, torch.float64)
    ):
        return MaskedAffine.apply(  # type: ignore[no-any-return]
            rows, *factors[:2], weight, bias, *factors[2:]
        )
    return None


def is_plain_linear(base: nn.Module) -> bool:
    """Whether ``base`` computes x W' + b with its own plain weight, and nothing else."""
    return (
        type(base) is nn.Linear
        and type(base.weight) in (nn.Parameter, Tensor)
        and not any(getattr(base, name) for name in _HOOKS)
        and "forward" not in vars(base)
    )


# -- autograd functions --------------------------------------------------------------------------
#
# They store nothing dense. The dense factor (r, n) is put together from the surviving values for
# the moment it is needed, in the forward and again in the backward pass. Saved between the two are
# the input, at most a rank-r projection of it, and the values; gradients are gathered back to the
# values' shape. So parameters, gradients and optimizer state are what the mask keeps of dense
# LoRA's. Values and index of a factor come in any layout of `expandermask.adapters.layers.factors`.


class MaskedUpdate(torch.autograd.Function):
    """out = y + scale * x A' B', with A (r, k) and B (d, r) held as values and indices.

    Shapes: y (tokens, d), x (tokens, k). Products are taken in y's dtype, which is x's; gradients
    of the values come back in theirs. O(tokens * r * (k + d)) time, as dense LoRA.

    With ``table``, (k, padding), x is the numbers (tokens,) of columns of A, as if it were one-hot
    rows; column ``padding``, if not negative, gets no gradient, as `torch.nn.Embedding` has it.
    Then O(tokens * r * d) time; a dense A exists for the moment unless every column keeps equally
    many entries.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        x: Tensor,
        values_a: Tensor,
        values_b: Tensor,
        index_a: Tensor,
        index_b: Tensor,
        r: int,
        scale: float,
        table: tuple[int, int] | None = None,
    ) -> Tensor:
        """Compute the output; saves x, h = x A', the values and the indices, nothing dense."""
        with torch.autocast(y.device.type, enabled=False):
            if table is None:
                h = torch.mm(x, dense_factor(values_a, index_a, (r, x.shape[1]), y.dtype).t())
            else:
                h = _looked_up(x, values_a, index_a, (r, table[0]), y.dtype)
            b = dense_factor(values_b * scale, index_b, (r, y.shape[1]), y.dtype)
            out = torch.addmm(y, h, b)
        ctx.save_for_backward(x, h, values_a, values_b, index_a, index_b)
        ctx.r, ctx.scale, ctx.table = r, scale, table
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of y, x and both values, each only where it is asked for."""
        x, h, values_a, values_b, index_a, index_b = ctx.saved_tensors
        need_y, need_x, need_a, need_b = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():
            factors = Factors(values_a, values_b, index_a, index_b, ctx.r, ctx.scale)
            needed = (need_x, need_a, need_b)
            found = differentiable_gradients(needed, grad, x, factors, table=ctx.table)
            return grad if need_y else None, *found, *(None,) * 5
        grad_x = grad_a = grad_b = None
        with torch.autocast(grad.device.type, enabled=False):
            if need_b:
                grad_b = gather_values(torch.mm(h.t(), grad), index_b, values_b) * ctx.scale
            if need_x or need_a:
                shape = (ctx.r, grad.shape[1])
                b = dense_factor(values_b * ctx.scale, index_b, shape, grad.dtype)
                grad_h = torch.mm(grad, b.t())
            if need_a and ctx.table is None:
                grad_a = gather_values(torch.mm(grad_h.t(), x), index_a, values_a)
            elif need_a:
                grad_a = _summed_back(grad_h, x, values_a, index_a, ctx.table)
            if need_x:
                a = dense_factor(values_a, index_a, (ctx.r, x.shape[1]), x.dtype)
                grad_x = torch.mm(grad_h, a)
        return grad if need_y else None, grad_x, grad_a, grad_b, *(None,) * 5


class MaskedAffine(torch.autograd.Function):
    """out = x (W + scale * B A)' + bias for a frozen W (d, k): two products in six fewer.

    Inputs otherwise as in `MaskedUpdate`. The sum with W is made anew in each direction, for
    d * k * r multiplications, where the update would take tokens * r * (d + k): worth it for many
    tokens. Only for float32 and wider, since in half precision a small update would round away.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        values_a: Tensor,
        values_b: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        index_a: Tensor,
        index_b: Tensor,
        r: int,
        scale: float,
    ) -> Tensor:
        """Compute the output; saves x, the values and the indices, and W, which exists anyway."""
        d, k = weight.shape
        a = dense_factor(values_a, index_a, (r, k), x.dtype)
        b = dense_factor(values_b * scale, index_b, (r, d), x.dtype)
        ctx.save_for_backward(x, values_a, values_b, weight, index_a, index_b)
        ctx.r, ctx.scale = r, scale
        return functional.linear(x, torch.addmm(weight, b.t(), a), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and both values, each only where it is asked for."""
        x, values_a, values_b, weight, index_a, index_b = ctx.saved_tensors
        need_x, need_a, need_b = needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            factors = Factors(values_a, values_b, index_a, index_b, ctx.r, ctx.scale)
            found = differentiable_gradients(needed, grad, x, factors, weight=weight)
            return *found, *(None,) * 6
        grad_x = grad_a = grad_b = None
        d, k = weight.shape
        with torch.autocast(grad.device.type, enabled=False):
            a = dense_factor(values_a, index_a, (ctx.r, k), x.dtype)
            b = dense_factor(values_b * ctx.scale, index_b, (ctx.r, d), x.dtype)
            if need_b:
                h = torch.mm(x, a.t())
                grad_b = gather_values(torch.mm(h.t(), grad), index_b, values_b) * ctx.scale
            if need_a:
                grad_h = torch.mm(grad, b.t())
                grad_a = gather_values(torch.mm(grad_h.t(), x), index_a, values_a)
            if need_x:
                grad_x = torch.mm(grad, torch.addmm(weight, b.t(), a))
        return grad_x, grad_a, grad_b, None, None, None, None, None, None


def _looked_up(
    ids: Tensor, values: Tensor, index: Tensor, sizes: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """Columns ``ids`` of A as rows: (tokens, r)."""
    if index.dim() == 2:
        h = torch.zeros(ids.numel(), sizes[0], dtype=dtype, device=values.device)
        return h.scatter_(1, index.t()[ids].int(), values[ids].to(dtype))
    return dense_factor(values, index, sizes, dtype).t()[ids]


def _summed_back(
    grad_h: Tensor, ids: Tensor, values: Tensor, index: Tensor, table: tuple[int, int]
) -> Tensor:
    """The gradient of A's values: rows of ``grad_h`` (tokens, r) added up by their id."""
    rows, padding = table
    grad_h = grad_h.to(values.dtype)
    if padding >= 0:
        grad_h = grad_h.masked_fill((ids == padding).unsqueeze(1), 0)
    if index.dim() == 2:
        kept = grad_h.gather(1, index.t()[ids].int())
        return torch.zeros_like(values).index_add(0, ids, kept)
    dense = grad_h.new_zeros(rows, grad_h.shape[1])
    return gather_values(dense.index_add_(0, ids, grad_h).t(), index, values)
