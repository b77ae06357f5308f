"""The ways to adapt the model that studies compare: each says how, and at which learning rate.

Sparse adapters are this library's; the dense ones are stock PEFT's. All train the same new head
along, on the same 36 linear layers of the encoder.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import peft
import torch
from torch import nn

from analysis._sparsity import scores, sparsity
from analysis._study import Settings
from analysis._task import (
    LEARNING_RATES,
    LORA_ALPHA,
    SIZES,
    adapted,
    fine_tune,
    shapes,
    steps_of,
)
from expandermask import MaskPlan
from expandermask.adapters import residual_norms
from expandermask.allocation import Policy
from expandermask.demo.model import HEAD
from expandermask.masks import (
    Density,
    NothingKeptWarning,
    balanced,
    continuous,
    partial_plan,
    pyramidal,
)

LORA_PLUS_RATIO = 16
VERA_RANK = 256


@dataclass(frozen=True)
class Arm:
    """How to adapt a model, and how it is then trained."""

    adapt: Callable[[nn.Module], nn.Module]
    learning_rate: float
    optimize: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    after_step: Callable[[nn.Module, int], None] = lambda model, step: None
    policy: Callable[[int], Policy] | None = None
    """Of the number of steps, what decides about the ranks of the adapter."""


def train_arm(
    settings: Settings, arm: Arm, measure: Callable[[nn.Module], dict[str, Any]] = lambda model: {}
) -> dict[str, Any]:
    """Train and test one arm."""
    return fine_tune(
        settings,
        arm.adapt,
        learning_rate=arm.learning_rate,
        optimize=arm.optimize,
        after_step=arm.after_step,
        policy=arm.policy,
        measure=measure,
    )


def norms(model: nn.Module) -> dict[str, Any]:
    """The Frobenius norm of every module's update, of a masked adapter or a PEFT LoRA."""
    if not isinstance(model, peft.PeftModel):
        return {"norms": residual_norms(model)}
    found = {
        name.removeprefix("base_model.model."): float(module.get_delta_weight("default").norm())
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    return {"norms": found}


# -- sparse ---------------------------------------------------------------------------------------


def of_plan(plan: MaskPlan) -> Arm:
    """A masked adapter under any plan."""
    return Arm(lambda model: adapted(model, plan), LEARNING_RATES["masked"])


def expander(r: int, left_degree: int, seed: int, method: str = "auto") -> Arm:
    """XoRA: certified masks, near-optimal designs unless another method is asked for."""
    plan = MaskPlan.for_shapes(shapes(), r=r, left_degree=left_degree, method=method, rng=seed)
    return of_plan(plan)


def matched_rate(r: int, left_degree: int) -> float:
    """The learning rate at which an update under "matched" scaling is as large as LoRA's."""
    return LEARNING_RATES["dense"] * math.sqrt(r / left_degree)


def bernoulli_elements(r: int, density: float, seed: int) -> Arm:
    """Every entry kept with one probability."""
    densities = balanced(shapes(), density)
    return of_plan(partial_plan(shapes(), densities, r=r, select="elements", rng=seed))


def row_column(
    select: str,
    densities: dict[str, Density],
    r: int,
    seed: int,
    *,
    own_scores: Any = None,
    temperature: float = 1.0,
) -> Arm:
    """Partial-LoRA or one of its variants, on the modules that densities name."""
    named = {name: shape for name, shape in shapes().items() if name in densities}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingKeptWarning)
        plan = partial_plan(
            named,
            densities,
            r=r,
            select=select,
            scores=own_scores,
            temperature=temperature,
            rng=seed,
        )
    return of_plan(plan)


def derived(settings: Settings) -> dict[str, Density]:
    """The densities that Algorithm 1 gives for the settings' mode and source of scores."""
    return sparsity(settings["source"], settings["mode"], 0).densities


