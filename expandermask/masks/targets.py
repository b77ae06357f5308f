"""Which modules of a model get masks: names and shapes, by PEFT's conventions for targets."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from expandermask._moved import moved_names
from expandermask.errors import AdapterError, InvalidInputError
from expandermask.masks.bypass import why_bypassed
from expandermask.masks.kinds import Shape as Shape
from expandermask.masks.kinds import adaptable_shape as adaptable_shape
from expandermask.masks.kinds import is_conv1d as is_conv1d
from expandermask.masks.kinds import is_embedding, looks_adaptable, why_foreign
from expandermask.masks.places import (
    bare_module,
    bare_modules,
    module_at,
    other_owners,
    parameter_owners,
    unwrapped,
)
from expandermask.masks.ranks import Ranks

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

Names = str | Iterable[str]
"""A regular expression that matches whole names, or names and name endings."""

_HEADS = ("classifier", "score")
"""What task heads are called in models that do not say which part of them is the base model."""
_SHORT_SIDE = 16
"""Tables of states, positions and tokens that are no matrices to adapt have a side this short."""


def find_targets(
    model: nn.Module, target_modules: Names = "all-linear", exclude_modules: Names = ()
) -> dict[str, Shape]:
    """The modules of ``model`` that ``target_modules`` names, with their (d, k) shapes.

    Parameters
    ----------
    model : torch.nn.Module
        Any model, on any device, the meta device included.
    target_modules : str or iterable of str
        "all-linear" for every `torch.nn.Linear`, quantized linear layer and transformers `Conv1D`
        that can be adapted, except the output embedding and task heads (see `passed_over`); any
        other string is a regular expression that must match a module's whole name; a list matches
        names that equal an item or end in ``.item``. By these two ways an embedding can be named
        as well.
    exclude_modules : str or iterable of str
        Modules to leave out, named in the same two ways.

    Raises
    ------
    AdapterError
        Nothing matches, or a module that is named cannot be adapted; the message says what there
        is, or why.
    """
    return _chosen(model, target_modules, exclude_modules)[0]


def targets_of_rank(
    model: nn.Module,
    target_modules: Names = "all-linear",
    exclude_modules: Names = (),
    *,
    ranks: Ranks,
    modules_to_save: Iterable[str] = (),
) -> dict[str, Shape]:
    """`find_targets` for adapters of some ranks; one warning names what "all-linear" passes over.

    Modules too narrow for the rank, and those in ``modules_to_save``, are passed over as well.
    """
    chosen, passed = _chosen(model, target_modules, exclude_modules)
    if target_modules != "all-linear":
        return chosen
    passed |= _narrow(chosen, ranks)
    kept = _unsaved({n: s for n, s in chosen.items() if n not in passed}, modules_to_save)
    if not kept:  # every module is too narrow: the plan says which ranks are possible
        return chosen
    passed = _unsaved(passed, modules_to_save)
    if passed:
        warnings.warn(
            f'target_modules="all-linear" adapts {len(kept)} modules of {type(model).__name__} and '
            f"passes over {grouped(passed)}. Name them in exclude_modules to do without this "
            "warning",
            stacklevel=3,
        )
    return kept


def passed_over(
    model: nn.Module,
    exclude_modules: Names = (),
    *,
    r: int | None = None,
    left_degree: int = 2,
    modules_to_save: Iterable[str] = (),
) -> dict[str, str]:
    """What "all-linear" does not adapt of ``model``, with the reason for each.

    These are linear modules in task heads, with a forward of their own, whose weight is tied or is
    read without a call, or too narrow for ``r`` (if given), and matrices that belong to no linear
    module, such as experts in one stack. Output embeddings are never adapted and not listed,
    neither is what ``exclude_modules`` or ``modules_to_save`` names.

    Examples
    --------
    >>> import torch
    >>> from expandermask.masks.targets import passed_over
    >>> passed_over(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 1)), r=16)
    {'1': 'too narrow for r=16 and left_degree=2'}
    """
    chosen, passed = _all_linear(model, _matcher("exclude_modules", exclude_modules))
    if r is not None:
        passed |= _narrow(chosen, Ranks(r, left_degree))
    return _unsaved(passed, modules_to_save)


def target_shape(model: nn.Module, place: str) -> Shape:
    """(d, k) of the module in a place; `AdapterError` with the reason if it cannot be adapted."""
    module = bare_module(module_at(model, place))
    shape = adaptable_shape(module)
    reason = _why_unfit(model, place, module)
    if shape is None and reason is None:
        reason = (
            f"{type(module).__name__} is neither a linear module, transformers' Conv1D nor an "
            "embedding"
        )
    if reason is not None or shape is None:
        raise AdapterError(
            f"{place!r} cannot be adapted: {reason}; leave it out of target_modules, or name it in "
            "exclude_modules"
        )
    return shape


def target_names(targets: Collection[str], names: Collection[str]) -> list[str] | str:
    """The shortest ``target_modules`` that PEFT matches with ``targets`` and no other module.

    PEFT's list matches a name that equals an item or ends in ``.item``. So each target gets the
    shortest ending that no other module has, without the number of a layer, or else its full name.
    Where a full name is itself the end of another module's name, the answer is a regular
    expression.

    Parameters
    ----------
    targets, names : collection of str
        The modules that are meant, and all modules of the model.

    Examples
    --------
    >>> target_names(["0.q", "0.v", "1.q", "1.v"], ["0.q", "0.v", "0.k", "1.q", "1.v", "1.k"])
    ['q', 'v']
    >>> target_names(["0.q", "0.v", "1.q"], ["0.q", "0.v", "1.q", "1.v"])
    ['q', '0.v']
    >>> target_names(["fc"], ["fc", "inner.fc"])
    'fc'
    """
    others = {ending for name in names if name not in targets for ending in _endings(name)}
    if any(name in others for name in targets):
        return "|".join(re.escape(name) for name in targets)
    chosen: dict[str, None] = {}
    for name in targets:
        short = (ending for ending in _endings(name) if layer_number(ending) is None)
        chosen[next((ending for ending in short if ending not in others), name)] = None
    return list(chosen)


def _endings(name: str) -> list[str]:
    """Every end of a dotted name that starts with a whole part, the shortest first."""
    parts = name.split(".")
    return [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]


def adaptable_shapes(model: nn.Module) -> dict[str, Shape]:
    """(d, k) of every linear module, transformers `Conv1D` and embedding, by module name.

    A module that has adapters already goes by its own name, not by that of the layer's base.
    """
    return {
        name: shape
        for name, module in bare_modules(model)
        if (shape := adaptable_shape(module)) is not None
    }


def layer_number(module: str) -> int | None:
    """The layer a module is in: the first part of its dotted name that is a number."""
    return next((int(part) for part in module.split(".") if part.isdecimal()), None)


def _chosen(
    model: nn.Module, target_modules: Names, exclude_modules: Names
) -> tuple[dict[str, Shape], dict[str, str]]:
    """What `find_targets` returns, and what "all-linear" passes over."""
    left_out = _matcher("exclude_modules", exclude_modules)
    passed: dict[str, str] = {}
    if isinstance(target_modules, str) and target_modules == "all-linear":
        chosen, passed = _all_linear(model, left_out)
    else:
        is_named = _matcher("target_modules", target_modules)
        names = [name for name, module in bare_modules(model) if looks_adaptable(module)]
        wanted = [name for name in names if is_named(name) and not left_out(name)]
        chosen = {name: target_shape(model, name) for name in wanted}
    if chosen and not isinstance(target_modules, str):
        _require_adapted(model, target_modules, chosen, left_out)
    if not chosen:
        endings = sorted({name.rsplit(".", 1)[-1] for name in adaptable_shapes(model)})
        without = f" beside exclude_modules={exclude_modules!r}" if exclude_modules else ""
        over = f" It passes over {grouped(passed)}" if passed else ""
        raise AdapterError(
            f"target_modules={target_modules!r}{without} matches no linear module or embedding of "
            f"{type(model).__name__}; those it has end in: {', '.join(endings) or 'none'}.{over}"
        )
    return chosen, passed


def _require_adapted(
    model: nn.Module,
    items: Iterable[str],
    chosen: Mapping[str, Shape],
    left_out: Callable[[str], bool],
) -> None:
    """Refuse a name in a list that stands only for modules which cannot be adapted."""
    places = [name for name, _ in bare_modules(model) if name and not left_out(name)]
    for item in items:
        meant = [name for name in places if f".{name}".endswith(f".{item}")]
        if meant and not any(name in chosen for name in meant):
            target_shape(model, meant[0])  # raises, with the reason


def _all_linear(
    model: nn.Module, left_out: Callable[[str], bool]
) -> tuple[dict[str, Shape], dict[str, str]]:
    """The modules that "all-linear" adapts, and why it does not adapt the others it finds."""
    chosen: dict[str, Shape] = {}
    passed: dict[str, str] = {}
    modules = dict(bare_modules(model))
    output = _output_embedding(model, modules)
    base = _base_model(model, modules)
    owners = parameter_owners(model)
    for name, module in modules.items():
        if not looks_adaptable(module) or is_embedding(module):
            continue
        if left_out(name) or _is_inside(name, output.__contains__):
            continue
        shape = adaptable_shape(module)
        reason = _why_unfit(model, name, module)
        if reason is None and _is_head(name, base):
            reason = "a task head: name it in modules_to_save to train it"
        ties = other_owners(owners, name, getattr(module, "weight", None))
        if reason is None and ties:
            reason = f"its weight is tied to {ties[0]}"
        if reason is not None:
            passed[name] = reason
        elif shape is not None:
            chosen[name] = shape
    return chosen, passed | _loose_matrices(modules, left_out)


def _why_unfit(model: nn.Module, place: str, module: nn.Module) -> str | None:
    norm = getattr(module, "max_norm", None)
    if norm is not None:
        return f"max_norm={norm} rewrites its frozen rows when they are looked up; set it to None"
    return why_foreign(module) or why_bypassed(model, place)


def _narrow(shapes: Mapping[str, Shape], ranks: Ranks) -> dict[str, str]:
    """Modules in whose masks some rank would have fewer than two entries, however they divide."""
    degree = ranks.left_degree
    least = {name: ranks.least(name) for name in shapes}
    return {
        name: f"too narrow for r={least[name]} and left_degree={degree}"
        for name, shape in shapes.items()
        if min(shape) * degree < 2 * least[name]
    }


def _unsaved(named: Mapping[str, T], modules_to_save: Names) -> dict[str, T]:
    """What is not inside a module that is trained whole."""
    is_saved = _matcher("modules_to_save", modules_to_save)
    return {name: value for name, value in named.items() if not _is_inside(name, is_saved)}


def _loose_matrices(
    modules: Mapping[str, nn.Module], left_out: Callable[[str], bool]
) -> dict[str, str]:
    """Parameters that are matrices, or stacks of them, and belong to no linear module."""
    sizes: dict[str, int] = {}
    total = 0
    for place, module in modules.items():
        for key, parameter in module.named_parameters(place, recurse=False):
            total += parameter.numel()
            if _is_layers_own(key, module) or _is_inside(key, left_out):
                continue
            if _is_matrix(tuple(parameter.shape)):
                sizes[key] = parameter.numel()
    share = sum(sizes.values()) / max(total, 1)
    percent = f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
    reason = f"{percent} of the model's weights, in parameters outside any linear module"
    return dict.fromkeys(sizes, reason)


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and min(shape) > 1 and min(shape[-2:]) > _SHORT_SIDE


def _is_layers_own(key: str, module: nn.Module) -> bool:
    """Whether a parameter belongs to a linear module, or is what torch's layers all have."""
    is_torch = any(
        kind.__module__.startswith("torch.nn.modules.") and kind.__name__ != "Module"
        for kind in type(module).__mro__
    )
    is_parametrized = type(module).__module__ == "torch.nn.utils.parametrize"
    is_common = key.rpartition(".")[2] in ("weight", "bias")
    return looks_adaptable(module) or is_parametrized or (is_torch and is_common)


