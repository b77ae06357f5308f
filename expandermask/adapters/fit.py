"""Whether an adapter can go on a model: every reason why not, found before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from expandermask.adapters.attachment import attachment, is_attached
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.layers.quantized import is_quantized, require_unpacked, weight_of
from expandermask.adapters.training.distributed import is_sharded
from expandermask.errors import AdapterError
from expandermask.masks.places import (
    adapted_base,
    bare_at,
    bare_modules,
    inner_module,
    other_owners,
    parameter_owners,
    placed_modules,
)
from expandermask.masks.targets import Shape, adaptable_shapes, target_shape


def check_fit(
    model: nn.Module, shapes: Mapping[str, Shape], config: AdapterConfig
) -> tuple[str, ...]:
    """Raise unless an adapter can go on ``model``; the full names of its modules to save.

    ``shapes`` is (d, k) of the modules that it has masks for, by place.
    """
    _require_no_peft(model)
    require_unpacked(model)
    _require_shapes(model, shapes)
    owners = parameter_owners(model)
    for name in shapes:
        _require_own_weight(model, name, owners)
        _require_uncompiled(model, name)
    saved = _resolve_saved(model, config.modules_to_save)
    _require_apart(model, shapes, saved)
    for name in saved:
        if clash := next((t for t in shapes if _overlap(t, name)), None):
            raise AdapterError(f"module to save {name!r} and target {clash!r} overlap; drop one")
        for key, parameter in bare_at(model, name).named_parameters(prefix=name):
            if is_quantized(parameter):
                raise AdapterError(
                    f"{key!r}, to be trained with modules_to_save, is quantized "
                    f"({type(parameter).__name__} {parameter.dtype}) and cannot train; leave its "
                    "module out of the quantization, for instance by modules_to_not_convert or "
                    "llm_int8_skip_modules"
                )
            if others := [o for o in owners[id(parameter)] if not o.startswith(f"{name}.")]:
                raise AdapterError(
                    f"{key!r}, to be trained with modules_to_save, is tied to {others[0]!r}, which "
                    "must stay frozen; untie them first"
                )
    return saved


def _require_apart(model: nn.Module, targets: Iterable[str], saved: Iterable[str]) -> None:
    """No other adapter's copy of a module has a new target in it, nor the other way round.

    Which copy is in the model depends on which adapter is active, so an update could not stay
    beside it. Two adapters may save the very same module.
    """
    if not is_attached(model):
        return
    for other, adapter in attachment(model).adapters.items():
        pairs = [(new, old) for new in targets for old in adapter.heads]
        pairs += [(new, old) for new in saved for old in (*adapter.plan, *adapter.heads)]
        for new, old in pairs:
            if _overlap(new, old) and not (new == old and old in adapter.heads and new in saved):
                kind = "module to save" if old in adapter.heads else "target"
                raise AdapterError(
                    f"{new!r} overlaps the {kind} {old!r} of the adapter {other!r}, and one module "
                    "cannot be a target of one adapter and saved by another; drop it from one"
                )


def _require_no_peft(model: nn.Module) -> None:
    """No layer of another method of PEFT is in the model, which would be adapted inside."""
    for name, module in placed_modules(model):
        if hasattr(module, "adapter_layer_names") and not hasattr(module, "is_masked_layer"):
            raise AdapterError(
                f"the model has PEFT adapters already ({name!r} is a {type(module).__name__}), and "
                "attach would not see them; use XoraConfig in peft.get_peft_model, or first call "
                "merge_and_unload() or unload() on the PeftModel"
            )


def _require_shapes(model: nn.Module, shapes: Mapping[str, Shape]) -> None:
    """Every module of the plan can be adapted in this model, and is of the plan's shape."""
    places = {name for name, _ in bare_modules(model)}
    for name, planned in shapes.items():
        if name == "":
            raise AdapterError(
                "the model itself is the module to adapt, which cannot be replaced inside itself; "
                "wrap it: torch.nn.Sequential(model)"
            )
        if name not in places:
            known = list(adaptable_shapes(model))
            raise AdapterError(
                f"the plan adapts {name!r}, which is no linear module or embedding of this model; "
                f"it has {', '.join(known[:3]) or 'none'} ..."
            )
        shape = target_shape(model, name)
        if planned != shape:
            raise AdapterError(
                f"the plan's masks for {name!r} are for a (d, k) = {planned} weight, and the "
                f"model's is {shape}; make a plan with MaskPlan.for_model(model)"
            )


def _require_own_weight(model: nn.Module, name: str, owners: Mapping[int, list[str]]) -> None:
    module = bare_at(model, name)
    weight = weight_of(module)
    if is_sharded(weight):
        raise AdapterError(
            f"the weight of {name!r} is sharded already, and values put beside it now would be "
            "neither sharded nor their gradients averaged; attach first, then call fully_shard"
        )
    if weight.is_meta:
        raise AdapterError(
            f"{name!r} is on the meta device and has no weights to adapt; load them first, or "
            "count without attaching: parameter_report(MaskPlan.for_model(model))"
        )
    ties = other_owners(owners, name, weight)
    if ties:
        raise AdapterError(
            f"the weight of {name!r} is tied to {ties[0]!r}: merging would change both; leave it "
            "out of target_modules, or untie it"
        )


def _require_uncompiled(model: nn.Module, name: str) -> None:
    """A compiled layer goes on computing what it was compiled from."""
    parent, _, leaf = name.rpartition(".")
    module = bare_at(model, parent)._modules.get(leaf)
    while module is not None and adapted_base(module) is None:
        if "_orig_mod" in module._modules:
            raise AdapterError(
                f"{name!r} is compiled by itself (torch.compile), and its compiled code would not "
                "see the adapter; attach first, then compile"
            )
        module = inner_module(module)


def _resolve_saved(model: nn.Module, wanted: Iterable[str]) -> tuple[str, ...]:
    """Full names of the modules that ``modules_to_save`` names, outermost only."""
    found: list[str] = []
    names = [name for name, _ in bare_modules(model) if name]
    for item in wanted:
        matches = [name for name in names if name == item or name.endswith(f".{item}")]
        if not matches:
            raise AdapterError(f"modules_to_save names {item!r}, and no module is called that")
        found += matches
    unique = [name for name in names if name in found]
    return tuple(n for n in unique if not any(n.startswith(f"{outer}.") for outer in unique))


def _overlap(first: str, second: str) -> bool:
    return first == second or first.startswith(f"{second}.") or second.startswith(f"{first}.")
