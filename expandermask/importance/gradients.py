"""snip_scores() and imp_scores(): rows and columns by the loss's gradient on labelled data.

SNIP ("SNIP: single-shot network pruning based on connection sensitivity", 2019) as Partial-LoRA
uses it scores an entry of a weight by |dL/dW|, IMP ("Importance estimation for neural network
pruning", 2019) by |W * dL/dW|. The scores of a row or column are added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from expandermask.errors import InvalidInputError, check_integer
from expandermask.importance.batches import (
    batch_list,
    default_loss,
    device_of,
    on_device,
    require_eval,
    size_of,
)
from expandermask.importance.weights import oriented, target_weights
from expandermask.masks.places import bare_modules
from expandermask.masks.scored import Scores

Loss = Callable[[nn.Module, Any], Tensor]
"""Of a model and a batch, its mean loss."""


def snip_scores(
    model: nn.Module,
    batches: Iterable[Any],
    target_modules: str | Iterable[str] = "all-linear",
    *,
    loss: Loss = default_loss,
    modules_per_pass: int = 1,
    progress: bool = False,
) -> dict[str, Scores]:
    """The summed ``|dL/dW|`` of every row and column of every target module's weight.

    L is the mean loss over all rows of all batches, so cutting them differently changes nothing.
    Where labels are one for each token, it is the mean over all tokens whose label is not -100.
    (A causal model's own loss leaves out the first token of each row besides, so there a cut into
    batches of unlike lengths weighs them a little differently.)

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode, of transformers or plain torch; nothing on it is changed.
    batches : iterable of batches
        Labelled data, a few examples of each class: mappings of the model's keywords with
        ``labels``, or pairs (inputs, labels). Kept in memory, since they are gone through often.
    target_modules : str or iterable of str
        As in `find_targets`.
    loss : callable, optional
        Of the model and a batch, its mean loss; without it the model's own, or cross-entropy.
    modules_per_pass : int
        How many modules' gradients are in memory at once. With 1 the data are gone through once for
        each module, with all of them only once; the scores are the same. A single batch takes one
        pass, with one gradient in memory, whatever is given.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of str to Scores
        In the model's order, float64. All zero where the loss does not depend on a module.

    Raises
    ------
    InvalidInputError
        No batches, or none with a labelled row; a model in training mode; labels that are none of
        the model's classes; a loss or gradient that is not finite.
    AdapterError
        No module matches, or one is quantized.

    Notes
    -----
    Peak memory beyond the model and what one backward pass holds: ``modules_per_pass`` gradients,
    and the scores of one module. They are products in at least float32, since those of half
    precision's small numbers would vanish.

    Examples
    --------
    >>> import torch
    >>> from expandermask.importance import snip_scores
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3)).eval()
    >>> data = [(torch.eye(4), torch.tensor([0, 1, 2, 0]))]
    >>> snip_scores(model, data)["0"].shape
    (3, 4)
    """
    return _gradient_scores(
        lambda weight, gradient: gradient.abs(),
        "SNIP",
        model,
        batches,
        target_modules,
        loss,
        modules_per_pass,
        progress,
    )


def imp_scores(
    model: nn.Module,
    batches: Iterable[Any],
    target_modules: str | Iterable[str] = "all-linear",
    *,
    loss: Loss = default_loss,
    modules_per_pass: int = 1,
    progress: bool = False,
) -> dict[str, Scores]:
    """The summed ``|W * dL/dW|`` of every row and column; all else as for `snip_scores`."""
    return _gradient_scores(
        lambda weight, gradient: (weight * gradient).abs(),
        "IMP",
        model,
        batches,
        target_modules,
        loss,
        modules_per_pass,
        progress,
    )


def gradient_norms(
    model: nn.Module,
    batches: Iterable[Any],
    target_modules: str | Iterable[str] = "all-linear",
    *,
    loss: Loss = default_loss,
    modules_per_pass: int = 1,
    progress: bool = False,
) -> dict[str, float]:
    """The Frobenius norm of dL/dW of every target module; all else as for `snip_scores`.

    Examples
    --------
    >>> import torch
    >>> from expandermask.importance import gradient_norms
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3)).eval()
    >>> list(gradient_norms(model, [(torch.eye(4), torch.tensor([0, 1, 2, 0]))]))
    ['0']
    """
    squares = _gradient_scores(
        lambda weight, gradient: gradient.square(),
        "gradient-norm",
        model,
        batches,
        target_modules,
        loss,
        modules_per_pass,
        progress,
    )
    return {name: math.sqrt(float(both.rows.sum())) for name, both in squares.items()}


def _gradient_scores(
    score: Callable[[Tensor, Tensor], Tensor],
    title: str,
    model: nn.Module,
    batches: Iterable[Any],
    target_modules: str | Iterable[str],
    loss: Loss,
    modules_per_pass: int,
    progress: bool,
) -> dict[str, Scores]:
    require_eval(model, f"{title} scores")
    per_pass = check_integer("modules_per_pass", modules_per_pass)
    kept, targets = batch_list(batches), target_weights(model, target_modules)
    modules = dict(bare_modules(model))
    names: dict[nn.Parameter, list[str]] = {}
    for name, weight in targets.items():  # several modules may share one weight
        names.setdefault(weight, []).append(name)
    found: dict[str, Scores] = {}
    bar = tqdm(total=len(names), desc=f"{title} scores", unit="weight", disable=not progress)

    def take(weight: Tensor) -> None:
        """Turn a weight's gradient into scores, and free it."""
        assert isinstance(weight, nn.Parameter)
        name = names[weight][0]
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad.to_dense()
        if not bool(torch.isfinite(gradient).all()):
            raise InvalidInputError(f"the gradient of {name!r} has NaN or infinite entries")
        wide = torch.promote_types(weight.dtype, torch.float32)
        entries = score(weight.detach().to(wide), gradient.to(wide))
        for name in names[weight]:
            turned = oriented(modules[name], entries)
            rows, columns = (turned.sum(dim=i, dtype=torch.float64) for i in (1, 0))
            found[name] = Scores(rows.cpu().numpy(), columns.cpu().numpy())
        weight.grad = None
        bar.update()

    unique = list(names)
    with _frozen(model), bar:
        if len(kept) == 1:
            _one_backward(model, kept, unique, loss, take)
        for start in range(0, 0 if len(kept) == 1 else len(unique), per_pass):
            group = unique[start : start + per_pass]
            with _asking(group):
                _backward(model, kept, loss)
            for weight in group:
                take(weight)
    return {name: found[name] for name in targets}


