"""merge() and unmerge(): the update added into the base weights, and taken out bit for bit."""

from __future__ import annotations

from torch import nn

from expandermask.adapters.attach import attachment, masked_layers


def merge(model: nn.Module) -> None:
    """Add scale * B A into every base weight, in place; the layers then run the base alone.

    A merged model is left as it is, so merging twice is merging once. Merged adapters do not
    train; `unmerge` first. Extra memory: the overwritten entries, about left_degree**2 / r of each
    weight.

    Raises
    ------
    AdapterError
        No adapters are attached, a base weight is not a plain floating-point parameter (quantized,
        parametrized), or a merged entry would be infinite or NaN; the model is then unchanged.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach, merge, unmerge
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> before = model[0].weight.clone()
    >>> _ = attach(model, AdapterConfig(r=8), rng=0)
    >>> _ = torch.nn.init.normal_(model[0].values_b)
    >>> merge(model)
    >>> torch.equal(model[0].weight, before)
    False
    >>> unmerge(model)
    >>> torch.equal(model[0].weight, before)
    True
    """
    attachment(model)
    unmerged = {n: layer for n, layer in masked_layers(model).items() if layer.backup is None}
    try:
        for name, layer in unmerged.items():
            layer.merge(name)
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