def _output_embedding(model: nn.Module, modules: Mapping[str, nn.Module]) -> Collection[str]:
    """The place of the model's output embedding."""
    get_output = getattr(unwrapped(model), "get_output_embeddings", None)
    output = get_output() if get_output is not None else None
    if output is None:
        return ()
    return [name for name, module in modules.items() if module is bare_module(output)]


def _base_model(model: nn.Module, modules: Mapping[str, nn.Module]) -> str | None:
    """The place of what transformers calls the base model, without task heads; None if unknown.

    Some classes name a part that is only an encoder beside others: it counts as the base from half
    of the parameters on.
    """
    root = unwrapped(model)
    part = getattr(root, getattr(root, "base_model_prefix", None) or "_", None)
    part = None if part is None else bare_module(part)
    places = [name for name, module in modules.items() if name and module is part]
    if not places or 2 * _size(modules, places[0]) < _size(modules, ""):
        return None
    return places[0]


def _size(modules: Mapping[str, nn.Module], place: str) -> int:
    """Parameters in a place, adapters not counted."""
    prefix = f"{place}." if place else ""
    parameters = {
        parameter
        for name, module in modules.items()
        if name == place or name.startswith(prefix)
        for parameter in module.parameters(recurse=False)
    }
    return sum(parameter.numel() for parameter in parameters)


