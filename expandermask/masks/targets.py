"""Which modules of a model get masks: names and shapes, by PEFT's conventions for targets."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from expandermask.errors import AdapterError, InvalidInputError
from expandermask.masks.places import bare_modules

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int]
"""(d, k): output and input features of a linear module, whose weight update is d x k."""

_HEADS = ("classifier", "score")


def find_targets(
    model: nn.Module, target_modules: str | Iterable[str] = "all-linear"
) -> dict[str, Shape]:
    """The modules of ``model`` that ``target_modules`` names, with their (d, k) shapes.

    Parameters
    ----------
    model : torch.nn.Module
        Any model, on any device, the meta device included.
    target_modules : str or iterable of str
        "all-linear" for every `torch.nn.Linear`, quantized linear layer and transformers `Conv1D`
        except the output embedding and a classification head; any other string is a regular
        expression that must match a module's whole name; a list matches names that equal an item
        or end in ``.item``. By these two ways an embedding can be named as well.

    Raises
    ------
    AdapterError
        Nothing matches; the message lists the modules there are.
    """
    shapes = adaptable_shapes(model)
    if target_modules == "all-linear":
        head = _head_prefixes(model)
        tables = {n for n, m in bare_modules(model) if _is_embedding(m)}
        chosen = {
            n: s
            for n, s in shapes.items()
            if n not in tables and not any(_inside(n, h) for h in head)
        }
    elif isinstance(target_modules, str):
        try:
            pattern = re.compile(target_modules)
        except re.error as error:
            raise InvalidInputError(
                f"target_modules={target_modules!r} is not a regular expression: {error}"
            ) from None
        chosen = {n: s for n, s in shapes.items() if pattern.fullmatch(n)}
    else:
        items = list(target_modules) if isinstance(target_modules, Iterable) else [target_modules]
        if not all(isinstance(item, str) for item in items):
            raise InvalidInputError(f"target_modules must be strings, got {target_modules!r}")
        chosen = {
            n: s for n, s in shapes.items() if any(n == i or n.endswith(f".{i}") for i in items)
        }
    if not chosen:
        names = sorted({name.rsplit(".", 1)[-1] for name in shapes})
        raise AdapterError(
            f"target_modules={target_modules!r} matches no linear module or embedding of "
            f"{type(model).__name__}; those it has end in: {', '.join(names) or 'none'}"
        )
    return chosen


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

    For an embedding k is the number of rows in its table and d their length. A module that has
    adapters already goes by its own name, not by that of the layer's base.
    """
    return {
        name: shape
        for name, module in bare_modules(model)
        if (shape := adaptable_shape(module)) is not None
    }


def adaptable_shape(module: nn.Module) -> Shape | None:
    """(d, k) of a module that can be adapted, by its attributes: weights may be packed."""
    from torch import nn

    if is_conv1d(module):
        weight = module.weight
        return int(weight.shape[1]), int(weight.shape[0])  # type: ignore[index]
    if isinstance(module, nn.Linear) or is_packed_linear(module):
        return int(module.out_features), int(module.in_features)  # type: ignore[arg-type]
    if _is_embedding(module):
        return int(module.embedding_dim), int(module.num_embeddings)  # type: ignore[arg-type]
    return None


def _is_embedding(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.Embedding)


def layer_number(module: str) -> int | None:
    """The layer a module is in: the first part of its dotted name that is a number."""
    return next((int(part) for part in module.split(".") if part.isdecimal()), None)


def is_conv1d(module: nn.Module) -> bool:
    """Whether ``module`` is transformers' Conv1D, a linear layer with a transposed weight."""
    return any(
        t.__name__ == "Conv1D" and t.__module__.startswith("transformers")
        for t in type(module).__mro__
    )


def is_packed_linear(module: nn.Module) -> bool:
    """Whether ``module`` is a quantized linear layer that is no nn.Linear, as HQQ's and AWQ's are.

    Told by what such classes have in common, so that none of their libraries is imported: the name
    says Linear, ``in_features`` and ``out_features`` are numbers, and integers are stored.
    """
    from torch import nn

    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return (
        not isinstance(module, nn.Linear)
        and "Linear" in type(module).__name__
        and all(isinstance(size, int) and size > 0 for size in sizes)
        and any(not tensor.is_floating_point() for tensor in tensors)
    )


def _head_prefixes(model: nn.Module) -> list[str]:
    """Names of the output embedding and of a classification head, which adapters leave alone."""
    heads = [name for name in _HEADS if getattr(model, name, None) is not None]
    get_output = getattr(model, "get_output_embeddings", None)
    output = get_output() if get_output is not None else None
    heads += [name for name, module in bare_modules(model) if module is output]
    return heads


def _inside(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
