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
from torch import Tensor

from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.allocation.budget import best
from expandermask.allocation.orthogonality import orthogonality
from expandermask.allocation.policy import Policy, start_gate
from expandermask.allocation.terms import Terms
from expandermask.errors import AdapterError, InvalidInputError, check_integer, check_real
from expandermask.masks.plan import MaskPlan

Importance = Literal["smoothed", "sensitivity", "magnitude"]
Variant = Literal["paper", "reference"]
_DEVIATION = 0.02


class AdaLoRA(Policy):
    """Rank gates lambda, masked after every step to the b(t) most important of all terms.

    The importance of an entry w of A, B or lambda is ``I = |w dL/dw|`` ("sensitivity"), or smoothed
    over steps, Ibar * Ubar, with ``Ibar = beta1 Ibar + (1 - beta1) I`` and ``Ubar = beta2 Ubar +
    (1 - beta2) |I - Ibar|`` ("smoothed"). A term's is that of its lambda plus the means over its
    entries of A and of B; with "magnitude" it is the size of lambda alone. A masked term has lambda
    0, keeps its vectors, and comes back when it ranks among the best again. In the last
    ``final_steps`` importance is not updated, so the ranks stay.

    Parameters
    ----------
    target_rank : float
        Mean rank of a module at the end, in [0, r]. The budget is ``floor(target_rank * modules)``
        terms. Of 0 nothing is left in the end, so that there is nothing for `finish` to keep.
    total_steps : int
        Optimizer steps of the whole training, T.
    warmup_steps, final_steps : int
        t_i and t_f: how long the budget is everything at first, and how long it is the target at
        the end. Together less than ``total_steps``.
    beta1, beta2 : float
        In (0, 1).
    orthogonality : float, optional
        gamma, the weight of `expandermask.allocation.orthogonality` in the loss, at least 0. By
        default 0.1 in the reference variant, which is a mean of norms, and 0.001 in the paper's, a
        sum of squares over all factors, which is larger by their number and their typical norm: by
        some hundred times in a small transformer, on which it was tried.
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
    A module whose lambda got no gradient, so that the loss does not reach it, has importance 0 for
    that step, whatever gradients the regulariser gives its factors. A step with a gradient
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
        orthogonality: float | None = None,
        importance: Importance = "smoothed",
        variant: Variant = "paper",
    ) -> None:
        super().__init__()
        self.target_rank = check_real("target_rank", target_rank)
        self.total_steps = check_integer("total_steps", total_steps)
        self.warmup_steps = check_integer("warmup_steps", warmup_steps, minimum=0)
        self.final_steps = check_integer("final_steps", final_steps, minimum=0)
        self.beta1, self.beta2 = check_real("beta1", beta1), check_real("beta2", beta2)
        if orthogonality is None:
            orthogonality = 1e-3 if variant == "paper" else 0.1
        self.orthogonality = check_real("orthogonality", orthogonality)
        self.importance, self.variant = importance, variant
        self._require_sound()

    @property
    def schedule_steps(self) -> int:
        """``total_steps``."""
        return self.total_steps

    def budget(self, step: int) -> int:
        """b(t), the terms that may be active after ``step``: exact, rounded down.

        b_T + (b_0 - b_T) (1 - (t - t_i) / (T - t_i - t_f))^3 between t_i and T - t_f.
        """
        self._in_hand()
        everything = int(self._terms.exists.sum())
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
        if not self._has_gradients((*self._terms.values(), *self._terms.gates())):
            return
        self._looked = True
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
        if (count := self.budget(step)) >= int(self._terms.exists.sum()):
            return
        if not self._looked:
            raise AdapterError(
                "AdaLoRA has seen no gradients to rank terms by; call after_backward(step) after "
                "backward() and before zero_grad()"
            )
        chosen = torch.from_numpy(best(self.scores().cpu().numpy(), count))
        for gate, kept in zip(self._terms.gates(), self._terms.split(chosen).values(), strict=True):
            gate.masked_fill_(~kept.to(gate.device).view_as(gate), 0.0)

    @torch.no_grad()
    def scores(self) -> Tensor:
        """The importance of every term, module after module: shape (terms,).

        Minus infinity for terms that a mask leaves no entries.
        """
        self._in_hand()
        if self.importance == "magnitude":
            found = torch.cat([gate.detach().abs().reshape(-1) for gate in self._terms.gates()])
            return found.masked_fill(~self._terms.exists | found.isnan(), -math.inf)
        entries = self._mean * self._deviation if self.importance == "smoothed" else self._mean
        values = len(self._term_of)
        found = entries[values:].clone()
        found.index_add_(0, self._term_of, entries[:values].mul(self._share_of))
        return found.masked_fill(~self._terms.exists, -math.inf)

    def worth(self) -> Tensor:
        """Its importance."""
        return self.scores()

    def state_dict(self) -> dict[str, Tensor]:
        """Importance gathered so far."""
        self._in_hand()
        return {"mean": self._mean, "deviation": self._deviation}

    def state_shapes(self, values: int, terms: int) -> dict[str, tuple[int, ...]]:
        """A number for every value and every term, in both."""
        return dict.fromkeys(("mean", "deviation"), (values + terms,))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(state)
        self._looked |= bool(self._mean.any())

    def _check(self, plan: MaskPlan) -> None:
        there, modules = int(self._terms.exists.sum()), len(plan)
        if self._target() > there:
            raise InvalidInputError(
                f"target_rank must be at most the mean rank {there / modules:g}, got "
                f"{self.target_rank:g}"
            )

    def start_terms(self, adapter: MaskedAdapter, terms: Tensor, seed: int) -> None:
        """Normal A and B, and gates of 0: see `start_as_svd`."""
        start_as_svd(adapter, terms, seed)

    def _prepare(self, plan: MaskPlan) -> None:
        self._term_of = self._terms.of_values()
        self._share_of = self._terms.shares_of_values()
        count = len(self._term_of) + len(self._terms)
        self._mean = torch.zeros(count, device=self._term_of.device)
        self._deviation = torch.zeros_like(self._mean)
        self._looked = self.importance == "magnitude"
        """Whether there is anything to rank terms by."""

    @torch.no_grad()
    def _sensitivity(self) -> Tensor:
        """|w dL/dw| of all values, then of all gates: a new tensor. 0 where no loss reaches."""
        adapters, gates = self._terms.adapters.values(), self._terms.gates()
        found = [
            _product(p, gate)
            for adapter, gate in zip(adapters, gates, strict=True)
            for p in (adapter.lora_A, adapter.lora_B)
        ]
        found += [_product(gate, gate) for gate in gates]
        return torch.cat(found).abs_()

    def _target(self) -> int:
        rank = Fraction(self.target_rank).limit_denominator(10**6)  # a third times three is one
        return math.floor(rank * len(self._terms.adapters))

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


def _product(p: Tensor, gate: Tensor) -> Tensor:
    """w dL/dw of one parameter, and 0 if its module's gate is trained and has no gradient."""
    if p.grad is None or (gate.grad is None and gate.requires_grad):
        return torch.zeros(p.numel(), device=p.device)
    product = (p.float() * p.grad.float()).reshape(-1)
    return product if gate.grad is None else product.mul_(gate.grad.ne(0).any())


@torch.no_grad()
def start_as_svd(adapter: MaskedAdapter, terms: Tensor, seed: int) -> None:
    """AdaLoRA's first values for some terms: A and B normal, and gates of 0, so the update is 0.

    The deviation is 0.02 where nothing is masked, and under a mask so much larger that a term's
    vectors are as long: 0.02 sqrt(n / entries of the term). Without a gate there yet, the adapter
    gets a trained one. ``terms`` are bool of shape (r,).
    """
    generator = torch.Generator().manual_seed(seed)
    own = Terms({"": adapter})
    counts = [v.numel() for v in own.values()]
    shares, places = (torch.split(t, counts) for t in (own.shares_of_values(), own.of_values()))
    for values, share, term, n in zip(
        own.values(), shares, places, reversed(adapter.shape), strict=True
    ):
        unit = torch.randn(values.numel(), generator=generator).to(values)
        first = unit * _DEVIATION * (n * share.to(values)).sqrt()
        is_new = terms.to(term.device)[term.long()]
        values.copy_(torch.where(is_new, first, values.reshape(-1)).view(values.shape))
    start_gate(adapter, terms, torch.zeros(adapter.r))
