"""One way to tokenise, batch, train and evaluate, used by every arm of the demo."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from expandermask.demo.data import Snippets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expandermask.allocation import Policy

MAX_TOKENS = 64
"""Snippets are cut here; 99 % of them are shorter than 56 tokens."""
_BUCKET = 16
"""Batches sorted by length together: padding is small, and the order still random."""
_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Encoded:
    """Snippets tokenised once: token ids without padding, and labels."""

    ids: list[list[int]]
    labels: Tensor
    tokenizer: PreTrainedTokenizerBase

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: list[int]) -> dict[str, Tensor]:
        """The model's inputs for these rows, padded to the longest of them."""
        ids = [self.ids[row] for row in rows]
        return dict(self.tokenizer.pad({"input_ids": ids}, return_tensors="pt"))


@dataclass(frozen=True)
class Schedule:
    """How an arm is trained: AdamW, linear warm-up and decay, gradients clipped to norm 1."""

    learning_rate: float
    epochs: int
    batch_size: int = 32
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises from 0."""

    def factor(self, step: int, steps: int) -> float:
        """The share of ``learning_rate`` used at ``step`` of ``steps``, both counted from 0."""
        rise = max(1, round(self.warmup * steps))
        return min((step + 1) / rise, (steps - step) / max(1, steps - rise + 1))


@dataclass(frozen=True)
class Trained:
    """What training took, measured on the tensors that were there, and where the loss ended."""

    seconds: float
    steps: int
    final_loss: float
    """Mean loss over the last tenth of the steps."""
    trainable_values: int
    gradient_bytes: int
    optimizer_bytes: int
    """All tensors AdamW kept: two moments per value, and a step counter per tensor."""


def encode(tokenizer: PreTrainedTokenizerBase, snippets: Snippets) -> Encoded:
    """Tokenise snippets, each cut to `MAX_TOKENS`."""
    ids = tokenizer(list(snippets.texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
    return Encoded(ids, torch.tensor(snippets.labels), tokenizer)


def batches(data: Encoded, size: int, rng: np.random.Generator) -> list[list[int]]:
    """One epoch: every row once, in random batches of rows of similar length."""
    order = rng.permutation(len(data)).tolist()
    pools = [order[i : i + _BUCKET * size] for i in range(0, len(order), _BUCKET * size)]
    rows = [row for pool in pools for row in sorted(pool, key=lambda row: len(data.ids[row]))]
    cut = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [cut[i] for i in rng.permutation(len(cut))]


def train(
    model: nn.Module,
    data: Encoded,
    schedule: Schedule,
    *,
    seed: int,
    name: str,
    progress: bool,
    optimizer: torch.optim.Optimizer | None = None,
    after_step: Callable[[int], None] = lambda step: None,
    policy: Policy | None = None,
) -> Trained:
    """Train the parameters of ``model`` that require gradients; the rest stay as they are.

    ``seed`` fixes the batches and the dropout, so arms trained with one seed see the same ones.
    Another ``optimizer`` keeps the proportions of its groups' learning rates. ``after_step`` is
    called with the step's number, counted from 0, after the policy and before gradients are set to
    None. A ``policy`` is one attached to the model. The values, gradients and moments that are told
    are those of the end.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if policy is not None:
        groups = policy.groups(lr=schedule.learning_rate)
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        policy.follow(optimizer)
    if optimizer is None:
        optimizer = torch.optim.AdamW(
            parameters, lr=schedule.learning_rate, weight_decay=0.0, fused=True
        )
    rates = [group["lr"] for group in optimizer.param_groups]
    rng = np.random.default_rng(seed)
    plan = [b for _ in range(schedule.epochs) for b in batches(data, schedule.batch_size, rng)]
    torch.manual_seed(seed)
    model.train()
    losses: list[float] = []
    gradient_bytes = 0
    started = time.perf_counter()
    with tqdm(plan, desc=name, unit="step", disable=not progress) as bar:
        for step, rows in enumerate(bar):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule.factor(step, len(plan))
            output: Any = model(**data.batch(rows), labels=data.labels[rows])
            (output.loss if policy is None else output.loss + policy.loss()).backward()
            torch.nn.utils.clip_grad_norm_(_held(optimizer), 1.0)
            if policy is not None:
                policy.after_backward(step)
            optimizer.step()
            gradient_bytes = sum(p.grad.nbytes for p in _held(optimizer) if p.grad is not None)
            if policy is not None:
                policy.after_step(step)
            after_step(step)
            optimizer.zero_grad(set_to_none=True)
            losses.append(output.loss.item())
            bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", refresh=False)
    tail = losses[-max(1, len(losses) // 10) :]
    return Trained(
        seconds=time.perf_counter() - started,
        steps=len(plan),
        final_loss=float(np.mean(tail)),
        trainable_values=sum(p.numel() for p in _held(optimizer)),
        gradient_bytes=gradient_bytes,
        optimizer_bytes=sum(t.nbytes for kept in optimizer.state.values() for t in kept.values()),
    )


def _held(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters an optimizer trains, which a policy may exchange."""
    return [p for group in optimizer.param_groups for p in group["params"]]


@torch.inference_mode()
def logits(model: nn.Module, data: Encoded) -> Tensor:
    """The model's logits for every snippet, in order: float tensor (n, classes)."""
    model.eval()
    found: dict[int, Tensor] = {}
    for rows in by_length(data):
        output: Any = model(**data.batch(rows))
        found.update(zip(rows, output.logits, strict=True))
    return torch.stack([found[row] for row in range(len(data))])


def by_length(data: Encoded) -> Iterator[list[int]]:
    """Batches for evaluation: every row once, shortest first."""
    order = sorted(range(len(data)), key=lambda row: len(data.ids[row]))
    for i in range(0, len(order), _EVALUATION_BATCH):
        yield order[i : i + _EVALUATION_BATCH]


def accuracy(predicted: Tensor, data: Encoded) -> float:
    """Percent of snippets whose largest logit is their label's."""
    return 100 * float((predicted.argmax(dim=1) == data.labels).double().mean())
