"""What each rank does in the tests of drawn seeds and of the first pass, and one process alone.

As a program it is what `torchrun` starts: it writes what both ranks found to a file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import peft
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments, set_seed

from expandermask.adapters import AdapterConfig, XoraConfig, attach
from expandermask.adapters.attachment import attachment, mask_hashes
from expandermask.adapters.training.distributed import mean_over_ranks
from expandermask.errors import AdapterError
from tests.adapters.models import bert, mlp, randomise, trainable
from tests.adapters.training.ddp_work import batch, part
from tests.adapters.training.runs import data
from tests.adapters.training.test_first_pass import Bare

TARGETS = ["query", "value", "dense"]
HOWS = ("attach", "XoraConfig")
WRAPS = ("DDP", "fully_shard")
Run = tuple[dict[str, str], int, list[float]]
"""Hashes of the masks, their seed, and the losses over all rows."""


def adapted(how: str, seed: int | None, own: nn.Module, targets: Any = TARGETS) -> nn.Module:
    """A model in training mode without dropout, whose adapter was put on with a seed or none."""
    for module in own.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if how == "attach":
        attach(own, AdapterConfig(r=16, target_modules=targets), rng=seed)
        return own.train()
    config = XoraConfig(r=16, target_modules=targets, mask_seed=seed)
    return peft.get_peft_model(own, config).train()


def wrapped(wrap: str, own: nn.Module) -> nn.Module:
    """DDP around it, or every block and then the rest sharded."""
    if wrap == "DDP":
        return DistributedDataParallel(own)
    for module in list(own.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block)
    return fully_shard(own)


def losses(rank: int | None, how: str, wrap: str, seed: int | None = None) -> Run:
    """Four steps on one global batch; ranks have generators of their own."""
    own = bert()
    set_seed(3 + (rank or 0))
    own = adapted(how, seed, own)
    randomise(own)
    run = own if rank is None else wrapped(wrap, own)
    steps = torch.optim.SGD(trainable(own), lr=0.05, momentum=0.9)
    found = []
    for _ in range(4):
        loss = run(**part(rank, batch())).loss
        loss.backward()
        steps.step()
        steps.zero_grad()
        found.append(float(mean_over_ranks(loss.detach())))
    return mask_hashes(own), attachment(own).plans["default"].seed, found


class Recorder(Trainer):
    """Keeps the loss of every step, over all ranks."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        found = super().compute_loss(*args, **kwargs)
        loss = found[0] if isinstance(found, tuple) else found
        self.losses = [*getattr(self, "losses", []), float(mean_over_ranks(loss.detach().clone()))]
        return found


def trained(rank: int | None, folder: Path) -> Run:
    """The Trainer on a PeftModel whose seed is drawn; it makes the process group first."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=8 if rank is None else 4,
        learning_rate=0.05,
        optim="sgd",
        seed=4,
        save_strategy="no",
        average_tokens_across_devices=False,  # else the Trainer doubles the losses of two ranks
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    own = bert()
    set_seed(3 + (rank or 0))
    own = adapted("XoraConfig", None, own)
    randomise(own)
    run = Recorder(own, arguments, train_dataset=data(32))
    run.train()
    return mask_hashes(own), attachment(own).plans["default"].seed, run.losses


def differing(rank: int, how: str, wrap: str, checkpointed: bool) -> str:
    """The ranks were given other seeds, and rank 0 shares its weights when they are wrapped."""
    own = bert()
    if checkpointed:
        own.gradient_checkpointing_enable({"use_reentrant": True})
    run = wrapped(wrap, adapted(how, rank, own))
    try:
        run(**part(rank, batch()))
    except AdapterError as error:
        return str(error)
    return "no error"


def rank_0_alone(rank: int, how: str) -> tuple[bool, bool]:
    """Rank 0 evaluates alone before training: whether the first pass still waited, and waits."""
    own = adapted(how, 0, mlp(), "all-linear")
    x = torch.ones(2, 64)
    if rank == 0:
        own.eval()
        own(x).sum().backward()
        own.train()
        with torch.no_grad():
            own(x)
    waited = bool(attachment(own).looking)
    wrapped("DDP", own)(x).sum().backward()
    return waited, bool(attachment(own).looking)


class Reader(nn.Module):
    """Two blocks; each calls one layer and reads the weight of another."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Bare("x @ w.t()") for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def reading(rank: int, how: str, wrap: str) -> str:
    own = wrapped(wrap, adapted(how, 0, Reader(), ["called", "read"]))
    try:
        own(torch.ones(2, 64))
    except AdapterError as error:
        return str(error)
    return "no error"


def main(file: Path) -> None:
    """Everything that one launch can compare."""
    found: dict[str, Any] = {"Trainer": trained(int(os.environ["RANK"]), file.parent)}
    rank = dist.get_rank()
    for how in HOWS:
        for wrap in WRAPS:
            found[f"{how} {wrap}"] = losses(rank, how, wrap)
    both: list[Any] = [None, None]
    dist.all_gather_object(both, found)
    if rank == 0:
        file.write_text(json.dumps(both))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
