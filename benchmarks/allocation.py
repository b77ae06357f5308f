"""One training step under every allocation policy beside stock PEFT's LoRA and AdaLoRA.

    python benchmarks/allocation.py [--quick] [--case SIZE RANK]

The set-up is that of `adapters.py`: BERT encoders of random weights, adapters on all linear layers
of the encoder, 16 x 128 random tokens, float32, fused AdamW, process CPU time on one thread. All
adapters are dense (left_degree = r), so that what differs from LoRA is the policy. A step is
zero_grad, forward with the policy's loss, backward, after_backward, the optimizer's step and
after_step, in a phase in which the policy ranks and masks, but evaluates nothing. The arms take
turns within each round; every turn runs the step twice and counts the second.

- step: the median of the round-by-round ratios to PEFT's LoRA;
- own: the same to this library's LoRA, which is the policy's own cost.

Then, in wall time, what the phases cost that evaluate: a round of ALoRA, and DiffoRA's steps of the
search, in steps of LoRA. And memory, over a whole short schedule that comes to half of RANK: the
most bytes that trained values, their gradients and the optimizer's state ever have together, over
those of LoRA of that rank. Writes results/allocation.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import peft
import torch
from _adapter_arms import bert
from _common import interleaved, median_ratio, print_table, spread, write_record
from adapters import StepTimer, batch
from torch import Tensor, nn
from tqdm import tqdm

from expandermask.adapters import AdapterConfig, attach
from expandermask.allocation import (
    AdaLoRA,
    ALoRA,
    DiffoRA,
    Policy,
    ROLoRA,
    SaLoRA,
    SoRA,
    minus_loss,
)

CASES = [("6x384", 8), ("12x768", 8)]
TOTAL = 10_000
"""Steps of the schedules, so long that all that is measured is within one phase."""
START = 1_000
POLICIES: dict[str, Callable[[], Policy]] = {
    "AdaLoRA": lambda: AdaLoRA(target_rank=4, total_steps=TOTAL, final_steps=100),
    "SoRA": lambda: SoRA(strength=0.1),
    "SaLoRA": lambda: SaLoRA(target_density=0.5, start_step=0, end_step=TOTAL),
    "ALoRA": lambda: ALoRA(
        score=minus_loss([batch()]), start_rank=8, first_steps=TOTAL, recovery_steps=1
    ),
    "ROLoRA": lambda: ROLoRA(target_rank=8, total_steps=4 * TOTAL),
    "DiffoRA": lambda: DiffoRA(validation=[batch()], search_steps=1, select_rate=0.5),
}
SHORT = 16
"""Steps of the schedule whose memory is told."""
BAR = 1.15
"""The most that a policy's step should be of a LoRA step, outside its evaluation phases."""


def main() -> None:
    """Measure the cases asked for, write the record, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one case, three rounds")
    parser.add_argument("--case", nargs=2, metavar=("SIZE", "RANK"), help="only this one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(options.case[0], int(options.case[1]))] if options.case else CASES
    cases, rounds = (cases[:1], 3) if options.quick else (cases, 9)
    found = {
        f"{size} r={r}": {
            "steps": steps(size, r, rounds),
            **phases(size, r),
            "bytes": most_bytes(size, r // 2),
        }
        for size, r in cases
    }
    write_record("allocation", {"rounds": rounds, "bar": BAR, "cases": found})
    for case, own in found.items():
        print(f"\n{case}")
        rows = [
            (arm, f"{v['seconds']['median']:.3f}", f"{v['step']:.3f}", f"{v['own']:.3f}")
            for arm, v in own["steps"].items()
        ]
        print_table(("arm", "seconds", "step", "own"), rows)
        for phase, steps_of_lora in own["phases"].items():
            print(f"{phase}: {steps_of_lora:.1f} steps of LoRA")
        lora = own["bytes"]["LoRA"]
        for arm, most in own["bytes"].items():
            print(f"{arm}: at most {most / 1e6:.2f} MB trained, {most / lora:.3f} of LoRA")


def steps(size: str, r: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds and ratios of every arm."""
    timer, inputs, runs = StepTimer(time.process_time), batch(), {}
    arms = ["peft LoRA", "peft AdaLoRA", "LoRA", *POLICIES]
    with tqdm(total=len(arms) * (rounds + 1), desc=f"{size}, r={r}", unit="turn") as bar:
        for arm in arms:
            one = peft_step(arm, size, r) if arm.startswith("peft") else own_step(arm, size, r)

            def run(_: int, one: Callable[[dict[str, Tensor]], None] = one) -> None:
                timer.turn(lambda: one(inputs))
                bar.update()

            runs[arm] = run
        seconds = interleaved(runs, rounds, timer.read)
    return {
        arm: {
            "seconds": spread(seconds[arm]),
            "step": median_ratio(seconds[arm], seconds["peft LoRA"]),
            "own": median_ratio(seconds[arm], seconds["LoRA"]),
        }
        for arm in arms
    }


