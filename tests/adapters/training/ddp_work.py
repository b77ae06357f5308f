"""What each rank does in the tests of DistributedDataParallel, and one process for comparison."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from expandermask.adapters import (
    AdapterConfig,
    attach,
    export_peft,
    load_adapter,
    save_adapter,
)
from expandermask.adapters.training.distributed import on_writer, require_same
from expandermask.errors import AdapterError
from tests.adapters.models import VOCABULARY, bert, randomise, trainable

CONFIG = AdapterConfig(r=16, target_modules=r"bert\.encoder\..*", modules_to_save=["classifier"])
Arrays = dict[str, np.ndarray]


def model(dtype: torch.dtype = torch.float32, *, rng: Any = 0) -> nn.Module:
    """A BERT without dropout whose adapter is not at its start."""
    own = bert().to(dtype)
    attach(own, CONFIG, rng=rng)
    randomise(own)
    return own


def batch(rows: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(0, VOCABULARY, (rows, 11), generator=generator)
    return {"input_ids": ids, "labels": ids.sum(1) % 3}


def part(rank: int | None, whole: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The rows of one of two ranks, or all of them."""
    return whole if rank is None else {key: t[rank::2] for key, t in whole.items()}


def arrays(own: nn.Module) -> Arrays:
    """What trains, by name."""
    return {n: p.detach().numpy().copy() for n, p in own.named_parameters() if p.requires_grad}


def optimiser(own: nn.Module, dtype: torch.dtype) -> torch.optim.Optimizer:
    """AdamW in float64; it divides by gradients' sizes, so in float32 plain SGD is compared."""
    if dtype == torch.float64:
        return torch.optim.AdamW(trainable(own), lr=1e-2, weight_decay=0.1)
    return torch.optim.SGD(trainable(own), lr=0.05, momentum=0.9)


def train(rank: int | None, dtype: torch.dtype, accumulate: int = 1) -> Arrays:
    """Three clipped steps on one global batch, by two ranks or in one process (None)."""
    own = model(dtype)
    run: Any = own if rank is None else DistributedDataParallel(own)
    steps, mine = optimiser(own, dtype), part(rank, batch())
    for _ in range(3):
        size = len(mine["labels"]) // accumulate
        for k in range(accumulate):
            rows = {key: t[k * size : (k + 1) * size] for key, t in mine.items()}
            last = k == accumulate - 1 or rank is None
            with nullcontext() if last else run.no_sync():
                (run(**rows).loss / accumulate).backward()
        assert all(p.grad is not None for p in trainable(own))
        torch.nn.utils.clip_grad_norm_(trainable(own), 0.5)
        steps.step()
        steps.zero_grad()
    return arrays(own)


def drawn(rank: int, rng: Any) -> tuple[int, list[str]]:
    """The seed and the masks where every rank has an own generator, or none."""
    given = np.random.default_rng(rank) if rng == "generator" else rng
    own = bert()
    plan = attach(own, CONFIG, rng=given)
    return plan.seed, [graph.digest for _, graph in plan.graphs()] + [
        str(p.detach().double().sum()) for p in trainable(own)
    ]


def checkpointed(
    rank: int | None, reentrant: bool | None, static: bool, compiled: str = ""
) -> Arrays:
    """Gradients of one step, with activation checkpointing unless ``reentrant`` is None."""
    own = model().train()  # transformers checkpoints in training mode alone
    for module in own.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if reentrant is not None:
        own.gradient_checkpointing_enable({"use_reentrant": reentrant})
    run: Any = own
    if compiled == "inside":
        run = torch.compile(run, backend="inductor")
    if rank is not None:
        run = DistributedDataParallel(run, static_graph=static)
    if compiled == "outside":
        run = torch.compile(run, backend="inductor")
    run(**part(rank, batch())).loss.backward()
    return {n: p.grad.numpy().copy() for n, p in own.named_parameters() if p.requires_grad}


def wide(rank: int) -> str:
    """Ranks above 256 do not fit a byte, and every buffer is sent."""
    own = nn.Sequential(nn.Linear(1024, 512))
    attach(own, AdapterConfig(r=512), rng=0)
    run = DistributedDataParallel(own, broadcast_buffers=True)
    run(torch.ones(2, 1024)).sum().backward()
    return str(own[0].adapters["default"].index_a.dtype)


def tagged(rank: int, folder: Path) -> tuple[Arrays, Arrays, Arrays]:
    """Values of rank 0's tag are saved by both, zeroed and read again, under DDP."""
    own = model()
    run = DistributedDataParallel(own)
    with torch.no_grad():
        for number, parameter in enumerate(trainable(own)):
            flat = torch.arange(parameter.numel(), dtype=parameter.dtype)
            parameter.copy_((1000 * number + flat).view(parameter.shape))
    before = arrays(own)
    save_adapter(own, folder)
    with torch.no_grad():
        for parameter in trainable(own):
            parameter.zero_()
    zeroed = arrays(own)
    load_adapter(run.module, folder)
    return before, zeroed, arrays(own)


def loaded(rank: int, folder: Path) -> Arrays:
    """An adapter that one process saved."""
    own = bert(seed=3)
    load_adapter(own, folder)
    return arrays(own)


def exported(rank: int, folder: Path) -> None:
    export_peft(model(), folder)


def differing(rank: int) -> str:
    return _error(lambda: require_same(rank, "the rank"))


def failing_write(rank: int) -> str:
    def write() -> None:
        raise OSError("no space left")

    return _error(lambda: on_writer(write))


def one_write(rank: int, folder: Path) -> bool:
    on_writer(lambda: (folder / str(rank)).touch())
    return (folder / "0").exists()


def late(rank: int) -> str:
    run = DistributedDataParallel(bert().requires_grad_(True))
    return _error(lambda: attach(run, CONFIG, rng=0))


def _error(call: Any) -> str:
    try:
        call()
    except (AdapterError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
