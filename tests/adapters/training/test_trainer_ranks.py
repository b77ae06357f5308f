"""The Trainer and accelerate on two ranks: one seed, one file, and the same bits after a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from expandermask.adapters import load_adapter
from tests.adapters.models import bert
from tests.adapters.training import trainer_work as work
from tests.adapters.training.ddp_work import arrays
from tests.adapters.training.ranks import Ranks
from tests.adapters.training.runs import STEPS
from tests.adapters.training.test_ddp import close, equal


@pytest.mark.parametrize("step", [1, STEPS - 1])
def test_killed_and_resumed_on_two_ranks(ranks: Ranks, tmp_path: Path, step: int) -> None:
    first, second = ranks.run(work.interrupted, tmp_path / "killed", 3, step)
    whole, _ = ranks.run(work.straight, tmp_path / "whole", 3)
    assert equal(first, second)
    assert equal(first, whole)


def test_without_a_seed_both_ranks_have_one(ranks: Ranks, tmp_path: Path) -> None:
    first, second = ranks.run(work.uninterrupted, tmp_path)
    assert equal(first, second)
    fresh = bert()
    load_adapter(fresh, tmp_path / f"checkpoint-{STEPS}" / "adapter" / "default")
    assert equal(arrays(fresh), first)


def test_ranks_with_other_masks_are_refused(ranks: Ranks, tmp_path: Path) -> None:
    for said in ranks.run(work.other_masks, tmp_path):
        assert "the adapters (masks and scale) on the model must be the same on every rank" in said


def test_accelerate_s_loop_is_one_process_s(ranks: Ranks, tmp_path: Path) -> None:
    first, second = ranks.run(work.accelerated, tmp_path / "adapter")
    assert equal(first, second)
    assert close(first, work.accelerated(None))
    fresh = bert()
    load_adapter(fresh, tmp_path / "adapter")
    assert equal(arrays(fresh), first)
