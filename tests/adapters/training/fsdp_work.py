"""What each rank does in the tests of FSDP2 (`fully_shard`), and one process for comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from expandermask.adapters import (
    AdapterConfig,
    attach,
    disable_adapters,
    export_peft,
    load_adapter,
    merge,
    parameter_report,
    save_adapter,
)
from expandermask.adapters.training.distributed import whole
from expandermask.errors import AdapterError
from tests.adapters.models import bert, randomise, tokens, trainable
from tests.adapters.training.ddp_work import CONFIG, Arrays, batch, model, optimiser, part

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
TRAINED = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def shard(own: nn.Module, **options: Any) -> nn.Module:
    """Every layer by itself, then the rest."""
    for layer in own.bert.encoder.layer:
        fully_shard(layer, **options)
    return fully_shard(own, **options)


def gathered(own: nn.Module) -> Arrays:
    """What trains, whole, by name."""
    return {
        name: whole(p.detach()).float().numpy().copy()
        for name, p in own.named_parameters()
        if p.requires_grad
    }


def train(rank: int | None, dtype: torch.dtype, steps: int = 3) -> tuple[Arrays, float]:
    """Clipped steps on one global batch, and the last gradient's norm before clipping."""
    own = model(dtype)
    if rank is not None:
        shard(own)
    return run(rank, own, optimiser(own, dtype), steps)


def run(
    rank: int | None, own: nn.Module, stepper: torch.optim.Optimizer, steps: int
) -> tuple[Arrays, float]:
    norm = torch.zeros(())
    for _ in range(steps):
        own(**part(rank, batch())).loss.backward()
        assert all(p.grad is not None for p in trainable(own))
        norm = torch.nn.utils.clip_grad_norm_(trainable(own), 0.5)
        stepper.step()
        stepper.zero_grad()
    return gathered(own), float(whole(norm))


def uneven(rank: int) -> dict[str, tuple[bool, str, tuple[int, ...], tuple[int, ...], bool]]:
    """Where values of 33 and 69 features lie, before and after a step; and the indices."""
    torch.manual_seed(0)
    own = nn.Sequential(nn.Linear(33, 69), nn.Tanh(), nn.Linear(69, 33))
    attach(own, AdapterConfig(r=3, left_degree=2), rng=0)
    fully_shard(own)
    own(torch.ones(4, 33)).sum().backward()
    found = {}
    for name, tensor in [*own.named_parameters(), *own.named_buffers()]:
        sharded = isinstance(tensor, DTensor)
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        where = str(tensor.placements) if isinstance(tensor, DTensor) else ""
        ok = tensor.grad is not None and tensor.grad.shape == tensor.shape
        found[name] = (sharded, where, tuple(tensor.shape), tuple(local.shape), ok)
    return found


def tagged(rank: int, folder: Path) -> tuple[Arrays, bool, Arrays]:
    """Every rank writes its own tag into its shards; saved, zeroed, read again."""
    own = shard(model())
    with torch.no_grad():
        for number, parameter in enumerate(trainable(own)):
            local = parameter.to_local()
            flat = torch.arange(local.numel(), dtype=local.dtype)
            local.copy_((1e5 * (rank + 1) + 500 * number + flat).view(local.shape))
    before = gathered(own)
    save_adapter(own, folder)
    with torch.no_grad():
        for parameter in trainable(own):
            parameter.to_local().zero_()
    zeroed = not any(array.any() for array in gathered(own).values())
    load_adapter(own, folder)
    return before, zeroed, gathered(own)


def loaded(rank: int, folder: Path, sharded_first: bool) -> Arrays:
    """An adapter of one process on two ranks: read before sharding, or after."""
    own = bert(seed=0)
    if sharded_first:
        attach(own, CONFIG, rng=0)
        shard(own)
        load_adapter(own, folder)
    else:
        load_adapter(own, folder)
        shard(own)
    return gathered(own)