def own_step(arm: str, size: str, r: int) -> Callable[[dict[str, Tensor]], None]:
    """A step of this library's adapters, with a policy or without."""
    model = with_adapters(size, r)
    if arm not in POLICIES:
        optimizer = adamw([p for p in model.parameters() if p.requires_grad])
        return lambda inputs: plain_step(model, optimizer, inputs)
    policy = POLICIES[arm]()
    policy.attach(model)
    optimizer = adamw(policy.groups(lr=1e-4))
    policy.follow(optimizer)
    if arm == "DiffoRA":  # the search is one of the phases below
        policy.after_step(0)
    count = iter(range(START, TOTAL))

    def one(inputs: dict[str, Tensor]) -> None:
        step = next(count)
        optimizer.zero_grad()
        (model(**inputs).loss + policy.loss()).backward()
        policy.after_backward(step)
        optimizer.step()
        policy.after_step(step)

    return one


def peft_step(arm: str, size: str, r: int) -> Callable[[dict[str, Tensor]], None]:
    """A step of PEFT's LoRA or AdaLoRA on the same layers."""
    targets = [name for name, m in with_adapters(size, r).named_modules() if hasattr(m, "adapters")]
    common: dict[str, Any] = {"target_modules": targets, "lora_alpha": 16}
    if arm == "peft LoRA":
        config: Any = peft.LoraConfig(r=r, **common)
    else:
        config = peft.AdaLoraConfig(
            init_r=r, target_r=4, tinit=0, tfinal=100, deltaT=1, total_step=TOTAL, **common
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(bert(size), config)
    optimizer = adamw([p for p in model.parameters() if p.requires_grad])
    count = iter(range(START, TOTAL))

    def one(inputs: dict[str, Tensor]) -> None:
        plain_step(model, optimizer, inputs, zero=False)
        if arm == "peft AdaLoRA":
            model.base_model.update_and_allocate(next(count))
        optimizer.zero_grad()

    return one


def phases(size: str, r: int) -> dict[str, dict[str, float]]:
    """Wall time of a round of ALoRA, and of a step of DiffoRA's search, in steps of LoRA."""
    plain, inputs = own_step("LoRA", size, r), batch()
    plain(inputs)
    lora = min(seconds_of(lambda: plain(inputs)) for _ in range(3))
    model = with_adapters(size, 2)
    alora = ALoRA(
        score=minus_loss([inputs]), start_rank=1, pruned=0, first_steps=1, recovery_steps=1
    )
    alora.attach(model)
    alora.follow(adamw(alora.groups(lr=1e-4)))
    round_of_alora = seconds_of(lambda: alora.after_step(0)) / alora.evaluations
    model = with_adapters(size, r)
    diffora = DiffoRA(validation=[inputs], search_steps=9)
    diffora.attach(model)
    search = min(seconds_of(lambda s=s: diffora.after_step(s)) for s in range(3))
    modules = len(diffora.modules())
    return {
        "phases": {
            f"a round of ALoRA, {2 * r * modules + 1} evaluations": (2 * r * modules + 1)
            * round_of_alora
            / lora,
            "a step of DiffoRA's search, beside the model's own": search / lora,
        }
    }


def most_bytes(size: str, target: int) -> dict[str, int]:
    """The most that is ever held to train, of LoRA and of policies that come to the same ranks."""
    arms: dict[str, tuple[int, Callable[[], Policy] | None]] = {
        "LoRA": (target, None),
        "AdaLoRA": (
            target + target // 2,
            lambda: AdaLoRA(target_rank=target, total_steps=SHORT, final_steps=SHORT // 4),
        ),
        "SoRA": (target + target // 2, lambda: SoRA(strength=0.1)),
        "ROLoRA": (2 * target, lambda: ROLoRA(target_rank=target, total_steps=SHORT)),
    }
    return {arm: most_held(size, r, make) for arm, (r, make) in arms.items()}


def most_held(size: str, r: int, make: Callable[[], Policy] | None) -> int:
    """Bytes of values, gradients and optimizer state, at their most over a short schedule."""
    model, inputs, most = with_adapters(size, r), batch(), 0
    policy = None if make is None else make()
    if policy is None:
        optimizer = adamw([p for p in model.parameters() if p.requires_grad])
    else:
        policy.attach(model)
        optimizer = adamw(policy.groups(lr=1e-4))
        policy.follow(optimizer)
    for step in tqdm(range(SHORT), desc=f"{size}, r={r}: bytes", unit="step"):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        (loss if policy is None else loss + policy.loss()).backward()
        if policy is not None:
            policy.after_backward(step)
        optimizer.step()
        most = max(most, held_bytes(optimizer))
        if policy is not None:
            policy.after_step(step)
            most = max(most, held_bytes(optimizer))
    return most


def held_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Of the parameters that an optimizer trains, of their gradients, and of its own state."""
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in trained if p.grad is not None]
    state = [t for kept in optimizer.state.values() for t in kept.values()]
    return sum(t.nbytes for t in (*trained, *gradients, *state))


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def with_adapters(size: str, r: int) -> nn.Module:
    """A BERT with dense adapters of this library on the encoder's linear layers."""
    model = bert(size)
    config = AdapterConfig(r=r, left_degree=r, target_modules=r".*encoder.*")
    attach(model, config, rng=0)
    return model


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """The optimizer of every arm."""
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True)


def plain_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: dict[str, Tensor],
    *,
    zero: bool = True,
) -> None:
    """zero_grad, forward, backward, step."""
    if zero:
        optimizer.zero_grad()
    model(**inputs).loss.backward()
    optimizer.step()


if __name__ == "__main__":
    main()
