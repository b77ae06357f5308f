"""The masked update as an autograd function that runs the kernel, and the rule for when it pays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter, functional

from expandermask.adapters.layers.kernel import ops  # noqa: F401  # registers the operators
from expandermask.adapters.layers.kernel.launch import available, usable

LEAST_TOKENS, LEAST_ENTRIES = 16, 2**16
"""From where on the kernel was measured to be faster than the portable functions."""


def masked_update(
    y: Tensor,
    x: Tensor,
    values_a: Tensor,
    values_b: Tensor,
    index_a: Tensor,
    index_b: Tensor,
    r: int,
    scale: float,
    *,
    inplace: bool = False,
) -> Tensor:
    """y + scale * x A' B', with A (r, k) and B (d, r) held as values and indices.

    Computes what `MaskedUpdate` does, with products accumulated in float32, on CPUs where
    `supports` says so. Gradients flow to y, x and both values, once; they and the output are the
    same bits on any number of threads. O(tokens * left_degree * (k + d)) time; kept for backward
    are x, the values, the indices, and x A' in float32.

    Parameters
    ----------
    y : Tensor
        (tokens, d), float32 or bfloat16.
    x : Tensor
        (tokens, k), of y's dtype.
    values_a, values_b : Tensor
        (k, left_degree) and (d, left_degree), float32.
    index_a, index_b : Tensor
        (left_degree, k) and (left_degree, d), uint8, int16 or int32. They are trusted: call
        `check_index` once, when they are made.
    r, scale : int, float
        The rank, and the factor on the update.
    inplace : bool
        y is a temporary that nothing else reads: write over it where that can be done.

    Raises
    ------
    InvalidInputError
        If the shapes do not fit together or a dtype is none of those above.
    """
    inplace = inplace and not torch.compiler.is_compiling() and _is_temporary(y)
    out: Tensor = _KernelUpdate.apply(y, x, values_a, values_b, index_a, index_b, r, scale, inplace)
    return out


def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    values_a: Tensor,
    values_b: Tensor,
    index_a: Tensor,
    index_b: Tensor,
    r: int,
    scale: float,
) -> Tensor:
    """x W' + bias + scale * x A' B' for a frozen W (d, k), as `masked_update` of the first two.

    Faster than the two apart, whose gradients of x autograd adds up in a pass of its own: here each
    direction writes its product with W once and adds the update to it where it lies. Other
    arguments are those of `masked_update`; weight and bias are of x's dtype and get no gradient.

    Raises
    ------
    InvalidInputError
        As `masked_update` does.
    """
    out: Tensor = _KernelLinear.apply(
        x, values_a, values_b, weight, bias, index_a, index_b, r, scale
    )
    return out


def supports(
    x: Tensor,
    values_a: Tensor,
    values_b: Tensor,
    index_a: Tensor,
    index_b: Tensor,
    *,
    y: Tensor | None = None,
) -> bool:
    """Whether the kernel takes these and is faster than the portable path: a few attributes.

    ``y`` is looked at where it is given: `masked_linear` has none. The first yes compiles the
    kernel: seconds once, then from numba's cache.
    """
    factors = (values_a, values_b, index_a, index_b)
    given = (x, *factors) if y is None else (x, y, *factors)
    return (
        available()
        and x.dim() == 2
        and x.shape[0] >= LEAST_TOKENS
        and all(t.dim() == 2 for t in factors)  # the regular layout
        and x.shape[0] * (x.shape[1] + values_b.shape[0]) >= LEAST_ENTRIES
        and x.dtype in (torch.float32, torch.bfloat16)
        and (y is None or y.dtype == x.dtype)
        and values_a.dtype == values_b.dtype == torch.float32
        and all(
            (type(t) is Tensor or type(t) is Parameter)
            and t.device.type == "cpu"
            and t.layout == torch.strided
            for t in given
        )
        and (torch.compiler.is_compiling() or usable())
    )


def _is_temporary(y: Tensor) -> bool:
    """Whether autograd lets y be written over, and its memory is laid out for it."""
    return y.is_contiguous() and not y._is_view() and not (y.requires_grad and y.is_leaf)


class _KernelUpdate(torch.autograd.Function):
    """`masked_update`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, *rest: Any) -> Tensor:
        """Run the forward operator; saves x, h, the values and the indices."""
        *factors, inplace = rest
        if inplace:
            out, h = y, torch.ops.expandermask.masked_update_(y, x, *factors)
            ctx.mark_dirty(y)
        else:
            out, h = torch.ops.expandermask.masked_update(y, x, *factors)
        ctx.save_for_backward(x, h, *factors[:4])
        ctx.r, ctx.scale = factors[4:]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of y, x and both values, each only where it is asked for."""
        need_y, *wanted = ctx.needs_input_grad[:4]
        grads: list[Tensor | None] = [None] * 3
        if any(wanted):
            made = torch.ops.expandermask.masked_update_backward(
                grad, *ctx.saved_tensors, ctx.r, ctx.scale, wanted
            )
            grads = [g if want else None for g, want in zip(made, wanted, strict=True)]
        return grad if need_y else None, *grads, None, None, None, None, None


class _KernelLinear(torch.autograd.Function):
    """`masked_linear`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        values_a: Tensor,
        values_b: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *rest: Any,
    ) -> Tensor:
        """The product with W, then the update over it; saves W too, which exists anyway."""
        index_a, index_b, ctx.r, ctx.scale = rest
        factors = (values_a, values_b, index_a, index_b)
        out = functional.linear(x, weight, bias)
        h = torch.ops.expandermask.masked_update_(out, x, *factors, ctx.r, ctx.scale)
        ctx.save_for_backward(weight, x, h, *factors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and both values, each only where it is asked for."""
        weight, *saved = ctx.saved_tensors
        need_x, need_a, need_b = ctx.needs_input_grad[:3]
        arguments = (grad, *saved, ctx.r, ctx.scale)
        operators, grad_x = torch.ops.expandermask, None
        if need_x:
            with torch.autocast(grad.device.type, enabled=False):
                grad_x = torch.mm(grad, weight)
            made = operators.masked_update_backward_(grad_x, *arguments, [need_a, need_b])
        else:
            _, *made = operators.masked_update_backward(*arguments, [False, need_a, need_b])
        grad_a, grad_b = (
            g if want else None for g, want in zip(made, (need_a, need_b), strict=True)
        )
        return grad_x, grad_a, grad_b, None, None, None, None, None, None
