"""State dicts without the frozen base: what training can change, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from expandermask.adapters.attachment import is_attached
from expandermask.adapters.layers.adapter import MaskedAdapter

POLICY_KEY = "expandermask_policy."
"""What stands before the names of a policy's state, where it is among a model's."""
_AROUND = {"base", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
"""Parts of a parameter's name that its key in a state dict may lack."""


def changing_keys(model: nn.Module) -> set[str]:
    """The state dict keys, as `_plain` writes them, of all tensors that training can change.

    These are parameters that require gradients, everything of every adapter, and all buffers: a
    frozen normalisation layer still updates its running means.
    """
    own = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, MaskedAdapter)
        for parameter in module.parameters()
    }
    found = {_plain(name) for name, _ in model.named_buffers(remove_duplicate=False)}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad or id(parameter) in own:
            found.add(_plain(name))
    return found


@contextmanager
def small_state(model: nn.Module) -> Iterator[None]:
    """Within the block ``model.state_dict()`` leaves out what training cannot change.

    Nothing is left out of a model without adapters. PEFT writes small files by itself and looks
    some frozen tensors up, so nothing is left out of its models either.
    """
    hook = model.register_state_dict_post_hook(_leave_out)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def frozen_not_missing(model: nn.Module) -> Iterator[None]:
    """Within the block ``model.load_state_dict`` does not miss what `small_state` leaves out."""
    hook = model.register_load_state_dict_post_hook(_not_missing)
    try:
        yield
    finally:
        hook.remove()


def _leave_out(model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    if not is_attached(model) or hasattr(model, "peft_config"):
        return
    keep = changing_keys(model)
    for key in [key for key in state if key.startswith(prefix) and POLICY_KEY not in key]:
        if _plain(key.removeprefix(prefix)) not in keep:
            del state[key]


def _not_missing(model: nn.Module, incompatible: Any) -> None:
    if is_attached(model):
        keep = changing_keys(model)
        missing = incompatible.missing_keys
        missing[:] = [key for key in missing if _plain(key) in keep]


def _plain(key: str) -> str:
    """A key without the parts that wrappers and adapted layers put in, so that keys compare.

    Two keys that become one can only keep more in a file.
    """
    return ".".join(part for part in key.split(".") if part not in _AROUND)
