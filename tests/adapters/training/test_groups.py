"""LoRA+: B's rate is a multiple of A's, by `parameter_groups` and by PEFT's own optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import (
    AdapterConfig,
    XoraConfig,
    attach,
    parameter_groups,
    set_adapters,
)
from expandermask.errors import AdapterError, InvalidInputError
from tests.adapters.models import attached, bert, mlp, randomise
from tests.adapters.test_layouts import mask

RATIO, RATE = 16, 0.01


def by_attach(model: nn.Module) -> nn.Module:
    attach(model, AdapterConfig(r=16), rng=0)
    return model


def by_peft(model: nn.Module) -> nn.Module:
    return peft.get_peft_model(model, XoraConfig(r=16, mask_seed=0))


def of_elements(model: nn.Module) -> nn.Module:
    generator = np.random.default_rng(0)
    shapes = {"0": (32, 64), "2": (64, 32)}
    masks = {
        n: tuple(mask("elements", m, 8, generator) for m in s[::-1]) for n, s in shapes.items()
    }
    attach(model, MaskPlan.from_masks(masks, rng=0))
    return model


def ours(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameter_groups(model, lr=RATE, lr_ratio=RATIO))


def pefts(model: nn.Module) -> torch.optim.Optimizer:
    return create_loraplus_optimizer(model, torch.optim.SGD, lr=RATE, loraplus_lr_ratio=RATIO)


@pytest.mark.parametrize("optimizer_of", [ours, pefts])
@pytest.mark.parametrize("put_on", [by_attach, by_peft, of_elements])
def test_b_steps_sixteen_times_and_a_once(
    put_on: Callable[[nn.Module], nn.Module],
    optimizer_of: Callable[[nn.Module], torch.optim.Optimizer],
) -> None:
    model = put_on(mlp())
    randomise(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    optimizer = optimizer_of(model)
    model(torch.randn(5, 64)).pow(2).sum().backward()
    optimizer.step()
    assert {name.split(".")[-1] for name in before} == {"lora_A", "lora_B"}
    for name, parameter in model.named_parameters():
        if name in before:
            rate = RATE * (RATIO if name.endswith("lora_B") else 1)
            step = before[name] - rate * parameter.grad
            torch.testing.assert_close(parameter.detach(), step, rtol=1e-6, atol=1e-7)
            assert parameter.grad.any()


def trained(groups: list[dict[str, Any]]) -> list[int]:
    return sorted(id(p) for group in groups for p in group["params"])


def test_everything_that_trains_is_in_one_group() -> None:
    model = bert()
    attached(model, AdapterConfig(r=16, modules_to_save=["classifier"]))
    groups = parameter_groups(model, lr=RATE)
    assert trained(groups) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert id(model.classifier.bias) in map(id, groups[0]["params"])
    assert [group["lr"] for group in groups] == [RATE, 16 * RATE]


def test_of_an_embedding_the_factor_that_starts_at_zero_is_the_fast_one() -> None:
    model = nn.Sequential(nn.Embedding(48, 16))
    attach(model, AdapterConfig(r=8, target_modules=["0"]), rng=0)
    adapter = model[0].adapter("default")
    assert not adapter.lora_A.any()
    assert [p is adapter.lora_A for p in parameter_groups(model, lr=1.0)[1]["params"]] == [True]


def test_only_active_adapters_are_in_the_groups() -> None:
    model = mlp()
    attach(model, AdapterConfig(r=16), rng=0, name="first")
    attach(model, AdapterConfig(r=16), rng=1, name="second")
    set_adapters(model, "second")
    wanted = [id(p) for n, p in model.named_parameters() if ".second." in n]
    assert trained(parameter_groups(model, lr=RATE)) == sorted(wanted)


def test_nonsense_is_refused() -> None:
    with pytest.raises(AdapterError, match="no B of this model trains"):
        parameter_groups(mlp(), lr=RATE)
    model = by_attach(mlp())
    for wrong in ({"lr": 0.0}, {"lr": RATE, "lr_ratio": -1}, {"lr": float("nan")}):
        with pytest.raises(InvalidInputError, match="must be"):
            parameter_groups(model, **wrong)
