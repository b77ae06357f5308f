"""Gates in adapter files: they come back as gates that train, or fill those that are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from expandermask.adapters import MaskedAdapter, attach, load_adapter, save_adapter
from expandermask.errors import AdapterError
from expandermask.masks import MaskPlan
from tests.adapters.models import attached, layers, mlp, same, state


def adapters(model: nn.Module) -> list[MaskedAdapter]:
    return [layer.adapter("default") for layer in layers(model)]


def gated(seed: int = 0) -> nn.Module:
    """Both gates on the first layer, one on the second."""
    model = mlp()
    attached(model)
    generator = torch.Generator().manual_seed(seed)
    first, second = adapters(model)
    first.set_rank_gate(nn.Parameter(torch.rand(16, generator=generator)))
    first.set_module_gate(nn.Parameter(torch.rand((), generator=generator)))
    second.set_rank_gate(nn.Parameter(torch.rand(16, generator=generator)))
    return model


def test_gates_come_back_and_train(tmp_path: Path) -> None:
    model, fresh = gated(), mlp()
    save_adapter(model, tmp_path)
    load_adapter(fresh, tmp_path)
    assert same(state(fresh), state(model))
    x = torch.randn(5, 64)
    assert torch.equal(fresh(x), model(x))
    first, second = adapters(fresh)
    for gate in (first.rank_gate, first.module_gate, second.rank_gate):
        assert isinstance(gate, nn.Parameter)
        assert gate.requires_grad
    assert second.module_gate is None


def test_gates_fill_those_that_are_there_and_add_those_that_are_not(tmp_path: Path) -> None:
    model, other, bare = gated(), gated(seed=1), mlp()
    attached(bare)
    save_adapter(model, tmp_path)
    kept = adapters(other)[0].rank_gate
    for target in (other, bare):
        load_adapter(target, tmp_path)
        assert same(state(target), state(model))
    assert adapters(other)[0].rank_gate is kept


def test_gates_of_an_adapter_that_waits_do_not_train(tmp_path: Path) -> None:
    model, other = gated(), mlp()
    save_adapter(model, tmp_path)
    attached(other)
    load_adapter(other, tmp_path, name="second")
    gates = [p for n, p in other.named_parameters() if n.endswith("gate")]
    assert len(gates) == 3
    assert not any(gate.requires_grad for gate in gates)


def test_a_gate_of_any_shape_of_one_element(tmp_path: Path) -> None:
    model, fresh = gated(), mlp()
    value = torch.tensor([[0.25]])
    adapters(model)[1].set_module_gate(nn.Parameter(value))
    save_adapter(model, tmp_path)
    load_adapter(fresh, tmp_path)
    assert float(adapters(fresh)[1].module_gate) == 0.25
    load_adapter(model, tmp_path)
    assert adapters(model)[1].module_gate.shape == (1, 1)


def test_a_computed_gate_is_saved_by_its_value_and_never_loaded_into(tmp_path: Path) -> None:
    model = mlp()
    attached(model)
    policy = nn.Parameter(torch.zeros(16))
    adapters(model)[0].set_rank_gate(policy.sigmoid())
    save_adapter(model, tmp_path)
    fresh = mlp()
    load_adapter(fresh, tmp_path)
    assert torch.equal(adapters(fresh)[0].rank_gate, torch.full((16,), 0.5))
    before = state(model)
    with pytest.raises(AdapterError, match="computed from other parameters"):
        load_adapter(model, tmp_path)
    assert same(state(model), before)


def test_a_gate_the_file_does_not_have_or_has_otherwise(tmp_path: Path) -> None:
    plain = mlp()
    attached(plain)
    save_adapter(plain, tmp_path / "plain")
    save_adapter(gated(), tmp_path / "gated")
    model = gated()
    half = gated()
    adapters(half)[0].set_rank_gate(nn.Parameter(torch.ones(16, dtype=torch.bfloat16)))
    for target, name, words in (
        (model, "plain", "'0.rank_gate' is a gate on the model and not in the file"),
        (half, "gated", "is torch.float32 in the file and torch.bfloat16"),
    ):
        before = state(target)
        with pytest.raises(AdapterError, match=words):
            load_adapter(target, tmp_path / name)
        assert same(state(target), before)


def test_the_gate_of_an_adapter_of_rank_one_comes_back(tmp_path: Path) -> None:
    model, fresh = (nn.Sequential(nn.Linear(6, 4)) for _ in range(2))
    attach(model, MaskPlan.from_masks({"0": (np.ones((6, 1)), np.ones((4, 1)))}, rng=0))
    gate = nn.Parameter(torch.full((1,), 0.5))
    model[0].adapter("default").set_rank_gate(gate)
    save_adapter(model, tmp_path)
    load_adapter(fresh, tmp_path)
    assert torch.equal(fresh[0].adapter("default").rank_gate, gate)
