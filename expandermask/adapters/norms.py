"""residual_norms(): how large each adapter's update is."""

from __future__ import annotations

import math

import torch
from torch import nn

from expandermask.adapters.attachment import attachment, masked_layers


@torch.no_grad()
def residual_norms(model: nn.Module, *, name: str | None = None) -> dict[str, float]:
    """The Frobenius norm of every module's update, scale * gamma * B diag(g) A.

    Parameters
    ----------
    model : torch.nn.Module
        With adapters attached.
    name : str, optional
        Which of them, if several are active.

    Returns
    -------
    dict of str to float
        By module, in the model's order.

    Raises
    ------
    AdapterError
        A model without adapters, or without one of that name.

    Notes
    -----
    ||B A||^2 is the sum of (B' B) * (A A') entry by entry, so the update itself is never made: O((d
    + k) r^2) for each module, in float64.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach, residual_norms
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> _ = attach(model, AdapterConfig(r=8), rng=0)
    >>> residual_norms(model)
    {'0': 0.0}
    """
    name, _ = attachment(model).adapter(name)
    norms = {}
    for place, layer in masked_layers(model, name).items():
        adapter = layer.adapter(name)
        a, b = (factor.double() for factor in adapter.factors())
        square = float(((b.t() @ b) * (a @ a.t())).sum())
        norms[place] = adapter.scale * math.sqrt(max(square, 0.0))
    return norms
