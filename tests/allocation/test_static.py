"""Fixed ranks: totals, proportions, and plans that have just these ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import attach
from expandermask.allocation import plan_of_ranks, ranks_by_weight, uniform_ranks
from expandermask.errors import InvalidInputError
from expandermask.importance import gradient_norms

SHAPES = {"0": (12, 8), "1": (8, 12), "2": (8, 8)}


def plan(left_degree: int = 4) -> MaskPlan:
    return MaskPlan.for_shapes(SHAPES, r=4, left_degree=left_degree, rng=0)


def test_totals_are_exact_up_to_what_fits() -> None:
    for total in range(15):
        ranks = uniform_ranks(plan(), total)
        assert sum(ranks.values()) == min(total, 12)
        assert max(ranks.values()) - min(ranks.values()) <= 1
    assert ranks_by_weight(plan(), {"0": 1.0, "1": 2.0, "2": 3.0, "else": 9.0}, 6) == {
        "0": 1,
        "1": 2,
        "2": 3,
    }


@pytest.mark.parametrize("degree", [2, 4])
def test_a_plan_has_just_these_ranks(degree: int) -> None:
    full, ranks = plan(degree), {"0": 2, "1": 0, "2": 4}
    found = plan_of_ranks(full, ranks)
    assert list(found) == ["0", "2"]
    assert found["2"] == full["2"]
    for part, whole in ((found["0"].a, full["0"].a), (found["0"].b, full["0"].b)):
        expected = whole.mask().copy()
        expected[:, 2:] = 0
        np.testing.assert_array_equal(part.mask(), expected)
    model = nn.ModuleDict({n: nn.Linear(k, d) for n, (d, k) in SHAPES.items()})
    attach(model, found)
    assert type(model["1"]) is nn.Linear


def test_gradient_norms_are_autograds_however_the_data_are_cut() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    x, y = torch.randn(9, 5), torch.randint(0, 3, (9,))
    nn.functional.cross_entropy(model(x), y).backward()
    expected = {n: float(model[int(n)].weight.grad.norm()) for n in ("0", "2")}
    model.zero_grad()
    for cuts in ([9], [4, 5]):
        found = gradient_norms(model, zip(x.split(cuts), y.split(cuts), strict=True))
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranks_by_weight(plan(), {"0": 1.0}, 3), "weights must name every module, and '1'"),
        (lambda: plan_of_ranks(plan(), {"0": 1}), "ranks must name every module, and '1'"),
        (
            lambda: plan_of_ranks(plan(), dict.fromkeys(SHAPES, 5)),
            "must be at most 4, those its masks have, got 5",
        ),
        (lambda: plan_of_ranks(plan(), dict.fromkeys(SHAPES, -1)), "must be at least 0"),
        (lambda: plan_of_ranks(plan(), dict.fromkeys(SHAPES, 0)), "nothing is left of 3 modules"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()
