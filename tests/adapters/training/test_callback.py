"""What AdapterCallback leaves in a checkpoint, and the Trainer's modes with adapters on."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainerCallback

from expandermask import MaskPlan
from expandermask.adapters import (
    AdapterCallback,
    AdapterConfig,
    SmallCheckpoints,
    attach,
    change_masks,
    detach,
    load_adapter,
    set_adapters,
)
from expandermask.adapters.files.saving import adapter_tensors
from expandermask.adapters.training.callback import small_state
from expandermask.errors import AdapterError, FileFormatError, InvalidInputError
from tests.adapters.models import bert, gpt2, mlp, same, state, trainable
from tests.adapters.training.runs import CONFIG, Kill, Killed, data, model, trainer

SECOND = AdapterConfig(r=8, target_modules=["query"], modules_to_save=["classifier"])


def values(own: nn.Module, name: str = "default") -> dict[str, torch.Tensor]:
    return {k: t.detach().clone() for k, t in adapter_tensors(own, name).items()}


class Remember(TrainerCallback):
    """A copy of the adapter's tensors after every step."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.after[state.global_step] = values(kwargs["model"])


def test_every_checkpoint_loads_on_a_fresh_model(tmp_path: Path) -> None:
    seen = Remember()
    trainer(tmp_path, model(), max_steps=3, callbacks=[AdapterCallback(), seen]).train()
    for step in (1, 2, 3):
        fresh = bert(seed=8)
        load_adapter(fresh, tmp_path / f"checkpoint-{step}" / "adapter" / "default")
        assert same(values(fresh), seen.after[step])
    assert not same(seen.after[1], seen.after[2])


def test_every_adapter_has_a_folder_and_inactive_ones_keep_their_values(tmp_path: Path) -> None:
    own = model()
    attach(own, SECOND, name="second", rng=5)
    before = values(own, "second")
    run = trainer(tmp_path, own, max_steps=1, callbacks=[AdapterCallback(folder="masks")])
    run.train()
    folders = sorted(f.name for f in (tmp_path / "checkpoint-1" / "masks").iterdir())
    assert folders == ["default", "second"]
    stored = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert any("adapters.second.lora_B" in key for key in stored)
    fresh = bert()
    load_adapter(fresh, tmp_path / "checkpoint-1" / "masks" / "second", name="second")
    assert same(values(fresh, "second"), before)
    set_adapters(own, "second")
    trainer(tmp_path, own, max_steps=2, callbacks=[AdapterCallback(folder="masks")]).train()
    assert not same(values(own, "second"), before)


@pytest.mark.parametrize("kind", [SmallCheckpoints, Trainer])
def test_the_best_model_comes_back_at_the_end(tmp_path: Path, kind: type[Trainer]) -> None:
    seen = Remember()
    run = trainer(
        tmp_path,
        model(),
        max_steps=5,
        learning_rate=0.3,  # diverges, so that the best is not the last
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        save_total_limit=1,
        callbacks=[AdapterCallback(), seen],
        kind=kind,
    )
    run.train()
    best = run.state.best_global_step
    assert best < 5
    assert same(values(run.model), seen.after[best])


def test_a_best_model_that_is_gone_is_an_error(tmp_path: Path) -> None:
    class Lose(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for folder in tmp_path.glob("checkpoint-*/adapter"):
                folder.rename(folder.with_name("lost"))

    run = trainer(
        tmp_path,
        model(),
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        callbacks=[AdapterCallback(), Lose()],
    )
    with pytest.raises(FileFormatError, match="is no folder"):
        run.train()


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"label_smoothing_factor": 0.1},
        {"gradient_accumulation_steps": 2},
        {"bf16": True},
        {"torch_compile": True, "torch_compile_backend": "aot_eager"},
        {"max_grad_norm": 1e-3},
        {"optim": "adamw_torch_fused"},
        {"optim": "sgd"},
        {"neftune_noise_alpha": 1.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_modes_of_the_trainer_train_the_adapter_and_only_it(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    own = model()
    before = state(own)
    run = trainer(tmp_path, own, max_steps=3, **options)
    run.train()
    training = {n for n, p in own.named_parameters() if p.requires_grad}
    for name, tensor in own.state_dict().items():
        assert (name in training) == (not torch.equal(tensor, before[name])), name
    fresh = bert()
    load_adapter(fresh, tmp_path / "checkpoint-3" / "adapter" / "default")
    assert same(values(fresh), values(own))
    assert set(load_file(tmp_path / "checkpoint-3" / "model.safetensors")) == training


def test_activation_checkpointing_changes_no_bit_of_a_run(tmp_path: Path) -> None:
    ends = []
    for reentrant in (None, False, True):
        kwargs = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
        options = {} if reentrant is None else {"gradient_checkpointing": True, **kwargs}
        run = trainer(tmp_path / str(reentrant), model(), max_steps=3, **options)
        run.train()
        ends.append(values(run.model))
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])


