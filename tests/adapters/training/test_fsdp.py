"""Two processes under FSDP2: where shards lie, that none is lost, and that sizes can change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from expandermask.adapters import (
    disable_adapters,
    export_peft,
    load_adapter,
    parameter_report,
    save_adapter,
)
from tests.adapters.models import bert, logits, tokens
from tests.adapters.training import fsdp_work as work
from tests.adapters.training.ddp_work import arrays, model
from tests.adapters.training.ranks import Ranks
from tests.adapters.training.test_ddp import close, equal


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_ranks_train_as_one_process(ranks: Ranks, dtype: torch.dtype) -> None:
    (first, norm), (second, _) = ranks.run(work.train, dtype)
    alone, alone_norm = work.train(None, dtype)
    assert equal(first, second)
    assert close(first, alone)
    assert norm == pytest.approx(alone_norm, rel=1e-5)
    assert norm > 0.5, "nothing was clipped"


def test_values_are_cut_along_features_and_indices_are_not(ranks: Ranks) -> None:
    first, second = ranks.run(work.uneven)
    sizes = {"0.A": 33, "0.B": 69, "2.A": 69, "2.B": 33}
    for place, n in sizes.items():
        module, side = place.split(".")
        name = f"{module}.adapters.default.lora_{side}"
        for found in (first[name], second[name]):
            assert found[:3] == (True, "(Shard(dim=0),)", (n, 2))
            assert found[4], "no gradient"
        assert first[name][3][0] + second[name][3][0] == n
        assert first[name][3][0] == (n + 1) // 2
        index = f"{module}.adapters.default.index_{side.lower()}"
        assert first[index][0] is second[index][0] is False
        assert first[index][3] == second[index][3] == (2, n)


def test_nobody_loses_a_shard(ranks: Ranks, tmp_path: Path) -> None:
    first, second = ranks.run(work.tagged, tmp_path / "adapter")
    for before, zeroed, after in (first, second):
        assert zeroed
        assert equal(before, after)
    assert equal(first[0], second[0])
    tags = np.concatenate([array.ravel() for array in first[0].values()]) // 1e5
    assert set(tags.tolist()) == {1.0, 2.0}, "both ranks' values are there"
    fresh = bert()
    load_adapter(fresh, tmp_path / "adapter")
    assert equal(arrays(fresh), first[0])


@pytest.mark.parametrize("sharded_first", [False, True])
def test_what_one_process_saved_two_ranks_load(
    ranks: Ranks, tmp_path: Path, sharded_first: bool
) -> None:
    own = model()
    save_adapter(own, tmp_path / "adapter")
    for found in ranks.run(work.loaded, tmp_path / "adapter", sharded_first):
        assert equal(found, arrays(own))


@pytest.mark.parametrize("change", ["2 to 1", "1 to 2", "2 to 2"])
def test_runs_resume_on_another_number_of_ranks(ranks: Ranks, tmp_path: Path, change: str) -> None:
    """Adapter and AdamW's moments: five steps in float64 are five steps, wherever two are made."""
    alone, _ = work.train(None, torch.float64, 5)
    if change.startswith("2"):
        ranks.run(work.checkpoint, tmp_path, 2)
    else:
        work.checkpoint(None, tmp_path, 2)
    if change.endswith("2"):
        found, other = ranks.run(work.resume, tmp_path, 3)
        assert equal(found, other)
    else:
        found = work.resume(None, tmp_path, 3)
    assert close(found, alone)
    assert not close(found, work.train(None, torch.float64, 4)[0], 1e-4)


def test_pytorch_s_state_dicts_gather_and_scatter_what_trains(ranks: Ranks) -> None:
    (keys, back), (none, back_too) = ranks.run(work.state_dict)
    assert keys == sorted(arrays(model()))
    assert none == []
    assert back
    assert back_too


@pytest.mark.parametrize("base", ["float32", "bfloat16"])
def test_bfloat16_computes_and_float32_is_stored(ranks: Ranks, base: str) -> None:
    (out, values, grads, first), (*_, second) = ranks.run(work.mixed, base)
    assert out == "torch.bfloat16"
    assert values == grads == ["torch.float32"]
    assert equal(first, second)


def test_what_a_sharded_model_refuses_and_can(ranks: Ranks, tmp_path: Path) -> None:
    first, second = ranks.run(work.reports, tmp_path / "two")
    for found in (first, second):
        assert "is sharded over several ranks" in found["merge"]
        assert found["merge dequantized"] == found["merge"]
        assert "attach first, then call fully_shard" in found["attach"]
        assert "attach first, then call fully_shard" in found["late"]
    own = model()
    assert first["report"] == parameter_report(own).masked.trainable_values
    assert np.allclose(first["adapted"], logits(own).numpy(), atol=1e-5)
    with disable_adapters(own), torch.no_grad():
        assert np.allclose(first["plain"], own(tokens()).logits.numpy(), atol=1e-5)
    layer = own.bert.encoder.layer[0].output.dense
    assert np.array_equal(first["layer"], layer.adapters["default"].delta().numpy())
    from safetensors.numpy import load_file

    export_peft(own, tmp_path / "one")
    files = [load_file(tmp_path / n / "adapter_model.safetensors") for n in ("two", "one")]
    assert equal(*files)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_no_bit(ranks: Ranks, reentrant: bool) -> None:
    first, second = ranks.run(work.clipped_and_checkpointed, reentrant)
    plain, _ = ranks.run(work.clipped_and_checkpointed, None)
    assert equal(first, second)
    assert equal(first, plain)
