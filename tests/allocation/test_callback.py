"""Policies under a Trainer: as in a plain loop, accumulated, and resumed bit for bit."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

from expandermask.adapters import (
    AdapterCallback,
    AdapterConfig,
    SmallCheckpoints,
    XoraConfig,
    attach,
)
from expandermask.allocation import (
    AdaLoRA,
    ALoRA,
    DiffoRA,
    Policy,
    PolicyCallback,
    ROLoRA,
    SaLoRA,
    SoRA,
    minus_loss,
)
from expandermask.errors import AdapterError, FileFormatError, InvalidInputError
from tests.allocation.models import adapters

logging.disable_progress_bar()
STEPS = 12


SMALL = BertConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
)


def bert(dropout: float = 0.1, holder: str = "attach", seed: int | None = 0) -> nn.Module:
    """With the same adapter, held by `attach` or by PEFT."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    model = BertForSequenceClassification(config)
    asked = {"r": 6, "left_degree": 6, "target_modules": ["query", "value"]}
    asked["modules_to_save"] = ["classifier"]
    if holder == "PEFT":
        return peft.get_peft_model(model, XoraConfig(**asked, task_type="SEQ_CLS", mask_seed=seed))
    attach(model, AdapterConfig(**asked), rng=seed)
    return model


DATA = [{"input_ids": [i % 64, (7 * i + 1) % 64, 5], "labels": i % 2} for i in range(48)]


def held_out() -> list[dict[str, torch.Tensor]]:
    ids = torch.tensor([d["input_ids"] for d in DATA[:8]])
    return [{"input_ids": ids + 1, "labels": torch.tensor([d["labels"] for d in DATA[:8]])}]


POLICIES: dict[str, Callable[[], Policy]] = {
    "AdaLoRA": lambda: AdaLoRA(target_rank=2, total_steps=STEPS, final_steps=2),
    "SoRA": lambda: SoRA(strength=12.0),
    "SaLoRA": lambda: SaLoRA(target_density=0.5, start_step=1, end_step=9),
    "ALoRA": lambda: ALoRA(
        score=minus_loss(held_out()), start_rank=3, first_steps=3, recovery_steps=2, rounds=3
    ),
    "ROLoRA": lambda: ROLoRA(target_rank=3, total_steps=STEPS),
    "DiffoRA": lambda: DiffoRA(validation=held_out(), search_steps=5, share_rank=2),
}


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    asked: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "use_cpu": True,
        "seed": 5,
    }
    return TrainingArguments(str(folder), **(asked | more))


def trained(
    folder: Path,
    policy: Policy,
    *,
    resume: bool | str = False,
    beside: tuple[Any, ...] = (),
    kind: type[Trainer] = Trainer,
    holder: str = "attach",
    **more: Any,
) -> nn.Module:
    model = bert(holder=holder)
    callback = PolicyCallback(policy, finish=False)
    trainer = kind(
        model, arguments(folder, **more), train_dataset=DATA, callbacks=[*beside, callback]
    )
    trainer.train(resume_from_checkpoint=resume)
    return model


@pytest.mark.parametrize("name", POLICIES)
def test_the_trainer_does_what_a_plain_loop_does(name: str, tmp_path: Path) -> None:
    """To the bit, where the loop differentiates the policy's loss by itself as well."""
    batches: list[dict[str, torch.Tensor]] = []

    class Noting(Trainer):
        def training_step(self, model: nn.Module, inputs: Any, *rest: Any) -> torch.Tensor:
            batches.append({key: value.clone() for key, value in inputs.items()})
            return super().training_step(model, inputs, *rest)

    policy, model = POLICIES[name](), bert(dropout=0.0)
    settings = arguments(
        tmp_path, lr_scheduler_type="constant", max_grad_norm=0.0, optim="adamw_torch"
    )
    Noting(
        model, settings, train_dataset=DATA, callbacks=[PolicyCallback(policy, finish=False)]
    ).train()
    by_hand, plain = POLICIES[name](), bert(dropout=0.0)
    plain.train()
    by_hand.attach(plain)
    optimizer = torch.optim.AdamW(by_hand.groups(lr=1e-2))
    by_hand.follow(optimizer)
    for step, batch in enumerate(batches):
        plain(**batch).loss.backward()
        if (extra := by_hand.loss()).requires_grad:
            extra.backward()
        by_hand.after_backward(step)
        optimizer.step()
        by_hand.after_step(step)
        optimizer.zero_grad()
    assert len(batches) == STEPS
    assert policy.active().keys() == by_hand.active().keys()
    for place, active in policy.active().items():
        assert torch.equal(active, by_hand.active()[place])
    own, theirs = model.state_dict(), plain.state_dict()
    for key in theirs:
        assert torch.equal(own[key], theirs[key]), key


