"""Masked LoRA the plain way: dense factors times dense 0/1 masks, under PyTorch's own autograd."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torch.nn import functional


class DenseMaskedLoRA(nn.Module):
    """W x + b + scale * (M_B . B)(M_A . A) x, with every entry of A and B a parameter."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        masks: tuple[Tensor, Tensor],
        scale: float,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.clone(), requires_grad=False)
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())
        self.mask_a, self.mask_b = masks
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a * self.mask_a.to(self.a.dtype), self.b * self.mask_b.to(self.b.dtype)
        update = (x @ a.T.to(x.dtype)) @ b.T.to(x.dtype)
        return functional.linear(x, self.weight, self.bias) + self.scale * update


def scatter_rows(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compact (n, degree) values laid out on the ones of a (n, r) mask, left to right."""
    dense = np.zeros(mask.shape, dtype=values.dtype)
    for i in range(mask.shape[0]):
        position = 0
        for j in range(mask.shape[1]):
            if mask[i, j]:
                dense[i, j] = values[i, position]
                position += 1
    return dense


def gather_rows(dense: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The entries of a (n, r) array on a mask's ones, row by row: `scatter_rows` undone."""
    return np.array([row[keep != 0] for row, keep in zip(dense, mask, strict=True)])
