"""ALoRA: scores against explicit ablation of dense weights, and totals kept over rounds."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from expandermask.adapters import detach
from expandermask.allocation import ALoRA, minus_loss
from expandermask.allocation.alora import Score
from expandermask.errors import AdapterError, InvalidInputError
from tests.allocation.models import MASKS, adapters, backward, data, net, train


def minus_mse(model: nn.Module) -> float:
    x, y = data(99, dtype=next(model.parameters()).dtype)
    return -float(nn.functional.mse_loss(model(x), y))


def policy_of(model: nn.Module, score: Score = minus_mse, **changes: Any) -> ALoRA:
    asked = {"start_rank": 3, "first_steps": 4, "recovery_steps": 2, "rounds": 3, "pruned": 2}
    policy = ALoRA(score=score, **(asked | changes))
    policy.attach(model)
    policy.follow(torch.optim.AdamW(policy.groups(lr=1e-2)))
    return policy


@pytest.mark.parametrize("masks", MASKS)
def test_scores_are_those_of_models_whose_weights_are_ablated(masks: str) -> None:
    model = net(5, masks, double=True)
    policy = policy_of(model)
    for own in adapters(model).values():
        own.lora_B.data.normal_(generator=torch.Generator().manual_seed(7))
    plain = net(5, masks, double=True)
    detach(plain)
    factors = {n: (own.scale, *own.factors()) for n, own in adapters(model).items()}

    def value(keep: Callable[[str, int], bool]) -> float:
        twin = copy.deepcopy(plain)
        for n, (scale, a, b) in factors.items():
            for j in range(5):
                if keep(n, j):
                    twin[int(n)].weight.data += scale * torch.outer(b[:, j], a[j])
        return minus_mse(twin)

    found = policy.importance()
    active = policy.active()
    whole = value(lambda n, j: True)
    for name, own in found.items():
        assert sorted(own) == active[name].nonzero().flatten().tolist()
        for j, score in own.items():
            term = (name, j)
            without = value(lambda n, i, term=term: (n, i) != term)
            alone = value(lambda n, i, term=term: (n, i) == term)
            assert score == pytest.approx(whole - without + alone, rel=1e-9)
    assert policy.evaluations == 1 + 2 * sum(len(own) for own in found.values())
    assert all(own.rank_gate is None for own in adapters(model).values())


def scored(policy: ALoRA, scores: dict[str, list[float]]) -> None:
    """Let a policy find these scores for the terms in use."""
    policy.importance = lambda: {
        n: dict(zip(policy.active()[n].nonzero().flatten().tolist(), own, strict=True))
        for n, own in scores.items()
    }


def test_ranks_go_from_the_lowest_to_modules_that_lost_none() -> None:
    model = net(5)
    policy = policy_of(model)
    scored(policy, {"0": [0.5, 0.1, 0.2], "2": [0.4, 0.6, 0.7]})
    policy.after_step(2)  # not due yet
    assert policy.ranks() == {"0": 3, "2": 3}
    policy.after_step(3)
    assert policy.active()["0"].tolist() == [True, False, False, False, False]
    assert policy.active()["2"].tolist() == [True] * 5
    policy.after_step(4)
    assert policy.ranks() == {"0": 1, "2": 5}


def test_what_cannot_be_given_is_gone() -> None:
    model = net(5)
    policy = policy_of(model, pruned=3)
    scored(policy, {"0": [0.1, 0.1, 0.1], "2": [0.4, 0.6, 0.7]})
    policy.after_step(3)
    assert policy.ranks() == {"0": 0, "2": 5}  # one of three did not fit
    scored(policy, {"0": [], "2": [0.4, 0.6, 0.7, 0.8, 0.9]})
    policy.after_step(5)
    assert policy.ranks() == {"0": 0, "2": 5}  # there is no other module that could take any


def test_nothing_is_dropped_that_no_module_could_take() -> None:
    model = net(5)
    policy = policy_of(model, start_rank=5)
    scored(policy, {"0": [0.1] * 5, "2": [0.4] * 5})  # the second lost none, and is full
    policy.after_step(3)
    assert policy.ranks() == {"0": 5, "2": 5}
    scored(policy, {"0": [0.1, 0.4, 0.4, 0.4, 0.4], "2": [0.1, 0.4, 0.4, 0.4, 0.4]})
    policy.after_step(5)  # both lost one
    assert policy.ranks() == {"0": 5, "2": 5}


def test_after_the_rounds_nothing_moves() -> None:
    policy = policy_of(net(5))
    scored(policy, {"0": [0.5, 0.1, 0.2], "2": [0.4, 0.6, 0.7]})
    assert policy.schedule_steps == 8
    assert policy_of(net(5), rounds=0).schedule_steps == 0
    for step in (8, 9, 11):
        policy.after_step(step)
    assert policy.ranks() == {"0": 3, "2": 3}
    policy.after_step(7)
    assert policy.ranks() == {"0": 1, "2": 5}


def test_equal_shares_first_and_the_rest_to_the_higher_mean() -> None:
    """Three modules lost none and share four ranks: two for that of the highest mean."""
    torch.manual_seed(0)
    from expandermask.adapters import AdapterConfig, attach

    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
    attach(model, AdapterConfig(r=8, left_degree=8), rng=0)
    policy = policy_of(model, start_rank=4, pruned=4)
    scored(policy, {"0": [0.0] * 4, "1": [1.0] * 4, "2": [1.0, 1.0, 5.0, 1.0], "3": [1.5] * 4})
    policy.after_step(3)
    assert policy.ranks() == {"0": 0, "1": 5, "2": 6, "3": 5}


@pytest.mark.parametrize("masks", MASKS)
def test_a_run_keeps_the_total_and_giving_changes_nothing(masks: str) -> None:
    model = net(6, masks)
    policy = policy_of(model, pruned=1)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    policy.follow(optimizer)
    total, x = sum(policy.ranks().values()), data(5)[0]
    for step in range(12):
        optimizer.zero_grad()
        backward(model, policy, seed=step)
        optimizer.step()
        before = {
            n: (policy.active()[n], own.scale, *own.factors()) for n, own in adapters(model).items()
        }
        policy.after_step(step)
        assert sum(policy.ranks().values()) == total
        values = sum(p.numel() for g in optimizer.param_groups for p in g["params"])
        assert values == sum(
            own.lora_A.numel() + own.lora_B.numel() for own in adapters(model).values()
        )
        after = policy.active()
        for n, own in adapters(model).items():
            was, scale, a, b = before[n]
            stayed, (a2, b2) = was & after[n], own.factors()
            assert torch.equal(a2[stayed], a[stayed])
            torch.testing.assert_close(own.scale * b2[:, stayed], scale * b[:, stayed])
            assert not b2[:, after[n] & ~was].any()
        assert model(x).isfinite().all()
        for p in (q for own in adapters(model).values() for q in own.parameters()):
            assert optimizer.state[p]["exp_avg"].shape == p.shape


def test_moments_of_terms_that_stay_are_kept_and_newcomers_have_none() -> None:
    model = net(5)
    policy = policy_of(model)
    optimizer = train(model, policy, range(3))
    backward(model, policy)
    optimizer.step()
    own = adapters(model)
    old = {n: optimizer.state[a.lora_A]["exp_avg"].clone() for n, a in own.items()}
    scored(policy, {"0": [0.5, 0.1, 0.6], "2": [0.4, 0.9, 0.7]})
    policy.pruned = 1
    policy.after_step(3)
    new = {n: optimizer.state[a.lora_A]["exp_avg"] for n, a in own.items()}
    assert torch.equal(new["0"], old["0"][:, [0, 2]])
    assert torch.equal(new["2"][:, :3], old["2"])
    assert not new["2"][:, 3].any()


def test_the_score_sees_an_evaluating_model_and_modes_come_back() -> None:
    model = net(5)
    seen: list[bool] = []
    policy = policy_of(model, lambda m: float(seen.append(m.training) or 0.0))
    model.train()
    model[1].eval()
    policy.importance()
    assert not any(seen)
    assert model.training
    assert model[0].training
    assert not model[1].training


def test_minus_loss_is_the_mean_of_batches() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    batches = [(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])) for _ in range(2)]
    losses = [float(nn.functional.cross_entropy(model(a), b).detach()) for a, b in batches]
    assert minus_loss(iter(batches))(model) == pytest.approx(-sum(losses) / 2)


@pytest.mark.parametrize("stop", [2, 5, 8])
def test_a_run_stopped_and_taken_up_gives_the_same_bits(stop: int) -> None:
    model = net(5)
    policy = policy_of(model)
    optimizer = train(model, policy, range(stop))
    saved = copy.deepcopy((policy.state_dict(), model.state_dict(), optimizer.state_dict()))
    train(model, policy, range(stop, 12), optimizer)
    again = net(5)
    taken_up = policy_of(again)
    taken_up.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    optimizer = torch.optim.AdamW(taken_up.groups(lr=1e-2))
    optimizer.load_state_dict(saved[2])
    train(again, taken_up, range(stop, 12), optimizer)
    assert taken_up.ranks() == policy.ranks()
    assert taken_up.evaluations == policy.evaluations > 0
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


def test_finish_leaves_plain_adapters_of_the_ranks() -> None:
    model = net(5)
    policy = policy_of(model, pruned=3)
    scored(policy, {"0": [0.1, 0.1, 0.1], "2": [0.4, 0.6, 0.7]})
    policy.after_step(3)
    x = data()[0]
    before = model(x)
    assert policy.finish() == {"0": 0, "2": 5}
    torch.testing.assert_close(model(x), before)
    assert list(adapters(model)) == ["2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": 3}, "score must be a function of the model"),
        ({"start_rank": 0}, "start_rank must be at least 1"),
        ({"start_rank": 6}, "start_rank must be at most r = 5, got 6"),
        ({"first_steps": 0}, "first_steps must be at least 1"),
        ({"recovery_steps": 1.5}, "recovery_steps must be an integer"),
        ({"rounds": -1}, "rounds must be at least 0"),
        ({"pruned": -1}, "pruned must be at least 0"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        policy_of(net(5), **changes)


def test_a_score_that_is_not_finite_changes_nothing() -> None:
    model = net(5)
    values = itertools.chain([1.0, 2.0], itertools.repeat(float("nan")))
    policy = policy_of(model, lambda m: next(values))
    with pytest.raises(AdapterError, match="the score of the model is nan"):
        policy.after_step(3)
    assert policy.ranks() == {"0": 3, "2": 3}
    assert all(own.rank_gate is None for own in adapters(model).values())
