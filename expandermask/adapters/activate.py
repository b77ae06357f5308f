"""Which of a model's adapters run: switching, several at once, none for a while, deleting one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from expandermask.adapters.attachment import (
    Attachment,
    attachment,
    is_attached,
    masked_layers,
    set_module,
    swap_module,
)
from expandermask.errors import AdapterError, InvalidInputError


def adapter_names(model: nn.Module) -> tuple[str, ...]:
    """The names of all adapters on ``model``, in the order they came; none is an AdapterError."""
    return tuple(attachment(model).adapters)


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
    attached = attachment(model)
    chosen = (names,) if isinstance(names, str) else tuple(names)
    if len(set(chosen)) != len(chosen) or not chosen:
        raise InvalidInputError(f"names must be at least one and no name twice, got {chosen!r}")
    _require_compatible(attached, chosen)
    _require_unmerged(model)
    attached.active = chosen
    apply_active(model)


@contextmanager
def disable_adapters(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes as it did before any adapter, to the bit.

    Merged updates are taken out for its duration and put in again afterwards. Adapters may be
    added, deleted or detached in it; afterwards those run, merged or not as before, that were
    active and are still there. Raises `AdapterError` if no adapters are attached.
    """
    attached = attachment(model)
    layers = masked_layers(model).values()
    merged = [layer for layer in layers if layer.merged]
    dequantized = {id(layer): layer.weight.dtype for layer in merged if layer.original is not None}
    active = attached.active
    try:
        for layer in merged:
            layer.unmerge()
        attached.active = ()
        apply_active(model)
        yield
    finally:
        if is_attached(model) and attachment(model) is attached:
            left = tuple(name for name in active if name in attached.adapters)
            for layer in masked_layers(model).values():
                layer.unmerge()
            attached.active = left or (() if not active else (next(iter(attached.adapters)),))
            apply_active(model)
            for layer in merged if left else ():
                layer.merge("", safe=False, dequantize=dequantized.get(id(layer)))


def delete_adapter(model: nn.Module, name: str) -> None:
    """Remove one of several adapters; if it was the only active one, the first other runs.

    Raises `AdapterError` if there is none of that name, it is the last one (`detach` takes that
    off), or adapters are merged.
    """
    attached = attachment(model)
    attached.adapter(name)
    _require_unmerged(model)
    if len(attached.adapters) == 1:
        raise AdapterError(f"{name!r} is the last adapter; detach(model) takes it off")
    left = {other: adapter for other, adapter in attached.adapters.items() if other != name}
    if name in attached.active:
        others = tuple(n for n in attached.active if n != name)
        attached.active = others or (next(iter(left)),)
    apply_active(model)
    attached.adapters = left
    for place in masked_layers(model, name):
        drop_module(model, place, name)
    for place in [p for p in attached.originals if not any(p in a.heads for a in left.values())]:
        swap_module(model, place, attached.originals.pop(place))


def drop_module(model: nn.Module, place: str, name: str) -> None:
    """Take one adapter off one module, and the layer with it if it was the last one there."""
    layer = masked_layers(model)[place]
    del layer.adapters[name]
    if not layer.adapters:
        set_module(model, place, layer.base)


def apply_active(model: nn.Module) -> None:
    """Bring layers, modules to save and gradient flags in line with the record's active names."""
    attached = attachment(model)
    for layer in masked_layers(model).values():
        layer.active = tuple(name for name in attached.active if name in layer.adapters)
        for name in layer.adapters:
            layer.adapter(name).let_train(name in layer.active)
    for place, original in attached.originals.items():
        heads = [attached.adapters[n].heads.get(place) for n in attached.active]
        head = next((head for head in heads if head is not None), original)
        swap_module(model, place, head)


def _require_compatible(attached: Attachment, names: tuple[str, ...]) -> None:
    """Every name is an adapter's, and no two save the same module."""
    savers: dict[str, str] = {}
    for name in names:
        for place in attached.adapter(name)[1].heads:
            if place in savers:
                raise AdapterError(
                    f"{savers[place]!r} and {name!r} both save {place!r}; only one of them can be "
                    "active"
                )
            savers[place] = name


def _require_unmerged(model: nn.Module) -> None:
    if any(layer.merged for layer in masked_layers(model).values()):
        raise AdapterError("adapters are merged into the model; call unmerge(model) first")
