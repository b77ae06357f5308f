"""AdaptedLayer: a frozen module with named masked adapters beside it, whoever holds them.

`attach` puts a `MaskedLinear` or `MaskedEmbedding` around a module, and PEFT's tuner a
`expandermask.peft.XoraLayer`. Both are adapted layers: they compute, merge and take out again in
the same way, and everything that works on adapters works on both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import torch
from torch import Tensor, nn

from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.layers.compute import adapted_embedding, adapted_linear
from expandermask.adapters.layers.quantized import full_precision, is_plain, weight_of
from expandermask.adapters.training.distributed import is_sharded
from expandermask.errors import AdapterError
from expandermask.masks.targets import is_conv1d


@dataclass
class Merge:
    """One merge into a layer's base, and how to undo it.

    In floating point (w + u) - u is not w, so nothing is subtracted. An update is itself sparse,
    and which entries it touches follows from its masks; only their old values are kept.
    """

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
    looked_up = False
    """Whether ``weight`` was asked for since `expandermask.adapters.training.first_pass` began."""
    called = True
    """Whether the layer was called in that pass. In any other pass nothing is set, since programs
    that are compiled or exported are to change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.merges: list[Merge] = []
        """The merges into the base, the last one to be undone first."""

    def forward(self, x: Tensor) -> Tensor:
        """The base's output for ``x``, features (..., k) or numbers (...), plus the updates."""
        return self.updated(x, self.running())

    def updated(self, x: Tensor, adapters: Sequence[MaskedAdapter]) -> Tensor:
        """The base's output for ``x`` plus the updates of these ``adapters``."""
        compute = adapted_embedding if self.is_embedding else adapted_linear
        return compute(getattr(self, self.base_name), adapters, x)

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
        if not self.called:
            self.called = True
        if self.merges:
            self._warn_of_training()
            return []
        return [self.adapter(name) for name in self.having(self.active)]

    def _warn_of_training(self) -> None:
        """Say that merged adapters learn nothing, where they seem to be trained."""
        if torch.compiler.is_compiling() or not self.training or not torch.is_grad_enabled():
            return
        if any(p.requires_grad for name in self.merged for p in self.adapter(name).parameters()):
            warnings.warn(
                f"the adapters {list(self.merged)} are merged, so this forward pass in training "
                "mode gives them no gradients; call unmerge first to train them",
                stacklevel=2,
            )

    @property
    def merged(self) -> tuple[str, ...]:
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
        weight = plain._parameters.get("weight")
        if not is_plain(weight):
            raise AdapterError(
                f"the weight of {what!r} is not a plain floating-point parameter (quantized or "
                "parametrized?), so nothing can be merged into it; of a quantized base call "
                "expandermask.adapters.merge(model, dequantize=True)"
            )
        old = self._add(weight, names, safe, what)
        self.merges.append(Merge(names, old, None if plain is base else base))
        if plain is not base:
            setattr(self, self.base_name, plain)

    @torch.no_grad()
    def _add(self, weight: Tensor, names: Sequence[str], safe: bool, what: str) -> Tensor:
        """Add updates to ``weight`` in place, or leave it as it is; the entries overwritten.

        These are about left_degree**2 / r of the weight, or all where more than half are touched.
        """
        update = reduce(torch.add, [self.adapter(name).delta() for name in names])
        if self.is_transposed:
            update = update.t()
        touched = self._touched(names)
        old = weight[touched].clone()
        new = (old.to(update.dtype) + update[touched]).to(weight.dtype)
        if safe and not new.isfinite().all():
            raise AdapterError(
                f"merging into {what!r} would give infinite or NaN weights in {weight.dtype}; the "
                "model is unchanged"
            )
        try:
            weight[touched] = new
        except BaseException:  # an interrupted write is undone
            weight[touched] = old
            raise
        return old

    @torch.no_grad()
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
            weight[self._touched(merge.names)] = merge.old.to(weight.device, weight.dtype)

    def _touched(self, names: Sequence[str]) -> Any:
        """An index of the weight's entries that any of these updates touches."""
        each = [self.adapter(name).touched() for name in names]
        if any(entries is None for entries in each):
            return ...
        pairs = [torch.broadcast_tensors(*entries) for entries in each if entries is not None]
        rows = torch.cat([rows.reshape(-1) for rows, _ in pairs])
        columns = torch.cat([columns.reshape(-1) for _, columns in pairs])
        return (columns, rows) if self.is_transposed else (rows, columns)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Take a quantized base along, though it is not registered, to where the model goes."""
        super()._apply(fn, recurse)
        for merge in self.merges:
            if merge.quantized is not None:
                merge.quantized._apply(fn, recurse)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **options: Any
    ) -> None:
        """Refuse a base weight while updates are merged into the one there is.

        They would be gone, and `unmerge` would then put foreign entries back.
        """
        if self.merges and f"{prefix}{self.base_name}.weight" in state_dict:
            raise AdapterError(
                f"adapters {list(self.merged)} are merged into {prefix.rstrip('.')!r}, whose base "
                "weight the state dict would replace; call unmerge(model) first"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest, **options)

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
        if not torch.compiler.is_compiling():
            self.looked_up = True
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

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **options: Any
    ) -> None:
        """Take the base's tensors by either name."""
        own = [key for key in state_dict if key.startswith(prefix)]
        for key in own:
            name = key.removeprefix(prefix)
            if name.partition(".")[0] not in self._modules:
                state_dict[f"{prefix}base.{name}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest, **options)

    def extra_repr(self) -> str:
        """What `print` shows beside the base module."""
        merged = f", merged={list(self.merged)}" if self.merges else ""
        return f"active={list(self.active)}{merged}"


class MaskedLinear(MaskedLayer):
    """y = base(x) + sum over the running adapters of scale * B A dropout(x).

    ``base`` is an nn.Linear, a quantized linear layer or transformers' Conv1D, kept as it is.
    """

    @property
    def bias(self) -> Tensor | None:
        """The base module's bias."""
        bias = getattr(self.base, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    @property
    def in_features(self) -> int:
        """k, the number of input features."""
        return self.adapter(next(iter(self.adapters))).shape[1]

    @property
    def out_features(self) -> int:
        """d, the number of output features."""
        return self.adapter(next(iter(self.adapters))).shape[0]


class MaskedEmbedding(MaskedLayer):
    """Rows of a table, base(ids), plus the same rows of every running adapter's (scale * B A)'."""


def masked_layer(base: nn.Module) -> MaskedLayer:
    """The layer for this kind of module, still without adapters."""
    kind = MaskedEmbedding if isinstance(base, nn.Embedding) else MaskedLinear
    return kind(base).train(base.training)
