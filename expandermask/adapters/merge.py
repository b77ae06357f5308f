"""merge() and unmerge(): the updates added into the base weights, and taken out bit for bit."""

from __future__ import annotations

from torch import nn

from expandermask.adapters.attachment import attachment, masked_layers
from expandermask.adapters.layers.dequantize import working_dtype


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
        integers. Known are the weights of torchao, bitsandbytes, optimum-quanto and HQQ.

    Raises
    ------
    AdapterError
        No adapters are attached, a base weight is not a plain floating-point parameter (quantized,
        parametrized) or cannot be dequantized, or see ``safe_merge``; the model is then unchanged.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach, merge, unmerge
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> before = model[0].weight.clone()
    >>> _ = attach(model, AdapterConfig(r=8), rng=0)
    >>> _ = torch.nn.init.normal_(model[0].adapters["default"].values_b)
    >>> merge(model)
    >>> torch.equal(model[0].weight, before)
    False
    >>> unmerge(model)
    >>> torch.equal(model[0].weight, before)
    True
    """
    attachment(model)
    dtype = working_dtype(model) if dequantize else None
    unmerged = {n: layer for n, layer in masked_layers(model).items() if not layer.merged}
    try:
        for name, layer in unmerged.items():
            layer.merge(name, safe=safe_merge, dequantize=dtype)
    except BaseException:
        for layer in unmerged.values():
            layer.unmerge()
        raise


def unmerge(model: nn.Module) -> None:
    """Give every base weight its own bits back; a model that is not merged is left as it is.

    Raises `AdapterError` if no adapters are attached.
    """
    attachment(model)
    for layer in masked_layers(model).values():
        layer.unmerge()
