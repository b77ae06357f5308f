"""State dicts without the frozen base: what training can change, and nothing else."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from expandermask.adapters.attachment import is_attached, masked_layers


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


class SmallState:
    """Lets a model leave its frozen parameters out of its state dict, while asked to.

    Two of PyTorch's public hooks are put on the model. They do nothing unless a flag is set, and
    nothing on a model without adapters; with this object they go.
    """

    writing = False
    """Whether ``state_dict`` leaves frozen parameters out."""
    reading = False
    """Whether ``load_state_dict`` does not report them as missing."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # The hooks must not keep this object alive, or nothing would ever take them off.
        own = weakref.ref(self)

        def leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
            small = own()
            if small is not None and small.writing and is_attached(module):
                keep = {prefix + key for key in changing_keys(module)}
                for key in [k for k in state if k.startswith(prefix) and k not in keep]:
                    del state[key]

        def not_missing(module: nn.Module, incompatible: Any) -> None:
            small = own()
            if small is not None and small.reading and is_attached(module):
                keep = changing_keys(module)
                incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if k in keep]

        for handle in (
            model.register_state_dict_post_hook(leave_out),
            model.register_load_state_dict_post_hook(not_missing),
        ):
            weakref.finalize(self, handle.remove)
