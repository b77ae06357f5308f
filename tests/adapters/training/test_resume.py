"""Trainer runs that are killed and resumed end where the uninterrupted run ends, to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from expandermask.adapters import AdapterCallback, SmallCheckpoints, attach, disable_adapters
from expandermask.errors import AdapterError
from tests.adapters.models import bert, same, trainable
from tests.adapters.training.runs import (
    CONFIG,
    STEPS,
    Kill,
    Killed,
    everything,
    model,
    trainer,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    run = trainer(tmp_path_factory.mktemp("uninterrupted"), model())
    run.train()
    return run


@pytest.mark.parametrize("step", range(1, STEPS))
@pytest.mark.parametrize("kind", [SmallCheckpoints, Trainer])
def test_killed_after_any_step_it_ends_in_the_same_bits(
    tmp_path: Path, finished: Trainer, step: int, kind: type[Trainer]
) -> None:
    with pytest.raises(Killed):
        trainer(tmp_path, model(), callbacks=[AdapterCallback(), Kill(step)], kind=kind).train()
    torch.manual_seed(99)
    second = trainer(tmp_path, model(), kind=kind)
    second.train(resume_from_checkpoint=True)
    assert same(everything(second), everything(finished))


@pytest.mark.parametrize("first", [SmallCheckpoints, Trainer])
def test_either_trainer_resumes_the_checkpoints_of_the_other(
    tmp_path: Path, finished: Trainer, first: type[Trainer]
) -> None:
    with pytest.raises(Killed):
        trainer(tmp_path, model(), callbacks=[AdapterCallback(), Kill(3)], kind=first).train()
    other = Trainer if first is SmallCheckpoints else SmallCheckpoints
    second = trainer(tmp_path, model(), kind=other)
    second.train(resume_from_checkpoint=True)
    assert same(everything(second), everything(finished))


def test_dropout_is_on_and_training_moves_every_value(finished: Trainer) -> None:
    moved = dict(finished.model.named_parameters())
    for name, start in model().named_parameters():
        assert (start.requires_grad) == (not torch.equal(moved[name], start)), name
    finished.model.train()
    torch.manual_seed(0)
    inputs = torch.ones(2, 9, dtype=torch.long)
    assert not torch.equal(finished.model(inputs).logits, finished.model(inputs).logits)


@pytest.mark.parametrize("restore", [False, True])
def test_the_callback_s_own_state_can_be_restored(
    tmp_path: Path, finished: Trainer, restore: bool
) -> None:
    with pytest.raises(Killed):
        trainer(tmp_path, model(), callbacks=[AdapterCallback(), Kill(3)]).train()
    second = trainer(tmp_path, model(), restore_callback_states_from_checkpoint=restore)
    second.train(resume_from_checkpoint=True)
    assert same(everything(second), everything(finished))
    assert (tmp_path / f"checkpoint-{STEPS}" / "adapter" / "default").is_dir()


def test_a_checkpoint_of_other_masks_is_refused(tmp_path: Path, finished: Trainer) -> None:
    folder = Path(finished.args.output_dir) / "checkpoint-2"
    second = trainer(tmp_path, model(rng=1))
    with pytest.raises(AdapterError, match=r"other masks or another scale: \['default'\]"):
        second.train(resume_from_checkpoint=str(folder))


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path: Path, finished: Trainer) -> None:
    folder = Path(finished.args.output_dir) / "checkpoint-2"
    own = model()
    attach(own, CONFIG, name="second", rng=3)
    with pytest.raises(AdapterError, match=r"has adapters \['default'\], and the model has"):
        trainer(tmp_path, own).train(resume_from_checkpoint=str(folder))


def test_a_checkpoint_saved_without_the_callback_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, model(), callbacks=[], max_steps=1).train()
    with pytest.raises(AdapterError, match="saved without AdapterCallback"):
        trainer(tmp_path, model(), max_steps=2).train(resume_from_checkpoint=True)


def test_a_model_without_adapters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="has no adapters attached"):
        trainer(tmp_path, bert()).train()


def test_what_resumes_is_on_disk_alone(tmp_path: Path, finished: Trainer) -> None:
    """A checkpoint copied elsewhere and named by its path, its run's folder gone."""
    source = Path(finished.args.output_dir) / "checkpoint-2"
    shutil.copytree(source, tmp_path / "kept" / "checkpoint-2")
    second = trainer(tmp_path / "new", model())
    second.train(resume_from_checkpoint=str(tmp_path / "kept" / "checkpoint-2"))
    assert same(everything(second), everything(finished))


def test_small_checkpoints_hold_what_trains_and_resume_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = model()
    run = trainer(tmp_path, own, max_steps=1)
    whole = set(own.state_dict())
    run.train()
    stored = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert set(stored) == {n for n, p in own.named_parameters() if p.requires_grad}
    assert set(own.state_dict()) == whole
    assert len(stored) == len(trainable(own))
    monkeypatch.setattr("transformers.trainer.logger.warning", _fail)
    trainer(tmp_path, model(), max_steps=2).train(resume_from_checkpoint=True)


def test_a_value_missing_from_a_checkpoint_is_still_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    trainer(tmp_path, model(), max_steps=1).train()
    path = tmp_path / "checkpoint-1" / "model.safetensors"
    stored = load_file(path)
    gone = next(iter(stored))
    save_file({k: t for k, t in stored.items() if k != gone}, path, metadata={"format": "pt"})
    said: list[str] = []
    monkeypatch.setattr("transformers.trainer.logger.warning", said.append)
    trainer(tmp_path, model(), max_steps=2).train(resume_from_checkpoint=True)
    assert said == [f"There were missing keys in the checkpoint model loaded: {[gone]}."]


def test_a_plain_trainer_saves_the_base_too(tmp_path: Path) -> None:
    own = model()
    trainer(tmp_path, own, max_steps=1, kind=Trainer).train()
    stored = set(load_file(tmp_path / "checkpoint-1" / "model.safetensors"))
    assert stored == {key.replace(".base.", ".") for key in own.state_dict()}


def test_disabling_adapters_between_runs_changes_nothing(tmp_path: Path) -> None:
    own = model()
    trainer(tmp_path, own, max_steps=2).train()
    with disable_adapters(own):
        own(torch.ones(1, 4, dtype=torch.long))
    trainer(tmp_path / "second", own, max_steps=2).train()


def _fail(message: object, *_: object) -> None:
    raise AssertionError(message)
