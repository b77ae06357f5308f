"""Updates added into a weight, keeping the entries they overwrite, and those entries put back.

In floating point (w + u) - u is not w, so nothing is subtracted. An update is itself sparse, and
which entries it touches follows from its masks; only their old values are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.errors import AdapterError

PLAIN_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""float8 is not among them: its numbers go with a scale that is stored elsewhere."""


def plain_weight(base: nn.Module, what: str) -> Tensor:
    """The weight of ``base`` if updates can be added to it; `AdapterError` names ``what`` if not.

    Not to one that is quantized (a tensor subclass, or no floating-point numbers) or parametrized.
    """
    weight = base._parameters.get("weight")
    if not is_plain(weight):
        raise AdapterError(
            f"the weight of {what!r} is not a plain floating-point parameter (quantized or "
            "parametrized?), so nothing can be merged into it; of a quantized base ask for "
            "merge(model, dequantize=True)"
        )
    return weight


def is_plain(weight: Tensor | None) -> TypeGuard[nn.Parameter]:
    """Whether ``weight`` holds its numbers as they are: no subclass, no integers, no float8."""
    return type(weight) is nn.Parameter and weight.dtype in PLAIN_DTYPES


@torch.no_grad()
def merge_into(
    weight: Tensor,
    adapters: Sequence[MaskedAdapter],
    *,
    transposed: bool,
    safe: bool = True,
    what: str = "weight",
) -> Tensor:
    """Add the updates of ``adapters`` to ``weight`` in place; the entries overwritten, for later.

    Parameters
    ----------
    weight : Tensor
        (d, k), or (k, d) if ``transposed`` (Conv1D, embeddings).
    safe : bool
        Refuse, with nothing changed, if a merged entry would be infinite or NaN.
    what : str
        The module's name, for the error.

    Returns
    -------
    Tensor
        In the weight's dtype, what `restore` takes: about left_degree**2 / r of the weight, or all
        of it where the updates touch more than half.

    Raises
    ------
    AdapterError
        See ``safe``.
    """
    update = adapters[0].delta()
    for adapter in adapters[1:]:
        update += adapter.delta()
    if transposed:
        update = update.t()
    touched = _touched(adapters, transposed)
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
def restore(
    weight: Tensor, adapters: Sequence[MaskedAdapter], old: Tensor, *, transposed: bool
) -> None:
    """Put back, bit for bit, what `merge_into` of the same adapters has overwritten."""
    weight[_touched(adapters, transposed)] = old.to(weight.dtype)


def _touched(adapters: Sequence[MaskedAdapter], transposed: bool) -> Any:
    """An index of the entries that any of the updates touches, laid out as the weight is."""
    each = [adapter.touched() for adapter in adapters]
    if any(entries is None for entries in each):
        return ...
    if len(each) == 1:
        rows, columns = each[0]  # type: ignore[misc]
    else:
        flat = [[t.reshape(-1) for t in torch.broadcast_tensors(*both)] for both in each]  # type: ignore[misc]
        rows, columns = (torch.cat(parts) for parts in zip(*flat, strict=True))
    return (columns, rows) if transposed else (rows, columns)
