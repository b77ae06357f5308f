"""Which of a model's adapters run: switching, several at once, none for a while, deleting one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from expandermask.adapters.attachment import (
    OwnAttachment,
    attachment,
    is_attached,
    masked_layers,
    own_attachment,
    swap_module,
)
from expandermask.errors import AdapterError, InvalidInputError


def adapter_names(model: nn.Module) -> tuple[str, ...]:
    """The names of all adapters on ``model``, in the order they came; none is an AdapterError."""
    return tuple(attachment(model).plans)


def active_adapters(model: nn.Module) -> tuple[str, ...]:
    """The names of the adapters that run; AdapterError if ``model`` has none."""
    return attachment(model).active


def set_adapters(model: nn.Module, names: str | Iterable[str]) -> None:
    """Let the named adapters run, their updates added up, and only them train.

    An adapter that is not active is frozen, and so are its modules to save, which then are not in
    the model: of each such module at most one active adapter may have a copy. Optimizers keep to
    the parameters they were given, so after a switch make a new one.

    Raises
    ------
    AdapterError
        No adapters are attached, a name is unknown, two of them save the same module, or adapters
        are merged.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, active_adapters, attach, set_adapters
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> _ = attach(model, AdapterConfig(r=8), name="news", rng=0)
    >>> _ = attach(model, AdapterConfig(r=16), name="films", rng=1)
    >>> active_adapters(model)
    ('news',)
    >>> set_adapters(model, ["news", "films"])
    >>> active_adapters(model)
    ('news', 'films')
    """
    attached = own_attachment(model)
    chosen = (names,) if isinstance(names, str) else tuple(names)
    if len(set(chosen)) != len(chosen) or not chosen:
        raise InvalidInputError(f"names must be at least one and no name twice, got {chosen!r}")
    _require_compatible(attached, chosen)
    _require_unmerged(model)
    _switch(model, chosen)


@contextmanager
def disable_adapters(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes as it did before any adapter, to the bit.

    Merged updates are taken out for its duration and put in again afterwards. Adapters may be
    added, deleted or detached in it; afterwards those run, merged or not as before, that were
    active and are still there. Raises `AdapterError` if no adapters are attached.
    """
    attached = own_attachment(model)
    merged = {layer: layer.weight.dtype for layer in masked_layers(model).values() if layer.merges}
    active = attached.active
    try:
        for layer in merged:
            layer.take_out()
        _switch(model, ())
        yield
    finally:
        if is_attached(model) and attachment(model) is attached:
            left = tuple(name for name in active if name in attached.plans)
            for layer in masked_layers(model).values():
                layer.take_out()
            fallback = () if not active else (next(iter(attached.plans)),)
            _switch(model, left or fallback)
            for layer, dtype in merged.items():
                layer.merge_in(left, what="", safe=False, dequantize=dtype)


def delete_adapter(model: nn.Module, name: str) -> None:
    """Remove one of several adapters; if it was the only active one, the first other runs.

    Raises `AdapterError` if there is none of that name, it is the last one (`detach` takes that
    off), or adapters are merged.
    """
    attached = own_attachment(model)
    attached.adapter(name)
    _require_unmerged(model)
    if len(attached.plans) == 1:
        raise AdapterError(f"{name!r} is the last adapter; detach(model) takes it off")
    if name in attached.active:
        others = tuple(n for n in attached.active if n != name)
        _switch(model, others or (next(n for n in attached.plans if n != name),))
    for place in masked_layers(model, name):
        attached.drop(place, name)
    attached.take_up_heads()
    for kept in (attached.plans, attached.configs, attached.copies):
        del kept[name]
    saved = {place for copies in attached.copies.values() for place in copies}
    for place in attached.originals.keys() - saved:
        swap_module(model, place, attached.originals.pop(place))


def apply_active(model: nn.Module) -> None:
    """Bring layers, modules to save and gradient flags in line with the record's active names."""
    attached = own_attachment(model)
    for layer in masked_layers(model).values():
        layer.active = layer.having(attached.active)
        for name in layer.adapters:
            layer.adapter(name).let_train(name in layer.active)
    for place, original in attached.originals.items():
        owner = next((n for n in attached.active if place in attached.copies[n]), None)
        swap_module(model, place, original if owner is None else attached.copies[owner][place])


def _switch(model: nn.Module, names: tuple[str, ...]) -> None:
    """Let other adapters run."""
    attached = own_attachment(model)
    attached.take_up_heads()
    attached.names = names
    apply_active(model)


def _require_compatible(attached: OwnAttachment, names: tuple[str, ...]) -> None:
    """Every name is an adapter's, and no two save the same module."""
    savers: dict[str, str] = {}
    for name in names:
        attached.adapter(name)
        for place in attached.copies[name]:
            if place in savers:
                raise AdapterError(
                    f"{savers[place]!r} and {name!r} both save {place!r}; only one of them can be "
                    "active"
                )
            savers[place] = name


def _require_unmerged(model: nn.Module) -> None:
    if any(layer.merges for layer in masked_layers(model).values()):
        raise AdapterError("adapters are merged into the model; call unmerge(model) first")
