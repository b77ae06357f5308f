"""The Trainer and the policies behind the checkpoints in `tests/data/v0_1`. Change nothing here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from expandermask.adapters import AdapterCallback, AdapterConfig, attach
from expandermask.allocation import (
    AdaLoRA,
    ALoRA,
    DiffoRA,
    Policy,
    PolicyCallback,
    ROLoRA,
    SaLoRA,
    minus_loss,
)
from tests.data.v0_1_models import build, formula, inputs


def trainer_of(name: str, place: Path) -> tuple[nn.Module, Trainer, Policy | None]:
    """A BERT with an adapter, and its Trainer, four steps long; for "adalora" with a policy."""
    model = build("bert")
    config = AdapterConfig(
        r=4, left_degree=4, target_modules=["query", "value"], modules_to_save=["classifier"]
    )
    attach(model, config, rng=0)
    callbacks: list[Any] = [AdapterCallback()]
    policy = None
    if name == "adalora":
        policy = AdaLoRA(target_rank=2, total_steps=4, warmup_steps=1, final_steps=1)
        callbacks.append(PolicyCallback(policy, finish=False))
    data = [{"input_ids": row, "labels": i % 3} for i, row in enumerate(inputs("bert").tolist())]
    arguments = TrainingArguments(
        str(place),
        max_steps=4,
        save_steps=2,
        learning_rate=1e-2,
        per_device_train_batch_size=3,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=True,
    )
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=callbacks)
    return model, trainer, policy


def trained(model: nn.Module, policy: Policy | None) -> dict[str, Tensor]:
    """All that training changed, the state of the policy included."""
    found = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    state = {} if policy is None else policy.state_dict()
    return found | {f"policy.{key}": tensor for key, tensor in state.items()}


def policies() -> dict[str, Policy]:
    """One policy of every kind that has a state of its own."""
    batches = [(formula("x", (8, 24)), formula("y", (8, 24)))]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    return {
        "adalora": AdaLoRA(target_rank=2, total_steps=8, warmup_steps=1, final_steps=2),
        "salora": SaLoRA(target_density=0.5, start_step=1, end_step=6),
        "alora": ALoRA(
            score=minus_loss(batches, loss=loss),
            start_rank=2,
            first_steps=2,
            recovery_steps=2,
            rounds=3,
        ),
        "rolora": ROLoRA(target_rank=2, total_steps=12),
        "diffora": DiffoRA(validation=batches, search_steps=3, select_rate=1.0, loss=loss),
    }
