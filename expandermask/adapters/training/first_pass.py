"""What is looked at in the first forward pass of training, since it cannot be told before.

Some modules compute with a child's weight without calling the child. An adapter there would neither
train nor count. Most such modules are told by their source when the adapter is put on; the others
show themselves here. And where several processes train, all must have the same masks.

A model that is compiled as a whole is not looked at: its pass runs no Python. There
`AdapterCallback` compares the masks. Where parts of it are compiled, the rest is looked at.
"""

from __future__ import annotations

import sys
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
from expandermask.masks.places import module_at, other_owners, parameter_owners, placed_modules
from expandermask.masks.targets import layer_number


def look_at_first_pass(attached: Attachment) -> None:
    """Look at the next forward pass of the model that is in training mode with gradients.

    Raises, in that pass, `AdapterError` for an adapted layer that the model reads without calling
    it, and on every rank where masks differ. Where only parts of the model are called, each part
    has its own first pass.
    """
    attached.stop_looking()
    watch = _Watch(attached)
    for place in attached.layers:
        while place:
            place = place.rpartition(".")[0]
            if place not in attached.looking and layer_number(place) is None:
                module = module_at(attached.model, place)
                attached.looking[place] = [
                    module.register_forward_pre_hook(partial(watch.begin, place)),
                    module.register_forward_hook(partial(watch.end, place), always_call=True),
                ]


class _Watch(TorchFunctionMode):
    """Sees every tensor operation of a forward pass."""

    def __init__(self, attached: Attachment) -> None:
        super().__init__()
        self.attached = attached
        self.compared = False
        """Whether all ranks were seen to have these masks."""
        self.outer: str | None = None
        """The place of the module whose pass is watched."""
        self.layers: dict[str, AdaptedLayer] = {}
        """The layers whose weights nothing else has as its own."""
        self.places: dict[int, tuple[Tensor, str | None]] = {}
        """By identity every tensor that was looked up, and of which layer it is the weight."""
        self.running: set[str] = set()
        self.called: set[str] = set()
        self.read: set[str] = set()
        self.hooks: list[Any] = []

    def begin(self, place: str, module: nn.Module, *_: Any) -> None:
        """Start to watch, if this is a pass of training and none around it is watched."""
        if torch.compiler.is_compiling() or not module.training or not torch.is_grad_enabled():
            return
        if self.outer not in (None, place):
            return
        if not self.compared:
            what = "the adapters (masks and scale) on the model"
            require_same(mask_hashes(self.attached.model), what)
            _warn_of_statistics(self.attached)
        self.compared = True
        self._stop()  # the last pass was interrupted, or the module calls itself
        layers = self.attached.layers_of()
        owners = parameter_owners(self.attached.model)
        self.layers = {
            name: layer
            for name, layer in layers.items()
            if not other_owners(owners, name, layer.weight)
        }
        for name, layer in layers.items():
            self.hooks += _follow(layer, partial(self._calls, name), partial(self._ends, name))
        self._find_weights()
        self.outer = place
        self.__enter__()

    def end(self, place: str, *_: Any) -> None:
        """Stop to watch, tell what was seen, and look no more unless something was wrong."""
        if torch.compiler.is_compiling() or self.outer != place:
            return
        bypassed = sorted(self.read - self.called)
        self._stop()
        if sys.exc_info()[0] is not None:  # the pass has failed: look at the next one
            return
        if bypassed:
            raise AdapterError(
                f"the model computed with the weight of {bypassed[0]!r} without calling the "
                f"module ({len(bypassed)} such modules), so adapters there neither train nor "
                "count; leave them out by exclude_modules"
            )
        self.attached.stop_looking(place)

    def _stop(self) -> None:
        if self.outer is not None:
            self.__exit__(None, None, None)
        self.outer = None
        for hook in self.hooks:
            hook.remove()
        for seen in (self.hooks, self.layers, self.places, self.running, self.called, self.read):
            seen.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if not torch.compiler.is_compiling() and not self.running:
            name = getattr(func, "__name__", "")
            for tensor in _tensors(_used(name, [*args, *(kwargs or {}).values()])):
                place = self._place_of(tensor)
                if place is not None:
                    self._note(name, tensor, place, found)
        return found

    def _place_of(self, tensor: Tensor) -> str | None:
        """The layer of which a tensor is the weight, or a view of it."""
        if id(tensor) not in self.places and isinstance(tensor, nn.Parameter):
            self._find_weights()  # FSDP2 has put whole weights in the place of their shards
            self.places.setdefault(id(tensor), (tensor, None))
        return self.places.get(id(tensor), (tensor, None))[1]

    def _find_weights(self) -> None:
        for place, layer in self.layers.items():
            weight = layer.weight
            self.places[id(weight)] = (weight, place)

    def _note(self, name: str, tensor: Tensor, place: str, found: Any) -> None:
        """A view of a weight is followed, since only its shape may be asked for; else it is read.

        What gives no tensors has asked about the weight: its dtype, its shape.
        """
        for out in _tensors([found]):
            if name in ("__get__", "detach") or out is tensor or _is_view(out, tensor):
                self.places[id(out)] = (out, place)
            else:
                self.read.add(place)

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


def _used(name: str, values: list[Any]) -> list[Any]:
    """The arguments of a function that it computes with, and not only with their shape or dtype."""
    if name.endswith("_like") or name.startswith("new_"):
        return []
    return values[:1] if name == "to" or name.endswith("_as") else values


def _is_view(out: Tensor, tensor: Tensor) -> bool:
    return out._base is not None and (out._base is tensor or out._base is tensor._base)


def _tensors(values: list[Any]) -> Iterator[Tensor]:
    """The tensors among some arguments, and in lists among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))
