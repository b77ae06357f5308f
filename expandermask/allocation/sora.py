"""SoRA: "Sparse low-rank adaptation of pre-trained language models" (2023), section 3.

Gates between A and B are pulled to zero by a proximal gradient step for an L1 penalty: after every
step of the optimizer each gate moves towards 0 by eta * lambda, and stops there. The rank of a
module is how many of its gates are not exactly 0.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.allocation.policy import Policy, start_gate
from expandermask.errors import AdapterError, InvalidInputError, check_real

Variant = Literal["paper", "reference"]


class SoRA(Policy):
    """Trained rank gates, soft-thresholded after every step.

    With eta the step's learning rate, g becomes soft(g, eta * strength), `soft_threshold`, after
    the optimizer has moved it. Gates start normal, with deviation 1, as in the reference code, and
    must be without weight decay: `Policy.groups` sees to it.

    Parameters
    ----------
    strength : float
        lambda, the weight of the L1 norm of all gates, at least 0.
    variant : {"paper", "reference"}
        The reference code thresholds at ``strength``, whatever the learning rate, and sets to zero
        what is between it and its double as well: `reference_threshold`.

    Raises
    ------
    InvalidInputError
        A value outside these ranges.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach
    >>> from expandermask.allocation import SoRA
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 4))
    >>> _ = attach(model, AdapterConfig(r=8, left_degree=8), rng=0)
    >>> policy = SoRA(strength=20.0)
    >>> policy.attach(model)
    >>> optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    >>> policy.follow(optimizer)
    >>> x, y = torch.randn(32, 16), torch.randn(32, 4)
    >>> for step in range(5):
    ...     torch.nn.functional.mse_loss(model(x), y).backward()
    ...     optimizer.step()
    ...     policy.after_step(step)
    ...     optimizer.zero_grad()
    >>> policy.ranks()["0"] < 8
    True
    """

    def __init__(self, *, strength: float, variant: Variant = "paper") -> None:
        super().__init__()
        self.strength, self.variant = check_real("strength", strength), variant
        if not 0 <= self.strength < math.inf:
            raise InvalidInputError(f"strength must be at least 0 and finite, got {self.strength}")
        if variant not in get_args(Variant):
            raise InvalidInputError(f"variant must be one of {get_args(Variant)}, got {variant!r}")

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """The proximal step, with the learning rate of the step before it."""
        self._in_hand()
        for gate in self._terms.gates():
            group = self._group(gate)
            if group.get("weight_decay"):
                raise AdapterError(
                    "SoRA's gates must have no weight decay, which would move them besides; make "
                    "the optimizer of policy.groups(lr=..., weight_decay=...), and give a Trainer "
                    "optimizers=(that, None)"
                )
            if self.variant == "paper":
                gate.copy_(soft_threshold(gate, group["lr"] * self.strength))
            else:
                gate.copy_(reference_threshold(gate, self.strength))

    def start_terms(self, adapter: MaskedAdapter, terms: Tensor, seed: int) -> None:
        """Normal gates, with deviation 1."""
        first = torch.randn(adapter.r, generator=torch.Generator().manual_seed(seed))
        start_gate(adapter, terms, first)


def soft_threshold(x: Tensor, xi: float) -> Tensor:
    """sign(x) max(|x| - xi, 0): the minimiser of |y - x|^2 / 2 + xi |y| over y, entry by entry.

    Examples
    --------
    >>> import torch
    >>> from expandermask.allocation.sora import soft_threshold
    >>> soft_threshold(torch.tensor([0.75, -0.125, -1.25]), 0.25)
    tensor([ 0.5000, -0.0000, -1.0000])
    """
    return x.sign() * (x.abs() - xi).clamp(min=0)


def reference_threshold(x: Tensor, xi: float) -> Tensor:
    """What SoRA's reference code does: shrink by xi what exceeds it, then zero what is below xi.

    So what lies between xi and 2 xi is gone too, and no entry is left between 0 and xi.
    """
    shrunk = torch.where(x.abs() > xi, x - x.sign() * xi, x)
    return torch.where(shrunk.abs() < xi, torch.zeros_like(x), shrunk)
