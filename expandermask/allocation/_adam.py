"""Adam on one tensor ("Adam: a method for stochastic optimization", 2015), its moments in the open.

SaLoRA and DiffoRA train a vector of gates themselves and save its moments with their state.
`torch.optim.Adam` has no moments before its first step, so it could not be saved or loaded then.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Steps of Adam for ``parameter``, by its ``grad``: the bits of `torch.optim.Adam` on a CPU."""

    def __init__(self, parameter: Tensor, rate: float) -> None:
        self.parameter = parameter
        self.rate = rate
        self.mean = torch.zeros_like(parameter, requires_grad=False)
        self.square = torch.zeros_like(parameter, requires_grad=False)
        self.steps = torch.zeros(())

    def state_dict(self) -> dict[str, Tensor]:
        """Both moments and the count of steps: the tensors themselves, to be filled in place."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    @torch.no_grad()
    def step(self) -> None:
        """One step against the gradient, with both moments' bias corrected."""
        gradient = self.parameter.grad
        assert gradient is not None
        self.steps += 1
        count = float(self.steps)
        self.mean.lerp_(gradient, 1 - _BETA1)
        self.square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        size = self.rate / (1 - _BETA1**count)
        deviation = self.square.sqrt() / (1 - _BETA2**count) ** 0.5
        self.parameter.addcdiv_(self.mean, deviation.add_(_EPSILON), value=-size)
