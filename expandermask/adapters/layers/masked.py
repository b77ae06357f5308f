"""MaskedLinear and MaskedEmbedding: a frozen module with named masked adapters beside it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn

from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.layers.compute import adapted_embedding, adapted_linear
from expandermask.adapters.layers.dequantize import full_precision
from expandermask.adapters.layers.merging import merge_into, plain_weight, restore
from expandermask.adapters.training.distributed import is_sharded
from expandermask.errors import AdapterError
from expandermask.masks.targets import is_conv1d


class MaskedLayer(nn.Module):
    """A frozen ``base`` module, the adapters on it by name, and which of them run.

    Made by `attach`. The base is called, never read, unless an adapter is merged into it.
    """

    is_masked_layer = True
    """By this `expandermask.masks.targets` sees through the layer to its base."""

    backup: Tensor | None
    """The base weight's entries under the merged updates, or None when not merged."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        """Names of the adapters that run, in this order."""
        self.merged: tuple[str, ...] = ()
        """Names of the adapters that are merged into the base's weight."""
        self.original: nn.Module | None = None
        """The quantized base that a dequantized copy stands in for while merged."""
        self.register_buffer("backup", None, persistent=False)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **options: Any
    ) -> None:
        """Refuse a base weight while updates are merged into the one there is.

        They would be gone, and `unmerge` would then put foreign entries back.
        """
        if self.merged and f"{prefix}base.weight" in state_dict:
            raise AdapterError(
                f"adapters {list(self.merged)} are merged into {prefix.rstrip('.')!r}, whose base "
                "weight the state dict would replace; call unmerge(model) first"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest, **options)

    def running(self) -> list[MaskedAdapter]:
        """The adapters whose update is added to the base's output: active and not merged."""
        if self.merged:
            return []
        return [self.adapter(name) for name in self.active if name in self.adapters]

    def adapter(self, name: str) -> MaskedAdapter:
        """One adapter by its name."""
        found = self.adapters[name]
        assert isinstance(found, MaskedAdapter)
        return found

    def merge(self, name: str, *, safe: bool = True, dequantize: torch.dtype | None = None) -> None:
        """Add the active updates to the base's weight; ``name`` is the module's, for errors.

        A quantized base is refused, or stood in for by a plain copy of dtype ``dequantize``.
        """
        chosen = tuple(n for n in self.active if n in self.adapters)
        if self.merged or not chosen:
            return
        if is_sharded(self.weight):
            raise AdapterError(
                f"the weight of {name!r} is sharded over several ranks, and an update is merged "
                "into whole weights; call save_adapter, then load_adapter and merge in one process"
            )
        if dequantize is not None:
            self._dequantize(name, dequantize)
        weight = plain_weight(self.base, name)
        adapters = [self.adapter(n) for n in chosen]
        try:
            self.backup = merge_into(
                weight, adapters, transposed=self.is_transposed, safe=safe, what=name
            )
        except BaseException:
            self._requantize()
            raise
        self.merged = chosen

    def unmerge(self) -> None:
        """Put the base weight's own entries back, if updates are merged into it."""
        if not self.merged:
            return
        if self.original is None:
            assert self.backup is not None
            adapters = [self.adapter(n) for n in self.merged]
            restore(self.weight, adapters, self.backup, transposed=self.is_transposed)
        self._requantize()
        self.backup, self.merged = None, ()

    def _dequantize(self, name: str, dtype: torch.dtype) -> None:
        """Let a plain copy of a quantized base stand in for it."""
        plain = full_precision(self.base, name, dtype)
        if plain is not self.base:
            self.__dict__["original"] = self.base  # not registered: it is no part of the model now
            self.base = plain

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Take a quantized base along, though it is not registered, to where the model goes."""
        super()._apply(fn, recurse)
        if self.original is not None:
            self.original._apply(fn, recurse)
        return self

    def _requantize(self) -> None:
        if self.original is not None:
            self.base = self.original
            self.__dict__["original"] = None

    @property
    def is_transposed(self) -> bool:
        """Whether the base stores its weight as (k, d): Conv1D, and a table of k rows."""
        return is_conv1d(self.base) or isinstance(self.base, nn.Embedding)

    # Model code sometimes reads these from its layers (to choose a dtype, for example).

    @property
    def weight(self) -> Tensor:
        """The base module's weight."""
        return weight_of(self.base)

    def extra_repr(self) -> str:
        """What `print` shows beside the base module."""
        return f"active={list(self.active)}" + (
            f", merged={list(self.merged)}" if self.merged else ""
        )


class MaskedLinear(MaskedLayer):
    """y = base(x) + sum over the running adapters of scale * B A dropout(x).

    ``base`` is an nn.Linear, a quantized linear layer or transformers' Conv1D, kept as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The base's output for ``x`` (..., k) plus the masked updates: (..., d)."""
        return adapted_linear(self.base, self.running(), x)

    @property
    def bias(self) -> Tensor | None:
        """The base module's bias."""
        bias = getattr(self.base, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    @property
    def in_features(self) -> int:
        """k, the number of input features."""
        return self._shape()[1]

    @property
    def out_features(self) -> int:
        """d, the number of output features."""
        return self._shape()[0]

    def _shape(self) -> tuple[int, int]:
        return self.adapter(next(iter(self.adapters))).shape


class MaskedEmbedding(MaskedLayer):
    """Rows of a table, base(ids), plus the same rows of every running adapter's (scale * B A)'."""

    def forward(self, ids: Tensor) -> Tensor:
        """The base's rows for the numbers ``ids`` (...) plus the masked updates: (..., d)."""
        return adapted_embedding(self.base, self.running(), ids)


def masked_layer(base: nn.Module) -> MaskedLayer:
    """The layer for this kind of module, still without adapters."""
    kind = MaskedEmbedding if isinstance(base, nn.Embedding) else MaskedLinear
    return kind(base).train(base.training)


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a linear module or embedding, maybe packed: for device, dtype and identity.

    Some quantized modules call it otherwise; theirs is the first tensor they have.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        weight = next(chain(module.parameters(recurse=False), module.buffers(recurse=False)))
    assert isinstance(weight, Tensor)
    return weight
