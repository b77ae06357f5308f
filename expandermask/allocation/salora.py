"""SaLoRA: "Structure-aware low-rank adaptation for parameter-efficient fine-tuning" (2023).

Gates between 0 and 1 are drawn anew for every step from hard-concrete distributions, which have
mass at both ends ("Learning sparse neural networks through L0 regularization", 2018). Their
parameters follow the loss and, by a Lagrange multiplier that only rises, a target for the expected
share of parameters whose gate is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from expandermask.adapters.training.distributed import mean_over_ranks
from expandermask.allocation._adam import Adam
from expandermask.allocation.orthogonality import orthogonality
from expandermask.allocation.policy import Policy
from expandermask.errors import AdapterError, InvalidInputError, check_integer, check_real
from expandermask.graphs.random import derive_seed
from expandermask.masks.plan import MaskPlan

GAMMA, ZETA = -0.1, 1.1
"""The interval that s is stretched to before it is clipped to [0, 1]: the reference's values."""
_FIRST = 3.0
"""log theta at the beginning: all gates nearly open."""


class Density(NamedTuple):
    """Which share of all parameters has a gate that is not 0."""

    expected: float
    """Over the draws of training."""
    realised: float
    """By the gates of evaluation."""


class HardConcrete(NamedTuple):
    """Gates drawn from hard-concrete distributions of parameters log theta, and temperature tau."""

    log_theta: Tensor
    tau: float

    def draw(self, u: Tensor | float) -> Tensor:
        """The gates for uniform draws ``u`` in (0, 1); 1/2 gives those of evaluation."""
        noise = torch.logit(torch.as_tensor(u, dtype=torch.float64))
        s = torch.sigmoid((noise.to(self.log_theta) + self.log_theta) / self.tau)
        return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def open(self) -> Tensor:
        """The probability that a gate is not 0: sigmoid(log theta - tau log(-gamma / zeta))."""
        return torch.sigmoid(self.log_theta - self.tau * math.log(-GAMMA / ZETA))


