"""Trainer and Accelerator on each of two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from expandermask.adapters import AdapterCallback, AdapterConfig, attach, save_adapter
from expandermask.errors import AdapterError
from tests.adapters.models import bert
from tests.adapters.training.ddp_work import Arrays, arrays, batch, part
from tests.adapters.training.runs import CONFIG, STEPS, Kill, Killed, model, trainer


def uninterrupted(rank: int, folder: Path) -> Arrays:
    run = trainer(folder, model(rng=None))
    run.train()
    return arrays(run.model)


def interrupted(rank: int, folder: Path, seed: int, step: int) -> Arrays:
    """Killed on both ranks, and resumed on a model attached with the same seed."""
    try:
        trainer(folder, model(rng=seed), callbacks=[AdapterCallback(), Kill(step)]).train()
    except Killed:
        second = trainer(folder, model(rng=seed))
        second.train(resume_from_checkpoint=True)
        assert second.state.global_step == STEPS
        return arrays(second.model)
    raise AssertionError("nothing was killed")


def straight(rank: int, folder: Path, seed: int) -> Arrays:
    run = trainer(folder, model(rng=seed))
    run.train()
    return arrays(run.model)


def other_masks(rank: int, folder: Path) -> str:
    try:
        trainer(folder, model(rng=rank)).train()
    except AdapterError as error:
        return str(error)
    return "no error"


def accelerated(rank: int | None, folder: Path | None = None) -> Arrays:
    """A plain loop over an accelerate.Accelerator, two micro-batches a step."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    own: Any = bert()
    attach(own, AdapterConfig(r=16, target_modules=CONFIG.target_modules), rng=0)
    stepper = torch.optim.SGD([p for p in own.parameters() if p.requires_grad], lr=0.1)
    run, stepper = accelerator.prepare(own, stepper)
    mine = part(rank, batch())
    size = len(mine["labels"]) // 2
    for _ in range(2):
        for k in range(2):
            with accelerator.accumulate(run):
                loss = run(**{key: t[k * size : (k + 1) * size] for key, t in mine.items()}).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(run.parameters(), 1.0)
                stepper.step()
                stepper.zero_grad()
    if folder is not None:
        save_adapter(accelerator.unwrap_model(run), folder)
    return arrays(own)
