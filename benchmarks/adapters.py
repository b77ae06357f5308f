"""One training step with masked adapters beside stock PEFT LoRA, and what each arm stores.

    python benchmarks/adapters.py [--quick] [--wall] [--case SIZE RANK]

The set-up: BERT encoders, 6 layers of width 384 and 12 of width 768, random weights, two classes;
adapters of rank 64 and 8 (left_degree 2) on all linear layers of the encoder; 16 x 128 random
tokens; float32 on the CPU. One step is zero_grad, forward, backward and fused AdamW. The arms
(`_adapter_arms.py`) take turns within each round; every turn runs the step twice and counts the
second, so that no arm pays for memory that the one before it gave back to the system. By default
process CPU time on one thread; with --wall, wall time on two.

- step: the median of the round-by-round ratios to lora's;
- overhead: (arm - floor) / (lora - floor), what the adapters themselves cost, from these medians; a
  ratio of small differences, in which a noisy machine shows first.

Beside the time, for every arm: trainable, gradient and optimizer elements, bytes of buffers, bytes
saved for backward (each storage once, parameters left out), and the peak memory of a process that
runs a few steps and nothing else. Then files, merging and loading, always in wall time. Writes
results/adapters.json, or adapters_wall.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _adapter_arms import ARMS, DEGREE, bert, ours, step, training
from _common import RESULTS, interleaved, median_ratio, print_table, spread, write_record
from torch import Tensor, nn
from tqdm import tqdm

from expandermask.adapters import (
    AdapterConfig,
    attach,
    load_adapter,
    merge,
    save_adapter,
    set_backend,
    unmerge,
)

BATCH, LENGTH = 16, 128
CASES = [("6x384", 64), ("6x384", 8), ("12x768", 64), ("12x768", 8)]
BARS = {"kernel": 0.3, "portable": 0.8}
"""The most that (arm - floor) / (lora - floor) should be at r = 64."""


def batch() -> dict[str, Tensor]:
    """Random tokens and labels."""
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(1000, 30_000, (BATCH, LENGTH), generator=generator),
        "labels": torch.randint(0, 2, (BATCH,), generator=generator),
    }


# -- time ----------------------------------------------------------------------------------------


class StepTimer:
    """A clock that runs only during counted steps."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.counted = clock, 0.0

    def turn(self, run: Callable[[], None]) -> None:
        """Run once uncounted and once counted."""
        run()
        start = self.clock()
        run()
        self.counted += self.clock() - start

    def read(self) -> float:
        """Seconds counted so far."""
        return self.counted


def timed(size: str, r: int, rounds: int, wall: bool) -> dict[str, dict[str, Any]]:
    """Every arm's seconds and ratios, and what it stores."""
    timer = StepTimer(time.perf_counter if wall else time.process_time)
    inputs, runs, state = batch(), {}, {}
    with tqdm(total=len(ARMS) * (rounds + 1), desc=f"{size}, r={r}", unit="turn") as bar:
        for arm in ARMS:
            state[arm] = model, optimizer = training(arm, size, r)

            def run(_: int, arm: str = arm, model: Any = model, optimizer: Any = optimizer) -> None:
                set_backend("portable" if arm == "portable" else "auto")
                timer.turn(lambda: step(model, optimizer, inputs))
                bar.update()

            runs[arm] = run
        seconds = interleaved(runs, rounds, timer.read)
    ratio = {arm: median_ratio(seconds[arm], seconds["lora"]) for arm in ARMS}
    return {
        arm: {
            "seconds": spread(seconds[arm]),
            "step": ratio[arm],
            "overhead": (ratio[arm] - ratio["floor"]) / (1 - ratio["floor"]),
            **stored(arm, *state[arm]),
        }
        for arm in ARMS
    }


# -- space ---------------------------------------------------------------------------------------


