"""The task of the training studies: MiniLM on film-review snippets, adapted in one of many ways.

The train snippets are the demo's; the test snippets are some that the demo never touches, so
nothing was ever chosen by them. Accuracies are in percent. A run's seed draws the head's first
values, the adapter's masks and values, the batches and the dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from analysis._study import TRAINING, Mode
from expandermask import MaskPlan
from expandermask.adapters import AdapterConfig, attach
from expandermask.allocation import Policy
from expandermask.demo.data import (
    SNIPPETS,
    TEST,
    TRAIN,
    VALIDATION,
    Snippets,
    ordered_by_hash,
    read_reviews,
)
from expandermask.demo.model import HEAD, encoder_linears, load_model, load_tokenizer, model_source
from expandermask.demo.training import Encoded, Schedule, accuracy, encode, logits, train
from expandermask.masks import find_targets
from expandermask.masks.targets import Shape

SIZES: dict[Mode, dict[str, int]] = {
    "smoke": {"train": 16, "test": 16, "epochs": 1},
    "quick": {"train": 96, "test": 200, "epochs": 1},
    "full": {"train": 800, "test": 1000, "epochs": 2},
}
"""What a training run does in every mode."""
LEARNING_RATES = {"masked": 5e-3, "dense": 2e-3}
"""Of dense LoRA the best one in the study `learning_rates`, of sparse adapters Partial-LoRA's."""
LORA_ALPHA = 16.0
BATCH = 32


def snippets(train_size: int, test_size: int) -> tuple[Snippets, Snippets]:
    """Train snippets from the demo's, test snippets from behind all of the demo's; balanced."""
    ordered = ordered_by_hash(read_reviews(SNIPPETS.locate()))
    first = (TEST + VALIDATION) // 2
    behind = first + TRAIN // 2
    return (
        _alternating(ordered, first, train_size // 2),
        _alternating(ordered, behind, test_size // 2),
    )


def _alternating(ordered: list[list[str]], start: int, count: int) -> Snippets:
    pairs = [(ordered[y][i], y) for i in range(start, start + count) for y in (0, 1)]
    texts, labels = zip(*pairs, strict=True)
    return Snippets(texts, labels)


@cache
def encoded(train_size: int, test_size: int) -> tuple[Encoded, Encoded]:
    """`snippets` tokenised, once in a process."""
    tokenizer = load_tokenizer(model_source(None))
    first, second = snippets(train_size, test_size)
    return encode(tokenizer, first), encode(tokenizer, second)


@cache
def held_out(count: int = VALIDATION) -> Encoded:
    """Some of the demo's validation snippets tokenised: neither trained on nor tested on."""
    ordered = ordered_by_hash(read_reviews(SNIPPETS.locate()))
    return encode(load_tokenizer(model_source(None)), _alternating(ordered, TEST // 2, count // 2))


def pretrained(seed: int = 0) -> nn.Module:
    """MiniLM with a new two-class head."""
    return load_model(model_source(None), seed)


@cache
def shapes() -> Mapping[str, Shape]:
    """The 36 linear layers of the encoder."""
    model = pretrained()
    return find_targets(model, "|".join(n.replace(".", r"\.") for n in encoder_linears(model)))


def adapted(model: nn.Module, plan: MaskPlan, lora_alpha: float = LORA_ALPHA) -> nn.Module:
    """The model with a plan's masked adapter on it, and its new head to be trained as well."""
    config = replace(AdapterConfig.of_plan(plan), lora_alpha=lora_alpha, modules_to_save=(HEAD,))
    attach(model, plan, config=config)
    return model


def batch_of(settings: Mapping[str, Any]) -> int:
    """How many snippets a step sees: at least four steps for a pass over few."""
    return min(BATCH, max(1, settings["train"] // 4))


def steps_of(settings: Mapping[str, Any]) -> int:
    """How many steps a run trains for."""
    steps: int = settings["epochs"] * -(-settings["train"] // batch_of(settings))
    return steps


def fine_tune(
    settings: Mapping[str, Any],
    adapt: Callable[[nn.Module], nn.Module],
    *,
    learning_rate: float,
    optimize: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    after_step: Callable[[nn.Module, int], None] = lambda model, step: None,
    policy: Callable[[int], Policy] | None = None,
    measure: Callable[[nn.Module], dict[str, Any]] = lambda model: {},
) -> dict[str, Any]:
    """Adapt the pretrained model, train it, and measure it on the test snippets.

    ``settings`` has train, test, epochs and seed; with ``validate`` True it is measured on as many
    validation snippets instead. ``adapt`` gives the model to train, of which the trainable
    parameters include the head's; ``policy``, of the number of steps, decides about the ranks of a
    dense adapter, and is finished before the test: ``in_use`` is how many terms an evaluation after
    each step would use, ``values_left`` how many values are left in the end.
    ``measure`` may add to the result.
    """
    train_set, test_set = encoded(settings["train"], settings["test"])
    if settings.get("validate"):
        test_set = held_out(settings["test"])
    model = adapt(pretrained(settings["seed"]))
    decides = None if policy is None else policy(steps_of(settings))
    in_use: list[int] = []
    if decides is not None:
        decides.attach(model)

    def after(step: int) -> None:
        after_step(model, step)
        if decides is not None:
            in_use.append(sum(decides.ranks().values()))

    trained = train(
        model,
        train_set,
        Schedule(learning_rate, settings["epochs"], batch_of(settings)),
        seed=settings["seed"],
        name="run",
        progress=False,
        optimizer=None if optimize is None else optimize(model),
        after_step=after,
        policy=decides,
    )
    left = {"values_left": trained.trainable_values}
    if decides is not None:
        ranks, saved = (
            decides.finish(),
            sum(p.numel() for p in model.get_submodule(HEAD).parameters()),
        )
        sizes = {name: d + k for name, (d, k) in shapes().items()}
        left = {
            "in_use": in_use,
            "ranks": ranks,
            "values_left": saved + sum(r * sizes[n] for n, r in ranks.items()),
        }
    return {
        "accuracy": accuracy(logits(model, test_set), test_set),
        "final_loss": trained.final_loss,
        "trainable_values": trained.trainable_values,
        "gradient_bytes": trained.gradient_bytes,
        "optimizer_bytes": trained.optimizer_bytes,
        TRAINING: round(trained.seconds, 2),
        **left,
        **measure(model),
    }
