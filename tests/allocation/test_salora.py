"""SaLoRA: hard-concrete laws against Monte Carlo, the multiplier's phase, densities at its end."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from expandermask.allocation import SaLoRA
from expandermask.allocation.salora import HardConcrete
from expandermask.errors import AdapterError, InvalidInputError
from tests.allocation.models import MASKS, adapters, backward, data, net, train


def policy_of(model: nn.Module, **changes: Any) -> SaLoRA:
    policy = SaLoRA(**({"target_density": 0.5, "start_step": 5, "end_step": 90} | changes))
    policy.attach(model)
    return policy


def gates(model: nn.Module) -> torch.Tensor:
    return torch.cat([own.rank_gate.detach() for own in adapters(model).values()])


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_the_closed_form_is_the_share_of_draws_that_are_not_zero(tau: float) -> None:
    log_theta = torch.tensor([-6.0, -3.0, -2.4, 0.0, 1.0, 4.0], dtype=torch.float64)
    law, n = HardConcrete(log_theta, tau), 40_000
    u = torch.rand(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = law.draw(u)
    shares, expected = (drawn > 0).double().mean(0), law.open()
    assert ((shares - expected).abs() < 4.5 * (expected * (1 - expected) / n).sqrt() + 1e-9).all()
    assert drawn.min() == 0
    assert drawn.max() == 1


def test_a_gate_by_hand() -> None:
    """Equation 7 with u = 3/4 and log theta = log 2: sigmoid(log 3 + log 2) = 6/7."""
    law = HardConcrete(torch.tensor([math.log(2)], dtype=torch.float64), 1.0)
    assert float(law.draw(0.75)) == pytest.approx(6 / 7 * 1.2 - 0.1)
    assert float(law.draw(0.5)) == pytest.approx(2 / 3 * 1.2 - 0.1)
    assert float(law.open()) == pytest.approx(1 / (1 + math.exp(-math.log(2) - math.log(11))))


@pytest.mark.parametrize("masks", MASKS)
def test_the_gradient_of_log_theta_is_autograds_through_the_whole_model(masks: str) -> None:
    model = net(4, masks, double=True)
    policy = policy_of(model, start_step=0)
    for own in adapters(model).values():
        own.lora_B.data.normal_(generator=torch.Generator().manual_seed(1))
    policy._log_theta.data.copy_(torch.linspace(-3.5, 1.0, 8))
    policy._multiplier.fill_(0.7)
    policy._draw(0)
    x, y = data(dtype=torch.float64)
    for part in (slice(0, 8), slice(8, 16)):  # accumulated over two parts of the batch
        (nn.functional.mse_loss(model(x[part]), y[part]) / 2).backward()
    policy.after_backward(0)
    found = policy._log_theta.grad
    assert found is not None

    twin = net(4, masks, double=True)
    log_theta = torch.linspace(-3.5, 1.0, 8, dtype=torch.float64).requires_grad_()
    law = HardConcrete(log_theta, 1.0)
    for own, theirs, gate in zip(
        adapters(twin).values(),
        adapters(model).values(),
        law.draw(policy._noise).split(4),
        strict=True,
    ):
        own.load_state_dict(theirs.state_dict(), strict=False)
        own.set_rank_gate(gate)
    entries = torch.tensor(
        [
            float((m[:, j] if m.shape[1] == 4 else m[j]).sum())
            for own in adapters(twin).values()
            for j in range(4)
            for m in [support_counts(own)]
        ],
        dtype=torch.float64,
    )
    density = (law.open() * entries).sum() / entries.sum()
    (nn.functional.mse_loss(twin(x), y) + 0.7 * (density - 0.5) ** 2).backward()
    assert log_theta.grad is not None
    np.testing.assert_allclose(found.double().numpy(), log_theta.grad.numpy(), rtol=2e-4, atol=1e-8)


def test_a_step_of_the_multiplier_by_hand() -> None:
    """All log theta are 3, so the density is sigmoid(3 + log 11), too large.

    An adapter that is new has no gradient of the loss, and Adam's first step is the rate.
    """
    model = net(4)
    policy = policy_of(model, start_step=0, multiplier_rate=2.0, gate_rate=0.25, orthogonality=0)
    policy._multiplier.fill_(0.7)
    train(model, policy, range(1))
    off = 1 / (1 + math.exp(-3 - math.log(11))) - 0.5
    assert policy.multiplier == pytest.approx(0.7 + 2 * off**2, rel=1e-6)
    assert policy._log_theta.tolist() == pytest.approx([2.75] * 8, rel=1e-5)


def test_log_theta_and_the_multiplier_against_a_slow_float64_oracle() -> None:
    model = net(4)
    policy = policy_of(model, start_step=0, multiplier_rate=3.0, gate_rate=0.2)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    policy.follow(optimizer)
    costs = [float(c) for c in policy._costs]
    theta, mean, square, multiplier = [3.0] * 8, [0.0] * 8, [0.0] * 8, 0.0
    for step in range(12):
        optimizer.zero_grad()
        backward(model, policy, seed=step)
        policy.after_backward(step)
        gradient = policy._log_theta.grad.tolist()
        optimizer.step()
        policy.after_step(step)
        opened = [1 / (1 + math.exp(-t - math.log(11))) for t in theta]
        multiplier += 3 * (sum(o * c for o, c in zip(opened, costs, strict=True)) - 0.5) ** 2
        for i, g in enumerate(gradient):
            mean[i] = 0.9 * mean[i] + 0.1 * g
            square[i] = 0.999 * square[i] + 0.001 * g * g
            size = math.sqrt(square[i] / (1 - 0.999 ** (step + 1))) + 1e-8
            theta[i] -= 0.2 * mean[i] / (1 - 0.9 ** (step + 1)) / size
        assert policy.multiplier == pytest.approx(multiplier, rel=1e-5)
        assert policy._log_theta.tolist() == pytest.approx(theta, rel=1e-4, abs=1e-5)


def test_gates_do_not_settle_without_having_learnt() -> None:
    model = net(4)
    policy = policy_of(model, end_step=6)
    with pytest.raises(AdapterError, match="gates have taken no step, so nothing tells which to"):
        policy.after_step(5)
    with pytest.raises(
        AdapterError, match=r"finds no gradients; .*call after_backward.*before zero_grad"
    ):
        policy.after_backward(5)


def support_counts(own: Any) -> torch.Tensor:
    """Stacked masks of A and B, (k + d, r)."""
    kept = own.rank_gate
    own.set_rank_gate(None)
    values = own.lora_A.data.clone(), own.lora_B.data.clone()
    own.lora_A.data.fill_(1.0)
    own.lora_B.data.fill_(1.0)
    a, b = own.factors()
    own.lora_A.data.copy_(values[0])
    own.lora_B.data.copy_(values[1])
    own.set_rank_gate(kept)
    return torch.cat([a.T, b])


def test_the_multiplier_moves_only_in_its_phase_and_never_falls() -> None:
    model = net(8)
    policy = policy_of(model, start_step=5, end_step=30)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    multipliers, thetas = [policy.multiplier], [policy.state_dict()["log_theta"].clone()]
    for step in range(40):
        train(model, policy, range(step, step + 1), optimizer)
        multipliers.append(policy.multiplier)
        thetas.append(policy.state_dict()["log_theta"].clone())
    for step, (before, after) in enumerate(pairwise(multipliers)):
        assert after > before if 5 <= step < 30 else after == before
    for step, (old, new) in enumerate(pairwise(thetas)):
        assert torch.equal(old, new) != (5 <= step < 30)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("target", [0.25, 0.5, 0.9])
def test_both_densities_meet_the_target_to_one_term_at_the_end_of_the_phase(
    masks: str, target: float
) -> None:
    model = net(64, masks)
    policy = policy_of(model, target_density=target, end_step=150, multiplier_rate=50.0)
    optimizer = train(model, policy, range(149))
    assert policy.density().expected == pytest.approx(target, abs=0.01)
    train(model, policy, range(149, 150), optimizer)
    expected, realised = policy.density()
    one = float(policy._costs.max())
    assert one < 0.02
    assert target - one < realised < target + 1e-9
    assert 0.995 * realised < expected < realised  # those open are so with probability 0.9955
    exists = policy._terms.split(policy._terms.exists)  # entries that are no term's do not count
    total = float(
        sum(support_counts(own)[:, exists[n]].sum() for n, own in adapters(model).items())
    )
    kept = sum(
        float(support_counts(own)[:, policy.active()[name]].sum())
        for name, own in adapters(model).items()
    )
    assert realised == pytest.approx(kept / total)
    assert realised <= target + 1e-9


def test_without_settling_only_the_expectation_is_held() -> None:
    model = net(16)
    policy = policy_of(model, settle=False, end_step=150, multiplier_rate=50.0)
    train(model, policy, range(151))
    assert policy.density().expected == pytest.approx(0.5, abs=0.01)
    assert abs(policy.density().realised - 0.5) > 0.05


def test_noise_is_fresh_at_every_step_and_gone_at_evaluation() -> None:
    model = net(8)
    policy = policy_of(model, start_step=0)
    policy._log_theta.data.fill_(-1.0)
    for own in adapters(model).values():
        own.lora_B.data.normal_()
    x, _ = data()
    drawn = []
    for step in range(3):
        policy.after_step(step)
        model(x)
        drawn.append(gates(model).clone())
    assert not any(torch.equal(*pair) for pair in pairwise(drawn))
    model.eval()
    first = model(x)
    law = HardConcrete(torch.full((16,), -1.0), 1.0)
    steady = torch.cat([own.steady_gate.detach() for own in adapters(model).values()])
    assert torch.equal(steady, law.draw(0.5))
    policy.after_step(3)
    assert torch.equal(model(x), first)
    part = model[0](x)  # a submodule alone too
    policy.after_step(4)
    assert torch.equal(model[0](x), part)
    model.train()
    assert not torch.equal(model(x), first)


@pytest.mark.parametrize("masks", MASKS)
def test_finish_leaves_the_model_of_evaluation(masks: str) -> None:
    model = net(16, masks)
    policy = policy_of(model, end_step=60)
    train(model, policy, range(70))
    ranks, x = policy.ranks(), torch.randn(9, 8)
    model.eval()
    before = model(x)
    assert policy.finish() == ranks
    assert torch.allclose(model(x), before, atol=1e-6)
    model.train()
    assert torch.allclose(model(x), before, atol=1e-6)
    assert all(own.rank_gate is None for own in adapters(model).values())
    with pytest.raises(AdapterError, match="attach"):
        policy.ranks()


@pytest.mark.parametrize("stop", [3, 20, 61])
def test_a_run_stopped_and_taken_up_gives_the_same_bits(stop: int) -> None:
    model = net(4)
    policy = policy_of(model, end_step=60)
    optimizer = train(model, policy, range(stop))
    saved = copy.deepcopy((model.state_dict(), policy.state_dict(), optimizer.state_dict()))
    train(model, policy, range(stop, 65), optimizer)
    again = net(4)
    taken_up = policy_of(again, end_step=60)
    again.load_state_dict(saved[0])
    taken_up.load_state_dict(saved[1])
    optimizer = torch.optim.AdamW(taken_up.groups(lr=1e-2))
    optimizer.load_state_dict(saved[2])
    train(again, taken_up, range(stop, 65), optimizer)
    assert taken_up.ranks() == policy.ranks()
    assert torch.equal(gates(again), gates(model))
    for own, theirs in (
        (model.state_dict(), again.state_dict()),
        (policy.state_dict(), taken_up.state_dict()),
    ):
        assert all(torch.equal(own[k], theirs[k]) for k in own)


def test_a_step_whose_gradients_are_not_finite_is_left_out() -> None:
    model = net(4)
    policy = policy_of(model, start_step=0)
    backward(model, policy)
    gate = adapters(model)["0"].rank_gate
    assert gate is not None
    gate.grad = torch.full((4,), float("nan"))
    before = policy.state_dict()["log_theta"].clone()
    policy.after_backward(0)
    policy.after_step(0)
    assert torch.equal(policy.state_dict()["log_theta"], before)
    assert policy.multiplier == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_density": 0}, r"target_density must lie in \(0, 1\], got 0.0"),
        ({"target_density": 1.5}, r"target_density must lie in \(0, 1\], got 1.5"),
        ({"target_density": None}, "target_density must be a real number"),
        ({"start_step": 90}, "start_step must be less than end_step = 90, got 90"),
        ({"end_step": 0}, "end_step must be at least 1"),
        ({"gate_rate": 0}, "gate_rate must be positive"),
        ({"multiplier_rate": float("inf")}, "multiplier_rate must be positive and finite"),
        ({"tau": -1}, "tau must be positive"),
        ({"orthogonality": -1}, "orthogonality must be at least 0"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        policy_of(net(2), **changes)