def test_tied_weights_and_conv1d(tmp_path: Path) -> None:
    own = gpt2()
    attach(own, AdapterConfig(r=16), rng=0)
    run = trainer(tmp_path, own, max_steps=1, save_steps=1)
    run.train_dataset = [{"input_ids": d["input_ids"], "labels": d["input_ids"]} for d in data()]
    run.train()
    stored = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert len(stored) == len(trainable(own))
    fresh = gpt2()
    load_adapter(fresh, tmp_path / "checkpoint-1" / "adapter" / "default")
    assert same(values(fresh), values(own))


class Net(nn.Module):
    """A plain module with running statistics that change although everything is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.norm = nn.BatchNorm1d(64)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.norm(self.body(x)).sum(1) - labels).pow(2).mean()}


def net_run(folder: Path, *callbacks: TrainerCallback) -> Trainer:
    torch.manual_seed(0)
    own = Net()
    attach(own, AdapterConfig(r=16), rng=0)
    run = trainer(folder, own, max_steps=4, callbacks=[AdapterCallback(), *callbacks])
    rows = torch.randn(24, 64, generator=torch.Generator().manual_seed(1))
    run.train_dataset = [{"x": row, "labels": 1.0} for row in rows]
    return run


def test_a_plain_module_resumes_with_its_buffers(tmp_path: Path) -> None:
    whole = net_run(tmp_path / "whole")
    whole.train()
    with pytest.raises(Killed):
        net_run(tmp_path, Kill(2)).train()
    resumed = net_run(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert same(state(resumed.model), state(whole.model))
    stored = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert "norm.running_mean" in stored
    assert "norm.weight" not in stored


def test_after_detach_the_whole_model_is_saved(tmp_path: Path) -> None:
    own = bert()
    own.bert.embeddings.requires_grad_(False)  # and frozen it stays when the adapter is gone
    attach(own, CONFIG, rng=0)
    with small_state(own):
        assert set(own.state_dict()) == {n for n, p in own.named_parameters() if p.requires_grad}
        detach(own)
        own.save_pretrained(tmp_path / "plain")
    assert set(load_file(tmp_path / "plain" / "model.safetensors")) == set(bert().state_dict())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_after_a_checkpoint_that_failed_the_model_is_whole_and_can_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    own = model()
    keys = set(own.state_dict())
    seen: list[set[str]] = []

    def fail(folder: str, **_: Any) -> None:
        seen.append(set(own.state_dict()))
        raise error

    monkeypatch.setattr(own, "save_pretrained", fail)
    with pytest.raises(type(error) if isinstance(error, OSError) else KeyboardInterrupt):
        trainer(tmp_path, own).train()
    monkeypatch.undo()
    assert seen[0] < keys
    assert set(own.state_dict()) == keys
    assert own.load_state_dict({}, strict=False).missing_keys
    stream = io.BytesIO()
    torch.save(own, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(own), torch.load(stream, weights_only=False)):
        assert set(twin.state_dict()) == keys


class Look(TrainerCallback):
    """The keys of the model's state dict wherever the Trainer calls back."""

    def __init__(self) -> None:
        self.seen: set[frozenset[str]] = set()

    def note(self, *_: Any, **kwargs: Any) -> None:
        self.seen.add(frozenset(kwargs["model"].state_dict()))

    on_step_begin = on_step_end = on_epoch_end = on_evaluate = on_prediction_step = note
    on_save = on_log = on_train_end = note


