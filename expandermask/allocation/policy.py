"""Policy: what decides about an adapter's ranks or modules while it trains.

A plain loop drives one with a few lines,

    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-3))
    policy.follow(optimizer)
    for step, batch in enumerate(batches):
        (loss(model, batch) + policy.loss()).backward()
        policy.after_backward(step)
        optimizer.step()
        policy.after_step(step)
        optimizer.zero_grad()
    policy.finish()

and `PolicyCallback` a `transformers.Trainer`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from expandermask.adapters.attachment import attachment
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.remask import changeable
from expandermask.adapters.training.distributed import several_processes
from expandermask.allocation.prune import prune
from expandermask.allocation.terms import Terms
from expandermask.errors import AdapterError, FileFormatError, InvalidInputError
from expandermask.graphs.random import derive_seed
from expandermask.masks.plan import MaskPlan


class Policy(ABC):
    """One adapter of a model in the hands of one method. Steps are counted from 0."""

    exchanges_parameters = False
    """Whether the method changes how many values an adapter has while it trains."""

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._name = ""
        self._adapters: dict[str, MaskedAdapter] = {}
        self._terms: Terms
        self._optimizer: torch.optim.Optimizer | None = None

    def attach(self, model: nn.Module, *, name: str | None = None) -> None:
        """Take an adapter in hand: give it its gates, and the first values the method has.

        ``name`` says which, if several are active. Do it before training: AdaLoRA and ROLoRA
        start the adapter's values anew, and DiffoRA does when it selects; ALoRA and ROLoRA leave
        out terms, and SoRA puts random gates on them. Make the optimizer afterwards, since the
        gates are trained too, and change nothing about the adapter's masks until `finish`.

        Raises
        ------
        AdapterError
            No adapter is attached, it is not active, merged or sharded, it has gates already, or
            the policy has another in hand; or it exchanges parameters in the middle of training
            (ALoRA, ROLoRA, DiffoRA), and several processes train, of which DistributedDataParallel
            would go on with the old ones.
        """
        self._take(model, name, fresh=True)

    def take_over(self, model: nn.Module, *, name: str | None = None) -> None:
        """As `attach`, with the gates and values that another policy has left on the adapter.

        It may be inactive. A policy made of others, such as ROLoRA, hands the adapter on so.
        """
        self._take(model, name, fresh=False)

    def start_terms(self, adapter: MaskedAdapter, terms: Tensor, seed: int) -> None:
        """Give some terms of one module, bool of shape (r,), their first gates and values.

        `attach` calls it for all terms; a policy that adds terms later calls it for those. The
        method of the base class leaves the adapter as it is.
        """
        return

    def _take(self, model: nn.Module, name: str | None, *, fresh: bool) -> None:
        if self._model is not None:
            raise AdapterError(f"this {type(self).__name__} has an adapter in hand; make another")
        attached = attachment(model)
        name, adapter = attached.adapter(name)
        if fresh and name not in attached.active:
            raise AdapterError(
                f"the adapter {name!r} is not active, so it does not train; the active ones are "
                f"{list(attached.active)}: call set_adapters(model, {name!r}) first"
            )
        found = changeable(model, name)
        for place, own in found.items():
            if fresh and (own.rank_gate is not None or own.module_gate is not None):
                raise AdapterError(f"{place!r} has a gate already, of another policy")
        if self.exchanges_parameters and several_processes():
            raise AdapterError(
                f"{type(self).__name__} exchanges parameters in the middle of training, which "
                "DistributedDataParallel does not follow; train in one process"
            )
        self._terms = Terms(found)
        self._check(adapter.plan)
        if fresh:
            for place, own in found.items():
                self.start_terms(
                    own,
                    self._terms.split(self._terms.exists)[place],
                    derive_seed(adapter.plan.seed, place, type(self).__name__),
                )
        self._prepare(adapter.plan)
        self._model, self._name, self._adapters = model, name, found
        self._plan_seed = adapter.plan.seed

    @property
    def schedule_steps(self) -> int | None:
        """How many steps its schedule takes; None if it has none."""
        return None

    @property
    def model(self) -> nn.Module | None:
        """The model whose adapter is in hand, if any."""
        return self._model

    @property
    def adapters(self) -> dict[str, MaskedAdapter]:
        """The adapter in hand, module by module; `AdapterError` if there is none."""
        return dict(self._in_hand())

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Tell the policy of the optimizer that trains the adapter.

        Raises
        ------
        InvalidInputError
            It is not an optimizer.
        AdapterError
            It does not train the adapter's gates and, of a method that exchanges parameters, its
            values: it was made before `attach`, or before a state was loaded that exchanged some.
            Or the adapter has got masks of another seed since `attach`.
        """
        own = self._followed()
        seed = attachment(self._model_in_hand()).plans[self._name].seed
        if seed != self._plan_seed:  # a PeftModel takes the masks of the checkpoint it reads
            raise AdapterError(
                f"the adapter's masks were drawn with the seed {seed}, and with {self._plan_seed} "
                f"when {type(self).__name__} was attached; make the model with the seed {seed} "
                "(XoraConfig(mask_seed=...)) before you attach the policy"
            )
        if not hasattr(optimizer, "param_groups"):
            raise InvalidInputError(
                f"optimizer must be a torch.optim.Optimizer, got {optimizer!r:.80}"
            )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        lost = sum(p.requires_grad and id(p) not in held for p in own)
        if lost:
            raise AdapterError(
                f"the optimizer does not train {lost} of the {len(own)} parameters that "
                f"{type(self).__name__} decides about; make it of policy.groups(lr=...) after "
                "attach, and follow it before a state is loaded, or make it after that"
            )
        self._optimizer = optimizer

    def _followed(self) -> list[nn.Parameter]:
        """The parameters that the optimizer to follow has to train."""
        found = [
            p
            for adapter in self._in_hand().values()
            for p in adapter.parameters()
            if self.exchanges_parameters or p is adapter.rank_gate
        ]
        return list(dict.fromkeys(found))  # values that modules share come once

    def groups(self, *, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: all that trains, and the gates without decay."""
        gates = [
            g
            for own in self._in_hand().values()
            for g in (own.rank_gate, own.module_gate)
            if isinstance(g, nn.Parameter)
        ]
        own = {id(g) for g in gates}
        model = self._model_in_hand()
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
        return [
            {"params": rest, "lr": lr, "weight_decay": weight_decay},
            {"params": gates, "lr": lr, "weight_decay": 0.0},
        ]

    def loss(self) -> Tensor:
        """What the method adds to the loss: a scalar tensor, 0 if nothing."""
        return torch.zeros(())

    def after_backward(self, step: int) -> None:
        """Look at the gradients of a step, before the optimizer uses them."""
        self._in_hand()

    @abstractmethod
    def after_step(self, step: int) -> None:
        """Decide, after the optimizer's step and before the next learning rate."""

    def finish(self) -> dict[str, int]:
        """End the policy: fold its gates into B and drop what they close; the ranks left, by name.

        See `expandermask.allocation.prune`. The model computes what it did in evaluation mode.
        """
        ranks = prune(self._model_in_hand(), name=self._name)
        self._model, self._adapters = None, {}
        return ranks

    def ranks(self) -> dict[str, int]:
        """How many terms of every module do something: its rank now."""
        return {place: int(active.sum()) for place, active in self.active().items()}

    def active(self) -> dict[str, Tensor]:
        """Which terms of every module do something: bool, shape (r,). Those with a gate not 0."""
        self._in_hand()
        found = self._terms.split(self._terms.exists.cpu().clone())
        return {
            place: exists
            if (gate := self._terms.adapters[place].rank_gate) is None
            else exists & (gate.detach() != 0).cpu()
            for place, exists in found.items()
        }

    def worth(self) -> Tensor:
        """What every term is worth where some have to go: shape (terms,), here its gate's size."""
        self._in_hand()
        return torch.cat([gate.detach().abs().reshape(-1) for gate in self._terms.gates()])

    def state_dict(self) -> dict[str, Tensor]:
        """What the policy has gathered that is in no parameter of the model, as tensors by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`; `FileFormatError` if it is not one of this policy's."""
        self.check_state(state)
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])

    def state_shapes(self, values: int, terms: int) -> dict[str, tuple[int, ...]]:
        """The shapes in `state_dict` for an adapter of so many values and terms, by name.

        So a policy made of others can check their states before it changes the adapter. Policies
        that a `ROLoRA` uses have to give it.
        """
        return {}

    def check_state(
        self,
        state: Mapping[str, Tensor],
        shapes: Mapping[str, tuple[int, ...] | None] | None = None,
    ) -> None:
        """Refuse a state that is not of these names and shapes, by default those of `state_dict`.

        None for a shape allows any. Raises `FileFormatError`; nothing is changed.
        """
        if shapes is None:
            shapes = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        if not isinstance(state, Mapping) or not all(
            isinstance(tensor, Tensor) for tensor in state.values()
        ):
            raise FileFormatError(
                f"{type(self).__name__}: a state is tensors by name, got {state!r:.80}"
            )
        for name in sorted(shapes.keys() ^ state.keys(), key=str):
            raise FileFormatError(
                f"{type(self).__name__}: {name!r} is missing, or not of its state"
            )
        for name, shape in shapes.items():
            if shape is not None and shape != tuple(state[name].shape):
                raise FileFormatError(
                    f"{type(self).__name__}: {name!r} must have shape {shape}, got "
                    f"{tuple(state[name].shape)}"
                )

    def _check(self, plan: MaskPlan) -> None:
        """Refuse an adapter the policy cannot take; nothing is changed yet."""
        return

    def _prepare(self, plan: MaskPlan) -> None:
        """Make the policy's own state for the terms there are."""
        return

    def _in_hand(self) -> dict[str, MaskedAdapter]:
        if self._model is None:
            raise AdapterError(f"call {type(self).__name__}.attach(model) first")
        return self._adapters

    def _model_in_hand(self) -> nn.Module:
        self._in_hand()
        assert self._model is not None
        return self._model

    def _has_gradients(self, looked_at: Sequence[Tensor]) -> bool:
        """Whether any of these has a gradient; those of a frozen or inactive adapter have none.

        Refuses those that ought to have some.
        """
        if any(p.grad is not None for p in looked_at):
            return True
        is_active = self._name in attachment(self._model_in_hand()).active
        if is_active and any(p.requires_grad for p in looked_at):
            raise AdapterError(
                f"{type(self).__name__} finds no gradients; train in training mode, with a "
                "loss that reaches the adapter, and call after_backward(step) after backward() and "
                "before zero_grad()"
            )
        return False

    def _refresh(self) -> None:
        """Look at the adapter's terms again, after a resize."""
        self._terms = Terms(self._in_hand())

    def _require_optimizer(self) -> None:
        """Refuse to exchange parameters behind the back of an optimizer."""
        if self._optimizer is None:
            raise AdapterError(
                f"{type(self).__name__} exchanges parameters and has to tell the optimizer that "
                "trains them; call follow(optimizer)"
            )

    def _group(self, parameter: Any) -> dict[str, Any]:
        """The optimizer's group that trains one of its parameters."""
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        for group in groups:
            if any(p is parameter for p in group["params"]):
                return group
        raise AdapterError(
            "the policy needs the optimizer that trains its gates; call follow(optimizer)"
        )


@torch.no_grad()
def start_gate(adapter: MaskedAdapter, terms: Tensor, first: Tensor) -> None:
    """Give some terms, bool of shape (r,), their first gates; a trained gate if there is none."""
    gate = adapter.rank_gate
    if gate is None:
        gate = nn.Parameter(torch.zeros(adapter.r).to(adapter.lora_A))
        adapter.set_rank_gate(gate)
    gate.copy_(torch.where(terms.to(gate.device), first.to(gate), gate))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block every module is in evaluation mode; afterwards each is as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
