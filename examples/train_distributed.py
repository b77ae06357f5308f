"""Fine-tune MiniLM under Ramanujan masks on film reviews, by one process or many.

    python examples/train_distributed.py
    torchrun --nproc-per-node 2 examples/train_distributed.py
    torchrun --nproc-per-node 2 examples/train_distributed.py --fsdp
    accelerate launch --multi_gpu --num_processes 2 examples/train_distributed.py

One global batch is divided among the processes. ``--resume`` goes on from the output folder, on
any number of processes and sharded or not.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from expandermask.adapters import AdapterConfig, attach, load_adapter, save_adapter
from expandermask.adapters.training.distributed import on_writer
from expandermask.demo.data import load_snippets
from expandermask.demo.model import encoder_linears, load_model, load_tokenizer, model_source
from expandermask.demo.training import Encoded, accuracy, encode, logits

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""An optimizer state without shards, so that any number of processes can go on from it."""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="in all, those resumed from included")
    parser.add_argument("--batch", type=int, default=32, help="snippets a step, over all processes")
    parser.add_argument("--r", type=int, default=64, help="rank of the update")
    parser.add_argument("--seed", type=int, help="of masks and values; by default rank 0 draws one")
    parser.add_argument("--fsdp", action="store_true", help="shard with fully_shard, not DDP")
    parser.add_argument("--resume", action="store_true", help="go on from the output folder")
    parser.add_argument("--test", type=int, default=100, help="held-out snippets")
    parser.add_argument("--output", type=Path, default=Path("distributed"))
    return parser.parse_args()


def prepare_adapter(model: nn.Module, arguments: argparse.Namespace) -> int:
    """Attach a new adapter, or the saved one; the steps it has been trained for."""
    if arguments.resume:
        load_adapter(model, arguments.output / "adapter")
        return int((arguments.output / "step.txt").read_text())
    config = AdapterConfig(
        r=arguments.r, target_modules=encoder_linears(model), modules_to_save=["classifier"]
    )
    attach(model, config, rng=arguments.seed)
    return 0


def distribute(model: Any, fsdp: bool) -> Any:
    """The model to call: sharded layer by layer, replicated, or itself if there is one process."""
    if not dist.is_initialized():
        return model
    if not fsdp:
        return DistributedDataParallel(model)
    for layer in model.bert.encoder.layer:
        fully_shard(layer)
    return fully_shard(model)


def parts(data: Encoded, batch: int, rank: int, world: int) -> Iterator[dict[str, Tensor]]:
    """This process's share of every global batch; the batches do not depend on how many share."""
    sampler = DistributedSampler(range(len(data)), num_replicas=world, rank=rank, shuffle=False)

    def collate(rows: list[int]) -> dict[str, Tensor]:
        return {**data.batch(rows), "labels": data.labels[rows]}

    loader: DataLoader[Any] = DataLoader(
        range(len(data)),  # type: ignore[arg-type]
        batch_size=batch // world,
        sampler=sampler,
        collate_fn=collate,
    )
    yield from loader


def train(arguments: argparse.Namespace, rank: int, world: int) -> None:
    """Train, save, and let rank 0 load what was saved into a model of one process."""
    source = model_source(None)
    snippets = load_snippets(train=2000, validation=2, test=arguments.test)
    tokenizer = load_tokenizer(source)
    model = load_model(source, seed=0)
    done = prepare_adapter(model, arguments)
    model.train()
    run = distribute(model, arguments.fsdp)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3, weight_decay=0.0)
    if arguments.resume:
        saved = torch.load(arguments.output / "optimizer.pt", weights_only=True)
        set_optimizer_state_dict(model, optimizer, saved, options=WHOLE)

    torch.manual_seed(done * world + rank)  # dropout, different on every process
    data = parts(encode(tokenizer, snippets["train"]), arguments.batch, rank, world)
    for step, inputs in enumerate(islice(data, done, arguments.steps), done + 1):
        loss = run(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 5 == 0 and rank == 0:
            print(f"step {step}: loss {loss.item():.3f} on rank 0", flush=True)

    save_adapter(model, arguments.output / "adapter")
    state = get_optimizer_state_dict(model, optimizer, options=WHOLE)
    on_writer(lambda: save_progress(arguments.output, state, max(done, arguments.steps)))
    if rank == 0:
        fresh = load_model(source, seed=1)
        plan = load_adapter(fresh, arguments.output / "adapter")
        held_out = encode(tokenizer, snippets["test"])
        right = accuracy(logits(fresh, held_out), held_out)
        print(f"{type(run).__name__}, world size {world}, {plan}")
        print(f"loaded into one process: {right:.1f} % of {arguments.test} held-out snippets right")


def save_progress(folder: Path, optimizer: dict[str, Any], step: int) -> None:
    """The optimizer's tensors and the number of steps, beside the adapter."""
    torch.save(optimizer, folder / "optimizer.pt")
    (folder / "step.txt").write_text(f"{step}\n")


def main() -> None:
    """Join the other processes, if a launcher started any."""
    arguments = parse_arguments()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        train(arguments, 0, 1)
        return
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    try:
        train(arguments, dist.get_rank(), world)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
