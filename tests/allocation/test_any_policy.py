"""What holds for every policy: files in mid-training, modes, partial masks, resuming, refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import (
    AdapterConfig,
    XoraConfig,
    attach,
    detach,
    export_peft,
    import_peft,
    load_adapter,
    merge,
    save_adapter,
    unmerge,
)
from expandermask.adapters.attachment import attachment
from expandermask.allocation import (
    AdaLoRA,
    ALoRA,
    DiffoRA,
    Policy,
    ROLoRA,
    SaLoRA,
    SoRA,
    plan_of_ranks,
    uniform_ranks,
)
from expandermask.errors import InvalidInputError
from tests.allocation.models import SHAPES, adapters, backward, data, net, train

STEPS = 16


def minus_mse(model: nn.Module) -> float:
    x, y = data(99)
    return -float(nn.functional.mse_loss(model(x), y).detach())


def mse(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


POLICIES: dict[str, Callable[[], Policy]] = {
    "AdaLoRA": lambda: AdaLoRA(target_rank=2, total_steps=STEPS, final_steps=3),
    "SoRA": lambda: SoRA(strength=2.0),
    "SaLoRA": lambda: SaLoRA(target_density=0.5, start_step=1, end_step=12),
    "ALoRA": lambda: ALoRA(
        score=minus_mse, start_rank=2, first_steps=4, recovery_steps=3, rounds=3, pruned=1
    ),
    "ROLoRA": lambda: ROLoRA(target_rank=3, total_steps=STEPS),
    "DiffoRA": lambda: DiffoRA(validation=[data(90)], search_steps=6, select_rate=1.0, loss=mse),
}


def part_of_masks() -> MaskPlan:
    """Masks of rank 6 of which module "0" has ranks 3 to 5 and module "2" the first two."""
    full = MaskPlan.for_shapes(SHAPES, r=6, left_degree=6, rng=0)
    masks = {}
    for place, kept in (("0", slice(3, 6)), ("2", slice(0, 2))):
        ones = [g.mask() * 0 for g in (full[place].a, full[place].b)]
        for mask in ones:
            mask[:, kept] = 1
        masks[place] = tuple(ones)
    return MaskPlan.from_masks(masks, rng=0)


def with_partial_masks() -> nn.Sequential:
    model = net(4)
    detach(model)
    attach(model, part_of_masks())
    return model


@pytest.mark.parametrize("name", POLICIES)
def test_terms_without_entries_are_never_counted(name: str) -> None:
    model = with_partial_masks()
    policy = POLICIES[name]()
    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    policy.follow(optimizer)
    for step in range(STEPS):
        train(model, policy, range(step, step + 1), optimizer)
        ranks, active = policy.ranks(), policy.active()
        assert ranks["0"] <= 3
        assert ranks["2"] <= 2
        assert not active["0"][:3].any()
        assert not active["2"][2:].any()
    if name in ("ALoRA", "ROLoRA"):  # of the second module there are two at most, and both take it
        assert 1 <= policy._terms.exists.sum() <= {"ALoRA": 4, "ROLoRA": 5}[name]
    if name == "SaLoRA":
        assert isinstance(policy, SaLoRA)
        expected, realised = policy.density()
        assert abs(expected - realised) < 0.01
    before = model(data(3)[0]) if name != "SaLoRA" else model.eval()(data(3)[0])
    policy.finish()
    torch.testing.assert_close(model(data(3)[0]), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_modules_may_have_ranks_of_their_own(name: str, tmp_path: Path) -> None:
    """The second module has rank 2 only, and is never given more."""
    model = net(4)
    detach(model)
    attach(model, AdapterConfig(r=4, left_degree=2, rank_pattern={"2": 2}), rng=1)
    policy = POLICIES[name]()
    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    for step in range(STEPS):
        train(model, policy, range(step, step + 1), optimizer)
        ranks = policy.ranks()
        assert ranks["0"] <= 4
        assert ranks["2"] <= 2
        assert {place: len(own) for place, own in policy.active().items()} == {"0": 4, "2": 2}
    for stage in ("trained", "finished"):
        if stage == "finished":
            policy.finish()
        save_adapter(model, tmp_path / stage)
        loaded = net(4)
        detach(loaded)
        load_adapter(loaded, tmp_path / stage)
        torch.testing.assert_close(loaded.eval()(data(3)[0]), model.eval()(data(3)[0]))


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("name", POLICIES)
def test_it_is_one_run_whoever_holds_the_adapter(name: str, degree: int) -> None:
    """To the bit: by `attach` and by PEFT, from the same seed."""
    asked: dict[str, Any] = {"r": 4, "left_degree": degree, "target_modules": ["0", "2"]}
    ends = []
    for holder in ("attach", "PEFT"):
        torch.manual_seed(0)
        parts = (nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 5))
        model: nn.Module = nn.Sequential(*parts)
        if holder == "attach":
            attach(model, AdapterConfig(**asked), rng=1)
        else:
            model = peft.get_peft_model(model, XoraConfig(**asked, mask_seed=1))
        policy = POLICIES[name]()
        policy.attach(model)
        train(model, policy, range(STEPS))
        own = adapters(model)
        values = [tensor.detach().clone() for a in own.values() for tensor in a.factors()]
        ends.append((values, policy.finish(), model.eval()(data(3)[0]).detach()))
    assert ends[0][1] == ends[1][1]
    assert torch.equal(ends[0][2], ends[1][2])
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0], ends[1][0], strict=True))


def test_fixed_ranks_are_those_that_masks_have() -> None:
    plan = part_of_masks()
    assert uniform_ranks(plan, 9) == {"0": 3, "2": 2}
    found = plan_of_ranks(plan, {"0": 2, "2": 1})
    assert {n: pair.used_ranks.tolist() for n, pair in found.items()} == {"0": [3, 4], "2": [0]}


@pytest.mark.parametrize("step", [3, 8, STEPS])
@pytest.mark.parametrize("name", POLICIES)
def test_files_and_merging_have_the_evaluating_model(name: str, step: int, tmp_path: Path) -> None:
    model = net(6)
    policy = POLICIES[name]()
    policy.attach(model)
    train(model, policy, range(step))
    x = data(3)[0]
    for mode in (True, False):  # in either mode; the model's output is that of evaluation
        model.train(mode)
        save_adapter(model, tmp_path / f"own-{mode}")
        export_peft(model, tmp_path / f"peft-{mode}")
        deltas = {n: own.delta() for n, own in adapters(model).items()}
        merge(model)
        merged = model(x)
        unmerge(model)
        model.eval()
        expected = model(x)
        torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-6)
        for n, own in adapters(model).items():
            assert torch.equal(own.delta(), deltas[n])
        for load, folder in ((load_adapter, "own"), (import_peft, "peft")):
            fresh = net(6)
            detach(fresh)
            load(fresh, tmp_path / f"{folder}-{mode}")
            torch.testing.assert_close(fresh.eval()(x), expected, rtol=1e-5, atol=1e-6)


def test_an_adapter_of_which_a_module_has_nothing_left_is_saved_and_loaded(tmp_path: Path) -> None:
    model = net(5)
    policy = ALoRA(score=minus_mse, start_rank=2, first_steps=1, recovery_steps=1, pruned=2)
    policy.attach(model)
    policy.importance = lambda: {"0": {0: 0.0, 1: 0.1}, "2": {0: 1.0, 1: 2.0}}
    train(model, policy, range(1))
    assert policy.ranks() == {"0": 0, "2": 4}
    save_adapter(model, tmp_path)
    fresh = net(5)
    detach(fresh)
    load_adapter(fresh, tmp_path)
    x = data(3)[0]
    torch.testing.assert_close(fresh(x), model(x))
    for own in adapters(model).values():
        own.lora_B.data.zero_()
    load_adapter(model, tmp_path)  # onto the adapter it came from
    torch.testing.assert_close(fresh(x), model(x))
    empty = copy.deepcopy(attachment(model).adapters["default"].plan).without_empty()
    assert list(empty) == ["2"]


def test_a_state_of_the_search_goes_onto_a_policy_that_has_selected() -> None:
    saved = []
    model = net(6)
    policy = DiffoRA(validation=[data(90)], search_steps=4, select_rate=0.5, share_rank=2, loss=mse)
    with pytest.raises(InvalidInputError, match="selects no module"):
        policy.attach(net(6))  # two layers of one module each
    policy = POLICIES["DiffoRA"]()
    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    for step in range(10):
        if step == 3:
            saved = copy.deepcopy([policy.state_dict(), model.state_dict()])
        train(model, policy, range(step, step + 1), optimizer)
    policy.load_state_dict(saved[0])
    model.load_state_dict(saved[1])
    assert all(policy.modules().values())
    assert [float(own.module_gate) for own in adapters(model).values()] == [1.0, 1.0]
    train(model, policy, range(3, 10), optimizer)


def test_masked_gates_are_zero_whatever_they_were() -> None:
    for importance in ("smoothed", "magnitude"):
        model = net(4)
        policy = AdaLoRA(target_rank=1, total_steps=5, importance=importance)
        policy.attach(model)
        gates = [own.rank_gate for own in adapters(model).values()]
        for gate in gates:
            gate.data.fill_(1.0)
            gate.grad = torch.zeros(4)
        gates[0].data[2], gates[1].data[1] = float("nan"), float("inf")
        policy.after_backward(4)
        policy.after_step(4)
        assert sum(policy.ranks().values()) == 2


def test_training_starts_anew_with_the_optimizers_first_step_and_embeddings_values() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8))
    attach(model, AdapterConfig(r=4, left_degree=4, target_modules=["0", "1"]), rng=0)
    fresh = {n: own.lora_B.detach().clone() for n, own in adapters(model).items()}
    ids, y = torch.arange(20), torch.randn(20, 8)
    policy = DiffoRA(
        validation=[(ids, y)],
        search_steps=5,
        select_rate=1.0,
        loss=lambda m, b: mse(m, (b[0], b[1])),
    )
    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    policy.follow(optimizer)
    for step in range(5):
        optimizer.zero_grad()
        mse(model, (ids, y)).backward()
        optimizer.step()
        policy.after_step(step)
    for name, own in adapters(model).items():
        assert not optimizer.state[own.lora_B]
        assert torch.equal(own.lora_B, fresh[name])


RANK_ONE = MaskPlan.from_masks(
    {name: (np.ones((k, 1)), np.ones((d, 1))) for name, (d, k) in SHAPES.items()}
)
OF_RANK_ONE: dict[str, Callable[[], Policy]] = {
    **POLICIES,
    "AdaLoRA": lambda: AdaLoRA(target_rank=0.5, total_steps=STEPS, final_steps=3),
    "ALoRA": lambda: ALoRA(score=minus_mse, start_rank=1, first_steps=4, recovery_steps=3),
    "ROLoRA": lambda: ROLoRA(target_rank=1, total_steps=STEPS),
    "SaLoRA": lambda: SaLoRA(target_density=0.6, start_step=1, end_step=12),
    "SoRA": lambda: SoRA(strength=0.5),
}


@pytest.mark.parametrize("name", POLICIES)
def test_adapters_of_rank_one(name: str) -> None:
    model = net(4)
    detach(model)
    attach(model, RANK_ONE)
    policy = OF_RANK_ONE[name]()
    policy.attach(model)
    train(model, policy, range(STEPS))
    assert 1 <= sum(policy.ranks().values()) <= {"AdaLoRA": 1, "SaLoRA": 1}.get(name, 2)
    before = model.eval()(data(3)[0])
    policy.finish()
    torch.testing.assert_close(model(data(3)[0]), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_one_module_alone(name: str) -> None:
    model = net(4)
    detach(model)
    attach(model, AdapterConfig(r=6, left_degree=6, target_modules=["0"]), rng=1)
    policy = POLICIES[name]()
    policy.attach(model)
    train(model, policy, range(STEPS))
    exact = {"AdaLoRA": 2, "SaLoRA": 3, "ALoRA": 2, "ROLoRA": 2, "DiffoRA": 6}
    assert policy.ranks()["0"] == exact[name] if name != "SoRA" else policy.ranks()["0"] > 0
    before = model.eval()(data(3)[0])
    policy.finish()
    torch.testing.assert_close(model(data(3)[0]), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_a_step_that_loss_scaling_leaves_out_for_its_nans_does_no_harm(name: str) -> None:
    model, policy = net(6), POLICIES[name]()
    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    policy.follow(optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        backward(model, policy, seed=step)
        if step == 5:
            for own in adapters(model).values():
                for p in (own.lora_A, own.lora_B, own.rank_gate):
                    if p is not None and p.grad is not None:
                        p.grad.fill_(float("nan"))
        policy.after_backward(step)
        if step != 5:
            optimizer.step()
        policy.after_step(step)
    assert all(p.isfinite().all() for p in model.parameters())
    assert not any(tensor.isnan().any() for tensor in policy.state_dict().values())
    assert sum(policy.finish().values()) > 0


def test_gates_that_training_made_nan_stay_to_be_seen() -> None:
    model = net(6)
    policy = SoRA(strength=2.0)
    policy.attach(model)
    optimizer = train(model, policy, range(2))
    gate = adapters(model)["0"].rank_gate
    gate.data[1] = float("nan")
    policy.after_step(2)
    assert gate[1].isnan()
    assert policy.active()["0"][1]
    model = net(6)
    rounds = ROLoRA(target_rank=3, total_steps=STEPS, sparsify=lambda rank, steps: SoRA(strength=1))
    rounds.attach(model)
    optimizer = train(model, rounds, range(3))
    adapters(model)["0"].rank_gate.data[0] = float("nan")
    with pytest.raises(InvalidInputError, match="is NaN, which ranks nothing"):
        train(model, rounds, range(3, STEPS), optimizer)


@pytest.mark.parametrize("name", POLICIES)
def test_a_module_that_the_model_never_uses_is_no_obstacle(name: str) -> None:
    model = net(6)
    detach(model)
    model.append(nn.Linear(5, 5))
    attach(model, AdapterConfig(r=6, left_degree=6, target_modules=["0", "2", "3"]), rng=0)
    model.forward = lambda x: model[2](model[1](model[0](x)))
    policy = POLICIES[name]()
    policy.attach(model)
    train(model, policy, range(STEPS))
    used = adapters(model)["3"]
    assert not used.lora_B.any() or name in ("AdaLoRA", "ROLoRA")
    ranks = policy.ranks()
    assert ranks["0"] + ranks["2"] > 0
    if name in ("AdaLoRA", "ROLoRA"):
        assert ranks["3"] == 0
    before = model.eval()(data(3)[0])
    policy.finish()
    torch.testing.assert_close(model(data(3)[0]), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_a_module_that_is_frozen_is_no_obstacle(name: str) -> None:
    model, policy = net(6), POLICIES[name]()
    policy.attach(model)
    frozen = adapters(model)["0"]
    for p in (frozen.lora_A, frozen.lora_B):
        p.requires_grad_(False)
    first = frozen.lora_A.detach().clone()
    train(model, policy, range(STEPS))
    assert not frozen.lora_A.requires_grad
    if name in ("AdaLoRA", "SoRA", "SaLoRA"):
        assert torch.equal(frozen.lora_A, first)
    assert sum(policy.finish().values()) > 0
