"""save_pretrained of a model with adapters: a checkpoint whose names `from_pretrained` reads.

A layer around a module adds a part to the names of its tensors. In a checkpoint of a transformers
model they have their own names, so that stock loading finds them. The adapters' values are there
besides, for a Trainer to resume from; in a checkpoint of a merged model they would be read by
nobody and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from expandermask.adapters.attachment import OwnAttachment


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
    layers = attached.layers_of()
    if state_dict is not None:
        state_dict = _plain(state_dict, layers, merged=_is_merged(attached))
    hook = model.register_state_dict_post_hook(partial(_rename, attached))
    try:
        type(model).save_pretrained(model, *arguments, state_dict=state_dict, **options)
    finally:
        hook.remove()


def _rename(
    attached: OwnAttachment, _: nn.Module, state: dict[str, Tensor], prefix: str, __: Any
) -> None:
    if prefix:  # of a model inside another, whose names are not the checkpoint's
        return
    renamed = _plain(state, attached.layers, merged=_is_merged(attached))
    state.clear()
    state.update(renamed)


def _is_merged(attached: OwnAttachment) -> bool:
    active = [layer for layer in attached.layers.values() if layer.having(attached.active)]
    return bool(active) and all(layer.merges for layer in active)


def _plain(state: dict[str, Tensor], places: Iterable[str], *, merged: bool) -> dict[str, Tensor]:
    """The tensors under the names they have without layers around their modules."""
    bases = tuple(f"{place}.base." for place in places)
    adapters = tuple(f"{place}.adapters." for place in places)
    found = {}
    for key, tensor in state.items():
        if merged and key.startswith(adapters):
            continue
        base = next((base for base in bases if key.startswith(base)), None)
        name = key if base is None else base.removesuffix("base.") + key.removeprefix(base)
        found[name] = tensor
    return found
