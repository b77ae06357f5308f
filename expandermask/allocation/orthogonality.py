"""How far from orthogonal the factors are: the regulariser of AdaLoRA and SaLoRA.

R(B, A) = ||B'B - I||_F^2 + ||AA' - I||_F^2 (AdaLoRA's equation 4, SaLoRA's 9), with B of the shape
(d, r) and A (r, k), zero off their masks. Terms of an adapter whose factors are orthogonal can be
dropped without the others having to make up for it. Ranks that a mask leaves no entries are no
vectors and count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.layers.factors import dense_factor, ranks_of


def orthogonality(adapters: Iterable[MaskedAdapter], *, squared: bool = True) -> Tensor:
    """The sum of R over adapters, differentiable; O(r^2 (d + k)) for each.

    Without ``squared`` the mean of the norms themselves over all factors, as the reference code of
    AdaLoRA has it.
    """
    terms = []
    for adapter in adapters:
        d, k = adapter.shape
        for values, index, n in (
            (adapter.lora_A, adapter.index_a, k),
            (adapter.lora_B, adapter.index_b, d),
        ):
            factor = dense_factor(values, index, (adapter.r, n), values.dtype)
            off = factor @ factor.t() - torch.diag(_in_use(values, index, adapter.r, n))
            terms.append(off.square().sum() if squared else torch.linalg.matrix_norm(off))
    found = torch.stack(terms)
    return found.sum() if squared else found.mean()


def _in_use(values: Tensor, index: Tensor, r: int, n: int) -> Tensor:
    """1 for every rank that has entries, 0 for others: shape (r,)."""
    ranks = ranks_of(values, index, n)
    if ranks is None:  # whole lines
        return values.new_full((r,), float(len(values) > 0))
    return values.new_zeros(r).index_fill_(0, ranks.reshape(-1), 1.0)
