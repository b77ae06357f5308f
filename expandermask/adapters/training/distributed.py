"""What adapters need where several processes train one model: one seed, and whole tensors."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from expandermask.errors import AdapterError
from expandermask.graphs.random import RandomState, draw_seed


def same_seed(rng: RandomState) -> RandomState:
    """``rng``, or where several processes run and it is no integer, a seed drawn by rank 0.

    So that every rank makes the same masks and first values. All ranks have to call it.
    """
    if rng is None:
        require_group("rng")
    if isinstance(rng, int) or not several_processes():
        return rng
    seeds = [draw_seed(rng)]
    dist.broadcast_object_list(seeds, src=0)
    return seeds[0]


def drawn_seed(argument: str) -> int:
    """A seed below 2**53 from torch's CPU generator, which `torch.manual_seed` fixes.

    Where several processes run, it is rank 0's draw on all of them, and all have to call this.
    Raises `AdapterError`, naming the ``argument`` to give instead, where they run and cannot talk
    to each other yet.
    """
    require_group(argument)
    seeds = [int(torch.randint(2**53, (), device="cpu"))]
    if several_processes():
        dist.broadcast_object_list(seeds, src=0)
    return seeds[0]


def require_group(argument: str) -> None:
    """Raise if several processes run of which each would draw a seed of its own."""
    if not several_processes() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise AdapterError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and there is no process group yet, so every "
            f"process would draw masks of its own; give an integer as {argument}=, or call "
            "torch.distributed.init_process_group first"
        )


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all of its shards; one that is not sharded is itself.

    For a sharded one all ranks have to call it.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(values: Tensor, target: Tensor) -> Tensor:
    """``values``, whole and the same on every rank, sharded as ``target`` is."""
    if not isinstance(target, DTensor):
        return values
    return distribute_tensor(
        values.to(target.device), target.device_mesh, target.placements, src_data_rank=None
    )


def require_same(value: object, what: str) -> None:
    """Raise `AdapterError` on every rank unless ``value`` is the same on all of them.

    All ranks have to call it.
    """
    if not several_processes():
        return
    values: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    others = [rank for rank, theirs in enumerate(values) if theirs != values[0]]
    if others:
        raise AdapterError(
            f"{what} must be the same on every rank, and differ from rank 0's on ranks {others}; "
            "give the same integer as rng or mask_seed everywhere, or none at all"
        )


def is_sharded(tensor: Tensor) -> bool:
    """Whether each rank holds only a part of ``tensor`` (FSDP2, tensor parallelism)."""
    return isinstance(tensor, DTensor)


def is_writer() -> bool:
    """Whether this process writes the files: rank 0, or the only one."""
    return not several_processes() or dist.get_rank() == 0


def on_writer(write: Callable[[], None]) -> None:
    """Call ``write`` on rank 0 only; every rank returns when it is through, or raises if it failed.

    All ranks have to call it. Rank 0 raises the error itself, the others an `AdapterError` with its
    message, so that none of them waits for a file that never comes.
    """
    outcome: list[str | None] = [None]
    if not several_processes():
        write()
        return
    if is_writer():
        try:
            write()
        except BaseException as error:
            outcome[0] = f"{type(error).__name__}: {error}"
            raise
        finally:
            dist.broadcast_object_list(outcome, src=0)
        return
    dist.broadcast_object_list(outcome, src=0)
    if outcome[0] is not None:
        raise AdapterError(f"rank 0 could not write: {outcome[0]}")


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, as DistributedDataParallel takes that of gradients.

    All ranks have to call it.
    """
    if several_processes():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensor


def several_processes() -> bool:
    """Whether this is one of several processes that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
