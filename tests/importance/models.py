"""Small models and data for the importance tests."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def mlp(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """6 -> 9 -> 7 -> 3 with a Conv1D in the middle, in evaluation mode."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), Conv1D(7, 9), nn.Tanh(), nn.Linear(7, 3))
    nn.init.normal_(model[2].weight)
    return model.to(dtype).eval()


def data(
    rows: int = 24, seed: int = 1, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=generator, dtype=dtype)
    return x, torch.randint(0, 3, (rows,), generator=generator)


def cut(
    pair: tuple[torch.Tensor, torch.Tensor], sizes: list[int]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x, y = pair
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def states(model: nn.Module) -> list[tuple[object, ...]]:
    """Everything that must be as before: values, flags, gradients, mode."""
    return [
        (n, p.detach().clone(), p.requires_grad, None if p.grad is None else p.grad.clone())
        for n, p in model.named_parameters()
    ]


def unchanged(before: list[tuple[object, ...]], model: nn.Module) -> bool:
    def same(a: object, b: object) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    return all(all(map(same, old, new)) for old, new in zip(before, states(model), strict=True))