def test_only_a_checkpoint_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what the user saves, nor what goes to the hub, which is saved by internal calls too."""
    own, look = model(), Look()
    run = trainer(
        tmp_path,
        own,
        max_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        callbacks=[AdapterCallback(), look],
    )
    run.train()
    whole = set(own.state_dict())
    assert look.seen == {frozenset(whole)}
    run.save_model(str(tmp_path / "by hand"))
    run.save_model(_internal_call=True)  # what push_to_hub() does
    monkeypatch.setattr(run.args, "push_to_hub", True)
    run.save_model(str(tmp_path / "published"), _internal_call=True)
    names = {key.replace(".base.", ".") for key in whole}
    for folder in (tmp_path, tmp_path / "by hand", tmp_path / "published"):
        assert set(load_file(folder / "model.safetensors")) == names
    assert set(load_file(tmp_path / "checkpoint-1" / "model.safetensors")) < names


def test_it_mixes_into_other_trainers(tmp_path: Path) -> None:
    class Mixed(SmallCheckpoints, Seq2SeqTrainer):
        pass

    own = model()
    settings = Seq2SeqTrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, report_to=[], disable_tqdm=True, use_cpu=True
    )
    Mixed(own, settings, train_dataset=data(), callbacks=[AdapterCallback()]).train()
    stored = set(load_file(tmp_path / "checkpoint-1" / "model.safetensors"))
    assert stored == {n for n, p in own.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("wrapped", ["all", "adapted", "blocks"])
def test_a_compiled_or_checkpointed_model_has_the_same_small_state(wrapped: str) -> None:
    own = model()
    with small_state(own):
        expected = {key.replace(".base.", ".") for key in own.state_dict()}
    if wrapped == "all":
        own: Any = torch.compile(own, backend="eager")
    for i, layer in enumerate(own.bert.encoder.layer if wrapped != "all" else ()):
        if wrapped == "blocks":
            own.bert.encoder.layer[i] = checkpoint_wrapper(layer)
        else:
            layer.output.dense = torch.compile(layer.output.dense, backend="eager")
    with small_state(own):
        found = {key.replace("_orig_mod.", "") for key in own.state_dict()}
    assert found == expected


def test_a_base_s_tensors_are_known_by_either_name() -> None:
    """As a part of the adapted layer, or as the model had them before."""
    own = model()
    bias = own.bert.encoder.layer[0].output.dense.base.bias.requires_grad_()

    def rename(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
        for key in list(state):
            state[key.replace("base.", "").replace("_orig_mod.", "")] = state.pop(key)

    with small_state(own):
        expected = {key.replace(".base.", ".") for key in own.state_dict()}
    second = own.bert.encoder.layer[1]
    second.output.dense = torch.compile(second.output.dense, backend="eager")
    own.register_state_dict_post_hook(rename)
    with small_state(own):
        found = own.state_dict()
    assert set(found) == expected
    assert torch.equal(found["bert.encoder.layer.0.output.dense.bias"], bias)


def test_quantization_s_extra_entries_are_left_out_with_the_weight() -> None:
    own = model()
    layer = own.bert.encoder.layer[0].output.dense.base
    layer.register_state_dict_post_hook(
        lambda module, state, prefix, _: state.update({prefix + "weight.absmax": torch.ones(3)})
    )
    assert any("absmax" in key for key in own.state_dict())
    with small_state(own):
        assert not any("absmax" in key for key in own.state_dict())


class Change(TrainerCallback):
    """Changes the masks after the first step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            own = kwargs["model"]
            target = CONFIG.target_modules
            plan = MaskPlan.for_model(own, r=CONFIG.r, target_modules=target, rng=77)
            change_masks(own, plan, optimizer=kwargs["optimizer"])


def test_a_checkpoint_with_changed_masks_is_not_resumed_on_the_first_ones(tmp_path: Path) -> None:
    run = trainer(tmp_path, model(), max_steps=2, callbacks=[AdapterCallback(), Change()])
    run.train()
    with pytest.raises(AdapterError, match=r"other masks or another scale: \['default'\]"):
        trainer(tmp_path, model(), max_steps=3).train(resume_from_checkpoint=True)
    fresh = bert()
    load_adapter(fresh, tmp_path / "checkpoint-2" / "adapter" / "default")
    again = trainer(tmp_path, fresh, max_steps=3)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3


@pytest.mark.parametrize("folder", ["", "..", "a/b", "/a", 3])
def test_the_folder_is_one_name(folder: Any) -> None:
    with pytest.raises(InvalidInputError, match="folder must be the name"):
        AdapterCallback(folder=folder)


def test_hyperparameter_search_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, model())
    run.state.is_hyper_param_search = True
    with pytest.raises(AdapterError, match="hyperparameter_search"):
        run.callback_handler.on_train_begin(run.args, run.state, run.control)


def test_importing_adapters_does_not_import_transformers() -> None:
    code = (
        "import sys, expandermask.adapters as a; assert 'transformers' not in sys.modules; "
        "assert 'AdapterCallback' in dir(a); a.AdapterCallback; "
        "assert 'transformers' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_config_and_head_are_what_the_run_had(tmp_path: Path) -> None:
    own = model()
    trainer(tmp_path, own, max_steps=1).train()
    fresh = bert(seed=3)
    plan = load_adapter(fresh, tmp_path / "checkpoint-1" / "adapter" / "default")
    assert plan.r == CONFIG.r
    assert torch.equal(fresh.classifier.weight, own.classifier.weight)
