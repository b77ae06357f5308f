"""The policies of `expandermask.allocation` as arms, coming to a mean rank of about r.

Adapters are dense, so that they are LoRA's but for what a policy decides. Learning rates are those
of `allocation_rates`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from analysis._arms import Arm
from analysis._sparsity import probed
from analysis._study import Settings
from analysis._task import LORA_ALPHA, adapted, held_out, shapes
from expandermask import MaskPlan
from expandermask.allocation import (
    AdaLoRA,
    ALoRA,
    DiffoRA,
    Policy,
    ROLoRA,
    SaLoRA,
    SoRA,
    minus_loss,
    plan_of_ranks,
    share,
)
from expandermask.allocation.static import used_ranks
from expandermask.demo.training import Schedule
from expandermask.importance import gradient_norms

RATES = {
    "LoRA": 3e-3,
    "AdaLoRA": 4e-2,
    "SoRA": 4e-3,
    "SaLoRA": 4e-3,
    "ALoRA": 3e-3,
    "ROLoRA": 2e-2,
    "DiffoRA": 8e-3,
}
"""The learning rate of each, the best in the study `allocation_rates`; ALoRA's is LoRA's."""
ROUNDS = 3
"""ROLoRA's, and how many times as long as others `rank_budgets` trains it."""
ALORA_ALPHA = LORA_ALPHA * math.sqrt(2)
"""With m terms in use of 2 r the scale is this over sqrt(2 r m); at m = r LoRA's LORA_ALPHA / r."""
GATE_RATIO = 20
"""How much faster than all else SoRA's gates learn; at one rate they keep their first order."""
LIGHT = 1e-3
"""The weight of AdaLoRA's and SaLoRA's orthogonality, and the default of ROLoRA's."""
VALIDATION = 64
"""Held-out snippets on which gradient norms are taken, and from which DiffoRA draws its batches."""
SCORED = 32
"""Held-out snippets that ALoRA scores terms on, twice each in every round."""


def dense_plan(r: int, seed: int) -> MaskPlan:
    """Masks that keep everything, of rank r."""
    return MaskPlan.for_shapes(shapes(), r=r, left_degree=r, rng=seed)


def fixed(plan: MaskPlan, rate: float = RATES["LoRA"], *, lora_alpha: float = LORA_ALPHA) -> Arm:
    """LoRA, or what is left of it, with ranks fixed before training."""
    return Arm(lambda model: adapted(model, plan, lora_alpha), rate)


def lora_of_rank(r: int, seed: int, rate: float = RATES["LoRA"]) -> Arm:
    """LoRA of one rank in this library's layers."""
    return fixed(dense_plan(r, seed), rate)


def by_gradient_norm(r: int, settings: Settings) -> Arm:
    """Values shared out by gradient norms on held-out snippets, at most 4 r ranks each."""
    norms = gradient_norms(probed(settings["mode"]), labelled(VALIDATION), tuple(shapes()))
    return by_weight(norms, r, settings["seed"])


def at_random(r: int, settings: Settings) -> Arm:
    """Values shared out by weights drawn at random (exponential), at most 4 r ranks each."""
    drawn = np.random.default_rng(settings["seed"]).exponential(size=len(shapes()))
    return by_weight(dict(zip(shapes(), map(float, drawn), strict=True)), r, settings["seed"])


def by_weight(weights: dict[str, float], r: int, seed: int) -> Arm:
    """About as many values as LoRA of rank r, ranks in proportion to weights, at most 4 r.

    A module of rank m has the scale lora_alpha / sqrt(r m), as if its degree were m of rank r, so
    that one of rank r has LoRA's.
    """
    full = dense_plan(4 * r, seed)
    sizes = {name: d + k for name, (d, k) in shapes().items()}
    ranks = share(weights, r * sum(sizes.values()), caps=used_ranks(full), costs=sizes)
    return fixed(plan_of_ranks(full, ranks), lora_alpha=LORA_ALPHA * 2)


def allocator(kind: str, r: int, settings: Settings, rate: float | None = None) -> Arm:
    """The arm of one policy that comes to a mean rank of about r."""
    largest = {"AdaLoRA": r + r // 2, "SoRA": r + r // 2}.get(kind, 2 * r)
    arm = fixed(
        dense_plan(largest, settings["seed"]),
        RATES[kind] if rate is None else rate,
        lora_alpha=ALORA_ALPHA if kind == "ALoRA" else LORA_ALPHA,
    )
    return replace(arm, policy=lambda steps: policy_of(kind, r, steps, arm.learning_rate))


def policy_of(kind: str, r: int, steps: int, rate: float) -> Policy:
    """One policy over so many steps."""
    if kind == "AdaLoRA":
        return adalora(r, steps)
    if kind == "SoRA":
        return sora(rate, steps)
    if kind == "SaLoRA":
        return salora(steps)
    if kind == "ALoRA":  # two rounds, half of whose terms move
        return ALoRA(
            score=minus_loss(labelled(SCORED)),
            start_rank=r,
            pruned=max(1, r * len(shapes()) // 4),
            first_steps=max(1, steps // 3),
            recovery_steps=max(1, steps // 6),
            rounds=2,
        )
    if kind == "ROLoRA":
        return ROLoRA(target_rank=r, total_steps=steps, rounds=ROUNDS)
    if kind == "DiffoRA":
        return DiffoRA(
            validation=labelled(VALIDATION, batch=16),
            search_steps=max(1, steps // 3),
            gate_rate=0.05,
        )
    raise ValueError(kind)


def adalora(r: int, steps: int, orthogonality: float = LIGHT) -> AdaLoRA:
    """Down to a mean rank of r over the middle of the steps."""
    return AdaLoRA(
        target_rank=r,
        total_steps=steps,
        warmup_steps=steps // 10,
        final_steps=steps // 3,
        orthogonality=orthogonality,
    )


class QuickSoRA(SoRA):
    """SoRA whose gates have ``ratio`` times the learning rate of all else."""

    def __init__(self, ratio: float, *, strength: float) -> None:
        super().__init__(strength=strength)
        self.ratio = ratio

    def groups(self, *, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """As `Policy.groups`."""
        rest, gates = super().groups(lr=lr, weight_decay=weight_decay)
        return [rest, {**gates, "lr": self.ratio * lr}]


def sora(rate: float, steps: int, ratio: float = GATE_RATIO, pull: float = 0.75) -> QuickSoRA:
    """Thresholds that come to ``pull`` over the steps, by which a third of the gates closes."""
    factors = [Schedule(rate, 1, 1).factor(step, steps) for step in range(steps)]
    return QuickSoRA(ratio, strength=pull / (ratio * rate * sum(factors)))


def salora(steps: int, orthogonality: float = LIGHT) -> SaLoRA:
    """Half of the parameters, settled half way."""
    return SaLoRA(
        target_density=0.5,
        start_step=steps // 10,
        end_step=max(steps // 10 + 1, steps // 2),
        gate_rate=0.05,
        multiplier_rate=100.0,
        orthogonality=orthogonality,
    )


def labelled(count: int, batch: int | None = None) -> list[dict[str, Any]]:
    """Held-out snippets in batches, all in one without a size."""
    data = held_out()
    size = count if batch is None else batch
    rows = [list(range(i, min(i + size, count))) for i in range(0, count, size)]
    return [{**data.batch(own), "labels": data.labels[torch.tensor(own)]} for own in rows]
