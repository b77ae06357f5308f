"""The masked low-rank update as autograd functions that store nothing dense.

The dense factor (r, n) is put together from the surviving values for the moment it is needed, in
the forward and again in the backward pass. Saved between the two are the input, at most a rank-r
projection of it, and the values; gradients are gathered back to the values' shape. So parameters,
gradients and optimizer state are what the mask keeps of dense LoRA's. Values and index of a factor
come in any layout of `expandermask.adapters.layers.factors`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from expandermask.adapters.layers.factors import dense_factor, gather_values


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
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of y, x and both values, each only where it is asked for."""
        x, h, values_a, values_b, index_a, index_b = ctx.saved_tensors
        need_y, need_x, need_a, need_b = ctx.needs_input_grad[:4]
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
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and both values, each only where it is asked for."""
        x, values_a, values_b, weight, index_a, index_b = ctx.saved_tensors
        need_x, need_a, need_b = ctx.needs_input_grad[:3]
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
        return torch.zeros_like(values).index_add_(0, ids, kept)
    dense = grad_h.new_zeros(rows, grad_h.shape[1])
    return gather_values(dense.index_add_(0, ids, grad_h).t(), index, values)
