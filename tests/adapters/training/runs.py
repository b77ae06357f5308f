"""Small Trainer runs with dropout on: the same model, data and settings every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from expandermask.adapters import AdapterCallback, AdapterConfig, SmallCheckpoints, attach
from tests.adapters.models import VOCABULARY, bert, state, trainable

logging.disable_progress_bar()

CONFIG = AdapterConfig(
    r=16,
    lora_dropout=0.2,
    target_modules=r"bert\.encoder\..*",
    modules_to_save=["classifier"],
)
STEPS = 6


def model(config: AdapterConfig = CONFIG, *, rng: int = 0) -> nn.Module:
    """A BERT with hidden dropout and one adapter with dropout."""
    fresh = bert()
    attach(fresh, config, rng=rng)
    return fresh


def data(rows: int = 24) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, VOCABULARY, (rows, 9), generator=generator)
    return [{"input_ids": row, "labels": int(row.sum()) % 3} for row in ids]


def trainer(
    folder: Path,
    own: nn.Module,
    *,
    callbacks: list[TrainerCallback] | None = None,
    kind: type[Trainer] = SmallCheckpoints,
    **options: Any,
) -> Trainer:
    """A Trainer that saves after every step, with `AdapterCallback` unless others are given."""
    settings = {
        "max_steps": STEPS,
        "save_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "seed": 4,
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return kind(
        own,
        TrainingArguments(str(folder), **(settings | options)),
        train_dataset=data(),
        eval_dataset=data(6),
        callbacks=[AdapterCallback()] if callbacks is None else callbacks,
    )


class Killed(Exception):
    """Stands for a process that dies."""


class Kill(TrainerCallback):
    """Dies after the first substep of the step after ``step``."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def everything(run: Trainer) -> dict[str, torch.Tensor]:
    """Every tensor of the model and the optimizer, and the learning rate, after a run."""
    found = dict(state(run.model))
    optimizer = run.optimizer.state_dict()
    for number, tensors in optimizer["state"].items():
        found |= {f"optimizer {number} {key}": t.clone() for key, t in tensors.items()}
    found["learning rate"] = torch.tensor(optimizer["param_groups"][0]["lr"], dtype=torch.float64)
    assert len(trainable(run.model)) > 0
    return found
