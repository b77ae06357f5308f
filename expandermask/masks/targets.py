"""Which modules of a model get masks: names and shapes, by PEFT's conventions for targets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from expandermask.errors import AdapterError, InvalidInputError

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int]
"""(d, k): output and input features of a linear module, whose weight update is d x k."""

_HEADS = ("classifier", "score")


def find_targets(
    model: nn.Module, target_modules: str | Iterable[str] = "all-linear"
) -> dict[str, Shape]:
    """The linear modules of ``model`` that ``target_modules`` names, with their (d, k) shapes.

    Parameters
    ----------
    model : torch.nn.Module
        Any model, on any device, the meta device included.
    target_modules : str or iterable of str
        "all-linear" for every `torch.nn.Linear` and transformers `Conv1D` except the output
        embedding and a classification head; any other string is a regular expression that must
        match a module's whole name; a list matches names that equal an item or end in ``.item``.

    Raises
    ------
    AdapterError
        Nothing matches; the message lists the linear modules there are.
    """
    linears = linear_shapes(model)
    if target_modules == "all-linear":
        head = _head_prefixes(model)
        chosen = {n: s for n, s in linears.items() if not any(_inside(n, h) for h in head)}
    elif isinstance(target_modules, str):
        try:
            pattern = re.compile(target_modules)
        except re.error as error:
            raise InvalidInputError(
                f"target_modules={target_modules!r} is not a regular expression: {error}"
            ) from None
        chosen = {n: s for n, s in linears.items() if pattern.fullmatch(n)}
    else:
        items = list(target_modules) if isinstance(target_modules, Iterable) else [target_modules]
        if not all(isinstance(item, str) for item in items):
            raise InvalidInputError(f"target_modules must be strings, got {target_modules!r}")
        chosen = {
            n: s for n, s in linears.items() if any(n == i or n.endswith(f".{i}") for i in items)
        }
    if not chosen:
        names = sorted({name.rsplit(".", 1)[-1] for name in linears})
        raise AdapterError(
            f"target_modules={target_modules!r} matches no linear module of "
            f"{type(model).__name__}; its linear modules end in: {', '.join(names) or 'none'}"
        )
    return chosen


def linear_shapes(model: nn.Module) -> dict[str, Shape]:
    """(d, k) of every `torch.nn.Linear` and transformers `Conv1D`, by module name."""
    from torch import nn

    found: dict[str, Shape] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = (module.out_features, module.in_features)
        elif is_conv1d(module):
            inputs, outputs = module.weight.shape
            found[name] = (int(outputs), int(inputs))
    return found


def is_conv1d(module: nn.Module) -> bool:
    """Whether ``module`` is transformers' Conv1D, a linear layer with a transposed weight."""
    return any(
        t.__name__ == "Conv1D" and t.__module__.startswith("transformers")
        for t in type(module).__mro__
    )


def _head_prefixes(model: nn.Module) -> list[str]:
    """Names of the output embedding and of a classification head, which adapters leave alone."""
    heads = [name for name in _HEADS if getattr(model, name, None) is not None]
    get_output = getattr(model, "get_output_embeddings", None)
    output = get_output() if get_output is not None else None
    heads += [name for name, module in model.named_modules() if module is output]
    return heads


def _inside(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
