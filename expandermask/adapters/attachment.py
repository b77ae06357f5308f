"""What `attach` leaves on a model: its adapters by name, which are active, and how to undo it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.layers.masked import MaskedLayer
from expandermask.errors import AdapterError
from expandermask.masks.plan import MaskPlan

_RECORD = "_expandermask_attachment"


@dataclass(frozen=True)
class NamedAdapter:
    """One adapter on a model."""

    plan: MaskPlan
    config: AdapterConfig
    heads: dict[str, nn.Module] = field(repr=False)
    """Its own trainable copy of each module to save, by the full name of its place."""

    @property
    def saved_modules(self) -> tuple[str, ...]:
        """Full names of the modules that train and are saved with the adapter."""
        return tuple(self.heads)


@dataclass
class Attachment:
    """The adapters on a model and what the model was before them."""

    adapters: dict[str, NamedAdapter]
    active: tuple[str, ...]
    originals: dict[str, nn.Module] = field(repr=False)
    """The model's own modules in the places where some adapter has a copy, by full name."""
    requires_grad: dict[str, bool] = field(repr=False)
    """The flag every parameter had, by its name before attaching."""
    packing: dict[str, int] = field(default_factory=dict, repr=False)
    """What `expandermask.adapters.layers.packing.forbid_packing` turned off, to turn on again."""

    def adapter(self, name: str | None) -> tuple[str, NamedAdapter]:
        """An adapter and its name; None stands for the only active one."""
        if name is None:
            if len(self.active) != 1:
                raise AdapterError(
                    f"name which adapter is meant: {list(self.active)} are active, of "
                    f"{list(self.adapters)}"
                )
            name = self.active[0]
        if name not in self.adapters:
            raise AdapterError(f"no adapter is called {name!r}; there are {list(self.adapters)}")
        return name, self.adapters[name]


def attachment(model: nn.Module) -> Attachment:
    """The record of the adapters on ``model``; `AdapterError` if there are none."""
    if not isinstance(model, nn.Module):
        raise AdapterError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    record = getattr(model, _RECORD, None)
    if not isinstance(record, Attachment):
        inside = next(iter(masked_layers(model)), None)
        hint = (
            f"its submodule {inside!r} is an adapter of another attach(); use the model given there"
            if inside is not None
            else "call attach(model, ...) first"
        )
        raise AdapterError(f"{type(model).__name__} has no adapters attached: {hint}")
    return record


def is_attached(model: nn.Module) -> bool:
    """Whether `attach` was called on this very model (and `detach` not since)."""
    return isinstance(getattr(model, _RECORD, None), Attachment)


def record(model: nn.Module, attached: Attachment | None) -> None:
    """Leave a record on ``model``, or with None take it away."""
    if attached is None:
        delattr(model, _RECORD)
    else:
        setattr(model, _RECORD, attached)


def masked_layers(model: nn.Module, name: str | None = None) -> dict[str, MaskedLayer]:
    """Every masked layer by its module's name, in the model's order; of one adapter if named."""
    return {
        place: module
        for place, module in model.named_modules()
        if isinstance(module, MaskedLayer) and (name is None or name in module.adapters)
    }


def saved_tensors(adapter: NamedAdapter) -> dict[str, Tensor]:
    """Parameters and persistent buffers of an adapter's modules to save, by full name."""
    return {f"{place}.{key}": tensor for place, key, tensor in saved_in(adapter.heads)}


def saved_in(heads: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, Tensor]]:
    """Every tensor of some modules that is saved: the module's name, its own, and itself."""
    for place, head in heads.items():
        for key, tensor in head.state_dict(keep_vars=True).items():
            yield place, key, tensor


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` in the place called ``name``."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def swap_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module that was out of the model in the place called ``name``.

    It follows the one there to where that has gone meanwhile: its device and dtype, and whether it
    is training. A head that was loaded with ``dtype="file"`` is meant to differ in dtype.
    """
    present = model.get_submodule(name)
    if module is present:
        return
    module.train(present.training)
    differs = any(hasattr(one, "keeps_dtype") for one in (module, present))
    both = zip(
        [*module.parameters(), *module.buffers()],
        [*present.parameters(), *present.buffers()],
        strict=True,
    )
    for own, other in both:
        own.data = own.data.to(other.device, own.dtype if differs else other.dtype)
    set_module(model, name, module)
