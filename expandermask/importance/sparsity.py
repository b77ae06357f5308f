"""derive_sparsity(): Algorithm 1 of Partial-LoRA, how much of each layer a task needs."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from expandermask.errors import InvalidInputError, check_real
from expandermask.importance.batches import require_eval
from expandermask.importance.metrics import Metric
from expandermask.importance.result import AxisSparsity, ModuleSparsity, SparsityResult
from expandermask.importance.resume import Progress, Question, model_hash
from expandermask.importance.search import SEARCHES, Search
from expandermask.importance.weights import oriented, target_weights
from expandermask.masks.places import bare_modules
from expandermask.masks.scored import Scores, check_both, removal_order

AXES = ("rows", "columns")


def derive_sparsity(
    model: nn.Module,
    scores: Mapping[str, Scores],
    metric: Metric,
    *,
    threshold: float = 0.9,
    search: Search = "bisection",
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> SparsityResult:
    """What share of each module's rows and columns the model needs to keep most of its metric.

    For one module at a time, all others untouched, rows of its weight are set to zero, least
    important first, as long as the metric is at least ``threshold`` times the untouched model's;
    the same, from the start, for its columns. (Algorithm 1 of Partial-LoRA, with what is left in
    the last state that passed: the step that fails does not count.) Modules that share a weight
    lose its rows together.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode. Weights are changed and put back, bit for bit, also if something fails.
    scores : mapping from module names to Scores
        From `svd_scores`, `snip_scores`, `imp_scores`, or your own. Those named are searched.
    metric : callable
        Of the model a number, larger for a better one: `accuracy` of few labelled examples, or any
        other. It must mean something before fine-tuning, or nothing is needed to keep a share of
        it: give a new head trained values first.
    threshold : float
        In (0, 1]; the paper's is 0.9.
    search : str
        "bisection" needs ceil(log2(n + 1)) evaluations for n rows, never more than 12 (above 4095
        rows it may keep up to n / 4096 too many). "one-by-one", the paper's, needs as many as it
        removes. They agree where the metric falls whenever more is removed. Where it goes up and
        down, one-by-one stops at the first failure, and bisection at some number that passes and
        whose next does not: the same, or more removed.
    resume : path, optional
        A file in which every axis is kept as soon as it is done. If there is one from a run on the
        same question, it goes on from there. The same are search, threshold, order of the scores,
        and every value of the model; of the metric only what it gives for the untouched model can
        be compared, so keep a file for each.
    progress : bool
        Show a progress bar.

    Raises
    ------
    InvalidInputError
        A model in training mode; a metric that is no number, NaN, or not positive for the untouched
        model; scores of an unknown module, of another shape, not finite or all zero; a threshold
        outside (0, 1]; a file to resume from that is of another question.
    AdapterError
        A module is quantized.

    Examples
    --------
    >>> import torch
    >>> from expandermask.importance import accuracy, derive_sparsity, svd_scores
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> x = torch.randn(64, 8)
    >>> data = [(x, model(x).argmax(dim=1))]
    >>> found = derive_sparsity(
    ...     model.eval(), svd_scores(model, ["0"]), accuracy(data), progress=False
    ... )
    >>> found.baseline, found.modules["0"].rows.size, found.evaluations <= 1 + 5 + 4
    (1.0, 16, True)
    """
    require_eval(model, "derive_sparsity")
    found = _checked(scores)
    targets = _weights(model, found)
    threshold = check_real("threshold", threshold)
    if not 0 < threshold <= 1:
        raise InvalidInputError(f"threshold must lie in (0, 1], got {threshold!r}")
    if search not in get_args(Search):
        raise InvalidInputError(f"search must be one of {get_args(Search)}, got {search!r}")
    baseline = _value(metric, model, "the untouched model")
    if baseline <= 0:
        raise InvalidInputError(
            f"the metric of the untouched model is {baseline:g}; a share of it makes sense only if "
            "it is positive: train the head first, or shift the metric"
        )
    question = Question(
        _search_hash(found, threshold, search),
        "" if resume is None else model_hash(model),
        baseline,
        {(n, a): len(x) for n, both in found.items() for a, x in zip(AXES, both, strict=True)},
    )
    done = Progress.open(resume, question, threshold)
    with tqdm(total=2 * len(found), desc="sparsity", unit="axis", disable=not progress) as bar:
        for name, both in found.items():
            for axis, of_axis in zip(AXES, both, strict=True):
                if (name, axis) not in done:
                    removable = _Removable(name, targets[name], axis, removal_order(of_axis))
                    done.add(name, axis, _search(removable, model, metric, done.passing, search))
                bar.update()
    modules = {name: ModuleSparsity(*(done[name, axis] for axis in AXES)) for name in found}
    return SparsityResult(baseline, threshold, search, modules)


@dataclass
class _Removable:
    """Rows or columns of one weight, in the order in which they are removed."""

    name: str
    weight: Tensor
    """As a view of shape (d, k)."""
    axis: str
    order: NDArray[np.int64]

    def lines(self) -> Tensor:
        """The rows, or the columns as rows, as a view."""
        return self.weight if self.axis == "rows" else self.weight.t()

    @contextmanager
    def changing(self) -> Iterator[Callable[[int], None]]:
        """A function that sets the first m to zero and the others to what they were."""
        lines, order = self.lines(), torch.from_numpy(self.order).to(self.weight.device)
        own = lines.clone()

        def remove(m: int) -> None:
            lines.copy_(own)
            lines[order[:m]] = 0

        try:
            yield remove
        finally:
            lines.copy_(own)


@torch.no_grad()
def _search(
    removable: _Removable, model: nn.Module, metric: Metric, least: float, search: Search
) -> AxisSparsity:
    """Algorithm 1 for one axis of one module."""
    n = len(removable.order)
    curve: list[tuple[int, float]] = []
    with removable.changing() as remove:

        def passes(m: int) -> bool:
            remove(m)
            what = f"the model without {m} of the {removable.axis} of {removable.name!r}"
            curve.append((n - m, _value(metric, model, what)))
            return curve[-1][1] >= least

        removed = SEARCHES[search](n, passes)
    return AxisSparsity(n, n - removed, tuple(curve))


def _value(metric: Metric, model: nn.Module, what: str) -> float:
    """The metric, a finite number."""
    value = metric(model)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidInputError(f"the metric of {what} is no number: {value!r:.80}") from None
    if not math.isfinite(number):
        raise InvalidInputError(f"the metric of {what} is {number}; it must be finite")
    return number


def _checked(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    if not isinstance(scores, Mapping) or not scores:
        raise InvalidInputError(f"scores must name at least one module, got {scores!r:.80}")
    return {name: check_both(name, both) for name, both in scores.items()}


def _weights(model: nn.Module, scores: Mapping[str, Scores]) -> dict[str, Tensor]:
    """The weight of every module that is scored, as a (d, k) view of its data."""
    modules = dict(bare_modules(model))
    if unknown := [name for name in scores if name not in modules]:
        raise InvalidInputError(f"scores name {unknown[0]!r}, which is no module of the model")
    pattern = "|".join(re.escape(name) for name in scores)
    found = target_weights(model, pattern)
    if missing := [name for name in scores if name not in found]:
        raise InvalidInputError(f"scores name {missing[0]!r}, which is no linear module")
    weights = {name: oriented(modules[name], found[name].detach()) for name in scores}
    for name, weight in weights.items():
        if tuple(weight.shape) != scores[name].shape:
            raise InvalidInputError(
                f"scores of {name!r} are of a (d, k) = {scores[name].shape} weight, and it is "
                f"{tuple(weight.shape)}"
            )
    return weights


def _search_hash(scores: Mapping[str, Scores], threshold: float, search: str) -> str:
    """A hash of everything a result depends on but the model and the metric."""
    digest = hashlib.sha256(f"{threshold!r} {search}".encode())
    for name, both in scores.items():
        digest.update(f"\n{name}".encode())
        for of_axis in both:
            digest.update(removal_order(of_axis).astype("<i8").tobytes())
    return digest.hexdigest()
