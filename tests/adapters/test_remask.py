"""change_masks: survivors keep value and moments, newcomers start afresh."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import AdapterConfig, MaskedAdapter, attach, change_masks, merge
from expandermask.adapters.layers.factors import dense_factor
from expandermask.errors import AdapterError
from tests.adapters.models import SMALL, attached, layers, mlp, same, state, trainable
from tests.adapters.pairs import the_adapter
from tests.adapters.test_layouts import KINDS, mask


def dense(adapter: MaskedAdapter, side: str, values: torch.Tensor) -> np.ndarray:
    """Values of one factor as (n, r), laid out by the adapter's present index."""
    n = adapter.shape["ba".index(side)]
    index = getattr(adapter, f"index_{side}")
    return dense_factor(values.detach(), index, (adapter.r, n), values.dtype).T.numpy().copy()


def trained(plan: MaskPlan) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = mlp()
    attach(model, plan)
    optimizer = torch.optim.AdamW(trainable(model), lr=0.01, amsgrad=True)
    for seed in range(3):
        step(model, optimizer, seed)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 9) -> None:
    optimizer.zero_grad()
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(seed))
    model(x).pow(2).sum().backward()
    optimizer.step()


def random_plan(kind: str, seed: int) -> MaskPlan:
    generator = np.random.default_rng(seed)
    shapes = {"0": (32, 64), "2": (64, 32)}
    return MaskPlan.from_masks(
        {
            n: (mask(kind, k, 8, generator), mask(kind, d, 8, generator))
            for n, (d, k) in shapes.items()
        },
        rng=seed,
    )


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", KINDS)
def test_survivors_keep_value_and_moments_and_newcomers_start_afresh(
    before: str, after: str
) -> None:
    old_plan, plan = random_plan(before, 0), random_plan(after, 1)
    model, optimizer = trained(old_plan)
    keys = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    old = {}
    for name in plan:
        adapter = the_adapter(model.get_submodule(name))
        for side in "ab":
            values = getattr(adapter, f"lora_{side.upper()}")
            held = [values, *(optimizer.state[values][key] for key in keys)]
            old[name, side] = [dense(adapter, side, v) for v in held]
    change_masks(model, plan, optimizer=optimizer)
    fresh = mlp()
    attach(fresh, plan)
    for name, pair in plan.items():
        adapter, new = (the_adapter(m.get_submodule(name)) for m in (model, fresh))
        for side, graph in (("a", pair.a), ("b", pair.b)):
            values = getattr(adapter, f"lora_{side.upper()}")
            there = old_plan[name].a.mask() if side == "a" else old_plan[name].b.mask()
            both, now = (there & graph.mask()) != 0, graph.mask() != 0
            first = dense(new, side, getattr(new, f"lora_{side.upper()}"))
            held = [values, *(optimizer.state[values][key] for key in keys)]
            for was, has, start in zip(old[name, side], held, (first, 0, 0, 0), strict=True):
                wanted = np.where(both, was, np.where(now, start, 0)).astype(np.float32)
                assert np.array_equal(dense(adapter, side, has), wanted)
            assert optimizer.state[values]["step"] == 3
    assert len(optimizer.state) == 4
    assert [p for g in optimizer.param_groups for p in g["params"]] == trainable(model)
    started = [p.detach().clone() for p in trainable(model)]
    step(model, optimizer)
    assert all((p != s).any() for p, s in zip(trainable(model), started, strict=True))


def test_the_same_plan_changes_nothing() -> None:
    plan = MaskPlan.for_model(mlp(), r=16, rng=0)
    model, optimizer = trained(plan)
    before, parameters = state(model), trainable(model)
    moments = {p: s["exp_avg"].clone() for p, s in optimizer.state.items()}
    change_masks(model, plan, optimizer=optimizer)
    assert same(state(model), before)
    assert all(p is q for p, q in zip(trainable(model), parameters, strict=True))
    assert all(torch.equal(optimizer.state[p]["exp_avg"], m) for p, m in moments.items())


def test_equal_shapes_keep_the_parameter_objects_and_the_record_follows() -> None:
    model = mlp()
    attach(model, SMALL, rng=0)
    parameters = trainable(model)
    plan = MaskPlan.for_model(model, r=16, rng=5)
    change_masks(model, plan)
    assert all(p is q for p, q in zip(trainable(model), parameters, strict=True))
    twin = mlp()
    attach(twin, plan)
    for layer, other in zip(layers(model), layers(twin), strict=True):
        assert torch.equal(the_adapter(layer).index_a, the_adapter(other).index_a)


def test_another_degree_follows_the_scaling_and_can_be_saved(tmp_path) -> None:
    from expandermask.adapters import load_adapter, save_adapter

    model, fresh = mlp(), mlp()
    attach(model, AdapterConfig(r=16, left_degree=2), rng=0)
    change_masks(model, MaskPlan.for_model(model, r=16, left_degree=4, rng=1))
    assert the_adapter(model[0]).scale == AdapterConfig(r=16, left_degree=4).scale
    save_adapter(model, tmp_path)
    load_adapter(fresh, tmp_path)
    assert same(state(fresh), state(model))


class Factored(torch.optim.SGD):
    """An optimizer whose state is a row of sums, as Adafactor's is."""

    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["row"] = p.sum(0)


REFUSED: list[tuple[Callable[[nn.Module], object], str]] = [
    (lambda m: change_masks(m, MaskPlan.for_model(m, r=8, rng=0)), "r=16, got 2 modules with r=8"),
    (
        lambda m: change_masks(m, MaskPlan.for_model(m, target_modules=["0"], r=16, rng=0)),
        "differing in '2'",
    ),
    (
        lambda m: change_masks(m, MaskPlan.for_shapes({"0": (64, 64), "2": (64, 32)}, r=16, rng=0)),
        r"for \(d, k\) = \(64, 64\), not \(32, 64\)",
    ),
    (lambda m: change_masks(m, "plan"), "plan must be a MaskPlan"),
    (lambda m: change_masks(m, MaskPlan.for_model(m, r=16, rng=1), name="x"), "called 'x'"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refuses_and_changes_nothing(call: Callable[[nn.Module], object], message: str) -> None:
    model = mlp()
    attached(model)
    before = state(model)
    with pytest.raises(ValueError, match=message):
        call(model)
    assert same(state(model), before)


def test_an_optimizer_of_something_else_is_refused() -> None:
    model = mlp()
    attached(model)
    before = state(model)
    plan = MaskPlan.for_model(model, r=16, left_degree=4, rng=1)
    with pytest.raises(AdapterError, match="does not train the adapter's values"):
        change_masks(model, plan, optimizer=torch.optim.SGD(mlp().parameters()))
    assert same(state(model), before)


def test_a_merged_adapter_and_a_factored_optimizer_are_refused() -> None:
    model = mlp()
    attached(model)
    plan = MaskPlan.for_model(model, r=16, left_degree=4, rng=1)
    optimizer = Factored(trainable(model))
    optimizer.step()
    before = state(model)
    with pytest.raises(AdapterError, match="'row' has shape"):
        change_masks(model, plan, optimizer=optimizer)
    assert same(state(model), before)
    merge(model)
    with pytest.raises(AdapterError, match="is merged"):
        change_masks(model, plan)
