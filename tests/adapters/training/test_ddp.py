"""Two processes under DistributedDataParallel beside one process on the same global batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from expandermask.adapters import load_adapter, save_adapter
from tests.adapters.models import bert
from tests.adapters.training import ddp_work as work
from tests.adapters.training.ranks import Ranks


def close(first: work.Arrays, second: work.Arrays, tolerance: float = 1e-6) -> bool:
    """Within ``tolerance`` of the largest entry of its tensor, or absolutely if that is below 1."""
    assert first.keys() == second.keys()
    scales = {name: max(1.0, float(np.abs(second[name]).max())) for name in first}
    return all(np.abs(first[n] - second[n]).max() <= tolerance * scales[n] for n in first)


def equal(first: work.Arrays, second: work.Arrays) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_train_as_one_process(ranks: Ranks, dtype: torch.dtype, accumulate: int) -> None:
    first, second = ranks.run(work.train, dtype, accumulate)
    assert equal(first, second)
    assert close(first, work.train(None, dtype))
    assert not close(first, work.arrays(work.model(dtype)), 1e-3)


@pytest.mark.parametrize("rng", [None, "generator", 7])
def test_every_rank_has_the_same_masks_and_first_values(ranks: Ranks, rng: object) -> None:
    first, second = ranks.run(work.drawn, rng)
    assert first == second
    if rng is None:
        assert ranks.run(work.drawn, rng)[0] != first


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_no_bit(
    ranks: Ranks, reentrant: bool, static: bool
) -> None:
    first, second = ranks.run(work.checkpointed, reentrant, static)
    assert equal(first, second)
    assert equal(first, ranks.run(work.checkpointed, None, static)[0])
    assert close(first, work.checkpointed(None, None, static), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["inside", "outside"])
def test_compiled_ranks(ranks: Ranks, compiled: str) -> None:
    first, second = ranks.run(work.checkpointed, None, False, compiled)
    assert equal(first, second)
    assert close(first, work.checkpointed(None, None, False), 1e-5)


def test_indices_of_large_ranks_can_be_sent(ranks: Ranks) -> None:
    assert ranks.run(work.wide) == ["torch.int32"] * 2


def test_nobody_loses_a_part_of_a_saved_adapter(ranks: Ranks, tmp_path: Path) -> None:
    for before, zeroed, after in ranks.run(work.tagged, tmp_path / "adapter"):
        assert not any(array.any() for array in zeroed.values())
        assert equal(before, after)
    fresh = bert()
    load_adapter(fresh, tmp_path / "adapter")
    assert equal(work.arrays(fresh), before)


def test_what_one_process_saved_two_ranks_load(ranks: Ranks, tmp_path: Path) -> None:
    own = work.model()
    save_adapter(own, tmp_path / "adapter")
    for found in ranks.run(work.loaded, tmp_path / "adapter"):
        assert equal(found, work.arrays(own))


def test_rank_0_exports(ranks: Ranks, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    from expandermask.adapters import export_peft

    ranks.run(work.exported, tmp_path / "two")
    export_peft(work.model(), tmp_path / "one")
    files = [load_file(tmp_path / n / "adapter_model.safetensors") for n in ("two", "one")]
    assert equal(*files)


def test_ranks_that_differ_are_told(ranks: Ranks) -> None:
    for said in ranks.run(work.differing):
        assert "must be the same on every rank, and differ from rank 0's on ranks [1]" in said


def test_a_failed_write_is_every_rank_s_error(ranks: Ranks) -> None:
    first, second = ranks.run(work.failing_write)
    assert first == "OSError: no space left"
    assert second == "AdapterError: rank 0 could not write: OSError: no space left"


def test_only_rank_0_writes_and_all_wait_for_it(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks.run(work.one_write, tmp_path) == [True, True]
    assert [file.name for file in tmp_path.iterdir()] == ["0"]


def test_attaching_to_a_wrapped_model_is_refused(ranks: Ranks) -> None:
    assert all("attach to the plain model first" in said for said in ranks.run(work.late))
