"""ROLoRA: the ranks of a round by hand, the budget at every moment, growth that changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from expandermask.adapters import AdapterConfig, attach
from expandermask.adapters.attachment import attachment
from expandermask.allocation import AdaLoRA, ROLoRA, SaLoRA, SoRA
from expandermask.allocation import rolora as module_under_test
from expandermask.errors import FileFormatError, InvalidInputError
from tests.allocation.models import MASKS, adapters, backward, data, net, train


def sora(target_rank: float, steps: int) -> SoRA:
    return SoRA(strength=4.0)


ONE_FOR_ALL = SoRA(strength=1.0)
SPARSIFY = {"AdaLoRA": module_under_test.adalora_in_a_round, "SoRA": sora}


def policy_of(model: nn.Module, **changes: Any) -> ROLoRA:
    policy = ROLoRA(**({"target_rank": 3, "total_steps": 24} | changes))
    policy.attach(model)
    return policy


def trained_terms(model: nn.Module, optimizer: Any) -> int:
    """Rank-1 terms among the optimizer's own parameters, counted from shapes of dense factors."""
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    found = 0
    for own in adapters(model).values():
        assert {id(own.lora_A), id(own.lora_B)} <= held
        assert own.lora_A.numel() // own.shape[1] == own.lora_B.numel() // own.shape[0]
        found += own.lora_A.numel() // own.shape[1]
    return found


def numbers(optimizer: Any) -> int:
    """What the optimizer trains; its gradients and its two moments have no others."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    for p in held:
        assert p.grad is None or p.grad.shape == p.shape
    assert set(optimizer.state) <= set(held)
    for p, state in optimizer.state.items():
        assert all(t.shape == p.shape for t in state.values() if t.dim())
    return sum(p.numel() for p in held)


def held_numbers(model: nn.Module) -> int:
    return sum(own.lora_A.numel() + own.lora_B.numel() for own in adapters(model).values())


def test_levels_are_the_papers_schedule() -> None:
    policy = policy_of(net(8), target_rank=8)
    assert [policy.level(t) for t in range(4)] == pytest.approx([4, 5, 6, 7])
    assert [policy._begins(t) for t in range(5)] == [0, 6, 12, 18, 24]


def test_the_ranks_of_a_round_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """R = 4: s = (6, 1, 1, 0) is scaled to (12, 2, 2, 0), and with a cap of 8 to (8, 4, 4, 0)."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(9, 9) for _ in range(4)))
    attach(model, AdapterConfig(r=8, left_degree=8), rng=0)
    policy = policy_of(model, target_rank=4)
    left = {"0": 6, "1": 1, "2": 1, "3": 0}
    monkeypatch.setattr(type(policy._inner), "ranks", lambda self: left)
    assert policy._moved() == {"0": 8, "1": 4, "2": 4, "3": 0}  # round 1 goes all the way
    policy._round = 1
    assert policy._moved() == {"0": 6, "1": 4, "2": 4, "3": 2}  # half of (4, 4, 4, 4) and of it
    policy._round = 2  # (2 (4, 4, 4, 4) + (8, 4, 4, 0)) / 3 = (5.33, 4, 4, 2.67)
    assert policy._moved() == {"0": 5, "1": 4, "2": 4, "3": 3}
    left["0"] = left["1"] = left["2"] = 0
    assert policy._moved() == {"0": 4, "1": 4, "2": 4, "3": 4}


