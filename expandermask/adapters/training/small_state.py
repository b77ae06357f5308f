"""State dicts without the frozen base: what training can change, and nothing else."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from expandermask.adapters.attachment import is_attached, masked_layers

POLICY_KEY = "expandermask_policy."
"""What the keys of a policy's state begin with, where it is among a model's."""


def changing_keys(model: nn.Module) -> set[str]:
    """The keys of a model's state dict whose tensors training can change.

    Parameters that require gradients, everything of every adapter, and all buffers: a frozen
    normalisation layer still keeps running means.
    """
    adapters = tuple(f"{place}.adapters." for place in masked_layers(model))
    found = {key for key, _ in model.named_buffers(remove_duplicate=False)}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad or key.startswith(adapters):
            found.add(key)
    return found


class Switch:
    """What the hooks on a model look at; a copy of the model has its own, with both flags off."""

    writing = False
    """Whether ``state_dict`` leaves frozen parameters out."""
    reading = False
    """Whether ``load_state_dict`` does not report them as missing."""
    while_writing: Callable[[], bool] | None = None
    """Asked besides ``writing``, which stays on where a run was interrupted."""

    def __reduce__(self) -> tuple[type[Switch], tuple[()]]:
        return Switch, ()


class SmallState:
    """Lets a model leave its frozen parameters out of its state dict, while asked to.

    Two of PyTorch's public hooks are put on the model. They do nothing unless a flag of ``switch``
    is set, and nothing on a model without adapters; with this object they go.
    """

    def __init__(self, model: nn.Module, while_writing: Callable[[], bool] | None = None) -> None:
        self.model, self.switch = model, Switch()
        self.switch.while_writing = while_writing
        # The hooks must not keep this object alive, or nothing would ever take them off.
        for handle in (
            model.register_state_dict_post_hook(partial(_leave_out, self.switch)),
            model.register_load_state_dict_post_hook(partial(_not_missing, self.switch)),
        ):
            weakref.finalize(self, handle.remove)


def _leave_out(
    switch: Switch, module: nn.Module, state: dict[str, Any], prefix: str, _: Any
) -> None:
    if not switch.writing or not is_attached(module):
        return
    if switch.while_writing is None or switch.while_writing():
        keep = {prefix + key for key in changing_keys(module)}
        for key in [k for k in state if k.startswith(prefix) and k not in keep]:
            if not key.startswith(prefix + POLICY_KEY):
                del state[key]


def _not_missing(switch: Switch, module: nn.Module, incompatible: Any) -> None:
    if switch.reading and is_attached(module):
        keep = changing_keys(module)
        incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if k in keep]