def stored(arm: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Elements that train, of gradients and optimizer state after a step; bytes besides."""
    moments = [t for s in optimizer.state.values() for t in s.values() if t.dim() > 0]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    base = {name for name, _ in bert("6x384").named_buffers()}
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "gradient": sum(g.numel() for g in gradients),
        "optimizer": sum(t.numel() for t in moments),
        "buffer_bytes": sum(
            b.nbytes for n, b in model.named_buffers() if n.split("model.")[-1] not in base
        ),
        "saved_bytes": saved_bytes(arm, model),
    }


def saved_bytes(arm: str, model: nn.Module) -> int:
    """Bytes kept from the forward to the backward pass, parameters and buffers left out."""
    set_backend("portable" if arm == "portable" else "auto")
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # as it is, an output would hold its own node, and never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch()).loss  # held, or the storages would be used again
    del loss
    return sum(kept.values())


def peak_bytes(arm: str, size: str, r: int) -> int:
    """Peak memory of a process that trains one arm for a few steps."""
    command = [sys.executable, __file__, "--alone", arm, size, str(r)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(json.loads(out.splitlines()[-1]))


def alone(arm: str, size: str, r: int) -> None:
    """What `peak_bytes` starts: a few steps, then the peak on standard output."""
    set_backend("portable" if arm == "portable" else "auto")
    model, optimizer = training(arm, size, r)
    for _ in range(2):
        step(model, optimizer, batch())
    print(json.dumps(_peak()))


def _peak() -> int:
    """Peak resident bytes of this process; on Linux getrusage also counts who started it."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# -- files, merging, loading ---------------------------------------------------------------------


def seven_billion() -> nn.Module:
    """The attention projections of Llama-2-7B, q, k, v, o in 32 layers, weights of no size."""
    model = nn.Module()
    for i in range(32):
        for name in "qkvo":
            linear = nn.Linear(4096, 4096, bias=False, device="meta")
            linear.weight = nn.Parameter(torch.zeros(()).expand(4096, 4096), requires_grad=False)
            model.add_module(f"layers_{i}_{name}_proj", linear)
    return model


def files_and_merging() -> dict[str, Any]:
    """Bytes of a 7B adapter's folder; seconds to merge, unmerge, save and load a 12x768 one."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        model = seven_billion()
        plan = attach(model, AdapterConfig(r=64, left_degree=DEGREE), rng=0)
        save_adapter(model, place)
        found["7B values"] = plan.num_values
        found["7B folder bytes"] = sum(f.stat().st_size for f in Path(place).iterdir())
        found["7B bytes over values"] = found["7B folder bytes"] / (4 * plan.num_values)
    model = ours("12x768", 64)
    for layer in model.modules():
        if hasattr(layer, "lora_B"):
            nn.init.normal_(layer.lora_B, std=0.01)
    with tempfile.TemporaryDirectory() as place:
        verbs = {
            "merge": lambda: merge(model),
            "unmerge": lambda: unmerge(model),
            "save": lambda: save_adapter(model, place),
            "load onto it": lambda: load_adapter(model, place),
        }
        seconds: dict[str, list[float]] = {name: [] for name in (*verbs, "load onto the base")}
        for _ in range(5):
            for name, verb in verbs.items():
                seconds[name].append(_wall(verb))
            base = bert("12x768")
            seconds["load onto the base"].append(_wall(lambda: load_adapter(base, place)))  # noqa: B023
    return found | {f"{name}, s": spread(values) for name, values in seconds.items()}


def _wall(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# -- the whole -----------------------------------------------------------------------------------

COLUMNS = ("trainable", "gradient", "optimizer", "buffer_bytes", "saved_bytes", "peak_bytes")


def show(arms: dict[str, dict[str, Any]]) -> None:
    """Print one case."""
    print_table(
        ["arm", "step, s", "to lora", "overhead", *COLUMNS],
        [
            [
                name,
                f"{arm['seconds']['median']:.3f}",
                f"{arm['step']:.3f}",
                f"{arm['overhead']:.3f}",
                *(f"{arm[k]:,}" for k in COLUMNS),
            ]
            for name, arm in arms.items()
        ],
    )


def verdicts(size: str, r: int, arms: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Every bar, and whether this run clears it."""
    lora, share = arms["lora"], DEGREE / r
    found = {}
    for arm in ("portable", "kernel"):
        own = arms[arm]
        if r == 64:
            found[f"{arm}: overhead <= {BARS[arm]}"] = own["overhead"] <= BARS[arm]
        else:
            found[f"{arm}: no slower than peft"] = own["step"] <= 1
        for what in ("trainable", "gradient", "optimizer"):
            found[f"{arm}: {what} is d_L / r of LoRA's"] = own[what] == lora[what] * share
        for what in ("saved_bytes", "peak_bytes"):
            found[f"{arm}: {what} no more than LoRA's"] = own[what] <= lora[what]
    return {f"{size}, r={r}: {name}": bool(ok) for name, ok in found.items()}


def main() -> None:
    """Measure, print the tables, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="6x384 only, fewer rounds")
    parser.add_argument("--case", nargs=2, help="one case, such as 12x768 64; others are kept")
    parser.add_argument("--wall", action="store_true", help="wall time on two threads")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(2 if options.wall else 1)
    if options.alone:
        alone(options.alone[0], options.alone[1], int(options.alone[2]))
        return
    name = "adapters_wall" if options.wall else "adapters"
    before = RESULTS / f"{name}.json"
    cases: dict[str, Any] = {}
    if options.case and before.exists():
        cases = json.loads(before.read_text(encoding="utf-8"))["cases"]
    rest = files_and_merging()
    print(json.dumps(rest, indent=1))
    chosen = CASES[:2] if options.quick else CASES
    if options.case:
        chosen = [(options.case[0], int(options.case[1]))]
    for size, r in chosen:
        rounds = 5 if size != "6x384" else 5 if options.quick else 7
        arms = timed(size, r, rounds, options.wall)
        gc.collect()  # the models of six arms, before the peaks of their own processes
        for arm in arms:
            arms[arm]["peak_bytes"] = peak_bytes(arm, size, r)
        show(arms)
        cases[f"{size}, r={r}"] = arms
        bars = met(cases, rest)
        clock = "wall time, 2 threads" if options.wall else "process CPU time, 1 thread"
        path = write_record(name, {"clock": clock, "cases": cases, "files": rest, "bars": bars})
    print_table(["bar", "met"], [[bar, ok] for bar, ok in bars.items()])
    print(f"record: {path.name}")


def met(cases: dict[str, Any], rest: dict[str, Any]) -> dict[str, bool]:
    """Every bar, and whether it is met."""
    found = {
        "7B folder within 2 % of its values": rest["7B bytes over values"] <= 1.02,
        "merge of 12x768 under 1 s": rest["merge, s"]["median"] < 1,
        "load and verify of 12x768 under 1 s": rest["load onto the base, s"]["median"] < 1,
    }
    for case, arms in cases.items():
        size, r = case.split(", r=")
        found |= verdicts(size, int(r), arms)
    return found


if __name__ == "__main__":
    main()