@pytest.mark.parametrize("scaling", ["matched", "paper"])
@pytest.mark.parametrize("inner", SPARSIFY)
def test_the_budget_holds_at_every_moment_and_growth_changes_nothing(
    inner: str, scaling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5))
    attach(model, AdapterConfig(r=5, left_degree=5, scaling=scaling), rng=1)
    policy = policy_of(model, sparsify=SPARSIFY[inner])
    optimizer = torch.optim.AdamW(policy.groups(lr=2e-2))
    policy.follow(optimizer)
    moments: list[int] = []
    from expandermask.adapters import remask

    apply = remask._apply

    def watched(*arguments: Any) -> None:
        """Count trained values after every single exchange of a parameter."""
        apply(*arguments)
        owned = adapters(model).values()
        moments.append(sum(own.lora_A.numel() // own.shape[1] for own in owned))

    monkeypatch.setattr(remask, "_apply", watched)
    grown, x = 0, data(50)[0]
    for step in range(24):
        optimizer.zero_grad()
        backward(model, policy, seed=step)
        policy.after_backward(step)
        optimizer.step()
        number, before = policy._round, None
        if step + 1 == policy._begins(number + 1) and number < 3:
            inner_policy = policy._inner
            inner_policy.after_step(step - policy._begins(number))
            before = model(x)
            was = policy.active()
            policy._next_round()
            torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)
            now = policy.trained_terms()
            grown += sum(now[n] > int(was[n].sum()) for n in now)
        else:
            policy.after_step(step)
        assert trained_terms(model, optimizer) <= 6
        assert numbers(optimizer) <= 6 * (8 + 6) + 2 * 5  # of the larger module, and all gates
        assert numbers(optimizer) == held_numbers(model) + 2 * 5
    assert grown > 0
    assert policy._round == 3
    assert max(moments) <= 6
    assert sum(policy.trained_terms().values()) == 6


def test_ranks_that_trained_do_something_later() -> None:
    """Newcomers of either kind get gradients: they do not start dead."""
    for sparsify in SPARSIFY.values():
        model = net(5)
        policy = policy_of(model, sparsify=sparsify)
        train(model, policy, range(7))
        backward(model, policy)
        for name, own in adapters(model).items():
            assert own.rank_gate is not None
            if not policy.trained_terms()[name]:
                continue
            gradients = [own.lora_A.grad, own.lora_B.grad]
            per_term = sum(g.abs().sum(0) for g in gradients)
            exists = policy._terms.split(policy._terms.exists)[name]
            assert ((per_term > 0) | (own.rank_gate.grad[exists] != 0)).all()


def test_terms_that_are_carried_over_keep_values_gates_and_moments() -> None:
    model = net(5)
    policy = policy_of(model)
    optimizer = train(model, policy, range(5))
    backward(model, policy)
    policy.after_backward(5)
    optimizer.step()
    policy._inner.after_step(5)
    own = adapters(model)
    kept = policy.active()
    before = {
        n: (
            policy._terms.split(policy._terms.exists)[n].clone(),
            a.lora_B.detach().clone() * a.scale,
            optimizer.state[a.lora_B]["exp_avg_sq"].clone(),
            a.rank_gate.detach().clone(),
            optimizer.state[a.rank_gate]["exp_avg"].clone(),
        )
        for n, a in own.items()
    }
    policy._next_round()
    for n, a in own.items():
        existed, values, squares, gate, moments = before[n]
        exists = policy._terms.split(policy._terms.exists)[n]
        stayed = kept[n] & exists & (a.rank_gate.detach() != 0)
        old, new = stayed[existed], stayed[exists]
        torch.testing.assert_close((a.lora_B * a.scale)[:, new], values[:, old])
        assert torch.equal(optimizer.state[a.lora_B]["exp_avg_sq"][:, new], squares[:, old])
        assert not optimizer.state[a.lora_B]["exp_avg_sq"][:, ~new].any()
        assert torch.equal(a.rank_gate[stayed], gate[stayed])
        assert torch.equal(optimizer.state[a.rank_gate]["exp_avg"][stayed], moments[stayed])
        assert not optimizer.state[a.rank_gate]["exp_avg"][~stayed].any()
    assert sum(int(k.sum()) for k in kept.values()) == 3


@pytest.mark.parametrize("masks", ["expander", *MASKS])
def test_it_runs_over_any_masks_of_which_it_takes_parts(masks: str) -> None:
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
        if masks == "expander"
        else net(5, masks)
    )
    if masks == "expander":
        attach(model, AdapterConfig(r=8), rng=0)
    full = attachment(model).adapters["default"].plan
    policy = policy_of(model)
    x = torch.randn(16, 16 if masks == "expander" else 8)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    policy.follow(optimizer)
    for step in range(24):
        optimizer.zero_grad()
        (model(x).square().mean() + policy.loss()).backward()
        policy.after_backward(step)
        optimizer.step()
        policy.after_step(step)
        plan = attachment(model).adapters["default"].plan
        for n, pair in plan.items():
            for part, whole in ((pair.a, full[n].a), (pair.b, full[n].b)):
                assert (part.mask() <= whole.mask()).all()
    assert sum(policy.ranks().values()) <= 6
    before = model(x)
    policy.finish()
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-6)


def test_the_last_sparsifying_goes_below_the_budget() -> None:
    model = net(5)
    policy = policy_of(model, target_rank=4)
    train(model, policy, range(24))
    assert sum(policy.trained_terms().values()) == 8
    assert sum(policy.ranks().values()) == 7  # 4 (7/8) a module
    assert sum(policy.finish().values()) == 7


