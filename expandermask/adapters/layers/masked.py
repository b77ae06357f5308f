"""AdaptedLayer: a frozen module with named masked adapters beside it, whoever holds them.

`attach` puts a `MaskedLinear` or `MaskedEmbedding` around a module, and PEFT's tuner a
`expandermask.peft.XoraLayer`. Both are adapted layers: they compute, merge and take out again in
the same way, and everything that works on adapters works on both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass
class Merge:
    """One merge into a layer's base, and how to undo it."""

    names: tuple[str, ...]
    """The adapters that were merged at once."""
    old: Tensor
    """The entries of the base's weight under their updates."""
    quantized: nn.Module | None
    """The quantized base that a plain copy stands in for."""


class AdaptedLayer(nn.Module):
    """A frozen ``base`` module, the ``adapters`` on it by name, and which of them run.

    The base is called, never read, unless an adapter is merged into it.
    """

    is_masked_layer = True
    """By this `expandermask.masks.places` sees through the layer to its base."""
    base_name = "base"
    """What the child that is adapted is called."""

    base: nn.Module
    adapters: nn.ModuleDict
    active: tuple[str, ...]
    """Names of the adapters that run, in this order."""

    def __init__(self) -> None:
        super().__init__()
        self.merges: list[Merge] = []
        """The merges into the base, the last one to be undone first."""

    def adapter(self, name: str) -> MaskedAdapter:
        """One adapter by its name."""
        found = self.adapters[name]
        assert isinstance(found, MaskedAdapter)
        return found

    def having(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of these names that this layer has an adapter of."""
        return tuple(name for name in names if name in self.adapters)

    def running(self) -> list[MaskedAdapter]:
        """The adapters whose update is added to the base's output: active, and none is merged."""
        if self.merges:
            return []
        return [self.adapter(name) for name in self.having(self.active)]

    def merged_names(self) -> tuple[str, ...]:
        """Names of the adapters that are merged into the base's weight."""
        return tuple(name for merge in self.merges for name in merge.names)

    def merge_in(
        self,
        names: Sequence[str],
        *,
        what: str,
        safe: bool = True,
        dequantize: torch.dtype | None = None,
    ) -> None:
        """Add the updates of some adapters to the base's weight.

        A quantized base is refused, or stood in for by a plain copy of dtype ``dequantize``;
        ``what`` is the module's name, for errors.
        """
        names = self.having(names)
        if not names:
            return
        if is_sharded(self.weight):
            raise AdapterError(
                f"the weight of {what!r} is sharded over several ranks, and an update is merged "
                "into whole weights; call save_adapter, then load_adapter and merge in one process"
            )
        base = self.base
        plain = base if dequantize is None else full_precision(base, what, dequantize)
        old = merge_into(
            plain_weight(plain, what),
            [self.adapter(name) for name in names],
            transposed=self.is_transposed,
            safe=safe,
            what=what,
        )
        self.merges.append(Merge(names, old, None if plain is base else base))
        if plain is not base:
            setattr(self, self.base_name, plain)

    def take_out(self, down_to: int = 0) -> None:
        """Undo merges, the last one first, until ``down_to`` are left.

        The base's weight gets its own bits back.
        """
        while len(self.merges) > down_to:
            merge = self.merges.pop()
            if merge.quantized is not None:
                setattr(self, self.base_name, merge.quantized)
                continue
            weight = self.weight
            restore(
                weight,
                [self.adapter(name) for name in merge.names],
                merge.old.to(weight.device),
                transposed=self.is_transposed,
            )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Take a quantized base along, though it is not registered, to where the model goes."""
        super()._apply(fn, recurse)
        for merge in self.merges:
            if merge.quantized is not None:
                merge.quantized._apply(fn, recurse)
        return self

    @property
    def is_embedding(self) -> bool:
        """Whether the base looks its inputs up by number."""
        return isinstance(self.base, nn.Embedding)

    @property
    def is_transposed(self) -> bool:
        """Whether the base stores its weight as (k, d): Conv1D, and a table of k rows."""
        return self.is_embedding or is_conv1d(self.base)

    # Model code sometimes reads this from its layers (to choose a dtype, for example).

    @property
    def weight(self) -> Tensor:
        """The base module's weight."""
        return weight_of(self.base)


class MaskedLayer(AdaptedLayer):
    """What `attach` puts around a module.

    Its state dict is read with the base's tensors under their names in the layer or under those
    without it, as a checkpoint of the model itself has them.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.active = ()

    @property
    def merged(self) -> tuple[str, ...]:
        """Names of the adapters that are merged into the base's weight."""
        return self.merged_names()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **options: Any
    ) -> None:
        """Take the base's tensors by either name, unless updates are merged into them.

        These would be gone, and `unmerge` would then put foreign entries back.
        """
        own = [key for key in state_dict if key.startswith(prefix)]
        for key in own:
            name = key.removeprefix(prefix)
            if name.partition(".")[0] not in self._modules:
                state_dict[f"{prefix}base.{name}"] = state_dict.pop(key)
        if self.merges and f"{prefix}base.weight" in state_dict:
            raise AdapterError(
                f"adapters {list(self.merged)} are merged into {prefix.rstrip('.')!r}, whose base "
                "weight the state dict would replace; call unmerge(model) first"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest, **options)

    def extra_repr(self) -> str:
        """What `print` shows beside the base module."""
        merged = f", merged={list(self.merged)}" if self.merges else ""
        return f"active={list(self.active)}{merged}"


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
