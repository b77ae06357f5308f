"""Pruning keeps the update, drops what is closed, and goes through every kind of file."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import nn

from expandermask.adapters import (
    AdapterConfig,
    attach,
    detach,
    export_peft,
    import_peft,
    load_adapter,
    merge,
    save_adapter,
)
from expandermask.adapters.attachment import attachment, masked_layers
from expandermask.allocation import AdaLoRA, prune
from expandermask.errors import AdapterError
from tests.allocation.models import MASKS, adapters, backward, net

GATES = {"0": [1.5, 0.0, -0.5, 0.0], "2": [0.0, 0.0, 0.0, 2.0]}


def gated(masks: str = "dense", gates: dict[str, list[float]] = GATES) -> nn.Sequential:
    """A model whose adapters do something, with gates."""
    model = net(4, masks)
    generator = torch.Generator().manual_seed(3)
    for name, own in adapters(model).items():
        own.lora_B.data.normal_(generator=generator)
        own.set_rank_gate(nn.Parameter(torch.tensor(gates[name])))
    return model


def x() -> torch.Tensor:
    return torch.randn(7, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("masks", MASKS)
def test_the_update_stays_and_only_open_terms_have_values(masks: str) -> None:
    model = gated(masks)
    before, deltas = model(x()), {n: own.delta() for n, own in adapters(model).items()}
    kept = {
        n: [m[:, np.array(GATES[n]) != 0].sum() for m in (p.a.mask(), p.b.mask())]
        for n, p in attachment(model).adapters["default"].plan.items()
    }
    assert prune(model) == {"0": 2, "2": 1}
    torch.testing.assert_close(model(x()), before, rtol=1e-5, atol=1e-6)
    for name, own in adapters(model).items():
        torch.testing.assert_close(own.delta(), deltas[name], rtol=1e-5, atol=1e-6)
        assert [own.lora_A.numel(), own.lora_B.numel()] == kept[name]
        assert own.rank_gate is None
        assert all(p.requires_grad for p in own.parameters())
    plan = attachment(model).adapters["default"].plan
    assert plan.num_values == sum(map(sum, kept.values()))
    prune(model)  # nothing more to do
    torch.testing.assert_close(model(x()), before, rtol=1e-5, atol=1e-6)


def test_modules_without_an_open_term_are_no_longer_adapted() -> None:
    model = gated(gates=GATES | {"2": [0.0] * 4})
    before, plain = model(x()), net(4)
    assert prune(model) == {"0": 2, "2": 0}
    assert torch.allclose(model(x()), before, atol=1e-6)
    assert list(masked_layers(model)) == ["0"]
    assert type(model[2]) is nn.Linear
    assert list(attachment(model).adapters["default"].plan) == ["0"]
    detach(model)
    detach(plain)
    assert torch.equal(model(x()), plain(x()))
    assert all(p.requires_grad for p in model.parameters())


def test_nothing_changes_where_it_is_refused() -> None:
    model = gated(gates={name: [0.0] * 4 for name in GATES})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(AdapterError, match="every gate of 'default' is 0"):
        prune(model)
    merged = gated()
    merge(merged)
    with pytest.raises(AdapterError, match="is merged"):
        prune(merged)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_masks_that_lose_nothing_stay_certified() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 64))
    plan = attach(model, AdapterConfig(r=8), rng=0)
    for own in adapters(model).values():
        own.lora_B.data.normal_()
        own.set_rank_gate(torch.full((8,), 2.0))
        own.set_module_gate(torch.tensor(0.5))
    model[1].adapters["default"].set_module_gate(torch.tensor(0.0))
    v = torch.randn(3, 64)
    before = model(v)
    assert prune(model) == {"0": 8, "1": 0}
    left = attachment(model).adapters["default"].plan
    assert (left.left_degree, left["0"].a) == (2, plan["0"].a)
    assert left.certify()["0.A"].verdict == "PROVED"
    torch.testing.assert_close(model(v), before)


@pytest.mark.parametrize("scaling", ["matched", "paper"])
@pytest.mark.parametrize("masks", MASKS)
def test_pruned_adapters_go_through_files_and_into_stock_peft(
    masks: str, scaling: str, tmp_path: Path
) -> None:
    model = net(4, masks)
    detach(model)
    plan = MASKS[masks](4)
    config = AdapterConfig(r=4, left_degree=4, scaling=scaling, lora_alpha=7)
    if isinstance(plan, AdapterConfig):
        attach(model, config, rng=1)
    else:
        attach(
            model, plan, config=AdapterConfig(r=4, left_degree=None, scaling=scaling, lora_alpha=7)
        )
    for name, own in adapters(model).items():
        own.lora_B.data.normal_(generator=torch.Generator().manual_seed(3))
        own.set_rank_gate(nn.Parameter(torch.tensor(GATES[name])))
    expected = model(x())
    ranks = prune(model)
    save_adapter(model, tmp_path / "own")
    export_peft(model, tmp_path / "peft", compact=True)
    written = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    found = {
        n: written["rank_pattern"].get(f"^{n}$", written["r"]) for n in written["target_modules"]
    }
    assert found == ranks == {"0": 2, "2": 1}

    def base() -> nn.Sequential:
        fresh = net(4)
        detach(fresh)
        return fresh

    loaded = base()
    load_adapter(loaded, tmp_path / "own")
    assert torch.equal(loaded(x()), model(x()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(base(), str(tmp_path / "peft"))
    torch.testing.assert_close(theirs(x()), expected, rtol=1e-5, atol=1e-6)
    assert theirs.base_model.model[0].lora_A["default"].weight.shape == (2, 8)
    back = base()
    plan_back, plan = (
        import_peft(back, tmp_path / "peft"),
        attachment(model).adapters["default"].plan,
    )
    assert list(plan_back.items()) == list(plan.items())
    torch.testing.assert_close(back(x()), expected, rtol=1e-5, atol=1e-6)


def test_a_trained_policy_finishes_as_plain_lora_of_several_ranks(tmp_path: Path) -> None:
    model = net(4)
    policy = AdaLoRA(target_rank=1.5, total_steps=12, final_steps=2)
    policy.attach(model)
    optimizer: Any = torch.optim.AdamW(policy.groups(lr=3e-2))
    for step in range(12):
        optimizer.zero_grad()
        backward(model, policy, seed=step)
        policy.after_backward(step)
        optimizer.step()
        policy.after_step(step)
    ranks, before = policy.ranks(), model(x())
    assert policy.finish() == ranks
    torch.testing.assert_close(model(x()), before, rtol=1e-5, atol=1e-6)
    assert sum(a.lora_A.shape[1] for a in adapters(model).values()) == 3
