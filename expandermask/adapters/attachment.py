"""What is known of a model's adapters: their plans and configs, their layers, which are active.

`attach` leaves an `Attachment` on a model, and PEFT's tuner one of its own kind. Everything that
works on adapters starts from it. Names come from the plan: a layer is known by the place it was put
in, whatever is wrapped around it since, and is no longer found in another.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.layers.masked import AdaptedLayer
from expandermask.errors import AdapterError
from expandermask.masks.places import (
    adapted_base,
    module_at,
    placed_modules,
    placed_parameters,
    put_module,
    unwrapped,
)
from expandermask.masks.plan import MaskPlan

_RECORD = "_expandermask_attachment"


@dataclass(frozen=True)
class NamedAdapter:
    """One adapter on a model."""

    plan: MaskPlan
    config: AdapterConfig
    heads: dict[str, nn.Module] = field(repr=False)
    """Its own trainable copy of each module to save, by the full name of its place."""


class Attachment(ABC):
    """The adapters on a model by name, and the layers that hold them by place."""

    active: tuple[str, ...]
    """The names of the adapters that run."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.plans: dict[str, MaskPlan] = {}
        self.layers: dict[str, AdaptedLayer] = {}
        self.originals: dict[str, nn.Module] = {}
        """The model's own modules in the places where some adapter of `attach` has a copy."""
        self.marks: dict[str, Any] = {}
        """What the model said of its quantization before a merge; see `take_marks_off`."""
        self.packing: dict[str, int] = {}
        """What `expandermask.adapters.layers.quantized.forbid_packing` turned off."""
        self.looking: dict[str, list[RemovableHandle]] = {}
        """The hooks of `expandermask.adapters.training.first_pass` by place, while they wait."""

    @abstractmethod
    def named(self, name: str) -> NamedAdapter:
        """An adapter, with its modules to save as they are now."""

    @abstractmethod
    def replace(self, name: str, plan: MaskPlan, config: AdapterConfig) -> None:
        """Say that an adapter has other masks; its layers have got them already."""

    def biases(self, name: str) -> dict[str, Tensor]:
        """The base's biases that train with an adapter, by full name; `attach` has none."""
        return {}

    def drop(self, place: str, name: str) -> None:
        """Take an adapter off one module."""
        del self.layers[place].adapters[name]

    @property
    def adapters(self) -> Mapping[str, NamedAdapter]:
        """Every adapter by its name, to look at."""
        return MappingProxyType({name: self.named(name) for name in self.plans})

    def adapter(self, name: str | None = None) -> tuple[str, NamedAdapter]:
        """An adapter and its name; None stands for the only active one."""
        if name is None:
            if len(self.active) != 1:
                raise AdapterError(
                    f"name which adapter is meant: {list(self.active)} are active, of "
                    f"{list(self.plans)}"
                )
            name = self.active[0]
        if name not in self.plans:
            raise AdapterError(f"no adapter is called {name!r}; there are {list(self.plans)}")
        return name, self.named(name)

    def layers_of(self, name: str | None = None) -> dict[str, AdaptedLayer]:
        """Every adapted layer by its place, in the model's order; of one adapter if named.

        Raises
        ------
        AdapterError
            A layer was moved, replaced or deleted since its adapter was put on: what it has learnt
            would be lost, or be written under a name that is not its own.
        """
        live = dict(placed_modules(self.model))
        for place, layer in self.layers.items():
            if not _holds(live.get(place), layer):
                raise AdapterError(_misplaced(place, layer, live))
        return {
            place: self.layers[place]
            for place in live
            if place in self.layers and (name is None or name in self.layers[place].adapters)
        }

    def stop_looking(self, place: str = "") -> None:
        """Take the hooks that wait for the first pass off a place and those inside it."""
        for name in list(self.looking):
            if f"{name}.".startswith(f"{place}.") or not place:
                for hook in self.looking.pop(name):
                    hook.remove()


class OwnAttachment(Attachment):
    """What `attach` leaves: besides, what the model was before."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.active = ()
        self.configs: dict[str, AdapterConfig] = {}
        self.copies: dict[str, dict[str, nn.Module]] = {}
        """Each adapter's copies of its modules to save, by place."""
        self.requires_grad = {key: p.requires_grad for key, p in placed_parameters(model)}
        """The flag every parameter had, by its name before attaching."""

    def named(self, name: str) -> NamedAdapter:
        """An adapter, with the modules to save in the model while it is active, else its copies.

        So a head that was resized or assigned anew is the one that is trained and saved.
        """
        self.take_up_heads()
        return NamedAdapter(self.plans[name], self.configs[name], self.copies[name])

    def take_up_heads(self) -> None:
        """Look at which modules are in the places of modules to save now."""
        for place in self.originals:
            self._in_use(place)[place] = module_at(self.model, place)

    def run(self, names: tuple[str, ...]) -> None:
        """Let these adapters run and train: their updates and their modules to save."""
        self.take_up_heads()
        self.active = names
        for layer in self.layers_of().values():
            layer.active = layer.having(names)
            for name in layer.adapters:
                layer.adapter(name).let_train(name in layer.active)
        for place in self.originals:
            swap_module(self.model, place, self._in_use(place)[place])

    def _in_use(self, place: str) -> dict[str, nn.Module]:
        """The copies of the active adapter that saves this module, or the model's own."""
        owner = next((name for name in self.active if place in self.copies[name]), None)
        return self.originals if owner is None else self.copies[owner]

    def replace(self, name: str, plan: MaskPlan, config: AdapterConfig) -> None:
        """Say that an adapter has other masks; its layers have got them already."""
        self.plans[name] = plan
        self.configs[name] = config

    def drop(self, place: str, name: str) -> None:
        """Take an adapter off one module, and the layer with it if it was the last one there."""
        super().drop(place, name)
        layer = self.layers[place]
        if not layer.adapters:
            put_module(self.model, place, layer.base)
            del self.layers[place]


