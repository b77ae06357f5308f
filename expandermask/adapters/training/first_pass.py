"""What is looked at in the first forward pass of training, since it cannot be told before.

Some modules compute with a child's weight without calling the child. An adapter there would neither
train nor count. Most such modules are told by their source when the adapter is put on; the others
show themselves here. And where several processes train, all must have the same masks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from expandermask.adapters.attachment import Attachment, mask_hashes
from expandermask.adapters.layers.masked import AdaptedLayer
from expandermask.adapters.training.distributed import require_same
from expandermask.errors import AdapterError
from expandermask.masks.places import placed_modules


def look_at_first_pass(attached: Attachment) -> None:
    """Look at the next forward pass of the model that is in training mode with gradients.

    Raises, in that pass, `AdapterError` for an adapted layer that the model reads without calling
    it, and on every rank where masks differ.
    """
    if attached.looking:
        return
    watch = _Watch(attached)
    attached.looking = [
        attached.model.register_forward_pre_hook(watch.begin),
        attached.model.register_forward_hook(watch.end, always_call=True),
    ]


class _Watch(TorchFunctionMode):
    """Sees every tensor operation of a forward pass."""

    def __init__(self, attached: Attachment) -> None:
        super().__init__()
        self.attached = attached
        self.begun = False
        self.places: dict[int, str] = {}
        """By the identity of a layer's weight, where the layer is."""
        self.running: set[str] = set()
        self.called: set[str] = set()
        self.read: set[str] = set()
        self.hooks: list[Any] = []

    def begin(self, model: nn.Module, _: Any) -> None:
        """Start to watch, if this is a pass of training. A compiled pass cannot be watched."""
        if torch.compiler.is_compiling() or not model.training or not torch.is_grad_enabled():
            return
        require_same(mask_hashes(model), "the adapters (masks and scale) on the model")
        _warn_of_statistics(self.attached)
        for place, layer in self.attached.layers_of().items():
            self.places[id(layer.weight)] = place
            self.hooks += _follow(layer, partial(self._calls, place), partial(self._ends, place))
        self.begun = True
        self.__enter__()

    def end(self, *_: Any) -> None:
        """Stop to watch for good, and tell what was seen."""
        if torch.compiler.is_compiling() or not self.begun:
            return
        self.__exit__(None, None, None)
        for hook in [*self.hooks, *self.attached.looking]:
            hook.remove()
        self.attached.looking = []
        bypassed = sorted(self.read - self.called)
        if bypassed:
            raise AdapterError(
                f"the model computed with the weight of {bypassed[0]!r} without calling the "
                f"module ({len(bypassed)} such modules), so adapters there neither train nor "
                "count; leave them out by exclude_modules"
            )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            for tensor in _tensors([*args, *(kwargs or {}).values()]):
                place = self.places.get(id(tensor))
                if place is not None and place not in self.running:
                    self.read.add(place)
        return found

    def _calls(self, place: str, *_: Any) -> None:
        self.running.add(place)
        self.called.add(place)

    def _ends(self, place: str, *_: Any) -> None:
        self.running.discard(place)


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


def _follow(
    layer: AdaptedLayer, calls: Callable[..., None], ends: Callable[..., None]
) -> list[Any]:
    return [
        layer.register_forward_pre_hook(calls),
        layer.register_forward_hook(ends, always_call=True),
    ]


def _tensors(values: list[Any]) -> Iterator[Tensor]:
    """The tensors among some arguments, and in lists among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))
