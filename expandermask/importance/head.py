"""fit_head(): give a new classification head values, so that a metric means something."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expandermask.errors import AdapterError, InvalidInputError, check_real
from expandermask.importance.batches import (
    batch_list,
    classified,
    device_of,
    on_device,
    require_eval,
)
from expandermask.masks.places import bare_modules

_MAX_ITERATIONS = 2000
_HEADS = ("classifier", "score", "head", "fc")


@torch.no_grad()
def fit_head(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    head: str | None = None,
    penalty: float = 1e-2,
) -> None:
    """Fit the model's last linear layer to labelled data, all else frozen, in place.

    Multinomial logistic regression on what goes into the layer, standardised: mean cross-entropy
    plus penalty / 2 times the squared weights, solved by L-BFGS. A head whose values are random,
    as transformers' are before fine-tuning, leaves every metric at chance, and `derive_sparsity`
    would find that nothing is needed.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    batches : iterable of batches
        Labelled, as for `accuracy`.
    head : str, optional
        Name of the linear layer that gives the logits; without it "classifier", "score", "head" or
        "fc".
    penalty : float
        On the weights for standardised inputs, at least 0; the bias has none.

    Raises
    ------
    AdapterError
        No such linear layer.
    InvalidInputError
        No batches or rows, a model in training mode, labels that are none of the classes, features
        that are not finite or not one row for each label, or a fit that did not converge. The head
        is then as before.

    Examples
    --------
    >>> import torch
    >>> from expandermask.importance import accuracy, fit_head
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential()
    >>> model.add_module("body", torch.nn.Linear(4, 8))
    >>> model.add_module("head", torch.nn.Linear(8, 2))
    >>> x = torch.randn(40, 4)
    >>> data = [(x, (x[:, 0] > 0).long())]
    >>> fit_head(model.eval(), data)
    >>> accuracy(data)(model) > 0.9
    True
    """
    require_eval(model, "fit_head")
    penalty = check_real("penalty", penalty)
    if not 0 <= penalty < float("inf"):
        raise InvalidInputError(f"penalty must be finite and at least 0, got {penalty!r}")
    layer = _head(model, head)
    features, labels = _features(model, layer, batch_list(batches))
    weight, bias = _fit(features, labels, layer.out_features, penalty)
    layer.weight.copy_(torch.from_numpy(weight))
    if layer.bias is not None:
        layer.bias.copy_(torch.from_numpy(bias))


def _head(model: nn.Module, name: str | None) -> nn.Linear:
    modules = dict(bare_modules(model))
    names = _HEADS if name is None else (name,)
    found = next((modules[n] for n in names if isinstance(modules.get(n), nn.Linear)), None)
    if not isinstance(found, nn.Linear):
        raise AdapterError(
            f"head={name!r}: {type(model).__name__} has no nn.Linear called "
            f"{' or '.join(map(repr, names))}; name the layer that gives its logits"
        )
    return found


def _features(
    model: nn.Module, layer: nn.Linear, batches: list[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What goes into the head, and the labels."""
    inputs: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append((args[0] if args else kwargs["input"]).detach())

    handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
    labels = []
    try:
        for batch in batches:
            labels.append(classified(model, on_device(batch, device_of(model)))[1])
    finally:
        handle.remove()
    y = torch.cat(labels).cpu().numpy()
    if any(x.dim() != 2 for x in inputs) or sum(map(len, inputs)) != len(y):
        raise InvalidInputError(
            "the head must be given one row of features for each label; it was given shapes "
            f"{[tuple(x.shape) for x in inputs[:3]]} for {len(y)} labels"
        )
    features = torch.cat(inputs).double()
    if not len(y) or not bool(features.isfinite().all()):
        what = "NaN or infinite features" if len(y) else "no rows at all"
        raise InvalidInputError(f"the head is given {what} by these batches")
    return features.cpu().numpy(), y


def _fit(
    x: NDArray[np.float64], labels: NDArray[np.int64], classes: int, penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (classes, features) and biases for features as they are."""
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    center, width = x.mean(axis=0), x.std(axis=0)
    width = np.where(width > 1e-12 * np.abs(center), width, 1.0)  # else it is but rounding
    z = np.column_stack([(x - center) / width, np.ones(len(x))])
    wanted = np.eye(classes)[labels]

    def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w = point.reshape(classes, -1)
        logs = log_softmax(z @ w.T, axis=1)
        slope = (np.exp(logs) - wanted).T @ z / len(z)
        slope[:, :-1] += penalty * w[:, :-1]
        loss = -(logs * wanted).sum() / len(z) + penalty / 2 * (w[:, :-1] ** 2).sum()
        return float(loss), slope.ravel()

    start = np.zeros(classes * z.shape[1])
    options = {"maxiter": _MAX_ITERATIONS}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    if not found.success:
        raise InvalidInputError(
            f"the head did not converge ({found.message}); with penalty=0 classes that can be told "
            "apart exactly have no best head, so raise it"
        )
    w = found.x.reshape(classes, -1)
    weight = w[:, :-1] / width
    return weight, w[:, -1] - weight @ center
