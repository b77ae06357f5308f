"""DiffoRA: "Differential low-rank matrix adaptation" (2025): which modules get an adapter at all.

In a search every module's update is multiplied by a share of one, gamma-bar = softmax(gamma) over
the modules of its layer; gamma follows the loss of validation batches, the adapters that of
training. Then the modules of each layer with the largest shares are adapted in earnest; those of
the others that are of one type share a single small adapter over all layers, or stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from math import floor, inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.training.distributed import mean_over_ranks
from expandermask.allocation._adam import Adam
from expandermask.allocation.budget import best
from expandermask.allocation.policy import Policy
from expandermask.allocation.resize import first_ranks, resize
from expandermask.errors import AdapterError, InvalidInputError, check_integer, check_real
from expandermask.graphs.random import derive_seed
from expandermask.importance.batches import batch_list, default_loss, device_of, on_device
from expandermask.masks.plan import MaskPlan
from expandermask.masks.targets import Shape, layer_number

Loss = Callable[[nn.Module, Any], Tensor]


class DiffoRA(Policy):
    """Module gates, searched for and then made 0 or 1, a fixed share of each layer's.

    For ``search_steps`` steps the gates are gamma-bar; after each of the model's steps gamma takes
    one of Adam on the next validation batch, first order: the adapters count as constants in it.
    With the last of these steps K = floor(select_rate * N) of the N modules of every layer are
    selected, those of the largest gamma-bar, and training begins: adapters, and the optimizer's
    moments, start anew, as the paper's algorithm 1 has it. With ``share_rank`` the modules that
    were not selected and have one name within their layers share the values of one adapter of that
    rank, with the masks of the first of them; without it they have none.

    Parameters
    ----------
    validation : iterable of batches
        Labelled data that the adapters do not train on, used in turn; batches and ``loss`` are as
        in `expandermask.importance.snip_scores`. A random selection needs none.
    search_steps : int
        How many steps the search takes.
    select_rate : float
        rho, in (0, 1].
    share_rank : int, optional
        r_s, at most the adapter's r.
    gate_rate : float
        Learning rate of gamma, for Adam, positive. The policy trains it itself.
    random : bool
        The baseline: select as many in each layer at random, by the plan's seed, and search
        nothing. ``search_steps`` must be 0.
    loss : callable, optional

    Raises
    ------
    InvalidInputError
        A value outside these ranges, or, from `attach`, a rate that selects no module at all.

    Notes
    -----
    A step of the search costs about two: one of them on a validation batch.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach
    >>> from expandermask.allocation import DiffoRA
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 4))
    >>> _ = attach(model, AdapterConfig(r=4, left_degree=4), rng=0)
    >>> x, y = torch.randn(2, 32, 16), torch.randn(2, 32, 4)
    >>> loss = lambda m, batch: torch.nn.functional.mse_loss(m(batch[0]), batch[1])
    >>> policy = DiffoRA(validation=[(x[1], y[1])], search_steps=4, select_rate=1.0, loss=loss)
    >>> policy.attach(model)
    >>> optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    >>> policy.follow(optimizer)
    >>> for step in range(8):
    ...     loss(model, (x[0], y[0])).backward()
    ...     optimizer.step()
    ...     policy.after_step(step)
    ...     optimizer.zero_grad()
    >>> policy.modules()  # each is alone in its layer
    {'0': True, '1': True}
    """

    exchanges_parameters = True

    def __init__(
        self,
        *,
        validation: Iterable[Any] = (),
        search_steps: int,
        select_rate: float = 0.5,
        share_rank: int | None = None,
        gate_rate: float = 0.05,
        random: bool = False,
        loss: Loss = default_loss,
    ) -> None:
        super().__init__()
        self.random, self.validation_loss = random, loss
        self._validation = [] if random else batch_list(validation)
        self.search_steps = check_integer("search_steps", search_steps, minimum=0 if random else 1)
        self.select_rate = check_real("select_rate", select_rate)
        self.share_rank = None if share_rank is None else check_integer("share_rank", share_rank)
        self.gate_rate = check_real("gate_rate", gate_rate)
        if not 0 < self.select_rate <= 1:
            raise InvalidInputError(f"select_rate must lie in (0, 1], got {self.select_rate}")
        if not 0 < self.gate_rate < inf:
            raise InvalidInputError(f"gate_rate must be positive and finite, got {self.gate_rate}")
        if random and self.search_steps:
            raise InvalidInputError(
                f"a random selection searches nothing; search_steps must be 0, got {search_steps}"
            )

    def attach(self, model: nn.Module, *, name: str | None = None) -> None:
        """As `Policy.attach`; a random selection is made at once."""
        super().attach(model, name=name)
        if self.random:
            self._select()
        else:
            self._put_gates()

    @property
    def schedule_steps(self) -> int:
        """``search_steps``."""
        return self.search_steps

    def after_step(self, step: int) -> None:
        """In the search a step of gamma on a validation batch; at its end the selection."""
        self._in_hand()
        if self.random or step >= self.search_steps:
            return
        self._step_of_gamma(self._validation[step % len(self._validation)])
        if step == self.search_steps - 1:
            self._select()
        else:
            self._put_gates()

    def module_weights(self) -> dict[str, float]:
        """gamma-bar of every module, as it is, or was when the selection was made."""
        self._in_hand()
        return dict(zip(self._masks, self._shares().tolist(), strict=True))

    def modules(self) -> dict[str, bool]:
        """Which modules have been selected; in the search still all of them."""
        self._in_hand()
        found = [True] * len(self._masks) if self._searching else self._selected.tolist()
        return dict(zip(self._masks, found, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """gamma with its moments, whether the search goes on, and what was selected."""
        self._in_hand()
        return {
            "gamma": self._gamma.detach(),
            **self._adam.state_dict(),
            "searching": torch.tensor(self._searching),
            "selected": self._selected,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`: resizes the adapter, so load the model's own state after it."""
        super().load_state_dict(state)
        self._searching = bool(state["searching"])
        self._arrange()

    def finish(self) -> dict[str, int]:
        """As `Policy.finish`; modules that share values have their own copies from then on."""
        shared = self._in_hand()
        ranks = super().finish()
        _own_copies(shared.values())
        return ranks

    def _check(self, plan: MaskPlan) -> None:
        if self.share_rank is not None and self.share_rank > plan.r:
            raise InvalidInputError(
                f"share_rank must be at most r = {plan.r}, got {self.share_rank}"
            )
        self._masks, self._searching = plan, True
        self._layers: dict[int | None, list[int]] = {}
        for i, place in enumerate(plan):
            self._layers.setdefault(layer_number(place), []).append(i)
        if not any(self._count(own) for own in self._layers.values()):
            largest = max(map(len, self._layers.values()))
            raise InvalidInputError(
                f"select_rate = {self.select_rate:g} selects no module of any layer; of {largest}, "
                f"the most of a layer, {1 / largest:g} selects one"
            )

    def _prepare(self, plan: MaskPlan) -> None:
        device = self._terms.exists.device
        self._gamma = torch.zeros(len(plan), device=device, requires_grad=True)
        self._selected = torch.zeros(len(plan), dtype=torch.bool)
        self._adam = Adam(self._gamma, self.gate_rate)

    def _shares(self) -> Tensor:
        """gamma-bar: the softmax of gamma within each layer."""
        found = torch.zeros_like(self._gamma)
        for own in self._layers.values():
            index = torch.tensor(own, device=found.device)
            found = found.index_copy(0, index, self._gamma[index].softmax(0))
        return found

    def _step_of_gamma(self, batch: Any) -> None:
        model, owned = self._model_in_hand(), self._in_hand().values()
        shares = self._shares().detach()
        gates = [share.clone().requires_grad_() for share in shares]
        for adapter, gate in zip(owned, gates, strict=True):
            adapter.set_module_gate(gate)
        with torch.enable_grad():
            value = self.validation_loss(model, on_device(batch, device_of(model)))
        found = torch.autograd.grad(value, gates, allow_unused=True)
        if all(gradient is None for gradient in found):
            raise AdapterError(
                "the validation loss depends on none of the gates; if gradients are checkpointed, "
                "it has to be with use_reentrant=False"
            )
        gradients = torch.stack(
            [torch.zeros_like(s) if g is None else g for s, g in zip(shares, found, strict=True)]
        )
        gradients = mean_over_ranks(gradients)
        if not bool(gradients.isfinite().all()):
            raise AdapterError("the gradients of the validation loss are not finite")
        (self._gamma.grad,) = torch.autograd.grad((self._shares() * gradients).sum(), self._gamma)
        self._adam.step()
        self._gamma.grad = None

    def _put_gates(self) -> None:
        shares = self._shares().detach()
        for adapter, share in zip(self._in_hand().values(), shares, strict=True):
            adapter.set_module_gate(share.clone())

    def _scores(self) -> NDArray[np.float64]:
        """What modules are selected by, the largest of each layer."""
        if self.random:
            seed = derive_seed(self._masks.seed, "DiffoRA")
            return np.random.default_rng(seed).random(len(self._masks))
        return self._shares().detach().cpu().double().numpy()

    def _count(self, layer: list[int]) -> int:
        """K = floor(rho N), exactly."""
        return floor(Fraction(self.select_rate).limit_denominator(10**6) * len(layer))

    def _select(self) -> None:
        """Select modules, and start fresh adapters on them."""
        if not self.random:
            self._require_optimizer()
        scores = self._scores()
        for own in self._layers.values():
            self._selected[own] = torch.from_numpy(best(scores[own], self._count(own)))
        self._searching = False
        self._arrange(afresh=True)

    def _arrange(self, *, afresh: bool = False) -> None:
        """Give every module the adapter it has in the search, or by the selection."""
        owned = self._in_hand()
        _own_copies(owned.values(), self._optimizer)
        masks = self._masks
        nothing = {p: first_ranks(pair, 0) for p, pair in masks.items()}
        terms = {p: ~none for p, none in nothing.items()}
        groups: list[list[str]] = []
        if not self._searching:
            left = [p for p, on in self.modules().items() if not on]
            groups = _alike(left, self._masks) if self.share_rank is not None else []
            terms |= {p: nothing[p] for p in left}
            terms |= {
                p: first_ranks(masks[own[0]], self.share_rank or 0) for own in groups for p in own
            }
            pairs = {**masks} | {p: masks[own[0]] for own in groups for p in own}
            masks = masks.with_masks(pairs, left_degree=None)
        for now in (nothing, terms) if afresh else (terms,):
            resize(self._model_in_hand(), masks, now, name=self._name, optimizer=self._optimizer)
        if afresh:
            self._forget(owned.values())
        for own in groups:
            self._share(own)
        self._refresh()
        if self._searching:
            self._put_gates()
        else:
            for adapter in owned.values():
                adapter.set_module_gate(None)

    def _forget(self, adapters: Iterable[MaskedAdapter]) -> None:
        """Drop what the optimizer keeps of the adapters' values, its step counters too."""
        if self._optimizer is not None:
            for adapter in adapters:
                self._optimizer.state.pop(adapter.lora_A, None)
                self._optimizer.state.pop(adapter.lora_B, None)

    def _share(self, places: list[str]) -> None:
        """Let all these modules have the first one's values, which are trained once."""
        owned = self._in_hand()
        for place in places[1:]:
            before = (owned[place].lora_A, owned[place].lora_B)
            owned[place].share_values(owned[places[0]])
            if self._optimizer is None:
                continue
            for old in before:
                self._optimizer.state.pop(old, None)
                for group in self._optimizer.param_groups:
                    group["params"] = [p for p in group["params"] if p is not old]


def _own_copies(
    adapters: Iterable[MaskedAdapter], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Give adapters that share another's values copies of their own, which the optimizer trains."""
    groups = [] if optimizer is None else optimizer.param_groups
    for adapter in adapters:
        for shared, own in adapter.own_values():
            for group in groups:
                if any(p is shared for p in group["params"]):
                    group["params"].append(own)


def _alike(places: Iterable[str], plan: MaskPlan) -> list[list[str]]:
    """Modules of one shape and rank whose names differ only in the layer's number."""
    groups: dict[tuple[str, Shape, int], list[str]] = {}
    for place in places:
        parts = place.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
        kind = ".".join(part for i, part in enumerate(parts) if i != number)
        groups.setdefault((kind, plan[place].shape, plan[place].r), []).append(place)
    return list(groups.values())
