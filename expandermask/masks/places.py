"""Places: what a model's modules are called, whatever has been put around them.

Plans and files name modules. Wrappers such as `torch.compile`, activation checkpointing, FSDP, DDP
and PEFT add parts to those names, and adapted layers hide the modules they adapt. A place is the
name without any of that, so it stays the same while a model is wrapped, adapted and merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""What `torch.compile`, activation checkpointing and FSDP call the module they run."""
_PARALLEL = ("DataParallel", "DistributedDataParallel", "DeepSpeedEngine")
"""Wrappers of a whole model that call it by the common name ``module``."""


def inner_module(module: nn.Module) -> nn.Module | None:
    """The module that a wrapper runs, or None if ``module`` is no wrapper.

    A `peft.PeftModel` and its tuner count as wrappers of the model they adapt.
    """
    children = module._modules
    for name in _WRAPPED:
        if children.get(name) is not None:
            return children[name]
    if any(kind.__name__ in _PARALLEL for kind in type(module).__mro__):
        return children.get("module")
    if hasattr(type(module), "tuner_layer_cls"):  # the model inside has PEFT's other marks too
        return children.get("model")
    if hasattr(module, "peft_config"):
        return children.get("base_model")
    return None


def place_of(name: str) -> str:
    """A module's place by its name in the model: without the parts that wrappers of layers add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPED)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside all of its wrappers; itself if it has none."""
    while (inner := inner_module(module)) is not None:
        module = inner
    return module


def adapted_base(module: nn.Module) -> nn.Module | None:
    """What an adapted layer or a PEFT layer adapts, or None if ``module`` is neither.

    PEFT's copies of a module to save have the original beside them.
    """
    if hasattr(module, "is_masked_layer"):
        return module.base  # type: ignore[return-value]
    children = module._modules
    if hasattr(module, "adapter_layer_names"):
        return children.get("base_layer")
    if "modules_to_save" in children:
        return children.get("original_module")
    return None


def placed_modules(
    model: nn.Module, *, remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Module]]:
    """Every module of ``model`` by its place, adapted layers as such; the model itself is ''.

    Nothing inside an adapted layer comes. With ``remove_duplicate=False`` a module in several
    places comes once for each.
    """
    return _walk(model, "", set(), remove_duplicate, bare=False)


def bare_modules(
    model: nn.Module, *, remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Module]]:
    """Every module of ``model`` by its place, as before adapters were put on it."""
    return _walk(model, "", set(), remove_duplicate, bare=True)


def _walk(
    module: nn.Module, place: str, seen: set[nn.Module], remove_duplicate: bool, *, bare: bool
) -> Iterator[tuple[str, nn.Module]]:
    module = unwrapped(module)
    base = adapted_base(module)
    while bare and base is not None:
        module = unwrapped(base)
        base = adapted_base(module)
    if remove_duplicate and module in seen:
        return
    seen.add(module)
    yield place, module
    if base is not None:
        return
    for name, child in module._modules.items():
        if child is None:
            continue
        inside = f"{place}.{name}" if place else name
        yield from _walk(child, inside, seen, remove_duplicate, bare=bare)


def placed_parameters(
    model: nn.Module, *, remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter of a model without its adapters, by its name there.

    One that is tied comes once for each of its modules; with ``remove_duplicate=False`` so does one
    of a module that has several names.
    """
    for place, module in bare_modules(model, remove_duplicate=remove_duplicate):
        yield from module.named_parameters(prefix=place, recurse=False)


def parameter_owners(model: nn.Module) -> dict[int, list[str]]:
    """All names of each parameter, by its identity; tied ones have several."""
    owners: dict[int, list[str]] = {}
    for key, parameter in placed_parameters(model, remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(key)
    return owners


def other_owners(owners: Mapping[int, list[str]], place: str, weight: object) -> list[str]:
    """The names of a weight in other places than its module's."""
    return [key for key in owners.get(id(weight), ()) if key.rpartition(".")[0] != place]


def module_at(model: nn.Module, place: str) -> nn.Module:
    """The module in a place, adapted layers as such; `AttributeError` if there is none.

    Inside an adapted layer the path goes on from the module that it adapts.
    """
    module = unwrapped(model)
    for part in place.split(".") if place else ():
        holder = bare_module(module)
        module = holder.get_submodule(part)
        module = unwrapped(module)
    return module


def bare_module(module: nn.Module) -> nn.Module:
    """A module without what wraps or adapts it."""
    module = unwrapped(module)
    while (base := adapted_base(module)) is not None:
        module = unwrapped(base)
    return module


def bare_at(model: nn.Module, place: str) -> nn.Module:
    """The module in a place, without what wraps or adapts it."""
    return bare_module(module_at(model, place))


def put_module(model: nn.Module, place: str, module: nn.Module) -> None:
    """Put ``module`` in a place, inside what wraps the module that is there."""
    parent, _, leaf = place.rpartition(".")
    holder = bare_module(module_at(model, parent))
    present = holder._modules.get(leaf)
    while present is not None and (inner := inner_module(present)) is not None:
        name = next(name for name, child in present._modules.items() if child is inner)
        holder, leaf, present = present, name, inner
    setattr(holder, leaf, module)
