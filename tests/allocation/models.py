"""Small models with adapters on them, and gradients by hand, for the tests of policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from expandermask.adapters import AdapterConfig, attach
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.allocation import Policy
from expandermask.masks import MaskPlan, balanced, partial_plan

SHAPES = {"0": (6, 8), "2": (5, 6)}
MASKS: dict[str, Callable[[int], MaskPlan | AdapterConfig]] = {
    "dense": lambda r: AdapterConfig(r=r, left_degree=r),
    "elements": lambda r: partial_plan(
        SHAPES, balanced(SHAPES, 0.6), r=r, select="elements", rng=4
    ),
    "rows and columns": lambda r: partial_plan(SHAPES, balanced(SHAPES, 0.6), r=r, rng=4),
}


def net(r: int = 4, masks: str = "dense", *, double: bool = False) -> nn.Sequential:
    """Two linear layers, each with an adapter of rank r."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5))
    model = model.double() if double else model
    adapter = MASKS[masks](r)
    attach(model, adapter, **({"rng": 1} if isinstance(adapter, AdapterConfig) else {}))
    return model


def adapters(model: nn.Module) -> dict[str, MaskedAdapter]:
    return {
        name.removeprefix("base_model.model.").removesuffix(".default").rpartition(".")[0]: module
        for name, module in model.named_modules()
        if isinstance(module, MaskedAdapter)
    }


def data(seed: int = 0, *, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 8, generator=generator, dtype=dtype)
    return x, torch.randn(16, 5, generator=generator, dtype=dtype)


def backward(model: nn.Module, policy: object, seed: int = 0) -> None:
    """The gradients of one step, the policy's own term included."""
    x, y = data(seed, dtype=next(model.parameters()).dtype)
    loss = nn.functional.mse_loss(model(x), y) + policy.loss()
    loss.backward()


def train(model: nn.Module, policy: Policy, steps: range, optimizer: Any = None) -> Any:
    """The plain loop, over batches that the step's number fixes; gives the optimizer."""
    optimizer = optimizer or torch.optim.AdamW(policy.groups(lr=1e-2))
    policy.follow(optimizer)
    for step in steps:
        optimizer.zero_grad()
        backward(model, policy, seed=step)
        policy.after_backward(step)
        optimizer.step()
        policy.after_step(step)
    return optimizer
