"""The slots for rank and module gates: g and gamma of scale * gamma * B diag(g) A."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import (
    AdapterConfig,
    attach,
    load_adapter,
    merge,
    save_adapter,
    set_adapters,
    unmerge,
)
from expandermask.errors import AdapterError
from tests.adapters.models import attached, mlp, randomise, same, state
from tests.adapters.pairs import the_adapter
from tests.adapters.test_layouts import KINDS, mask


@settings(max_examples=40)
@given(
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    tokens=st.sampled_from([3, 80]),
    with_module=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_output_and_gate_gradients_equal_the_dense_formula(
    kinds: tuple[str, str], tokens: int, with_module: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    model = nn.Sequential(nn.Linear(20, 12)).double()
    masks = mask(kinds[0], 20, 6, generator), mask(kinds[1], 12, 6, generator)
    attach(model, MaskPlan.from_masks({"0": masks}, rng=seed))
    randomise(model)
    adapter = the_adapter(model[0])
    a, b = (f.clone() for f in adapter.factors())
    g = torch.randn(6, dtype=torch.float64)
    gamma = torch.tensor(0.7 if with_module else 1.0, dtype=torch.float64)
    adapter.set_rank_gate(nn.Parameter(g.clone()))
    if with_module:
        adapter.set_module_gate(nn.Parameter(gamma.clone()))
    x, weights = torch.randn(tokens, 20).double(), torch.randn(tokens, 12).double()
    g.requires_grad_()
    gamma.requires_grad_()
    wanted = model[0].base(x) + adapter.scale * gamma * ((x @ a.T) * g) @ b.T
    found = model(x)
    torch.testing.assert_close(found, wanted)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(adapter.rank_gate.grad, g.grad)
    if with_module:
        torch.testing.assert_close(adapter.module_gate.grad, gamma.grad)


def test_a_gate_of_ones_changes_nothing_and_a_zero_silences_its_rank() -> None:
    model = mlp(dtype=torch.float64)
    attached(model)
    layer, x = model[0], torch.randn(4, 64).double()
    out = layer(x)
    adapter = the_adapter(model[0])
    adapter.set_rank_gate(torch.ones(16))
    assert torch.equal(layer(x), out)
    gate = torch.ones(16)
    gate[3] = 0
    adapter.set_rank_gate(gate)
    assert not torch.equal(layer(x), out)
    with torch.no_grad():
        adapter.lora_B[adapter.index_b.T == 3] = 1e9
    silent = layer(x)
    assert silent.abs().max() < 1e6
    adapter.set_rank_gate(None)
    assert layer(x).abs().max() > 1e6


def test_a_gate_computed_elsewhere_passes_its_gradient_on() -> None:
    model = mlp()
    attached(model)
    theta = torch.zeros(16, requires_grad=True)
    the_adapter(model[0]).set_rank_gate(torch.sigmoid(theta))
    model(torch.randn(4, 64)).pow(2).sum().backward()
    assert (theta.grad != 0).all()
    assert not any("gate" in name for name in model.state_dict())


def test_gates_are_merged_and_taken_out_again() -> None:
    model = mlp()
    attached(model)
    the_adapter(model[0]).set_rank_gate(nn.Parameter(torch.randn(16)))
    the_adapter(model[2]).set_module_gate(nn.Parameter(torch.tensor(0.3)))
    before, x = state(model), torch.randn(4, 64)
    out = model(x)
    merge(model)
    torch.testing.assert_close(model(x), out, rtol=1e-4, atol=1e-4)
    unmerge(model)
    assert same(state(model), before)


def test_empty_slots_cost_no_parameter_and_no_product() -> None:
    model = mlp()
    attached(model)
    adapter = the_adapter(model[0])
    assert adapter.gated_b() is adapter.lora_B
    assert [name for name, _ in adapter.named_parameters()] == ["lora_A", "lora_B"]


@pytest.mark.parametrize(
    ("slot", "gate"),
    [("rank", torch.ones(15)), ("module", torch.ones(2)), ("rank", torch.ones(()))],
)
def test_gates_of_another_size_are_refused(slot: str, gate: torch.Tensor) -> None:
    model = mlp()
    attached(model)
    with pytest.raises(AdapterError, match=r"must have (16|1) elements"):
        getattr(the_adapter(model[0]), f"set_{slot}_gate")(gate)


def test_a_gated_adapter_survives_a_file(tmp_path: Path) -> None:
    model, twin = mlp(), mlp()
    for m in (model, twin):
        attached(m)
        the_adapter(m[0]).set_rank_gate(nn.Parameter(torch.ones(16)))
    with torch.no_grad():
        the_adapter(model[0]).rank_gate.normal_()
    save_adapter(model, tmp_path)
    load_adapter(twin, tmp_path)
    assert same(state(twin), state(model))
    fresh = mlp()
    load_adapter(fresh, tmp_path)
    assert same(state(fresh), state(model))


def test_a_gate_may_have_any_shape_of_its_elements() -> None:
    model = mlp()
    attached(model)
    adapter, x, gate = the_adapter(model[0]), torch.randn(5, 64), torch.rand(16)
    outputs = []
    for shaped in (gate, gate.view(16, 1), gate.view(4, 4)):
        adapter.set_rank_gate(shaped)
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_switching_gives_gates_the_flags_they_had() -> None:
    model = mlp()
    attached(model)
    attach(model, AdapterConfig(r=16), name="other", rng=1)
    own, other = (model[0].adapter(name) for name in ("default", "other"))
    own.set_rank_gate(nn.Parameter(torch.ones(16), requires_grad=False))
    own.set_module_gate(nn.Parameter(torch.ones(())))
    other.set_rank_gate(nn.Parameter(torch.ones(16)))
    assert not other.rank_gate.requires_grad  # it is not active
    set_adapters(model, "other")
    assert [g.requires_grad for g in (own.rank_gate, own.module_gate)] == [False, False]
    assert other.rank_gate.requires_grad
    own.module_gate.requires_grad_(True)  # while it waits; freezing once more takes that back
    own.let_train(False)
    assert not own.module_gate.requires_grad
    for _ in range(2):
        set_adapters(model, "default")
    assert [g.requires_grad for g in (own.rank_gate, own.module_gate)] == [False, True]
    assert not other.rank_gate.requires_grad


def test_a_new_gate_on_a_waiting_adapter_has_its_own_flag() -> None:
    model = mlp()
    attached(model)
    own = model[0].adapter("default")
    own.set_rank_gate(nn.Parameter(torch.ones(16), requires_grad=False))
    own.let_train(False)
    own.set_rank_gate(nn.Parameter(torch.ones(16)))
    assert not own.rank_gate.requires_grad
    own.let_train(True)
    assert own.rank_gate.requires_grad


def test_a_gate_put_on_frozen_values_leaves_them_frozen() -> None:
    model = mlp()
    attached(model)
    adapter = the_adapter(model[0])
    model.requires_grad_(False)
    adapter.set_rank_gate(nn.Parameter(torch.ones(16)))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        "0.adapters.default.rank_gate"
    ]