def own_optimizer(policy: Policy, model: nn.Module) -> torch.optim.Optimizer:
    policy.attach(model)
    return torch.optim.AdamW(policy.groups(lr=1e-2, weight_decay=0.1))


@pytest.mark.parametrize("name", POLICIES)
def test_an_optimizer_of_the_users_own_is_followed_from_the_start(
    name: str, tmp_path: Path
) -> None:
    """Also where a checkpoint exchanges what it was made for."""
    saving = arguments(tmp_path, save_strategy="steps", save_steps=8)
    found = []
    for resume in (False, f"{tmp_path}/checkpoint-8"):
        model, policy = bert(), POLICIES[name]()
        optimizers = (own_optimizer(policy, model), None)
        callbacks = [PolicyCallback(policy, finish=False)]
        trainer = Trainer(
            model, saving, train_dataset=DATA, callbacks=callbacks, optimizers=optimizers
        )
        trainer.train(resume_from_checkpoint=resume)
        found.append(model.state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


KILLED = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from tests.allocation.test_callback import POLICIES, trained

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 6:
            os.kill(os.getpid(), signal.SIGKILL)

trained(Path(sys.argv[1]), POLICIES[sys.argv[2]](), beside=(Kill(),),
        save_strategy="steps", save_steps=4)
"""


@pytest.mark.parametrize("name", ["AdaLoRA", "ROLoRA"])
def test_a_run_that_is_killed_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole = trained(tmp_path / "whole", POLICIES[name](), **saving)
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), name], cwd=root, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert [p.name for p in (tmp_path / "killed").iterdir()] == ["checkpoint-4"]
    resumed = trained(tmp_path / "killed", POLICIES[name](), resume=True, **saving)
    own, theirs = resumed.state_dict(), whole.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[key], theirs[key]) for key in own)


@pytest.mark.parametrize("holder", ["attach", "PEFT", "small"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_run_stopped_and_resumed_gives_the_same_bits(
    name: str, holder: str, tmp_path: Path
) -> None:
    make = POLICIES[name]

    def options() -> dict[str, Any]:
        small: dict[str, Any] = {"beside": (AdapterCallback(),), "kind": SmallCheckpoints}
        return small if holder == "small" else {"holder": holder}

    whole_policy = make()
    whole = trained(tmp_path / "whole", whole_policy, **options())
    saving = {"save_strategy": "steps", "save_steps": 4}
    trained(tmp_path / "parts", make(), **options(), **saving)
    shutil.rmtree(tmp_path / "parts" / f"checkpoint-{STEPS}")
    policy = make()
    resumed = trained(tmp_path / "parts", policy, resume=True, **options(), **saving)
    assert policy.ranks() == whole_policy.ranks()
    own, theirs = resumed.state_dict(), whole.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[key], theirs[key]) for key in own)


@pytest.mark.parametrize("name", ["AdaLoRA", "SoRA", "SaLoRA", "DiffoRA"])
def test_a_checkpoint_without_the_policy_is_not_resumed(name: str, tmp_path: Path) -> None:
    """ALoRA's and ROLoRA's adapters are smaller from the start, and nothing larger loads.

    Nor does an optimizer's state without the gates, so there is none.
    """
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "save_only_model": True}
    Trainer(bert(), arguments(tmp_path, **saving), train_dataset=DATA).train()
    with pytest.raises(AdapterError, match=f"resumed from holds no state of {name}"):
        trained(tmp_path, POLICIES[name](), resume=True)


def test_a_checkpoint_of_another_policy_is_not_resumed(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trained(tmp_path, POLICIES["SoRA"](), **saving)
    with pytest.raises(FileFormatError, match="the state of SoRA, and the policy is AdaLoRA"):
        trained(tmp_path, POLICIES["AdaLoRA"](), resume=True)


class Interrupt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("best", [True, False])
def test_each_resume_needs_a_state_of_its_own(best: bool, tmp_path: Path) -> None:
    """Not the one that the best model at the end, or a resume that was interrupted, has left."""
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "save_only_model": True}
    Trainer(bert(), arguments(tmp_path / "plain", **saving), train_dataset=DATA).train()
    evaluating = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": best}
    trainer = Trainer(
        bert(),
        arguments(tmp_path / "own", **saving, **evaluating),
        train_dataset=DATA,
        eval_dataset=DATA[:8],
        callbacks=[PolicyCallback(POLICIES["SoRA"](), finish=False)],
    )
    trainer.train()
    if not best:
        trainer.add_callback(Interrupt())
        with pytest.raises(KeyboardInterrupt):
            trainer.train(resume_from_checkpoint=f"{tmp_path}/own/checkpoint-2")
    with pytest.raises(AdapterError, match="holds no state of SoRA"):
        trainer.train(resume_from_checkpoint=f"{tmp_path}/plain/checkpoint-2")


class Noting(Policy):
    """Counts its steps, and notes B's values when its state is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.count = torch.zeros(3)
        self.at_loading: list[torch.Tensor] = []

    def after_step(self, step: int) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"count": self.count, "inner.count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.at_loading = [own.lora_B.detach().clone() for own in self.adapters.values()]
        super().load_state_dict(state)


@pytest.mark.parametrize("kind", [Trainer, SmallCheckpoints])
def test_a_peft_model_s_checkpoints_hold_the_policy_s_state(
    kind: type[Trainer], tmp_path: Path
) -> None:
    """It is loaded before the values are, and then the run goes on to the same bits."""
    ends = []
    for resume in (False, f"{tmp_path}/checkpoint-4"):
        policy, model = Noting(), bert(holder="PEFT")
        callbacks = [PolicyCallback(policy, finish=False)]
        settings = arguments(tmp_path, save_strategy="steps", save_steps=4)
        trainer = kind(model, settings, train_dataset=DATA, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        assert policy.count.tolist() == [STEPS] * 3
        ends.append({name: p.detach().clone() for name, p in model.named_parameters()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not any(values.any() for values in policy.at_loading)
    stored = load_file(tmp_path / "checkpoint-4" / "adapter_model.safetensors")
    names = {key.partition("expandermask_policy.")[2] for key in stored} - {""}
    assert names == {"kind", "count", "inner.count"}


def test_a_peft_model_s_resume_without_the_policy_s_state_is_refused(tmp_path: Path) -> None:
    settings = arguments(tmp_path, save_strategy="steps", save_steps=4)
    Trainer(bert(holder="PEFT"), settings, train_dataset=DATA).train()
    callbacks = [PolicyCallback(Noting(), finish=False)]
    trainer = Trainer(bert(holder="PEFT"), settings, train_dataset=DATA, callbacks=callbacks)
    with pytest.raises(AdapterError, match="resumed from holds no state of Noting"):
        trainer.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-4")


def test_a_policy_is_not_resumed_on_masks_of_another_seed(tmp_path: Path) -> None:
    """A PeftModel takes up the checkpoint's masks, but the policy was made for those it had."""
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    for seed in (0, 1):
        policy = AdaLoRA(target_rank=2, total_steps=2)
        trainer = Trainer(
            peft.get_peft_model(
                BertForSequenceClassification(SMALL),
                XoraConfig(r=4, left_degree=2, target_modules=["query"], mask_seed=seed),
            ),
            arguments(tmp_path, **saving),
            train_dataset=DATA,
            callbacks=[PolicyCallback(policy, finish=False)],
        )
        if seed == 0:
            trainer.train()
            continue
        with pytest.raises(AdapterError, match="drawn with the seed 0, and with 1 when AdaLoRA"):
            trainer.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-2")


@pytest.mark.parametrize("name", POLICIES)
def test_finishing_at_the_end_leaves_plain_adapters(name: str, tmp_path: Path) -> None:
    model, policy = bert(), POLICIES[name]()
    trainer = Trainer(
        model, arguments(tmp_path), train_dataset=DATA, callbacks=[PolicyCallback(policy)]
    )
    trainer.train()
    assert policy.model is None
    assert all(own.rank_gate is None for own in adapters(model).values())
    assert not any("policy" in key for key in model.state_dict())
    assert sum(own.lora_A.numel() for own in adapters(model).values()) < 4 * 16 * 6


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_may_be_finished_by_hand(name: str, tmp_path: Path) -> None:
    policy = POLICIES[name]()
    model = trained(tmp_path, policy)
    policy.finish()
    assert not any("policy" in key for key in model.state_dict())


@pytest.mark.parametrize("holder", ["attach", "PEFT"])
@pytest.mark.parametrize("name", POLICIES)
def test_the_best_checkpoint_is_taken_up_before_the_end(
    name: str, holder: str, tmp_path: Path
) -> None:
    """The best is the one after 8 of 12 steps, with the ranks of that time."""
    model, policy = bert(holder=holder), POLICIES[name]()
    ranks: dict[int, dict[str, int]] = {}

    class Watching(PolicyCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ranks[state.global_step] = policy.ranks()

    evaluated = iter([0.5, 0.9, 0.1])
    trainer = Trainer(
        model,
        arguments(
            tmp_path,
            save_strategy="steps",
            save_steps=4,
            eval_strategy="steps",
            eval_steps=4,
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=True,
        ),
        train_dataset=DATA,
        eval_dataset=DATA[:8],
        compute_metrics=lambda prediction: {"score": next(evaluated)},
        callbacks=[AdapterCallback(), Watching(policy)],
    )
    trainer.train()
    assert trainer.state.best_global_step == 8
    found = {n: own.lora_A.shape[1] for n, own in adapters(model).items()}
    left = {n: rank for n, rank in ranks[8].items() if rank}
    assert found == left or name == "SaLoRA"  # whose terms are settled later


def test_the_regulariser_counts_once_however_many_batches_are_accumulated(tmp_path: Path) -> None:
    """With no learning rate, gradients at the step are those of the plain loop's loss."""
    seen: dict[str, torch.Tensor] = {}

    class Watching(AdaLoRA):
        def after_backward(self, step: int) -> None:
            own = next(iter(self._in_hand().values()))
            assert own.lora_A.grad is not None
            seen[f"{self.orthogonality}, {step}"] = own.lora_A.grad.clone()
            super().after_backward(step)

    for gamma in (0.0, 0.1):
        policy = Watching(target_rank=2, total_steps=9, orthogonality=gamma)
        trained(
            tmp_path,
            policy,
            max_steps=1,
            gradient_accumulation_steps=3,
            max_grad_norm=0.0,
            learning_rate=0.0,
        )
    found = seen["0.1, 0"] - seen["0.0, 0"]
    fresh = bert()
    policy = Watching(target_rank=2, total_steps=9, orthogonality=0.1)
    policy.attach(fresh)
    policy.loss().backward()
    expected = next(iter(adapters(fresh).values())).lora_A.grad
    assert expected is not None
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_what_cannot_work_is_said(tmp_path: Path) -> None:
    policy = POLICIES["SoRA"]()
    trainer = Trainer(bert(), arguments(tmp_path), train_dataset=DATA)
    trainer.add_callback(PolicyCallback(policy))
    with pytest.raises(AdapterError, match="no or another model in hand"):
        trainer.train()
    other = POLICIES["AdaLoRA"]()
    other.attach(bert())
    trainer = Trainer(
        bert(), arguments(tmp_path), train_dataset=DATA, callbacks=[PolicyCallback(other)]
    )
    with pytest.raises(AdapterError, match="no or another model in hand"):
        trainer.train()
    decayed = POLICIES["SoRA"]()
    with pytest.raises(AdapterError, match="must have no weight decay"):
        trained(tmp_path, decayed, weight_decay=0.1)
    model = bert()
    early = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    with pytest.raises(AdapterError, match="the optimizer does not train 4 of the 4 parameters"):
        Trainer(
            model,
            arguments(tmp_path),
            train_dataset=DATA,
            callbacks=[PolicyCallback(POLICIES["AdaLoRA"]())],
            optimizers=(early, None),
        )
    for odd in ("adalora", AdaLoRA):
        with pytest.raises(InvalidInputError, match="policy must be a policy, as AdaLoRA"):
            PolicyCallback(odd)
    twice = POLICIES["AdaLoRA"]()
    trainer = Trainer(
        bert(), arguments(tmp_path), train_dataset=DATA, callbacks=[PolicyCallback(twice)]
    )
    trainer.train()
    with pytest.raises(AdapterError, match="to train again after it was finished, make another"):
        trainer.train()
    with pytest.warns(UserWarning, match="schedule takes 12 steps, but training ends after 5"):
        trained(tmp_path, POLICIES["ROLoRA"](), max_steps=5)
