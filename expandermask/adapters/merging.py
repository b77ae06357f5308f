"""Updates added into a weight, keeping the entries they overwrite, and those entries put back.

In floating point (w + u) - u is not w, so nothing is subtracted. An update is itself sparse, and
which entries it touches follows from its masks; only their old values are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from expandermask.adapters.adapter import MaskedAdapter
from expandermask.errors import AdapterError


def plain_weight(base: nn.Module, what: str) -> Tensor:
    """The weight of ``base`` if updates can be added to it; `AdapterError` names ``what`` if not.

    Not to one that is quantized (a tensor subclass, or no floating-point numbers) or parametrized.
    """
    weight = base._parameters.get("weight")
    if type(weight) is not nn.Parameter or not weight.is_floating_point():
        raise AdapterError(
            f"the weight of {what!r} is not a plain floating-point parameter (quantized or "
            "parametrized?), so nothing can be merged into it; of a quantized base ask for "
            "merge(model, dequantize=True)"
        )
    return weight


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
        One-dimensional, in the weight's dtype: what `restore` takes. About left_degree**2 / r of
        the weight.

    Raises
    ------
    AdapterError
        See ``safe``.
    """
    update, touched = _added_up(adapters, transposed)
    old = weight[touched]
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
    touched = _touched(adapters)
    weight[touched.t() if transposed else touched] = old.to(weight.dtype)


def _added_up(adapters: Sequence[MaskedAdapter], transposed: bool) -> tuple[Tensor, Tensor]:
    """The sum of the updates, and the entries any of them touches, laid out as the weight is."""
    update = adapters[0].delta()
    for adapter in adapters[1:]:
        update += adapter.delta()
    touched = _touched(adapters)
    return (update.t(), touched.t()) if transposed else (update, touched)


def _touched(adapters: Sequence[MaskedAdapter]) -> Tensor:
    touched = adapters[0].touched()
    for adapter in adapters[1:]:
        touched |= adapter.touched()
    return touched
