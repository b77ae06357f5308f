"""Masks of several processes: one drawn seed, the losses of one process, and a word if not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch

from expandermask.adapters import AdapterConfig, XoraConfig, attach
from expandermask.adapters.attachment import mask_hashes
from expandermask.errors import AdapterError
from tests.adapters.models import mlp, same, state
from tests.adapters.training import seeds_work as work
from tests.adapters.training.ranks import Ranks

ROOT = Path(__file__).parents[3]


def require_one_process(runs: list[work.Run], how: str, wrap: str) -> None:
    """Both ranks have the masks and losses of one process on all rows."""
    (first, seed, losses), second = runs
    assert [first, seed, losses] == list(second)
    given = seed if how == "attach" else None  # which draws from the system, not from set_seed
    alone = work.losses(None, how, wrap, given)
    assert [first, seed] == list(alone[:2])
    assert losses == pytest.approx(alone[2], rel=1e-5)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("wrap", work.WRAPS)
@pytest.mark.parametrize("how", work.HOWS)
def test_without_a_seed_two_ranks_train_as_one_process(ranks: Ranks, how: str, wrap: str) -> None:
    require_one_process(ranks.run(work.losses, how, wrap), how, wrap)


def test_the_trainer_trains_a_peft_model_on_two_ranks(ranks: Ranks, tmp_path: Path) -> None:
    first, second = ranks.run(work.trained, tmp_path)
    alone = work.trained(None, tmp_path)
    assert first[:2] == second[:2] == alone[:2]
    assert first[2] == pytest.approx(alone[2], rel=1e-5)


@pytest.mark.slow
def test_started_by_torchrun(tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = ["-m", work.__name__, str(tmp_path / "found.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launch, *program]
    subprocess.run(command, check=True, timeout=500, env=environment, cwd=ROOT)
    both = json.loads((tmp_path / "found.json").read_text())
    for how in work.HOWS:
        for wrap in work.WRAPS:
            require_one_process([found[f"{how} {wrap}"] for found in both], how, wrap)
    alone = work.trained(None, tmp_path)
    for found in both:
        assert found["Trainer"][:2] == list(alone[:2])
        assert found["Trainer"][2] == pytest.approx(alone[2], rel=1e-5)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("wrap", work.WRAPS)
@pytest.mark.parametrize("how", work.HOWS)
def test_ranks_with_other_seeds_are_told_on_every_rank(
    ranks: Ranks, how: str, wrap: str, checkpointed: bool
) -> None:
    for said in ranks.run(work.differing, how, wrap, checkpointed):
        assert "must be the same on every rank, and differ from rank 0's on ranks [1]" in said


@pytest.mark.parametrize("how", work.HOWS)
def test_rank_0_may_evaluate_alone_before_training(ranks: Ranks, how: str) -> None:
    assert ranks.run(work.rank_0_alone, how) == [(True, False)] * 2


@pytest.mark.parametrize("wrap", work.WRAPS)
@pytest.mark.parametrize("how", work.HOWS)
def test_weights_that_are_read_are_seen_on_every_rank(ranks: Ranks, how: str, wrap: str) -> None:
    for said in ranks.run(work.reading, how, wrap):
        assert "weight of 'blocks.0.read' and never called the module (2 such" in said


# -- before there is a process group ---------------------------------------------------------------


def test_attach_without_a_process_group_asks_for_rng(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = mlp()
    before = state(model)
    with pytest.raises(AdapterError, match="give an integer as rng="):
        attach(model, AdapterConfig(r=16))
    assert same(before, state(model))
    attach(model, AdapterConfig(r=16), rng=0)


def test_peft_without_a_process_group_asks_for_mask_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = mlp()
    before = state(model)
    generator = torch.get_rng_state()
    config = XoraConfig(r=16)
    with pytest.raises(AdapterError, match="give an integer as mask_seed="):
        peft.get_peft_model(model, config)
    assert same(before, state(model))
    assert config.mask_seed is None
    assert torch.equal(generator, torch.get_rng_state())
    peft.get_peft_model(model, XoraConfig(r=16, mask_seed=0))


# -- what is drawn ---------------------------------------------------------------------------------


def drawn(**settings: object) -> tuple[int | None, torch.Tensor]:
    """The seed after `torch.manual_seed`, and the generator's state afterwards."""
    model = mlp()
    torch.manual_seed(5)
    config = XoraConfig(**{"r": 16, **settings})
    peft.get_peft_model(model, config)
    return config.mask_seed, torch.get_rng_state()


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 8},
        {"left_degree": 4},
        {"target_modules": ["2"]},
        {"scaling": "paper"},
        {"mask_method": "random"},
        {"modules_to_save": ["2"], "target_modules": ["0"]},
    ],
    ids=str,
)
def test_every_config_draws_the_same(settings: dict[str, object]) -> None:
    seed, generator = drawn()
    other, after = drawn(**settings)
    assert seed == other
    assert torch.equal(generator, after)


def test_a_given_seed_draws_nothing() -> None:
    _, generator = drawn(mask_seed=7)
    torch.manual_seed(5)
    assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("how", work.HOWS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_masks_and_values_are_the_same_under_another_device(how: str, device: str) -> None:
    first, second = mlp(), mlp()
    seed = None if how == "XoraConfig" else 0
    found = []
    for model, context in ((first, "cpu"), (second, device)):
        torch.manual_seed(5)
        with torch.device(context):
            adapted = work.adapted(how, seed, model, "all-linear")
        found.append(state(adapted))
        assert mask_hashes(first) == mask_hashes(model)
    assert same(*found)


def test_the_draw_is_the_same_under_a_default_device_and_on_meta() -> None:
    seed, generator = drawn()
    model = mlp().to("meta")
    torch.manual_seed(5)
    config = XoraConfig(r=16)
    torch.set_default_device("meta")
    try:
        peft.get_peft_model(model, config)
    finally:
        torch.set_default_device(None)
    assert config.mask_seed == seed
    assert torch.equal(generator, torch.get_rng_state())


def test_drawn_seeds_are_below_2_to_the_53() -> None:
    seeds = set()
    for _ in range(32):
        config = XoraConfig(r=2, target_modules=["0"])
        peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), config)
        seeds.add(config.mask_seed)
    assert len(seeds) == 32
    assert 2**50 < max(seeds) < 2**53


def test_attach_draws_from_the_system_and_not_from_torch() -> None:
    models = [mlp(), mlp()]
    generator = torch.get_rng_state()
    first, second = (attach(model, AdapterConfig(r=16), rng=None).seed for model in models)
    assert first != second
    assert torch.equal(generator, torch.get_rng_state())
