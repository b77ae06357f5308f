"""Batches of labelled data, and what a model makes of them: for gradients and for metrics.

A batch is a mapping that the model is called with by keywords, as transformers' collators make it
(``labels`` among them), or a pair (inputs, labels).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from expandermask.errors import InvalidInputError

IGNORED = -100
"""The label that losses of tokens leave out."""


def batch_list(batches: Iterable[Any]) -> list[Any]:
    """All batches at once, since they are gone through many times; at least one."""
    if isinstance(batches, Mapping | str) or not isinstance(batches, Iterable):
        raise InvalidInputError(
            f"batches must be an iterable of batches, got {type(batches).__name__}; put a single "
            "batch in a list"
        )
    found = list(batches)
    if not found:
        raise InvalidInputError("batches is empty; give at least one batch")
    return found


def on_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: on_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return [on_device(value, device) for value in batch]
    return batch


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def size_of(batch: Any) -> int:
    """Rows of a batch, the first dimension of its first tensor; labelled tokens, if it has such.

    A mean loss over the tokens of a batch is one over those whose label is not -100.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if isinstance(labels, Tensor) and labels.dim() > 1 and not labels.is_floating_point():
        return int((labels != IGNORED).sum())
    tensor = _first_tensor(batch)
    if tensor is None:
        kind = type(batch).__name__
        raise InvalidInputError(f"a batch holds no tensor to count the rows of: {kind}")
    return len(tensor)


def _first_tensor(batch: Any) -> Tensor | None:
    """The first tensor with rows in a batch, however deep."""
    if isinstance(batch, Tensor):
        return batch if batch.dim() else None
    if not isinstance(batch, Mapping | tuple | list):
        return None
    parts = batch.values() if isinstance(batch, Mapping) else batch
    found = (_first_tensor(part) for part in parts)
    return next((tensor for tensor in found if tensor is not None), None)


def split_labels(batch: Any) -> tuple[Any, Tensor]:
    """A batch's inputs and its labels."""
    if isinstance(batch, Mapping):
        labels = batch.get("labels")
        if not isinstance(labels, Tensor):
            raise InvalidInputError(f"a batch needs a tensor 'labels'; it has {sorted(batch)}")
        return {key: value for key, value in batch.items() if key != "labels"}, labels
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    raise InvalidInputError(
        "a batch must be a mapping with 'labels' or a pair (inputs, labels), got "
        f"{type(batch).__name__}"
    )


def logits_of(model: nn.Module, inputs: Any) -> Tensor:
    """The model's logits for one batch of inputs."""
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise InvalidInputError(
            f"the model returned {type(output).__name__}, which has no tensor of logits"
        )
    return logits


def classified(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Logits (rows, classes) and integer labels (rows,) of a batch, each one of the classes."""
    inputs, labels = split_labels(batch)
    logits = logits_of(model, inputs)
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise InvalidInputError(
            "classification needs logits (rows, classes) and integer labels (rows,), got shapes "
            f"{tuple(logits.shape)} and {tuple(labels.shape)} of {labels.dtype}"
        )
    if logits.shape[1] == 1:
        raise InvalidInputError(
            "the model has a single output, which is a number and no choice of classes; give "
            f"labels as floats and a loss or metric of numbers, got labels of {labels.dtype}"
        )
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= logits.shape[1]:
        raise InvalidInputError(
            f"labels must lie in [0, {logits.shape[1]}), the model's classes, got {low} to {high}"
        )
    return logits, labels


def default_loss(model: nn.Module, batch: Any) -> Tensor:
    """Mean loss of a batch: the model's own where it has one, else cross-entropy of the classes.

    A transformers model has one for a mapping, of classes or not; labels of classes are checked.
    """
    if isinstance(batch, Mapping) and hasattr(model, "config"):
        _, labels = split_labels(batch)
        loss = None if _is_one_class_a_row(labels) else _own_loss(model, batch, labels)
        if isinstance(loss, Tensor):
            return loss
    logits, labels = classified(model, batch)
    return functional.cross_entropy(logits, labels)


def _own_loss(model: nn.Module, batch: Mapping[str, Any], labels: Tensor) -> Any:
    try:
        return getattr(model(**batch), "loss", None)
    except IndexError as error:  # of cross-entropy, or of an embedding
        span = f"{labels.min().item()} to {labels.max().item()}" if labels.numel() else "none"
        raise InvalidInputError(
            f"the model cannot take a batch ({error}); its labels are {span}, and those of tokens "
            f"must be the model's classes or {IGNORED}"
        ) from None


def _is_one_class_a_row(labels: Tensor) -> bool:
    """Whether labels are classes, one for a row, not numbers or tokens."""
    return labels.dim() == 1 and not labels.is_floating_point()


def require_eval(model: nn.Module, what: str) -> None:
    """Refuse a model in training mode: dropout would make every answer another."""
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    training = next((name for name, module in model.named_modules() if module.training), None)
    if training is not None:
        which = f"its submodule {training!r}" if training else "it"
        raise InvalidInputError(
            f"{what} needs a model in evaluation mode, and {which} is training (with dropout every "
            "answer would be another); call model.eval()"
        )