def partial_variant(settings: Settings) -> Arm:
    """The arm of settings with select, source of scores and r; densities from Algorithm 1.

    ``flow`` True ranks by continuous scores.
    """
    select, r, seed = settings["select"], settings["r"], settings["seed"]
    own = None
    if select != "bernoulli":
        own = scores(settings["source"], settings["mode"], 0)
        own = continuous(own, following(own)) if settings.get("flow") else own
    return row_column(
        select,
        derived(settings),
        r,
        seed,
        own_scores=own,
        temperature=settings.get("temperature", 1.0),
    )


def following(own: Mapping[str, Any]) -> dict[str, str]:
    """For each of these layers that another reads directly, that one.

    Queries and keys meet only each other. What a block gives is read by the next one's queries,
    keys and values, of which the values are taken.
    """
    inner = {
        "attention.self.value": "attention.output.dense",
        "attention.output.dense": "intermediate.dense",
        "intermediate.dense": "output.dense",
    }
    found: dict[str, str] = {}
    for name in own:
        stem, layer, kind = re.split(r"(?<=layer)\.(\d+)\.", name)
        after = f"{stem}.{layer}.{inner[kind]}" if kind in inner else ""
        if kind == "output.dense":
            after = f"{stem}.{int(layer) + 1}.attention.self.value"
        if after in own:
            found[name] = after
    return found


def scheduled(schedule: str, density: float, r: int, seed: int) -> Arm:
    """Bernoulli rows and columns at balanced or pyramidal densities."""
    make = {"balanced": balanced, "pyramidal": pyramidal}[schedule]
    return row_column("bernoulli", make(shapes(), density), r, seed)


# -- dense ----------------------------------------------------------------------------------------


def lora(r: int, **changes: Any) -> Arm:
    """Stock PEFT LoRA; ``use_dora=True`` makes it DoRA."""
    config = peft.LoraConfig(r=r, lora_alpha=int(LORA_ALPHA), **(_common() | changes))
    return Arm(partial(_peft, config=config), LEARNING_RATES["dense"])


def lora_plus(r: int, rate: float) -> Arm:
    """LoRA whose B learns faster than A, which learns at ``rate`` ("LoRA+", 2024)."""

    def optimize(model: nn.Module) -> torch.optim.Optimizer:
        from peft.optimizers import create_loraplus_optimizer

        return create_loraplus_optimizer(
            model,
            torch.optim.AdamW,
            lr=rate,
            loraplus_lr_ratio=LORA_PLUS_RATIO,
            weight_decay=0.0,
        )

    return Arm(lora(r).adapt, rate, optimize)


def vera(rate: float) -> Arm:
    """Frozen random factors of one rank, shared where shapes allow, with trained scales."""
    config = peft.VeraConfig(r=VERA_RANK, d_initial=0.1, **_common())
    return Arm(partial(_peft, config=config), rate)


def adalora(r: int, rate: float, settings: Settings) -> Arm:
    """PEFT's AdaLoRA, from half as many ranks more, and one, down to ``r``."""
    steps = steps_of(settings)
    config = peft.AdaLoraConfig(
        init_r=r + r // 2 + 1,
        target_r=r,
        lora_alpha=int(LORA_ALPHA),
        tinit=max(1, steps // 10),
        tfinal=max(1, steps // 3),
        deltaT=1,
        total_step=steps,
        **_common(),
    )

    def after_step(model: nn.Module, step: int) -> None:
        model.base_model.update_and_allocate(step)

    return Arm(partial(_peft, config=config), rate, after_step=after_step)


def _common() -> dict[str, Any]:
    return {"task_type": "SEQ_CLS", "target_modules": list(shapes()), "modules_to_save": [HEAD]}


def _peft(model: nn.Module, config: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads a flag transformers renamed
        found: nn.Module = peft.get_peft_model(model, config)
    return found


def sized(mode: Any, **more: Any) -> Settings:
    """Settings of a training run in a mode."""
    return {"mode": mode, **SIZES[mode], **more}
