"""ROLoRA: rank optimisation for low-rank adaptation under a memory budget (2024), algorithm 1.

Ranks are moved as the Frank-Wolfe method moves a point: another policy sparsifies, what it leaves
is scaled up to the budget, and the ranks go a step of 1 / t towards that. There are never more
trained terms than the budget allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

import torch
from torch import Tensor, nn

from expandermask.allocation.adalora import AdaLoRA
from expandermask.allocation.budget import best, share
from expandermask.allocation.policy import Policy
from expandermask.allocation.resize import first_ranks, resize, restricted
from expandermask.allocation.sora import SoRA
from expandermask.allocation.static import used_ranks
from expandermask.errors import (
    FileFormatError,
    InvalidInputError,
    check_integer,
    check_real,
)
from expandermask.graphs.bipartite import as_bipartite
from expandermask.graphs.random import derive_seed
from expandermask.masks.plan import MaskPlan

_INNER = "sparsify."
Sparsify = Callable[[float, int], Policy]
"""Of a mean rank to come down to and a number of steps, the policy that does it."""


def adalora_in_a_round(target_rank: float, steps: int) -> AdaLoRA:
    """AdaLoRA with a tenth of the steps before it and three tenths after it, as ROLoRA uses it."""
    return AdaLoRA(
        target_rank=target_rank,
        total_steps=steps,
        warmup_steps=steps // 10,
        final_steps=3 * steps // 10,
    )


class ROLoRA(Policy):
    """Rounds of sparsifying and growing, with at most ``target_rank * modules`` terms throughout.

    Round t = 1, ..., T: (a) ``sparsify`` brings the mean rank down to its level, from r_i to s_i;
    (b) s is scaled up to the budget, (c) r becomes (1 - 1/t) r + s / t, rounded by largest
    remainder so that the sum stays what it is, and (d) terms that were left are carried over, with
    their gates, values and moments, and new ones start so that the model computes what it did. The
    level is half the target rank in the first round and grows by 1 + 1 / (T + t) after round t. The
    last round is followed by one more sparsifying, which gives mean ranks below the target; the
    paper's own average ranks imply one.

    The adapter's rank r is the largest a module may take: its masks are drawn, and certified, once,
    and the terms in use are a part of them. Terms that are not in use have no values. Attach the
    policy before training: terms beyond the budget go, whatever they have learnt.

    Parameters
    ----------
    target_rank : float
        R, in (0, r]. The budget is ``floor(target_rank * modules)`` terms, at least one.
    total_steps : int
        Of all rounds and the last sparsifying, which share them evenly: at least two for each.
    rounds : int
        T.
    sparsify : callable
        Of a mean rank and steps an `AdaLoRA` or `SoRA`, which thresholds and so ignores the rank.
        Called for every round before anything is changed, and again as the rounds begin.

    Raises
    ------
    InvalidInputError
        A value outside these ranges, or, from `attach`, ``sparsify`` gives no such policy for a
        round.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach
    >>> from expandermask.allocation import ROLoRA
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 4))
    >>> _ = attach(model, AdapterConfig(r=8, left_degree=8), rng=0)
    >>> policy = ROLoRA(target_rank=4, total_steps=40)
    >>> policy.attach(model)
    >>> optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    >>> policy.follow(optimizer)
    >>> x, y = torch.randn(32, 16), torch.randn(32, 4)
    >>> for step in range(40):
    ...     (torch.nn.functional.mse_loss(model(x), y) + policy.loss()).backward()
    ...     policy.after_backward(step)
    ...     optimizer.step()
    ...     policy.after_step(step)
    ...     optimizer.zero_grad()
    >>> sum(policy.ranks().values())  # 4 (1/2) (1 + 1/4) (1 + 1/5) (1 + 1/6) = 3.5 a module
    7
    """

    exchanges_parameters = True

    def __init__(
        self,
        *,
        target_rank: float,
        total_steps: int,
        rounds: int = 3,
        sparsify: Sparsify = adalora_in_a_round,
    ) -> None:
        super().__init__()
        self.target_rank = check_real("target_rank", target_rank)
        self.rounds = check_integer("rounds", rounds)
        self.total_steps = check_integer("total_steps", total_steps)
        self.sparsify = sparsify
        if not 0 < self.target_rank < math.inf:
            raise InvalidInputError(f"target_rank must be positive, got {self.target_rank}")
        if self.total_steps < 2 * (self.rounds + 1):
            raise InvalidInputError(
                f"total_steps must be at least 2 (rounds + 1) = {2 * (self.rounds + 1)}, two for "
                f"each sparsifying, got {total_steps}"
            )
        if not callable(sparsify):
            raise InvalidInputError(
                f"sparsify must be a function of a mean rank and of steps, got {sparsify!r:.80}"
            )

    def attach(self, model: nn.Module, *, name: str | None = None) -> None:
        """As `Policy.attach`, and share the budget evenly over the modules."""
        super().attach(model, name=name)
        ranks = self._share(dict.fromkeys(self._masks, 1.0))
        self._resize({p: first_ranks(pair, ranks[p]) for p, pair in self._masks.items()})
        self._inner = self._sparsifier(0)
        self._inner.attach(model, name=self._name)

    @property
    def schedule_steps(self) -> int:
        """``total_steps``."""
        return self.total_steps

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Tell the policies of the optimizer, whose moments follow the ranks."""
        super().follow(optimizer)
        self._inner.follow(optimizer)

    def loss(self) -> Tensor:
        """That of the policy that sparsifies."""
        self._in_hand()
        return self._inner.loss()

    def after_backward(self, step: int) -> None:
        """What the policy that sparsifies does."""
        self._in_hand()
        self._inner.after_backward(step - self._begins(self._round))

    def after_step(self, step: int) -> None:
        """What the policy that sparsifies does; at the end of a round, the new ranks."""
        self._in_hand()
        self._inner.after_step(step - self._begins(self._round))
        if step + 1 == self._begins(self._round + 1) and self._round < self.rounds:
            self._next_round()

    def level(self, round: int) -> float:
        """The mean rank that round ``round``, counted from 0, is to come down to."""
        self._in_hand()
        return self._level(round)

    def _level(self, round: int) -> float:
        level = Fraction(self.target_rank) / 2
        for t in range(1, round + 1):
            level *= 1 + Fraction(1, self.rounds + t)
        least = Fraction(1, len(self._masks))  # one term in all
        return float(max(least, min(level, Fraction(self.target_rank))))

    def active(self) -> dict[str, Tensor]:
        """Terms in use that the sparsifying has not closed."""
        self._in_hand()
        return self._inner.active()

    def trained_terms(self) -> dict[str, int]:
        """How many terms of every module have values that are trained."""
        self._in_hand()
        found = self._terms.split(self._terms.exists)
        return {place: int(exists.sum()) for place, exists in found.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The round, the terms in use (modules, r), and the state of the policy that sparsifies."""
        self._in_hand()
        terms = torch.stack(list(self._terms.split(self._terms.exists.cpu().clone()).values()))
        inner = {_INNER + name: tensor for name, tensor in self._inner.state_dict().items()}
        return {"round": torch.tensor(self._round), "terms": terms, **inner}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`: resizes the adapter, so load the model's own state after it."""
        inner = self._inner_state(state)
        if not 0 <= int(state["round"]) <= self.rounds:
            raise FileFormatError(
                f"ROLoRA: round must be in [0, {self.rounds}], got {int(state['round'])}"
            )
        if (count := int(state["terms"].bool().sum())) > self._budget:
            raise FileFormatError(
                f"ROLoRA: the state has {count} terms, more than the {self._budget} of the budget"
            )
        terms = dict(zip(self._masks, state["terms"].bool(), strict=True))
        self._require_inner(inner, terms, int(state["round"]))
        self._resize(terms)
        self._begin_round(int(state["round"]))
        self._inner.load_state_dict(inner)

    def _inner_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of the policy that sparsifies, of one whose other tensors are as they must."""
        own = {name: t for name, t in self.state_dict().items() if not name.startswith(_INNER)}
        inner = (
            [n for n in state if str(n).startswith(_INNER)] if isinstance(state, Mapping) else []
        )
        self.check_state(state, {n: tuple(t.shape) for n, t in own.items()} | dict.fromkeys(inner))
        return {name.removeprefix(_INNER): state[name] for name in inner}

    def _require_inner(
        self, inner: Mapping[str, Tensor], terms: Mapping[str, Tensor], number: int
    ) -> None:
        """Refuse a state of another policy, or for masks with other entries at these terms."""
        policy = self._sparsifier(number)
        pairs = [restricted(pair, terms[place]) for place, pair in self._masks.items()]
        values = sum(len(as_bipartite(side).lefts) for pair in pairs for side in (pair.a, pair.b))
        policy.check_state(inner, policy.state_shapes(values, sum(pair.r for pair in pairs)))

    def _check(self, plan: MaskPlan) -> None:
        if self.target_rank > plan.r:
            raise InvalidInputError(
                f"target_rank must be at most r = {plan.r}, got {self.target_rank:g}"
            )
        rank = Fraction(self.target_rank).limit_denominator(10**6)
        self._masks, self._round, self._budget = plan, 0, math.floor(rank * len(plan))
        if not self._budget:
            raise InvalidInputError(
                f"target_rank must be at least {1 / len(plan):.3g}, one term of {len(plan)} "
                f"modules, got {self.target_rank:g}"
            )
        found = [self._sparsifier(number) for number in range(self.rounds + 1)]
        if len({id(policy) for policy in found}) < len(found):
            raise InvalidInputError(
                f"sparsify must give a new policy for every round, got {found[0]!r:.80} again"
            )

    def _next_round(self) -> None:
        """Steps (b), (c) and (d): other ranks, with what was trained carried over."""
        self._require_optimizer()
        ranks, t = self._moved(), self._round + 1
        stay, new = {}, {}
        worth = self._terms.split(self._inner.worth().cpu())
        for place, kept in self._inner.active().items():
            scores = torch.where(kept, worth[place].double(), -math.inf)
            staying = torch.from_numpy(best(scores.numpy(), min(int(kept.sum()), ranks[place])))
            room = first_ranks(self._masks[place], self._masks[place].r) & ~staying
            free = room.nonzero().flatten()[: ranks[place] - int(staying.sum())]
            stay[place] = staying
            new[place] = torch.zeros_like(staying).index_fill_(0, free, True)
        self._resize(stay)
        self._forget_gates(stay)
        self._resize({place: stay[place] | new[place] for place in stay})
        seed = derive_seed(self._masks.seed, "ROLoRA", t)
        for place, adapter in self._in_hand().items():
            self._inner.start_terms(adapter, new[place], derive_seed(seed, place))
        self._begin_round(t)

    def _moved(self) -> dict[str, int]:
        """(1 - 1/t) r + s / t, with s scaled up to the budget."""
        trained, left, t = self.trained_terms(), self._inner.ranks(), self._round + 1
        if not any(left.values()):
            return trained
        scaled = self._share({place: float(s) for place, s in left.items()})
        return self._share({p: float((t - 1) * trained[p] + scaled[p]) for p in trained})

    def _share(self, weights: Mapping[str, float]) -> dict[str, int]:
        return share(weights, self._budget, caps=used_ranks(self._masks))

    def _resize(self, terms: Mapping[str, Tensor]) -> None:
        assert sum(int(own.sum()) for own in terms.values()) <= self._budget
        resize(
            self._model_in_hand(), self._masks, terms, name=self._name, optimizer=self._optimizer
        )
        self._refresh()

    @torch.no_grad()
    def _forget_gates(self, stay: Mapping[str, Tensor]) -> None:
        """Close the gates of terms that go, and drop their moments."""
        for place, adapter in self._in_hand().items():
            gate = adapter.rank_gate
            assert isinstance(gate, nn.Parameter)
            moments = {} if self._optimizer is None else self._optimizer.state.get(gate, {})
            for numbers in (gate, *moments.values()):
                if isinstance(numbers, Tensor) and numbers.shape == gate.shape:
                    numbers.mul_(stay[place].to(numbers))

    def _begin_round(self, number: int) -> None:
        self._round = number
        self._inner = self._sparsifier(number)
        self._inner.take_over(self._model_in_hand(), name=self._name)
        if self._optimizer is not None:
            self._inner.follow(self._optimizer)

    def _sparsifier(self, number: int) -> Policy:
        steps = self._begins(number + 1) - self._begins(number)
        there = min(int(self._terms.exists.sum()), self._budget)
        mean = there / len(self._masks)
        found = self.sparsify(min(self._level(number), mean), steps)
        if not isinstance(found, AdaLoRA | SoRA):
            raise InvalidInputError(
                "sparsify must give a policy whose rank gates are trained parameters, AdaLoRA's or "
                f"SoRA's, got {found!r:.80}"
            )
        if isinstance(found, AdaLoRA) and found.target_rank > mean:
            raise InvalidInputError(
                f"sparsify must come down to at most the mean rank there is, {mean:g}, got a "
                f"target_rank of {found.target_rank:g}"
            )
        return found

    def _begins(self, round: int) -> int:
        """The step with which a round begins; the one after the last is the end."""
        return round * self.total_steps // (self.rounds + 1)