class SaLoRA(Policy):
    """Rank gates drawn from hard-concrete distributions, their expected density held to a target.

    The density C is the expected share of parameters (values of A and B on the masks) whose term
    has a gate that is not 0. log theta descends along the gradient of the loss plus
    multiplier * (C - target)^2, and the multiplier ascends by ``multiplier_rate * (C - target)^2``
    a step, both only from ``start_step`` to ``end_step``; before and after they rest. Noise is
    fresh at every step and the same for the whole batch. In evaluation mode, merged and in files an
    adapter has the gates of u = 1/2.

    The paper leaves the realised density open, the one by the gates of evaluation, and where many
    probabilities are near 1/2 it may be far from the expected one. So at the end of the phase the
    terms are settled, unless told otherwise: those of the highest log theta that the target pays
    for stay open, with log theta at least what it was at first, and the others are closed for good.

    Parameters
    ----------
    target_density : float
        b, in (0, 1].
    start_step, end_step : int
        The Lagrangian phase: 0 <= start_step < end_step. Train on after it.
    gate_rate : float
        Learning rate of log theta, for Adam, positive. The policy trains these itself, so the
        optimizer of the model has nothing to do with them.
    multiplier_rate : float
        Positive.
    orthogonality : float
        beta, the weight of `expandermask.allocation.orthogonality` in the loss, at least 0. No
        lambda makes the update small here: with B'B = I and AA' = I the singular values of the
        terms that are open are all the adapter's scale. The more beta weighs, the larger the
        learning rate has to be; the default was tried on MiniLM.
    tau : float
        The temperature, positive.
    settle : bool
        Whether the realised density is made to meet the target too: short of it by less than the
        cost of one term, and the expected one by at most half a hundredth more.

    Raises
    ------
    InvalidInputError
        A value outside these ranges.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach
    >>> from expandermask.allocation import SaLoRA
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    >>> _ = attach(model, AdapterConfig(r=8, left_degree=8), rng=0)
    >>> policy = SaLoRA(target_density=0.25, start_step=5, end_step=60)
    >>> policy.attach(model)
    >>> optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    >>> x, y = torch.randn(2, 32, 16)
    >>> for step in range(60):
    ...     (torch.nn.functional.mse_loss(model(x), y) + policy.loss()).backward()
    ...     policy.after_backward(step)
    ...     optimizer.step()
    ...     policy.after_step(step)
    ...     optimizer.zero_grad()
    >>> policy.density().realised, sum(policy.ranks().values())
    (0.25, 4)
    """

    def __init__(
        self,
        *,
        target_density: float,
        start_step: int,
        end_step: int,
        gate_rate: float = 0.1,
        multiplier_rate: float = 10.0,
        orthogonality: float = 1e-3,
        tau: float = 1.0,
        settle: bool = True,
    ) -> None:
        super().__init__()
        self.target_density = check_real("target_density", target_density)
        self.start_step = check_integer("start_step", start_step, minimum=0)
        self.end_step = check_integer("end_step", end_step)
        self.gate_rate = check_real("gate_rate", gate_rate)
        self.multiplier_rate = check_real("multiplier_rate", multiplier_rate)
        self.orthogonality = check_real("orthogonality", orthogonality)
        self.tau = check_real("tau", tau)
        self.settle = settle
        self._require_sound()

    @property
    def schedule_steps(self) -> int:
        """``end_step``."""
        return self.end_step

    @property
    def multiplier(self) -> float:
        """lambda, at least 0; it never falls."""
        self._in_hand()
        return float(self._multiplier)

    def density(self) -> Density:
        """The density over the draws of training, and that of the gates of evaluation."""
        self._in_hand()
        with torch.no_grad():
            expected = self._density()
            realised = (self._steady() > 0).double() @ self._costs
        return Density(float(expected), float(realised))

    def loss(self) -> Tensor:
        """beta times the distance of the factors from orthogonal ones."""
        adapters = self._in_hand().values()
        if self.orthogonality == 0:
            return super().loss()
        found: Tensor = orthogonality(adapters)
        return found.mul(self.orthogonality)

    def active(self) -> dict[str, Tensor]:
        """The terms that are open at evaluation."""
        self._in_hand()
        return self._terms.split((self._steady() > 0).cpu())

    def after_backward(self, step: int) -> None:
        """Turn the gates' gradients into those of log theta, the density's added."""
        self._in_hand()
        if not self.start_step <= step < self.end_step:
            return
        if not self._has_gradients(self._terms.gates()):
            return
        gradients = mean_over_ranks(
            torch.cat(
                [torch.zeros_like(g) if g.grad is None else g.grad for g in self._drawn.values()]
            )
        )
        if not bool(gradients.isfinite().all()):  # as loss scaling leaves such a step out
            self._log_theta.grad = None
            return
        gates = self._gates_of(self._noise)
        penalty = float(self._multiplier) * (self._density() - self.target_density) ** 2
        (self._log_theta.grad,) = torch.autograd.grad(
            (gates * gradients.to(gates)).sum() + penalty, self._log_theta
        )

    def after_step(self, step: int) -> None:
        """A step of log theta and of the multiplier, in their phase; then the next step's gates."""
        self._in_hand()
        if self._log_theta.grad is not None:  # within the phase
            with torch.no_grad():
                off = self._density() - self.target_density
                self._multiplier += self.multiplier_rate * off**2
            self._adam.step()
            self._log_theta.grad = None
        if step == self.end_step - 1 and self.settle:
            self._require_learnt()
            self._settle()
        self._draw(step + 1)

    def state_dict(self) -> dict[str, Tensor]:
        """log theta with its moments, the multiplier, and the step whose gates are drawn."""
        self._in_hand()
        return {
            "log_theta": self._log_theta.detach(),
            **self._adam.state_dict(),
            "multiplier": self._multiplier,
            "drawn": self._step,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`, with the very gates that were drawn for the next step."""
        super().load_state_dict(state)
        self._draw(int(self._step))

    def _check(self, plan: MaskPlan) -> None:
        least = float(self._shares_of_terms()[self._terms.exists].min())
        if self.target_density < least:
            raise InvalidInputError(
                f"target_density must be at least {least:.3g}, the smallest term's share of all "
                f"parameters, or nothing would be left; got {self.target_density:g}"
            )

    def _prepare(self, plan: MaskPlan) -> None:
        self._seed = derive_seed(plan.seed, "SaLoRA")
        device = self._terms.exists.device
        self._costs = self._shares_of_terms()
        first = torch.full((len(self._terms),), _FIRST, device=device)
        self._log_theta = first.masked_fill_(~self._terms.exists, -torch.inf).requires_grad_()
        self._adam = Adam(self._log_theta, self.gate_rate)
        self._multiplier, self._step = torch.zeros(()).double(), torch.zeros((), dtype=torch.int64)
        self._draw(0)

    def _shares_of_terms(self) -> Tensor:
        """Every term's share of all parameters; that of entries which are no term's is left out."""
        entries = torch.bincount(self._terms.of_values(), minlength=len(self._terms)).double()
        entries *= self._terms.exists
        return entries / entries.sum()

    def _require_learnt(self) -> None:
        if not self._adam.steps:
            raise AdapterError(
                "SaLoRA's gates have taken no step, so nothing tells which to close; call "
                "after_backward(step) after backward() and before zero_grad()"
            )

    def _settle(self) -> None:
        """Close for good all but the terms of highest log theta that the target pays for."""
        with torch.no_grad():
            order = torch.argsort(self._log_theta.cpu(), descending=True, stable=True)
            paid = self._costs.cpu()[order].cumsum(0) <= self.target_density + 1e-12
            stay = torch.zeros_like(paid)
            stay[order] = paid
            stay &= self._terms.exists.cpu()
            kept = self._log_theta.clamp(min=_FIRST)
            self._log_theta.copy_(torch.where(stay.to(kept.device), kept, -torch.inf))

    def _draw(self, step: int) -> None:
        """Draw the gates of a step, the same whenever asked for, and put them in."""
        seed = derive_seed(self._seed, "noise", step)
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(len(self._terms), generator=generator, dtype=torch.float64)
        self._noise = uniform.clamp(1e-12, 1 - 1e-12).to(self._log_theta.device)
        self._step.fill_(step)
        drawn = self._terms.split(self._gates_of(self._noise).detach())
        self._drawn = {name: gate.clone().requires_grad_() for name, gate in drawn.items()}
        steady = self._terms.split(self._steady())
        for name, gate in self._drawn.items():
            self._terms.adapters[name].set_rank_gate(gate, evaluation=steady[name])

    def _steady(self) -> Tensor:
        """The gates of evaluation."""
        return self._gates_of(0.5).detach()

    def _gates_of(self, u: Tensor | float) -> Tensor:
        return HardConcrete(self._log_theta, self.tau).draw(u)

    def _density(self) -> Tensor:
        return HardConcrete(self._log_theta, self.tau).open().double() @ self._costs

    def _require_sound(self) -> None:
        if not 0 < self.target_density <= 1:
            raise InvalidInputError(f"target_density must lie in (0, 1], got {self.target_density}")
        if self.start_step >= self.end_step:
            raise InvalidInputError(
                f"start_step must be less than end_step = {self.end_step}, got {self.start_step}"
            )
        for name in ("gate_rate", "multiplier_rate", "tau"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInputError(
                    f"{name} must be positive and finite, got {getattr(self, name)}"
                )
        if not 0 <= self.orthogonality < math.inf:
            raise InvalidInputError(
                f"orthogonality must be at least 0 and finite, got {self.orthogonality}"
            )
