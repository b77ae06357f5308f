"""The frozen probe: what the pretrained model knows already, read off by logistic regression.

It is the bar that fine-tuning has to clear, so it is made as strong as it can be. The features are
mean-pooled over the tokens, the pooling this model was pretrained for; on the validation snippets
they beat the input of the other arms' classifier head (the pooled first token) by 8 points. The
probe is convex, so it is solved to convergence; it has a penalty to tune, and no seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expandermask.demo.training import Encoded, by_length

_MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class Probe:
    """A logistic regression on standardised features: class 1 where ``x @ weight + bias`` > 0."""

    center: NDArray[np.float64]
    width: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: float
    converged: bool

    def accuracy(self, features: NDArray[np.float64], labels: Tensor) -> float:
        """Percent of rows whose class is their label."""
        scores = (features - self.center) / self.width @ self.weight + self.bias
        return 100 * float(np.mean((scores > 0) == labels.numpy()))


@torch.inference_mode()
def features(
    model: nn.Module, data: Encoded, pooling: Literal["mean", "head"] = "mean"
) -> NDArray[np.float64]:
    """What the frozen encoder says of each snippet: float64 (snippets, width).

    "mean" averages its output over the tokens; "head" is what a BERT classifier head is given.
    """
    encoder: Any = model.base_model
    encoder.eval()
    found: dict[int, Tensor] = {}
    for rows in by_length(data):
        batch = data.batch(rows)
        output = encoder(**batch)
        inside = batch["attention_mask"].unsqueeze(-1)
        if pooling == "head":
            pooled = output.pooler_output
        else:
            pooled = (output.last_hidden_state * inside).sum(1) / inside.sum(1)
        found.update(zip(rows, pooled, strict=True))
    stacked: NDArray[np.float64] = (
        torch.stack([found[i] for i in range(len(data))]).double().numpy()
    )
    return stacked


def fit_probe(features: NDArray[np.float64], labels: Tensor, penalty: float) -> Probe:
    """Minimise mean log-loss + penalty / 2 * |weight|^2 by L-BFGS, the bias unpenalised."""
    from scipy.optimize import minimize

    center, width = features.mean(axis=0), features.std(axis=0)
    x = (features - center) / width
    sign = 2.0 * labels.numpy() - 1

    def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight, bias = point[:-1], point[-1]
        margin = sign * (x @ weight + bias)
        loss = np.logaddexp(0, -margin).mean() + penalty / 2 * weight @ weight
        slope = -sign / (1 + np.exp(margin)) / sign.size
        return float(loss), np.append(x.T @ slope + penalty * weight, slope.sum())

    start = np.zeros(x.shape[1] + 1)
    options = {"maxiter": _MAX_ITERATIONS}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return Probe(center, width, found.x[:-1], float(found.x[-1]), bool(found.success))