def attachment(model: nn.Module) -> Attachment:
    """The record of the adapters on ``model``; `AdapterError` if there are none."""
    if not isinstance(model, nn.Module):
        raise AdapterError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    found = vars(unwrapped(model)).get(_RECORD)
    if not isinstance(found, Attachment):
        inside = next((n for n, m in placed_modules(model) if isinstance(m, AdaptedLayer)), None)
        hint = (
            f"its submodule {inside!r} is an adapter of another attach(); use the model given there"
            if inside is not None
            else "call attach(model, ...) first"
        )
        raise AdapterError(f"{type(model).__name__} has no adapters attached: {hint}")
    return found


def own_attachment(model: nn.Module) -> OwnAttachment:
    """The record that `attach` left; `AdapterError` for a model whose adapters PEFT holds."""
    found = attachment(model)
    if not isinstance(found, OwnAttachment):
        raise AdapterError(
            "PEFT holds the adapters of this model; use the PeftModel's own add_adapter, "
            "set_adapter, delete_adapter, disable_adapter and unload"
        )
    return found


def is_attached(model: nn.Module) -> bool:
    """Whether adapters were put on this very model, and not taken off since."""
    return isinstance(vars(unwrapped(model)).get(_RECORD), Attachment)


def record(model: nn.Module, attached: Attachment | None) -> None:
    """Leave a record on ``model``, or with None take it away."""
    if attached is None:
        attachment(model).stop_looking()
        delattr(unwrapped(model), _RECORD)
    else:
        setattr(unwrapped(model), _RECORD, attached)


def masked_layers(model: nn.Module, name: str | None = None) -> dict[str, AdaptedLayer]:
    """Every adapted layer by its place; of one adapter if named. See `Attachment.layers_of`."""
    return attachment(model).layers_of(name) if is_attached(model) else {}


def mask_hashes(model: nn.Module) -> dict[str, str]:
    """A hash of the plan and scale of every adapter on ``model``, by name; of no values."""
    found = {}
    for name, adapter in attachment(model).adapters.items():
        config = adapter.config
        scale = [config.lora_alpha, config.scaling, *config.alpha_pattern]
        described = [adapter.plan.to_json(), *scale]
        found[name] = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    return found


def saved_tensors(heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and persistent buffers of modules to save, by full name."""
    found: dict[str, Tensor] = {}
    for place, head in heads.items():
        found |= head.state_dict(prefix=f"{place}.", keep_vars=True)
    return found


def swap_module(model: nn.Module, place: str, module: nn.Module) -> None:
    """Put a module that was out of the model in a place.

    It follows the one there to where that has gone meanwhile: its device and dtype, and whether it
    is training. A head that was loaded with ``dtype="file"`` is meant to differ in dtype.
    """
    present = module_at(model, place)
    if module is present:
        return
    module.train(present.training)
    differs = any(hasattr(one, "keeps_dtype") for one in (module, present))
    theirs = dict(chain(present.named_parameters(), present.named_buffers()))
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if name in theirs:
            dtype = tensor.dtype if differs else theirs[name].dtype
            tensor.data = tensor.data.to(theirs[name].device, dtype)
    put_module(model, place, module)


def _holds(module: nn.Module | None, layer: AdaptedLayer) -> bool:
    """Whether a layer is ``module``, or is adapted by it in turn."""
    while module is not None:
        module = unwrapped(module)
        if module is layer:
            return True
        module = adapted_base(module)
    return False


def _misplaced(place: str, layer: AdaptedLayer, live: Mapping[str, nn.Module]) -> str:
    """What has become of a layer that is not in its place."""
    other = next((name for name, module in live.items() if _holds(module, layer)), None)
    if other is not None:
        what = f"was moved to {other!r}"
    elif place in live:
        what = f"was replaced by a {type(live[place]).__name__}"
    else:
        what = "is no longer in the model"
    return (
        f"the adapted layer {place!r} {what} since its adapter was put on, so what it has learnt "
        "has no place there; put it back (attachment(model).layers holds it), or wrap layers by "
        "torch.compile, checkpoint_wrapper, FSDP or DDP, which are seen through"
    )
