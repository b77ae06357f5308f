"""save_pretrained of a model with adapters: a checkpoint whose names `from_pretrained` reads.

A layer around a module adds a part to the names of its tensors. In a checkpoint of a transformers
model they have their own names, so that stock loading finds them. The adapters' values are there
besides, for a Trainer to resume from; in a checkpoint of a merged model they would be read by
nobody and are left out.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from torch import Tensor, nn

from expandermask.adapters.attachment import OwnAttachment
from expandermask.masks.places import place_of


def write_plain_names(attached: OwnAttachment) -> None:
    """Let the model's `save_pretrained`, if it has one, write the base's own names.

    The Trainer's ``save_model`` calls it too.
    """
    if hasattr(type(attached.model), "save_pretrained"):
        attached.model.save_pretrained = partial(  # type: ignore[assignment]
            _save_pretrained, attached
        )


def write_own_names(attached: OwnAttachment) -> None:
    """Undo `write_plain_names`."""
    vars(attached.model).pop("save_pretrained", None)


def _save_pretrained(
    attached: OwnAttachment,
    *arguments: Any,
    state_dict: dict[str, Tensor] | None = None,
    **options: Any,
) -> None:
    model: Any = attached.model
    attached.layers_of()  # raises if a layer is no longer in its place
    if state_dict is not None:
        state_dict = dict(state_dict)
        _rename(attached, model, state_dict, "", None)
    hook = model.register_state_dict_post_hook(partial(_rename, attached))
    try:
        type(model).save_pretrained(model, *arguments, state_dict=state_dict, **options)
    finally:
        hook.remove()


def _rename(
    attached: OwnAttachment, _: nn.Module, state: dict[str, Tensor], prefix: str, __: Any
) -> None:
    """Give the tensors of a state dict the names they have without layers around their modules."""
    if prefix:  # of a model inside another, whose names are not the checkpoint's
        return
    active = [layer for layer in attached.layers.values() if layer.having(attached.active)]
    merged = bool(active) and all(layer.merges for layer in active)
    inside = re.compile(rf"({'|'.join(map(re.escape, attached.layers))})\.(base|adapters)\.")
    tensors = dict(state)
    state.clear()
    for key, tensor in tensors.items():
        found = inside.match(place_of(key))
        if found is None or (found[2] == "adapters" and not merged):
            state[key] = tensor
        elif found[2] == "base":
            state[f"{found[1]}.{found.string[found.end() :]}"] = tensor
