"""A save that is killed, or fails, leaves the old adapter; a load that fails leaves the model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from expandermask.adapters import attach, load_adapter, save_adapter
from expandermask.adapters.files import saving as loading
from tests.adapters.conftest import WEIGHTS
from tests.adapters.models import attached, mlp, randomise, same, state

STEPS = ["fsync", "chmod", "replace"]

KILLED = """
import os, signal, sys
from expandermask.adapters import load_adapter, save_adapter
from tests.adapters.models import mlp, randomise
model = mlp()
load_adapter(model, sys.argv[1])
randomise(model, seed=3)
step, count = sys.argv[2], int(sys.argv[3])
kept, calls = getattr(os, step), 0
def fatal(*arguments, **options):
    global calls
    calls += 1
    if calls > count:
        os.kill(os.getpid(), signal.SIGKILL)
    return kept(*arguments, **options)
setattr(os, step, fatal)
save_adapter(model, sys.argv[1])
"""


@pytest.mark.parametrize(("step", "count"), [("fsync", 0), ("replace", 0), ("fsync", 1)])
def test_a_killed_process_leaves_a_whole_adapter(tmp_path: Path, step: str, count: int) -> None:
    model, new, fresh = mlp(), mlp(), mlp()
    attached(model)
    save_adapter(model, tmp_path)
    load_adapter(new, tmp_path)
    randomise(new, seed=3)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), step, str(count)], check=False
    )
    assert done.returncode == -signal.SIGKILL
    load_adapter(fresh, tmp_path)
    # The folder's own fsync comes after the rename.
    assert same(state(fresh), state(new if count else model))


@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_leaves_the_old_adapter_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fresh = mlp(), mlp()
    attached(model)
    save_adapter(model, tmp_path)
    old = state(model)
    randomise(model, seed=3)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space"):
        save_adapter(model, tmp_path)
    monkeypatch.undo()
    load_adapter(fresh, tmp_path)
    assert same(state(fresh), old)
    assert os.listdir(tmp_path) == [WEIGHTS]


@pytest.mark.parametrize("beside", [False, True])
def test_a_load_that_fails_at_the_last_moment_is_undone(
    beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, target = mlp(), mlp()
    attached(model)
    save_adapter(model, tmp_path)
    if beside:
        attach(target, loading.load_adapter(mlp(), tmp_path), name="other")
    before, modules = state(target), list(target.modules())

    def out_of_memory(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(loading, "like", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        load_adapter(target, tmp_path)
    assert same(state(target), before)
    assert list(target.modules()) == modules


def test_values_are_all_moved_before_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp()
    attached(model)
    save_adapter(model, tmp_path)
    randomise(model, seed=3)
    before, left = state(model), [3]

    def runs_out(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        if not left[0]:
            raise torch.OutOfMemoryError("the device is full")
        return values

    monkeypatch.setattr(loading, "like", runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        load_adapter(model, tmp_path)
    assert same(state(model), before)


def test_the_loaded_model_holds_no_view_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are copies: the buffer the file was read into is not kept alive by a parameter."""
    model, fresh = mlp(), mlp()
    attached(model)
    first = model[0].adapter("default")
    first.set_rank_gate(nn.Parameter(torch.rand(16)))
    save_adapter(model, tmp_path)
    views: list[torch.Tensor] = []
    fill = loading.fill
    monkeypatch.setattr(loading, "fill", lambda *a: views.extend(a[2].values()) or fill(*a))
    load_adapter(fresh, tmp_path)
    places = {view.data_ptr() for view in views}
    assert len(places) == 5
    assert not places & {parameter.data_ptr() for parameter in fresh.parameters()}
