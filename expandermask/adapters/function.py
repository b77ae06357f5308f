"""The masked low-rank update as autograd functions that store nothing dense.

With compact values, shape (n, left_degree), the dense factor (r, n) is scattered together for the
moment it is needed, in the forward and again in the backward pass. Saved between the two are the
input, at most a rank-r projection of it, and the values; gradients are gathered back to the compact
shape. So parameters, gradients and optimizer state are left_degree / r of dense LoRA's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class MaskedUpdate(torch.autograd.Function):
    """out = y + scale * x A' B', with A (r, k) and B (d, r) held as values and indices.

    Shapes: y (tokens, d), x (tokens, k), values_a (k, left_degree), values_b (d, left_degree),
    index_a (left_degree, k), index_b (left_degree, d). Products are taken in x's dtype, which is
    y's; gradients of the values come back in theirs. O(tokens * r * (k + d)) time, as dense LoRA.
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
    ) -> Tensor:
        """Compute the output; saves x, h = x A', the values and the indices, nothing dense."""
        with torch.autocast(x.device.type, enabled=False):
            h = torch.mm(x, dense_factor(values_a, index_a, r, x.dtype).t())
            out = torch.addmm(y, h, dense_factor(values_b * scale, index_b, r, x.dtype))
        ctx.save_for_backward(x, h, values_a, values_b, index_a, index_b)
        ctx.r, ctx.scale = r, scale
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
                grad_b = _gather(torch.mm(h.t(), grad), index_b, values_b) * ctx.scale
            if need_x or need_a:
                b = dense_factor(values_b * ctx.scale, index_b, ctx.r, x.dtype)
                grad_h = torch.mm(grad, b.t())
            if need_a:
                grad_a = _gather(torch.mm(grad_h.t(), x), index_a, values_a)
            if need_x:
                grad_x = torch.mm(grad_h, dense_factor(values_a, index_a, ctx.r, x.dtype))
        return grad if need_y else None, grad_x, grad_a, grad_b, None, None, None, None


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
        a = dense_factor(values_a, index_a, r, x.dtype)
        b = dense_factor(values_b * scale, index_b, r, x.dtype)
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
        with torch.autocast(grad.device.type, enabled=False):
            a = dense_factor(values_a, index_a, ctx.r, x.dtype)
            b = dense_factor(values_b * ctx.scale, index_b, ctx.r, x.dtype)
            if need_b:
                h = torch.mm(x, a.t())
                grad_b = _gather(torch.mm(h.t(), grad), index_b, values_b) * ctx.scale
            if need_a:
                grad_h = torch.mm(grad, b.t())
                grad_a = _gather(torch.mm(grad_h.t(), x), index_a, values_a)
            if need_x:
                grad_x = torch.mm(grad, torch.addmm(weight, b.t(), a))
        return grad_x, grad_a, grad_b, None, None, None, None, None, None


def dense_factor(values: Tensor, index: Tensor, r: int, dtype: torch.dtype) -> Tensor:
    """The dense (r, n) factor of ``values`` (n, left_degree) at rows ``index`` (left_degree, n)."""
    dense = torch.zeros(r, values.shape[0], dtype=dtype, device=values.device)
    return dense.scatter_(0, index.int(), values.t().to(dtype))


def _gather(dense: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """The entries of a dense (r, n) gradient on the support, in the shape and dtype of ``values``.

    They are converted before any scaling, so that a float16 product is not scaled in float16.
    """
    return dense.gather(0, index.int()).t().to(values.dtype)
