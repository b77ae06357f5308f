"""merge and unmerge: the same outputs merged, and the base weight's own bits afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expandermask.adapters import AdapterConfig, merge, unmerge
from expandermask.errors import AdapterError
from tests.adapters.models import attached, bert, bits, gpt2, layers, logits, mlp, same, state
from tests.adapters.pairs import the_adapter


@pytest.mark.parametrize("make", [bert, gpt2])
def test_a_merged_model_computes_the_same_with_its_base_alone(
    make: Callable[[], nn.Module],
) -> None:
    model = make()
    attached(model)
    before = logits(model)
    merge(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    for layer in layers(model):
        x = torch.randn(4, layer.in_features)
        assert torch.equal(layer(x), layer.base(x))


@settings(max_examples=25)
@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    shape=st.sampled_from([(16, 2), (8, 2), (8, 8), (32, 4)]),
    seed=st.integers(0, 1000),
)
def test_unmerge_restores_every_bit(dtype: torch.dtype, shape: tuple[int, int], seed: int) -> None:
    model = mlp(seed, dtype)
    with torch.no_grad():
        model[0].weight[0, :4] = torch.tensor([0.0, -0.0, 1e-8, 30000.0])
    r, degree = shape
    attached(model, AdapterConfig(r=r, left_degree=degree), rng=seed)
    before = state(model)
    merge(model)
    assert not same(state(model), before)
    unmerge(model)
    assert same(state(model), before)


def test_merged_weights_are_the_base_plus_the_update_and_untouched_elsewhere() -> None:
    model = mlp()
    plan = attached(model)
    base = {name: model.get_submodule(name).weight.detach().clone() for name in plan}
    merge(model)
    for name, pair in plan.items():
        layer = model.get_submodule(name)
        a, b = the_adapter(layer).factors()
        expected = base[name].double() + the_adapter(layer).scale * (b.double() @ a.double())
        torch.testing.assert_close(layer.weight.double(), expected, rtol=1e-6, atol=1e-6)
        off = pair.b.mask().astype(int) @ pair.a.mask().astype(int).T == 0
        assert off.any()
        off = torch.from_numpy(off)
        assert bits(layer.weight[off]).equal(bits(base[name][off]))


def test_merging_twice_is_merging_once() -> None:
    model = mlp()
    attached(model)
    before = state(model)
    merge(model)
    once = state(model)
    merge(model)
    assert same(state(model), once)
    unmerge(model)
    unmerge(model)
    assert same(state(model), before)


def test_unmerge_follows_a_merged_model_to_another_dtype() -> None:
    model = mlp()
    attached(model)
    expected = model[0].weight.detach().to(torch.bfloat16)
    merge(model)
    model.to(torch.bfloat16)
    unmerge(model)
    assert torch.equal(model[0].weight, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9])
def test_a_merge_that_would_overflow_changes_nothing(bad: float) -> None:
    model = mlp(dtype=torch.float16)
    attached(model)
    with torch.no_grad():
        the_adapter(model[2]).lora_B[0, 0] = bad
    before = state(model)
    with pytest.raises(AdapterError, match=r"merging into '2' would give infinite or NaN"):
        merge(model)
    assert same(state(model), before)
    assert not any(layer.merges for layer in layers(model))


def test_a_parametrized_weight_is_refused_before_anything_changes() -> None:
    model = mlp()
    torch.nn.utils.parametrizations.weight_norm(model[2])
    attached(model)
    before = state(model)
    with pytest.raises(AdapterError, match="'2' is not a plain floating-point parameter"):
        merge(model)
    assert same(state(model), before)


def test_a_state_dict_does_not_replace_a_merged_weight() -> None:
    model = mlp()
    attached(model)
    saved, x = state_dict(model), torch.randn(4, 64)
    out = model(x)
    merge(model)
    merged = state_dict(model)
    with pytest.raises(AdapterError, match="are merged into '0', whose base weight"):
        model.load_state_dict(saved)
    assert all(torch.equal(t, merged[n]) for n, t in model.state_dict().items())
    unmerge(model)
    model.load_state_dict(saved)
    assert torch.equal(model(x), out)


def state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
