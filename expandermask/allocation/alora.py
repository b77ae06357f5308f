"""ALoRA: "Allocating low-rank adaptation for fine-tuning large language models" (2024).

Ranks are moved in rounds. Every term is scored by what the model loses without it and by what it
does alone; the lowest scored are dropped, and their ranks go to the modules that lost none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from expandermask.allocation.budget import best, share
from expandermask.allocation.policy import Policy, evaluating
from expandermask.allocation.resize import first_ranks, resize
from expandermask.errors import AdapterError, InvalidInputError, check_integer
from expandermask.importance.batches import batch_list, default_loss, device_of, on_device
from expandermask.masks.plan import MaskPlan

Score = Callable[[nn.Module], float]
"""S(M), higher for a better model; called in evaluation mode and without gradients."""


class ALoRA(Policy):
    """Rounds that drop the terms of the lowest AB-LoRA scores and give their ranks away.

    IS(r) = S(M) - S(M without r) + S(M with r alone). After ``first_steps`` steps, and then every
    ``recovery_steps``, ``rounds`` times in all, the ``pruned`` terms of the lowest IS are dropped,
    and as many new ones given to the modules that lost none: evenly, the rest to those of the
    higher mean IS, none beyond the ranks its masks have. A module without terms has no score, and
    is given none. What cannot be given, because the others are full, is gone, and the total is
    smaller from then on. A round in which no module could take any drops nothing, and costs as
    much as another.

    The adapter's rank r is the largest a module may take; masks are drawn, and certified, for it.
    Attach the policy before training: terms beyond ``start_rank`` go, whatever they have learnt.
    Terms that are not in use have no values, gradients or moments. A new one starts as in a fresh
    adapter, its B at zero, so giving changes nothing that the model computes.

    Parameters
    ----------
    score : callable
        S: `minus_loss` of one fixed validation batch is the paper's.
    start_rank : int
        Every module's rank at first, at most r.
    first_steps, recovery_steps : int
        K_1 and K_2, in steps.
    rounds : int
        N_A.
    pruned : int, optional
        n_A, terms of a round; without it as many as there are modules.
    progress : bool
        Show a progress bar over the evaluations of a round.

    Raises
    ------
    InvalidInputError
        A value outside these ranges.

    Notes
    -----
    A round takes 2 evaluations of S for each term in use and one more; `evaluations` counts them.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach
    >>> from expandermask.allocation import ALoRA
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 4))
    >>> _ = attach(model, AdapterConfig(r=8, left_degree=8), rng=0)
    >>> x, y = torch.randn(32, 16), torch.randn(32, 4)
    >>> loss = lambda m: torch.nn.functional.mse_loss(m(x), y)
    >>> policy = ALoRA(score=lambda m: -float(loss(m)), start_rank=4, first_steps=4,
    ...                recovery_steps=2, rounds=3, pruned=1)
    >>> policy.attach(model)
    >>> optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    >>> policy.follow(optimizer)
    >>> for step in range(10):
    ...     loss(model).backward()
    ...     optimizer.step()
    ...     policy.after_step(step)
    ...     optimizer.zero_grad()
    >>> sum(policy.ranks().values()), policy.evaluations
    (8, 51)
    """

    exchanges_parameters = True

    def __init__(
        self,
        *,
        score: Score,
        start_rank: int,
        first_steps: int,
        recovery_steps: int,
        rounds: int = 8,
        pruned: int | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        if not callable(score):
            raise InvalidInputError(f"score must be a function of the model, got {score!r:.80}")
        self.score, self.progress = score, progress
        self.start_rank = check_integer("start_rank", start_rank)
        self.first_steps = check_integer("first_steps", first_steps)
        self.recovery_steps = check_integer("recovery_steps", recovery_steps)
        self.rounds = check_integer("rounds", rounds, minimum=0)
        self.pruned = None if pruned is None else check_integer("pruned", pruned, minimum=0)
        self.evaluations = 0
        """How often S has been evaluated."""

    def attach(self, model: nn.Module, *, name: str | None = None) -> None:
        """As `Policy.attach`, and bring every module to ``start_rank``."""
        super().attach(model, name=name)
        self._resize({p: first_ranks(pair, self.start_rank) for p, pair in self._masks.items()})

    @property
    def schedule_steps(self) -> int:
        """The steps until the last round has been made."""
        return self.first_steps + (self.rounds - 1) * self.recovery_steps if self.rounds else 0

    def after_step(self, step: int) -> None:
        """A round, when one is due."""
        self._in_hand()
        done = step + 1 - self.first_steps
        if (
            done >= 0
            and done % self.recovery_steps == 0
            and done // self.recovery_steps < self.rounds
        ):
            self._round()

    @torch.no_grad()
    def importance(self) -> dict[str, dict[int, float]]:
        """IS of every term in use, by module and rank; by explicit ablation."""
        model, owned = self._model_in_hand(), self._in_hand()
        active = self.active()
        pairs = [(n, int(j)) for n, a in active.items() for j in a.nonzero().flatten()]
        gates = {n: torch.ones(own.r).to(own.lora_A) for n, own in owned.items()}
        found: dict[str, dict[int, float]] = {name: {} for name in owned}
        try:
            for name, own in owned.items():
                own.set_rank_gate(gates[name])
            with evaluating(model):
                whole = self._value(model)
                for name, j in tqdm(pairs, desc="ablations", disable=not self.progress):
                    gates[name][j] = 0
                    without = self._value(model)
                    _fill(gates, 0)
                    gates[name][j] = 1
                    found[name][j] = whole - without + self._value(model)
                    _fill(gates, 1)
        finally:
            for own in owned.values():
                own.set_rank_gate(None)
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Which terms are in use, (modules, r), and the count of evaluations."""
        active = torch.stack(list(self.active().values()))
        return {"active": active, "evaluations": torch.tensor(self.evaluations)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`: resizes the adapter, so load the model's own state after it."""
        self.check_state(state)
        self._resize(dict(zip(self._masks, state["active"].bool(), strict=True)))
        self.evaluations = int(state["evaluations"])

    def _check(self, plan: MaskPlan) -> None:
        if self.start_rank > plan.r:
            raise InvalidInputError(
                f"start_rank must be at most r = {plan.r}, got {self.start_rank}"
            )
        self._masks = plan

    def _round(self) -> None:
        self._require_optimizer()
        scores, active = self.importance(), self.active()
        every = [(s, n, j) for n, own in scores.items() for j, s in own.items()]
        count = min(len(scores) if self.pruned is None else self.pruned, len(every))
        lowest = best([-s for s, _, _ in every], count)
        lost: dict[str, int] = {}
        for (_, name, j), drop in zip(every, lowest, strict=True):
            if drop:
                active[name][j] = False
                lost[name] = lost.get(name, 0) + 1
        means = {
            n: sum(own.values()) / len(own) for n, own in scores.items() if own and n not in lost
        }
        takers = sorted(means, key=lambda name: -means[name])
        free = {n: first_ranks(self._masks[n], self._masks[n].r) & ~active[n] for n in takers}
        caps = {name: int(own.sum()) for name, own in free.items()}
        if count and not any(caps.values()):
            return
        shares = share(dict.fromkeys(takers, 1.0), count, caps=caps) if count else {}
        for name, more in shares.items():
            active[name][free[name].nonzero().flatten()[:more]] = True
        self._resize(active)

    def _resize(self, terms: Mapping[str, Tensor]) -> None:
        resize(
            self._model_in_hand(), self._masks, terms, name=self._name, optimizer=self._optimizer
        )
        self._refresh()

    def _value(self, model: nn.Module) -> float:
        self.evaluations += 1
        found = self.score(model)
        try:
            value = float(found)
        except (TypeError, ValueError):
            raise InvalidInputError(f"score must give a number, got {found!r:.80}") from None
        if not math.isfinite(value):
            raise AdapterError(f"the score of the model is {value}, which ranks nothing")
        return value


def minus_loss(
    batches: Iterable[Any], loss: Callable[[nn.Module, Any], Tensor] = default_loss
) -> Score:
    """S of ALoRA: minus the mean loss over validation batches, one in the paper.

    Batches and loss are as in `expandermask.importance.snip_scores`.
    """
    kept = batch_list(batches)

    def score(model: nn.Module) -> float:
        losses = [float(loss(model, on_device(batch, device_of(model)))) for batch in kept]
        return -sum(losses) / len(losses)

    return score


def _fill(gates: Mapping[str, Tensor], value: float) -> None:
    for gate in gates.values():
        gate.fill_(value)