def _is_head(name: str, base: str | None) -> bool:
    """Whether a module is outside the base model, or has a head's name where none is known."""
    if base is None:
        return name.split(".", 1)[0] in _HEADS
    return not _is_inside(name, base.__eq__)


def _is_inside(name: str, is_meant: Callable[[str], bool]) -> bool:
    """Whether a name, or that of a module around it, is meant."""
    parts = name.split(".")
    return any(is_meant(".".join(parts[:end])) for end in range(1, len(parts) + 1))


def _matcher(field: str, wanted: Names) -> Callable[[str], bool]:
    """Whether a name is meant: by a regular expression, or by a list of names and endings."""
    if isinstance(wanted, str):
        try:
            pattern = re.compile(wanted)
        except re.error as error:
            raise InvalidInputError(
                f"{field}={wanted!r} is not a regular expression: {error}"
            ) from None
        return lambda name: pattern.fullmatch(name) is not None
    items = list(wanted) if isinstance(wanted, Iterable) else [wanted]
    if not all(isinstance(item, str) for item in items):
        raise InvalidInputError(f"{field} must be strings, got {wanted!r}")
    return lambda name: any(name == item or name.endswith(f".{item}") for item in items)


def grouped(passed: Mapping[str, str]) -> str:
    """Names by reason, each once however many layers it is in."""
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for name, reason in passed.items():
        groups[reason][re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)] = None
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in groups.items())


__getattr__ = moved_names(__name__, {"is_packed_linear": "expandermask.masks.kinds"})
