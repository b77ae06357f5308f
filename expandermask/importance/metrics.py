"""accuracy(): the metric of Algorithm 1, as a function of the model alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from expandermask.errors import InvalidInputError
from expandermask.importance.batches import (
    batch_list,
    classified,
    device_of,
    on_device,
    require_eval,
)

Metric = Callable[[nn.Module], float]
"""Of a model a number that is larger the better it is, and positive for a useful one."""


def accuracy(batches: Iterable[Any]) -> Metric:
    """A function that gives a model's accuracy on these batches, in [0, 1].

    Parameters
    ----------
    batches : iterable of batches
        Each a mapping for the model's keywords with ``labels`` (rows,), as transformers' collators
        make, or a pair (inputs, labels). They are kept, and gone through at every call.

    Raises
    ------
    InvalidInputError
        No batches; and, when called: a model in training mode, labels that are none of its classes,
        logits that are NaN, no rows at all.

    Examples
    --------
    >>> import torch
    >>> from expandermask.importance import accuracy
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.eye(2))
    >>> accuracy([(torch.eye(2), torch.tensor([0, 0]))])(model)
    0.5
    """
    kept = batch_list(batches)

    @torch.no_grad()
    def metric(model: nn.Module) -> float:
        require_eval(model, "accuracy")
        right, rows = 0, 0
        for batch in kept:
            logits, labels = classified(model, on_device(batch, device_of(model)))
            if bool(logits.isnan().any()):
                raise InvalidInputError("the model's logits of a batch have NaN entries")
            right += int((logits.argmax(dim=1) == labels).sum())
            rows += len(labels)
        if rows == 0:
            raise InvalidInputError("batches have no rows; give at least one labelled example")
        return right / rows

    return metric
