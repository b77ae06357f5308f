"""SoRA: thresholds against their definitions, zeros exact, the step's own learning rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from expandermask.allocation import SoRA
from expandermask.allocation.sora import reference_threshold, soft_threshold
from expandermask.errors import AdapterError, InvalidInputError
from tests.allocation.models import MASKS, adapters, backward, net

NUMBERS = st.floats(-8, 8, width=32)


@given(st.lists(NUMBERS, min_size=1, max_size=8), st.floats(0, 4, width=32))
def test_soft_threshold_is_the_proximal_operator(numbers: list[float], xi: float) -> None:
    x = torch.tensor(numbers, dtype=torch.float64)
    found = soft_threshold(x, xi)

    def objective(y: torch.Tensor) -> torch.Tensor:
        return (y - x).square() / 2 + xi * y.abs()

    for other in (
        torch.zeros_like(x),
        x,
        *(found + d for d in (1e-3, -1e-3, 0.5, -0.5, 3.0, -3.0)),
    ):
        assert (objective(found) <= objective(other) + 1e-12).all()
    assert ((x.abs() <= xi) == (found == 0)).all()


@given(st.lists(NUMBERS, min_size=1, max_size=8), st.floats(0, 4, width=32))
def test_the_references_is_its_three_lines(numbers: list[float], xi: float) -> None:
    slow = []
    for x in map(np.float64, numbers):
        p = x
        if p > xi:
            p -= xi
        elif p < -xi:  # it cannot be both, but for xi = 0
            p += xi
        slow.append(0.0 if abs(p) < xi else p)
    found = reference_threshold(torch.tensor(numbers, dtype=torch.float64), xi)
    assert found.tolist() == slow


def test_values_by_hand() -> None:
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5])
    assert soft_threshold(x, 0.5).tolist() == [-1.5, -0.5, 0, 0, 0, 0, 0.25, 0.5, 1.0]
    assert reference_threshold(x, 0.5).tolist() == [-1.5, -0.5, -0.5, 0, 0, 0.5, 0, 0.5, 1.0]


@pytest.mark.parametrize("masks", MASKS)
def test_a_step_is_the_optimizers_and_then_the_proximal_one(masks: str) -> None:
    model = net(4, masks)
    policy = SoRA(strength=3.0)
    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=0.1, weight_decay=0.3))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    policy.follow(optimizer)
    for step in range(6):
        optimizer.zero_grad()
        backward(model, policy, seed=step)
        rate = optimizer.param_groups[1]["lr"]
        assert rate == pytest.approx(0.1 / (1 + step))
        optimizer.step()
        moved = [own.rank_gate.detach().clone() for own in adapters(model).values()]
        policy.after_step(step)
        for own, gate in zip(adapters(model).values(), moved, strict=True):
            expected = gate.sign() * (gate.abs() - 3 * rate).clamp(min=0)
            assert torch.equal(own.rank_gate, expected)
        schedule.step()
    ranks = policy.ranks()
    assert ranks == {n: int((a.rank_gate != 0).sum()) for n, a in adapters(model).items()}
    assert sum(ranks.values()) < 8


def test_a_strength_of_zero_prunes_nothing_and_a_large_one_all() -> None:
    for strength, rank in ((0.0, 4), (1e4, 0)):
        model = net(4)
        policy = SoRA(strength=strength)
        policy.attach(model)
        optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
        policy.follow(optimizer)
        backward(model, policy)
        optimizer.step()
        policy.after_step(0)
        assert policy.ranks() == {"0": rank, "2": rank}


def test_gates_start_normal_and_the_same_for_the_same_plan() -> None:
    gates = []
    for _ in range(2):
        model = net(64)
        SoRA(strength=1.0).attach(model)
        gates.append(torch.cat([a.rank_gate for a in adapters(model).values()]).detach())
    assert torch.equal(*gates)
    assert abs(float(gates[0].mean())) < 0.3
    assert 0.75 < float(gates[0].std()) < 1.25
    assert not torch.equal(gates[0][:64], gates[0][64:])


def test_the_optimizer_has_to_be_known_and_without_decay_on_gates() -> None:
    model = net(4)
    policy = SoRA(strength=1.0)
    policy.attach(model)
    with pytest.raises(AdapterError, match=r"call follow\(optimizer\)"):
        policy.after_step(0)
    with pytest.raises(AdapterError, match="does not train 2 of the 2 parameters that SoRA"):
        policy.follow(torch.optim.AdamW([nn.Parameter(torch.ones(2))]))
    policy.follow(torch.optim.AdamW(model.parameters(), weight_decay=0.1))
    with pytest.raises(AdapterError, match="must have no weight decay"):
        policy.after_step(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": -1}, "strength must be at least 0 and finite, got -1.0"),
        ({"strength": float("inf")}, "and finite, got inf"),
        ({"strength": "1"}, "strength must be a real number"),
        ({"strength": 1, "variant": "other"}, "variant must be one of"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        SoRA(**changes)
