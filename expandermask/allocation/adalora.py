"""AdaLoRA: "Adaptive budget allocation for parameter-efficient fine-tuning" (2023).

The update is P diag(lambda) Q with P and Q kept near orthogonal. After every step all terms of all
modules are ranked by importance, and only the b(t) best keep their lambda; b falls by a cubic
schedule from all terms to the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.allocation.budget import best
from expandermask.allocation.orthogonality import orthogonality
from expandermask.allocation.policy import Policy
from expandermask.allocation.terms import Terms
from expandermask.errors import InvalidInputError, check_integer, check_real
from expandermask.graphs.random import derive_seed
from expandermask.masks.plan import MaskPlan

Importance = Literal["smoothed", "sensitivity", "magnitude"]
Variant = Literal["paper", "reference"]
_DEVIATION = 0.02


class AdaLoRA(Policy):
    """Rank gates lambda, masked after every step to the b(t) most important of all terms.

    The importance of an entry w of A, B or lambda is I = |w dL/dw| ("sensitivity"), or, smoothed
    over steps, Ibar * Ubar with Ibar = beta1 Ibar + (1 - beta1) I and Ubar = beta2 Ubar +
    (1 - beta2) |I - Ibar| ("smoothed"). A term's is that of its lambda plus the means over its
    entries of A and of B; with "magnitude" it is |lambda| alone. A masked term has lambda 0, keeps
    its vectors, and comes back when it ranks among the best again. In the last ``final_steps``
    importance is not updated, so the ranks stay.

    Parameters
    ----------
    target_rank : float
        Mean rank of a module at the end, in [0, r]. The budget is ``floor(target_rank * modules)``
        terms.
    total_steps : int
        Optimizer steps of the whole training, T.
    warmup_steps, final_steps : int
        t_i and t_f: how long the budget is everything at first, and how long it is the target at
        the end. Together less than ``total_steps``.
    beta1, beta2 : float
        In (0, 1).
    orthogonality : float
        gamma, the weight of `expandermask.allocation.orthogonality` in the loss, at least 0.
    importance : {"smoothed", "sensitivity", "magnitude"}
    variant : {"paper", "reference"}
        The reference code's regulariser is the mean over factors of the norms, not squared. (Two
        of its defects are in neither: equal scores are not dropped together, and no gate grows back
        in the step after it was masked.)

    Raises
    ------
    InvalidInputError
        A value outside these ranges.

    Notes
    -----
    A module whose factors got no gradient has importance 0 for that step. A step with a gradient
    that is not finite is left out as a whole, as loss scaling leaves it out. Memory: two floats for
    each value and an int32. O(values) for a step, and r^2 (d + k) of a module for the regulariser.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach
    >>> from expandermask.allocation import AdaLoRA
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 4))
    >>> _ = attach(model, AdapterConfig(r=8, left_degree=8), rng=0)
    >>> policy = AdaLoRA(target_rank=3, total_steps=20, warmup_steps=2, final_steps=5)
    >>> policy.attach(model)
    >>> optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    >>> x, y = torch.randn(32, 16), torch.randn(32, 4)
    >>> for step in range(20):
    ...     (torch.nn.functional.mse_loss(model(x), y) + policy.loss()).backward()
    ...     policy.after_backward(step)
    ...     optimizer.step()
    ...     policy.after_step(step)
    ...     optimizer.zero_grad()
    >>> sum(policy.ranks().values())
    6
    """

    def __init__(
        self,
        *,
        target_rank: float,
        total_steps: int,
        warmup_steps: int = 0,
        final_steps: int = 0,
        beta1: float = 0.85,
        beta2: float = 0.85,
        orthogonality: float = 0.1,
        importance: Importance = "smoothed",
        variant: Variant = "paper",
    ) -> None:
        super().__init__()
        self.target_rank = check_real("target_rank", target_rank)
        self.total_steps = check_integer("total_steps", total_steps)
        self.warmup_steps = check_integer("warmup_steps", warmup_steps, minimum=0)
        self.final_steps = check_integer("final_steps", final_steps, minimum=0)
        self.beta1, self.beta2 = check_real("beta1", beta1), check_real("beta2", beta2)
        self.orthogonality = check_real("orthogonality", orthogonality)
        self.importance, self.variant = importance, variant
        self._require_sound()

    def budget(self, step: int) -> int:
        """b(t), the terms that may be active after ``step``: exact, rounded down.

        b_T + (b_0 - b_T) (1 - (t - t_i) / (T - t_i - t_f))^3 between t_i and T - t_f.
        """
        everything = len(self._terms)
        if step < self.warmup_steps:
            return everything
        target = self._target()
        if step >= self.total_steps - self.final_steps:
            return target
        span = self.total_steps - self.warmup_steps - self.final_steps
        left = 1 - Fraction(step - self.warmup_steps, span)
        return math.floor(target + (everything - target) * left**3)

    def loss(self) -> Tensor:
        """gamma times the distance of the factors from orthogonal ones."""
        adapters = self._in_hand().values()
        if self.orthogonality == 0:
            return super().loss()
        found: Tensor = orthogonality(adapters, squared=self.variant == "paper")
        return found.mul(self.orthogonality)

    def after_backward(self, step: int) -> None:
        """Take in the gradients: I, and its smoothed mean and deviation."""
        self._in_hand()
        if self.importance == "magnitude" or step >= self.total_steps - self.final_steps:
            return
        seen = self._sensitivity()
        if not bool(seen.isfinite().all()):
            return
        if self.importance == "sensitivity":
            self._mean.copy_(seen)
            return
        self._mean.lerp_(seen, 1 - self.beta1)
        self._deviation.lerp_(seen.sub_(self._mean).abs_(), 1 - self.beta2)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Set lambda to 0 in all but the b(t) most important terms."""
        self._in_hand()
        if (count := self.budget(step)) == len(self._terms):
            return
        chosen = torch.from_numpy(best(self.scores().cpu().numpy(), count))
        for gate, kept in zip(self._terms.gates(), self._terms.split(chosen).values(), strict=True):
            gate.mul_(kept.to(gate.device).view_as(gate))

    @torch.no_grad()
    def scores(self) -> Tensor:
        """The importance of every term, module after module: shape (terms,)."""
        self._in_hand()
        if self.importance == "magnitude":
            return torch.cat([gate.detach().abs().reshape(-1) for gate in self._terms.gates()])
        entries = self._mean * self._deviation if self.importance == "smoothed" else self._mean
        values = len(self._term_of)
        found = entries[values:].clone()
        return found.index_add_(0, self._term_of, entries[:values].mul(self._share_of))

    def state_dict(self) -> dict[str, Tensor]:
        """Importance gathered so far."""
        self._in_hand()
        return {"mean": self._mean, "deviation": self._deviation}

    def _prepare(self, adapters: Mapping[str, MaskedAdapter], plan: MaskPlan) -> None:
        terms = Terms(adapters)
        if self.target_rank * len(adapters) > len(terms):
            raise InvalidInputError(
                f"target_rank must be at most the mean rank {len(terms) / len(adapters):g}, got "
                f"{self.target_rank:g}"
            )
        self._terms, self._term_of = terms, terms.of_values()
        self._share_of = terms.shares_of_values()
        for name, adapter in adapters.items():
            start_as_svd(adapter, derive_seed(plan.seed, name, "AdaLoRA"))
        count = len(self._term_of) + len(terms)
        self._mean = torch.zeros(count, device=self._term_of.device)
        self._deviation = torch.zeros_like(self._mean)

    @torch.no_grad()
    def _sensitivity(self) -> Tensor:
        """|w dL/dw| of all values, then of all gates: a new tensor."""
        parts = [
            torch.zeros(p.numel(), device=p.device) if p.grad is None else (p * p.grad).reshape(-1)
            for p in (*self._terms.values(), *self._terms.gates())
        ]
        return torch.cat(parts).float().abs_()

    def _target(self) -> int:
        return math.floor(Fraction(self.target_rank) * len(self._in_hand()))

    def _require_sound(self) -> None:
        if not 0 <= self.target_rank < math.inf:
            raise InvalidInputError(f"target_rank must be at least 0, got {self.target_rank}")
        if self.warmup_steps + self.final_steps >= self.total_steps:
            raise InvalidInputError(
                f"warmup_steps + final_steps must be less than total_steps = {self.total_steps}, "
                f"got {self.warmup_steps} + {self.final_steps}"
            )
        for name in ("beta1", "beta2"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must lie in (0, 1), got {getattr(self, name)}")
        if not 0 <= self.orthogonality < math.inf:
            raise InvalidInputError(
                f"orthogonality must be at least 0 and finite, got {self.orthogonality}"
            )
        for name, kinds in (("importance", get_args(Importance)), ("variant", get_args(Variant))):
            if getattr(self, name) not in kinds:
                raise InvalidInputError(
                    f"{name} must be one of {kinds}, got {getattr(self, name)!r}"
                )


@torch.no_grad()
def start_as_svd(adapter: MaskedAdapter, seed: int) -> None:
    """AdaLoRA's first values: A and B normal, and a rank gate of zeros, so that the update is 0.

    The deviation is 0.02 where nothing is masked, and under a mask so much larger that a term's
    vectors are as long: 0.02 sqrt(n / entries of the term).
    """
    generator = torch.Generator().manual_seed(seed)
    terms = Terms({"": adapter})
    shares = torch.split(terms.shares_of_values(), [v.numel() for v in terms.values()])
    for values, share, n in zip(terms.values(), shares, reversed(adapter.shape), strict=True):
        unit = torch.randn(values.shape, generator=generator)
        scale = _DEVIATION * (n * share.cpu()).sqrt().view(values.shape)
        values.copy_((unit * scale).to(values))
    gate = torch.zeros(adapter.r, dtype=adapter.values_a.dtype, device=adapter.values_a.device)
    adapter.set_rank_gate(nn.Parameter(gate))
