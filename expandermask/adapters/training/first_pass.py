"""What is looked at in the first forward pass of training, since it cannot be told before.

Some modules compute with a child's weight without calling the child. An adapter there would neither
train nor count. Most such modules are told by their source when the adapter is put on; the others
show themselves here: they look up the weight of a layer that is never called. What they do with it
is not seen, so one that asks for a dtype only is refused too. And where several processes train,
all must have the same masks.

A model that is compiled as a whole is not looked at: its pass runs no Python. There
`AdapterCallback` compares the masks. Where parts of it are compiled, the rest is looked at.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import nn

from expandermask.adapters.attachment import Attachment, mask_hashes
from expandermask.adapters.training.distributed import require_same
from expandermask.errors import AdapterError
from expandermask.masks.places import module_at, other_owners, parameter_owners, placed_modules
from expandermask.masks.targets import layer_number


def look_at_first_pass(attached: Attachment) -> None:
    """Look at the next forward pass of the model that is in training mode with gradients.

    Raises, in that pass, `AdapterError` for an adapted layer whose weight is looked up and that is
    never called, and on every rank where masks differ. Where only parts of the model are called,
    each part has its own first pass.
    """
    attached.stop_looking()
    watch = _Watch(attached)
    for place in attached.layers:
        attached.looking[place] = []  # a layer notes by itself that it is called
        while place:
            place = place.rpartition(".")[0]
            if place not in attached.looking and layer_number(place) is None:
                module = module_at(attached.model, place)
                attached.looking[place] = [
                    module.register_forward_pre_hook(partial(watch.begin, place)),
                    module.register_forward_hook(partial(watch.end, place)),
                ]


class _Watch:
    """Looks at one forward pass at a time; each layer holds what was seen of it."""

    def __init__(self, attached: Attachment) -> None:
        self.attached = attached
        self.compared = False
        """Whether all ranks were seen to have these masks."""
        self.outer: str | None = None
        """The place of the module whose pass is watched, or failed and is to be watched again."""

    def begin(self, place: str, module: nn.Module, *_: Any) -> None:
        """Start to watch, if this is a pass of training and none around it is watched."""
        if torch.compiler.is_compiling() or not module.training or not torch.is_grad_enabled():
            return
        if self.outer not in (None, place):
            return
        if not self.compared:
            hashes = mask_hashes(self.attached.model)
            require_same(hashes, "the adapters (masks and scale) on the model")
            _warn_of_statistics(self.attached)
        self.compared = True
        self.outer = place
        compiled = _in_compiled_parts(self.attached.model)
        for layer in self.attached.layers_of().values():
            layer.looked_up, layer.called = False, layer in compiled

    def end(self, place: str, *_: Any) -> None:
        """Tell what was seen, and look no more unless something was wrong."""
        if torch.compiler.is_compiling() or self.outer != place:
            return
        self.outer = None
        bypassed = sorted(
            name
            for name, layer in self.attached.layers.items()
            if name in self.attached.looking and layer.looked_up and not layer.called
            # A weight that another module shares may be looked up for that one.
            if not other_owners(parameter_owners(self.attached.model), name, layer.weight)
        )
        if bypassed:
            raise AdapterError(
                f"the model looked up the weight of {bypassed[0]!r} and never called the module "
                f"({len(bypassed)} such modules), so adapters there neither train nor count; leave "
                "them out by exclude_modules"
            )
        self.attached.stop_looking(place)


def _in_compiled_parts(model: nn.Module) -> set[nn.Module]:
    """The modules whose calls are compiled. Some compiled code must not note that it is called."""
    parts = [
        module
        for module in model.modules()
        if module._compiled_call_impl is not None or "_orig_mod" in module._modules
    ]
    return {inner for part in parts for inner in part.modules()}


def _warn_of_statistics(attached: Attachment) -> None:
    """Tell of batch normalizations: training moves what no file of the adapter holds."""
    saved = tuple(f"{place}." for place in attached.originals)
    moving = [
        place
        for place, module in placed_modules(attached.model)
        if module.training
        and getattr(module, "track_running_stats", False)
        and not f"{place}.".startswith(saved)
    ]
    if moving:
        warnings.warn(
            f"training changes the running statistics of {moving[0]!r} ({len(moving)} such "
            "modules), which are not saved with the adapter; call eval() on these modules, or "
            "name them in modules_to_save",
            stacklevel=2,
        )