def checkpoint(rank: int | None, folder: Path, steps: int) -> None:
    """Train and save adapter and optimizer, whole, whatever the number of ranks."""
    own = model(torch.float64)
    if rank is not None:
        shard(own)
    stepper = optimiser(own, torch.float64)
    run(rank, own, stepper, steps)
    save_adapter(own, folder / "adapter")
    state = get_optimizer_state_dict(own, stepper, options=FULL)
    if not rank:
        torch.save(state, folder / "optimizer.pt")


def resume(rank: int | None, folder: Path, steps: int) -> Arrays:
    """Go on from `checkpoint` on any number of ranks."""
    own = bert().double()
    load_adapter(own, folder / "adapter")
    if rank is not None:
        shard(own)
    stepper = optimiser(own, torch.float64)
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    set_optimizer_state_dict(own, stepper, state, options=FULL)
    return run(rank, own, stepper, steps)[0]


def state_dict(rank: int) -> tuple[list[str], bool]:
    """PyTorch's own whole state dict of what trains: its keys on rank 0, and that it goes back."""
    own = shard(model())
    before = gathered(own)
    state = get_model_state_dict(own, options=TRAINED)
    keys = sorted(state)
    with torch.no_grad():
        for parameter in trainable(own):
            parameter.to_local().zero_()
    options = StateDictOptions(full_state_dict=True, strict=False, broadcast_from_rank0=True)
    set_model_state_dict(own, state, options=options)
    after = gathered(own)
    return keys, all(np.array_equal(before[name], after[name]) for name in before)


def mixed(rank: int, base: str) -> tuple[str, list[str], list[str], Arrays]:
    """Dtypes of output, values and gradients in bfloat16, by policy or by a bfloat16 base."""
    own = bert()
    if base == "bfloat16":
        own = own.to(torch.bfloat16)
    attach(own, AdapterConfig(r=16, target_modules=CONFIG.target_modules), rng=0)
    randomise(own)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    shard(own, **({} if base == "bfloat16" else {"mp_policy": policy}))
    stepper = torch.optim.AdamW(trainable(own), lr=1e-2)
    out = own(**part(rank, batch()))
    out.loss.backward()
    grads = sorted({str(p.grad.dtype) for p in trainable(own)})
    stepper.step()
    values = sorted({str(p.dtype) for p in trainable(own)})
    return str(out.logits.dtype), values, grads, gathered(own)


def reports(rank: int, folder: Path) -> dict[str, Any]:
    """What is refused or works on a sharded model."""
    own = shard(model())
    with torch.no_grad():
        adapted = own(tokens()).logits
        with disable_adapters(own):
            plain = own(tokens()).logits
    export_peft(own, folder)
    return {
        "merge": _error(lambda: merge(own)),
        "merge dequantized": _error(lambda: merge(own, dequantize=True)),
        "attach": _error(lambda: attach(own, CONFIG, name="second", rng=0)),
        "late": _error(lambda: attach(fully_shard(bert()), CONFIG, rng=0)),
        "report": parameter_report(own).masked.trainable_values,
        "adapted": adapted.numpy(),
        "plain": plain.numpy(),
        "layer": own.bert.encoder.layer[0].output.dense.adapters["default"].delta().numpy(),
    }


def clipped_and_checkpointed(rank: int, reentrant: bool | None) -> Arrays:
    """Gradients of one step with activation checkpointing, clipped as DTensors."""
    own = model().train()
    for module in own.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if reentrant is not None:
        own.gradient_checkpointing_enable({"use_reentrant": reentrant})
    shard(own)
    own(**part(rank, batch())).loss.backward()
    torch.nn.utils.clip_grad_norm_(trainable(own), 0.1)
    return {n: whole(p.grad).numpy().copy() for n, p in own.named_parameters() if p.requires_grad}


def _error(call: Any) -> str:
    try:
        call()
    except AdapterError as error:
        return str(error)
    return "no error"
