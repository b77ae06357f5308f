"""Several adapters in one batch: every row of the inputs is computed with an adapter of its own.

PEFT's models take ``adapter_names``, one name a row. Hooks hand them to the layers, and a layer
computes all rows of one adapter together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from expandermask.adapters.attachment import attachment
from expandermask.adapters.layers.compute import adapted_embedding, adapted_linear
from expandermask.adapters.layers.masked import AdaptedLayer
from expandermask.errors import AdapterError

_BASE = "__base__"
"""PEFT's name for rows that no adapter changes."""


@contextmanager
def adapters_by_row(model: nn.Module, names: Sequence[str], num_beams: int) -> Iterator[None]:
    """Within the block, row i of every batch is computed with the adapter ``names[i]``.

    Beam search repeats each row ``num_beams`` times, though not in an encoder. Raises
    `AdapterError` for a model in training mode and for an unknown name.
    """
    if model.training:
        raise AdapterError(
            "Cannot pass `adapter_names` when the model is in training mode; call model.eval() "
            "first"
        )
    known = list(attachment(model).plans)
    unknown = sorted(set(names) - {_BASE, *known})
    if unknown:
        raise AdapterError(
            f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}; there are {known}"
        )
    in_encoder = _encoder_modules(model)
    hooks = []
    try:
        for module in model.modules():
            if isinstance(module, AdaptedLayer | AuxiliaryTrainingWrapper):
                times = 1 if module in in_encoder else num_beams
                repeated = [name for name in names for _ in range(times)]
                hook = partial(_hand_over, repeated)
                hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in hooks:
            handle.remove()


def require_rows(layer: AdaptedLayer, x: Tensor, names: Sequence[str]) -> None:
    """Raise `AdapterError` unless each row of ``x`` has a name and no adapter is merged."""
    if len(x) != len(names):
        raise AdapterError(
            "Length of `adapter_names` should be the same as the number of inputs, but got "
            f"{len(names)} and {len(x)} respectively."
        )
    if layer.merges:
        raise AdapterError(
            "Cannot pass `adapter_names` when there are merged adapters, please call "
            "`unmerge_adapter` first."
        )


def add_updates_by_row(layer: AdaptedLayer, out: Tensor, x: Tensor, names: Sequence[str]) -> Tensor:
    """``out``, the base's output for ``x``, plus in each row the update of the adapter named."""
    compute = adapted_embedding if layer.is_embedding else adapted_linear
    total = out.clone()
    for name in dict.fromkeys(names):
        rows = [i for i, other in enumerate(names) if other == name]
        adapters = [layer.adapter(own) for own in layer.having([name])]
        base = _Computed(layer.base, out[rows])
        total[rows] = compute(base, adapters, x[rows]).view(base.out.shape)
    return total


class _Computed(nn.Module):
    """Stands for a base whose output is known, so that it is computed once for the whole batch."""

    def __init__(self, base: nn.Module, out: Tensor) -> None:
        super().__init__()
        self.padding_idx = getattr(base, "padding_idx", None)
        self.embed_scale = getattr(base, "embed_scale", None)
        self.out = out

    def forward(self, _: Tensor) -> Tensor:
        return self.out.reshape(-1, self.out.shape[-1])


def _hand_over(
    names: list[str], module: nn.Module, args: Any, kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """A hook that adds the names to a module's arguments."""
    return args, {**kwargs, "adapter_names": names}


def _encoder_modules(model: Any) -> set[nn.Module]:
    """The modules of the encoder, if the model has one beside a decoder."""
    if not hasattr(model, "get_encoder"):
        return set()
    encoder: nn.Module = model.get_encoder()
    return set() if encoder is model else set(encoder.modules())
