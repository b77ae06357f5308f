"""The update by plain operations: for a few tokens, and where it is differentiated in other ways.

The autograd functions of `expandermask.adapters.layers.compute` give first gradients only, by hand.
`torch.func`, forward mode and gradients of gradients need operations that know all derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from expandermask.adapters.layers.factors import Factors, dense_factor


def gathered_update(y: Tensor, x: Tensor, factors: Factors) -> Tensor:
    """y + scale * x A' B' without a dense factor, for indices in the regular layout.

    O(tokens * left_degree * (k + d)) time and memory, which is little for few tokens only.
    """
    values_a, values_b, index_a, index_b, r, scale = factors
    tokens = x.shape[0]  # a number that torch.jit.trace knows, as that of len is not
    products = (x.to(values_a.dtype).unsqueeze(2) * values_a).flatten(1)
    ranks = index_a.t().reshape(-1).long().expand(tokens, -1)
    h = products.new_zeros(tokens, r).scatter_add(1, ranks, products)
    found = h.index_select(1, index_b.view(-1).int()).view(tokens, *index_b.shape)
    update = (found * values_b.t()).sum(1)
    return torch.add(y, update.to(y.dtype), alpha=scale)


def plain_update(
    y: Tensor, x: Tensor, factors: Factors, table: tuple[int, int] | None = None
) -> Tensor:
    """What `MaskedUpdate` computes, by operations that can be differentiated in every way."""
    values_a, values_b, index_a, index_b, r, scale = factors
    b = dense_factor(values_b * scale, index_b, (r, y.shape[1]), y.dtype)
    if table is None:
        a = dense_factor(values_a, index_a, (r, x.shape[1]), y.dtype)
        return y + x @ a.t() @ b
    k, padding = table
    a = dense_factor(values_a, index_a, (r, k), y.dtype)
    return y + functional.embedding(x, a.t(), padding if padding >= 0 else None) @ b


def differentiable_gradients(
    needed: Sequence[bool],
    grad: Tensor,
    x: Tensor,
    factors: Factors,
    *,
    weight: Tensor | None = None,
    table: tuple[int, int] | None = None,
) -> list[Tensor | None]:
    """Gradients of x, values_a and values_b that have gradients themselves; None where not needed.

    They are those of `plain_update`, and with a ``weight`` of x W' beside it.
    """
    inputs = (x, factors.values_a, factors.values_b)
    wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
    if not wanted:
        return [None, None, None]
    with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
        # Of the shape of grad, but no batch of gradients itself, which torch.vmap would refuse.
        zeros = torch.zeros(grad.shape, dtype=grad.dtype, device=grad.device)
        y = zeros if weight is None else functional.linear(x, weight)
        out = plain_update(y, x, factors, table)
        found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    return [next(found) if need else None for need in needed]
