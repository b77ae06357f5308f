"""Densities read off the pretrained MiniLM for the Partial-LoRA studies; worked out once, kept."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analysis._study import RESULTS, Mode
from analysis._task import encoded, held_out, pretrained, shapes
from expandermask.demo.data import TRAIN
from expandermask.demo.training import by_length
from expandermask.files import write_text
from expandermask.importance import (
    SparsityResult,
    accuracy,
    derive_sparsity,
    fit_head,
    imp_scores,
    snip_scores,
    svd_scores,
)
from expandermask.importance.metrics import Metric
from expandermask.masks import Scores

METHODS = ("SVD", "SNIP", "IMP")
AXES = ("rows", "columns")
SHOTS: dict[Mode, int] = {"smoke": 4, "quick": 8, "full": 32}
"""Labelled snippets of each class in D_t."""
KEPT = RESULTS / "runs" / "sparsity"
"""Where results of Algorithm 1 are kept."""
FITTED: dict[Mode, int] = {"smoke": 64, "quick": 200, "full": TRAIN}
"""Snippets that the head is fitted to."""
_SEED = 0
"""Of the head, which is fitted, so the seed hardly matters."""


def modules(mode: Mode) -> tuple[str, ...]:
    """What is searched: every layer, or few where it has to be quick."""
    names = tuple(shapes())
    return {"smoke": names[-2:], "quick": names[::9], "full": names}[mode]


def few_shots(mode: Mode, seed: int) -> list[dict[str, Tensor]]:
    """D_t: a batch of labelled snippets, as many of each class, none of which fitted the head."""
    data = held_out()
    labels = data.labels.numpy()
    rng = np.random.default_rng(seed)
    count = SHOTS[mode]
    rows = np.concatenate([rng.permutation(np.flatnonzero(labels == y))[:count] for y in (0, 1)])
    return [{**data.batch(rows.tolist()), "labels": data.labels[rows]}]


@cache
def probed(mode: Mode) -> nn.Module:
    """MiniLM with its head fitted to train snippets, all else as pretrained."""
    data, _ = encoded(FITTED[mode], 2)
    model = pretrained(_SEED).eval()
    batches = [{**data.batch(rows), "labels": data.labels[rows]} for rows in by_length(data)]
    fit_head(model, batches, penalty=0.1)
    return model


def scores(method: str, mode: Mode, seed: int) -> dict[str, Scores]:
    """Scores of the modules of a mode; those by gradients on D_t of ``seed``."""
    model, names = probed(mode), modules(mode)
    if method == "SVD":
        return svd_scores(model, _exactly(names))
    function = {"SNIP": snip_scores, "IMP": imp_scores}[method]
    return function(model, few_shots(mode, seed), _exactly(names))


def sparsity(method: str, mode: Mode, seed: int) -> SparsityResult:
    """Algorithm 1 by bisection; from the file, if it was worked out before."""
    path = KEPT / f"{mode}-{method}-{seed}.json"
    if path.exists():
        return SparsityResult.load(path)
    torch.set_num_threads(1)
    batches = few_shots(mode, seed)
    metric = accuracy(batches) if mode == "full" else right_minus_wrong(batches)
    found = derive_sparsity(
        probed(mode),
        scores(method, mode, seed),
        metric,
        progress=False,
    )
    write_text(path, found.to_json())
    return found


def right_minus_wrong(batches: list[dict[str, Tensor]]) -> Metric:
    """The mean logit of the right class less that of the wrong one.

    Every row removed changes it, where a head fitted to few snippets hardly beats chance, and the
    accuracy on few examples says nothing.
    """

    @torch.no_grad()
    def metric(model: nn.Module) -> float:
        (batch,) = batches
        logits: Tensor = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
        own = logits.gather(1, batch["labels"].unsqueeze(1)).squeeze(1)
        return float((2 * own - logits.sum(dim=1)).mean())

    return metric


def kept(method: str, mode: Mode, seed: int) -> dict[str, Any]:
    """The kept rows and columns of every module, highest scored first, as sorted lists."""
    found, ranked = sparsity(method, mode, seed), scores(method, mode, seed)
    return {
        name: {axis: _last(getattr(ranked[name], axis), getattr(both, axis).kept) for axis in AXES}
        for name, both in found.modules.items()
    }


def highest(method: str, mode: Mode, seed: int, share: float) -> dict[str, Any]:
    """The same share of every module's rows and columns, highest scored first, as sorted lists."""
    return {
        name: {
            axis: _last(getattr(both, axis), round(share * len(getattr(both, axis))))
            for axis in AXES
        }
        for name, both in scores(method, mode, seed).items()
    }


def _last(scored: np.ndarray, count: int) -> list[int]:
    order = np.argsort(scored, kind="stable")
    return sorted(map(int, order[len(order) - count :]))


def _exactly(names: tuple[str, ...]) -> str:
    return "|".join(name.replace(".", r"\.") for name in names)
