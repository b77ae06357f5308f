"""Running statistics that training moves and no file of an adapter holds are told of."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch
from torch import nn

from expandermask.adapters import AdapterConfig, XoraConfig, attach


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 64))


def step(model: nn.Module) -> list[str]:
    """What a pass of training warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(torch.randn(4, 64)).sum().backward()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("holder", ["attach", "peft"])
def test_the_first_pass_of_training_warns_once(holder: str) -> None:
    model: nn.Module = normed()
    if holder == "attach":
        attach(model, AdapterConfig(r=8), rng=0)
    else:
        model = peft.get_peft_model(model, XoraConfig(r=8, mask_seed=0))
    model.eval()
    assert step(model) == []
    model.train()
    (message,) = step(model)
    assert message.startswith("training changes the running statistics of '1' (1 such")
    assert step(model) == []


def test_nothing_is_said_where_they_stay_or_are_saved() -> None:
    model = normed()
    attach(model, AdapterConfig(r=8), rng=0)
    model.train()[1].eval()
    assert step(model) == []
    saved = normed()
    attach(saved, AdapterConfig(r=8, modules_to_save=["1"]), rng=0)
    assert step(saved.train()) == []
    own = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32, track_running_stats=False))
    attach(own, AdapterConfig(r=8), rng=0)
    assert step(own.train()) == []