def _one_backward(
    model: nn.Module,
    batches: list[Any],
    weights: list[nn.Parameter],
    loss: Loss,
    take: Callable[[Tensor], None],
) -> None:
    """Every gradient in one pass, each taken and freed as soon as it is whole."""
    left = dict.fromkeys(weights)

    def whole(weight: Tensor) -> None:
        take(weight)
        del left[weight]  # type: ignore[arg-type]

    with _asking(weights):
        hooks = [weight.register_post_accumulate_grad_hook(whole) for weight in weights]
        try:
            _backward(model, batches, loss)
        finally:
            for hook in hooks:
                hook.remove()
    for weight in left:  # the loss does not depend on it
        take(weight)


def _backward(model: nn.Module, batches: list[Any], loss: Loss) -> None:
    """Add the gradients of the mean loss over all rows to the weights that ask for them."""
    sizes = [size_of(batch) for batch in batches]
    if sum(sizes) == 0:
        raise InvalidInputError("batches have no labelled rows; give at least one")
    with torch.inference_mode(False), torch.enable_grad():
        for batch, size in zip(batches, sizes, strict=True):
            if size == 0:  # its mean loss is NaN
                continue
            value = loss(model, on_device(batch, device_of(model)))
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise InvalidInputError(f"loss must give one number, got {value!r:.80}")
            if not math.isfinite(number := float(value.detach())):
                raise InvalidInputError(f"the loss of a batch is {number}")
            if value.requires_grad:
                (value * (size / sum(sizes))).backward()


@contextmanager
def _asking(weights: list[nn.Parameter]) -> Iterator[None]:
    """Within the block these weights, and no others, get gradients."""
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze everything; at the end give back the flags and gradients there were."""
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    for parameter, _, _ in before:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, flag, gradient in before:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
