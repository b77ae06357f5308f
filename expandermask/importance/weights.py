"""The weights that are scored, all in the orientation (outputs, inputs)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from expandermask.errors import AdapterError
from expandermask.masks.places import bare_modules
from expandermask.masks.targets import find_targets, is_conv1d


def target_weights(
    model: nn.Module, target_modules: str | Iterable[str] = "all-linear"
) -> dict[str, nn.Parameter]:
    """The weight parameter of every module that `find_targets` names.

    Raises `AdapterError` for one that is quantized or has no storage.
    """
    modules = dict(bare_modules(model))
    return {name: _weight(name, modules[name]) for name in find_targets(model, target_modules)}


def oriented(module: nn.Module, tensor: Tensor) -> Tensor:
    """A module's weight, or a tensor of its shape, as a view of shape (d, k)."""
    is_transposed = is_conv1d(module) or isinstance(module, nn.Embedding)
    return tensor.t() if is_transposed else tensor


def _weight(name: str, module: nn.Module) -> nn.Parameter:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point() or weight.dim() != 2:
        raise AdapterError(
            f"the weight of {name!r} is packed or quantized ({type(module).__name__}), and scores "
            "need its numbers; load the model in full precision, or leave the module out"
        )
    if weight.is_meta:
        raise AdapterError(f"the weight of {name!r} is on the meta device; load the model first")
    return weight
