"""merge() and unmerge(): the updates added into the base weights, and taken out bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from expandermask.adapters.attachment import attachment
from expandermask.adapters.layers.masked import AdaptedLayer
from expandermask.adapters.layers.quantized import put_marks_back, take_marks_off, working_dtype
from expandermask.errors import AdapterError
from expandermask.masks.places import other_owners, parameter_owners


def merge(model: nn.Module, *, safe_merge: bool = True, dequantize: bool = False) -> None:
    """Add every active adapter's scale * B A into the base weights, in place.

    The layers then run the base alone. A merged model is left as it is, so merging twice is merging
    once. Merged adapters do not train; `unmerge` first. Extra memory: the overwritten entries,
    about left_degree**2 / r of each weight.

    Parameters
    ----------
    safe_merge : bool
        Refuse where a merged entry would be infinite or NaN.
    dequantize : bool
        Let a full-precision copy stand in for a quantized base while merged, as a plain nn.Linear
        (or nn.Embedding) in the dtype the model computes in; `unmerge` puts the very same quantized
        module back. Without it such a base is refused, since an update cannot be added to rounded
        integers. Known are the weights of torchao, bitsandbytes, optimum-quanto and HQQ. The
        config then says that these modules are not quantized, so that a saved model loads.

    Raises
    ------
    AdapterError
        No adapters are attached, a base weight is not a plain floating-point parameter (quantized,
        parametrized), is tied to another module's, or cannot be dequantized, or see
        ``safe_merge``; the model is then unchanged.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach, merge, unmerge
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> before = model[0].weight.clone()
    >>> _ = attach(model, AdapterConfig(r=8), rng=0)
    >>> _ = torch.nn.init.normal_(model[0].adapters["default"].lora_B)
    >>> merge(model)
    >>> torch.equal(model[0].weight, before)
    False
    >>> unmerge(model)
    >>> torch.equal(model[0].weight, before)
    True
    """
    attached = attachment(model)
    layers = attached.layers_of()
    require_untied(model, layers)
    dtype = working_dtype(model) if dequantize else None
    unmerged = {place: layer for place, layer in layers.items() if not layer.merges}
    try:
        for place, layer in unmerged.items():
            layer.merge_in(attached.active, what=place, safe=safe_merge, dequantize=dtype)
    except BaseException:
        for layer in unmerged.values():
            layer.take_out()
        raise
    if dequantize and unmerged:
        attached.marks = take_marks_off(attached.model)


def unmerge(model: nn.Module) -> None:
    """Give every base weight its own bits back; a model that is not merged is left as it is.

    Raises `AdapterError` if no adapters are attached.
    """
    attached = attachment(model)
    for layer in attached.layers_of().values():
        layer.take_out()
    put_marks_back(attached.model, attached.marks)
    attached.marks = {}


def require_untied(model: nn.Module, layers: Mapping[str, AdaptedLayer]) -> None:
    """Raise `AdapterError` if a layer's weight is tied: merging would change its other places."""
    owners = parameter_owners(model)
    for place, layer in layers.items():
        others = other_owners(owners, place, layer.weight)
        if others:
            raise AdapterError(
                f"the weight of {place!r} is tied to {others[0]!r}, which merging would change "
                "too; untie it first, or leave the adapter unmerged"
            )