@pytest.mark.parametrize("inner", SPARSIFY)
@pytest.mark.parametrize("stop", [3, 6, 14, 20])
def test_a_run_stopped_and_taken_up_gives_the_same_bits(inner: str, stop: int) -> None:
    model = net(5)
    policy = policy_of(model, sparsify=SPARSIFY[inner])
    optimizer = train(model, policy, range(stop))
    saved = copy.deepcopy((policy.state_dict(), model.state_dict(), optimizer.state_dict()))
    train(model, policy, range(stop, 24), optimizer)
    again = net(5)
    taken_up = policy_of(again, sparsify=SPARSIFY[inner])
    taken_up.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    optimizer = torch.optim.AdamW(taken_up.groups(lr=1e-2))
    optimizer.load_state_dict(saved[2])
    train(again, taken_up, range(stop, 24), optimizer)
    assert taken_up.ranks() == policy.ranks()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


def test_a_sparsifier_that_closes_everything_leaves_the_ranks() -> None:
    model = net(5)
    policy = policy_of(model, sparsify=lambda rank, steps: SoRA(strength=1e6))
    train(model, policy, range(24))
    assert policy.trained_terms() == {"0": 3, "2": 3}
    assert policy.ranks() == {"0": 0, "2": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_rank": 0}, "target_rank must be positive, got 0.0"),
        ({"target_rank": 6}, "target_rank must be at most r = 5, got 6"),
        ({"target_rank": "4"}, "target_rank must be a real number"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"total_steps": 7}, r"must be at least 2 \(rounds \+ 1\) = 8, two for each .*, got 7"),
        ({"sparsify": SoRA(strength=1.0)}, "sparsify must be a function of a mean rank"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        policy_of(net(5), **changes)


@pytest.mark.parametrize(
    "sparsify",
    [
        lambda rank, steps: SaLoRA(target_density=0.5, start_step=0, end_step=steps),
        lambda rank, steps: None,
        lambda rank, steps: AdaLoRA(target_rank=rank, total_steps=steps) if steps == 5 else None,
        lambda rank, steps: AdaLoRA(target_rank=5, total_steps=steps),
        lambda rank, steps: ONE_FOR_ALL,
    ],
)
def test_a_sparsifier_that_does_not_fit_leaves_the_adapter_as_it_was(sparsify: Any) -> None:
    model = net(5)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InvalidInputError, match=r"sparsify must (give a|come down)"):
        policy_of(model, sparsify=sparsify, total_steps=23)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    policy_of(model)


def test_a_budget_of_no_term_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"at least 0.5, one term of 2 modules, got 0.4"):
        policy_of(net(5), target_rank=0.4)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    larger, model = net(5), net(5)
    state = policy_of(larger, target_rank=4).state_dict()
    policy = policy_of(model)
    with pytest.raises(FileFormatError, match="has 8 terms, more than the 6 of the budget"):
        policy.load_state_dict(state)
    with pytest.raises(FileFormatError, match="is missing, or not of its state"):
        policy.load_state_dict(policy_of(net(5), sparsify=sora).state_dict())
    with pytest.raises(FileFormatError, match="'terms' must have shape"):
        policy.load_state_dict(policy_of(net(6)).state_dict())
    with pytest.raises(FileFormatError, match=r"'mean' must have shape \(\d+,\), got \(3,\)"):
        policy.load_state_dict({**policy.state_dict(), "sparsify.mean": torch.zeros(3)})
    further = net(5)
    ahead = policy_of(further)
    train(further, ahead, range(14))
    with pytest.raises(FileFormatError, match=r"'mean' must have shape \(\d+,\), got \(3,\)"):
        policy.load_state_dict({**ahead.state_dict(), "sparsify.mean": torch.zeros(3)})
    assert policy._round == 0
    assert policy.trained_terms() == {"0": 3, "2": 3}
    train(model, policy, range(24))


@pytest.mark.parametrize("stop", [3, 14])
def test_a_run_with_another_sparsifier_in_later_rounds_is_taken_up(stop: int) -> None:
    def either(rank: float, steps: int) -> AdaLoRA | SoRA:
        return SoRA(strength=4.0) if rank > 1.8 else AdaLoRA(target_rank=rank, total_steps=steps)

    model = net(5)
    policy = policy_of(model, sparsify=either)
    train(model, policy, range(stop))
    taken_up = policy_of(net(5), sparsify=either)
    taken_up.load_state_dict(policy.state_dict())
    assert taken_up._round == policy._round
    assert taken_up.trained_terms() == policy.trained_terms()


def test_adalora_of_a_round_has_room_for_all_its_phases() -> None:
    for steps in range(1, 50):
        policy = module_under_test.adalora_in_a_round(2.0, steps)
        assert isinstance(policy, AdaLoRA)
        assert policy.warmup_steps + policy.final_steps < steps
