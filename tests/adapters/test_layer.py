"""The masked layer against dense factors times dense masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expandermask.adapters.layers.compute import MaskedAffine, MaskedUpdate
from expandermask.adapters.layers.factors import index_dtype, index_of, uniform_values
from expandermask.graphs import random_biregular
from tests.adapters.models import attached, mlp, trainable
from tests.adapters.pairs import TOLERANCE, build, close, the_adapter
from tests.oracles.masked_lora import gather_rows

SHAPES = [
    (d, k, r, degree)
    for d, k in [(8, 8), (12, 24), (24, 12), (16, 48)]
    for r, degree in [(4, 2), (4, 3), (8, 2), (8, 4)]
    if all(n * degree % r == 0 and n * degree // r >= 2 for n in (d, k))
]


@settings(max_examples=80)
@given(
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(list(TOLERANCE)),
    leading=st.sampled_from([(), (1,), (5,), (2, 3), (2, 1, 30), (40,)]),
    conv=st.booleans(),
    bias=st.booleans(),
    hooked=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_output_and_every_gradient_equal_the_dense_oracle(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    leading: tuple[int, ...],
    conv: bool,
    bias: bool,
    hooked: bool,
    seed: int,
) -> None:
    d, k, r, degree = shape
    layer, oracle = build(d, k, r, degree, seed=seed, dtype=dtype, conv=conv, bias=bias or conv)
    if hooked:  # a hook takes the layer off its fused path
        layer.base.register_forward_hook(lambda module, inputs, output: None)
    x = torch.randn(*leading, k).to(dtype).requires_grad_()
    precise = dtype
    if dtype == torch.float32:  # then the oracle has no error of its own
        precise = torch.float64
        oracle.double()
    x_oracle = x.detach().clone().to(precise).requires_grad_()
    y, expected = layer(x), oracle(x_oracle)
    assert y.dtype == dtype
    assert y.shape == (*leading, d)
    assert close(y, expected, dtype)
    weights = torch.randn(y.shape).to(dtype)
    (y * weights).sum().backward()
    (expected * weights.to(precise)).sum().backward()
    assert close(x.grad, x_oracle.grad, dtype)
    mask_a, mask_b = (mask.numpy() for mask in (oracle.mask_a.T, oracle.mask_b))
    for values, grad, mask in (
        (the_adapter(layer).lora_A, oracle.a.grad.T, mask_a),
        (the_adapter(layer).lora_B, oracle.b.grad, mask_b),
    ):
        assert values.grad.dtype == values.dtype == torch.promote_types(dtype, torch.float32)
        assert close(values.grad, torch.from_numpy(gather_rows(grad.numpy(), mask)), dtype)


def test_gradcheck_in_double_precision() -> None:
    layer, _ = build(12, 8, 4, 2, dtype=torch.float64)
    x, y = (torch.randn(5, n, dtype=torch.float64, requires_grad=True) for n in (8, 12))
    values, rest = (
        (the_adapter(layer).lora_A, the_adapter(layer).lora_B),
        (the_adapter(layer).index_a, the_adapter(layer).index_b, 4, 0.7),
    )

    def update(y: torch.Tensor, x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return MaskedUpdate.apply(y, x, *values, *rest)

    def affine(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return MaskedAffine.apply(x, *values, layer.weight, layer.bias, *rest)

    assert torch.autograd.gradcheck(update, (y, x, *values))
    assert torch.autograd.gradcheck(affine, (x, *values))


def test_an_unfrozen_base_gets_its_gradient() -> None:
    layer, oracle = build(12, 8, 4, 2)
    layer.base.requires_grad_(True)
    oracle.weight.requires_grad_(True)
    x = torch.randn(40, 8)
    layer(x).pow(2).sum().backward()
    oracle(x).pow(2).sum().backward()
    torch.testing.assert_close(layer.weight.grad, oracle.weight.grad)


def test_a_replaced_forward_of_the_base_is_called() -> None:
    layer, oracle = build(12, 8, 4, 2)
    forward = layer.base.forward
    layer.base.forward = lambda x: forward(x) + 1
    x = torch.randn(40, 8)
    torch.testing.assert_close(layer(x), oracle(x) + 1)


def test_a_hook_on_the_base_keeps_the_base_output() -> None:
    layer, oracle = build(12, 8, 4, 2)
    seen: list[torch.Tensor] = []
    layer.base.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(40, 8)
    torch.testing.assert_close(layer(x), oracle(x))
    assert torch.equal(seen[0], nn.functional.linear(x, layer.weight, layer.bias))


def test_a_subclass_of_linear_is_called_and_may_keep_its_output() -> None:
    class Squashed(nn.Linear):
        """A quantized layer that ends in tanh, whose backward pass reads tanh's output."""

        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs)
            self.weight = nn.Parameter((self.weight * 100).to(torch.int8), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight / 100, self.bias).tanh()

    model = nn.Sequential(nn.Linear(64, 64), Squashed(64, 32))
    attached(model)
    x = torch.randn(200, 64)
    layer, inner = model[1], model[0](x)
    a, b = the_adapter(layer).factors()
    torch.testing.assert_close(
        layer(inner),
        layer.base(inner) + the_adapter(layer).scale * inner @ a.T @ b.T,
        rtol=1e-4,
        atol=1e-4,
    )
    layer(inner).sum().backward()
    assert all((p.grad != 0).any() for p in trainable(model))


def test_half_precision_does_not_round_a_small_update_away() -> None:
    layer, _ = build(64, 64, 8, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -1.0]).repeat(64, 32))
        the_adapter(layer).lora_A.fill_(1e-2)
        the_adapter(layer).lora_B.fill_(1e-2)
    layer.to(torch.bfloat16)
    x = torch.ones(99, 64, dtype=torch.bfloat16)
    a, b = the_adapter(layer).factors()
    expected = 0.7 * x.float() @ a.float().T @ b.float().T
    assert expected.abs().min() > 0
    torch.testing.assert_close(layer(x).float(), expected, rtol=0.05, atol=0)


def test_half_precision_gradients_are_scaled_in_float32() -> None:
    layer, _ = build(16, 16, 4, 2, dtype=torch.float16)
    the_adapter(layer).scale = 300.0
    with torch.no_grad():
        the_adapter(layer).lora_A.fill_(1.0)
        the_adapter(layer).lora_B.zero_()
    layer(torch.full((8, 16), 4.0, dtype=torch.float16)).sum().backward()
    # Each rank of h = A x is 8 * 4, summed over 8 tokens 256; times 300 that passes float16's end.
    assert torch.equal(the_adapter(layer).lora_B.grad, torch.full((16, 2), 256 * 300.0))


@pytest.mark.parametrize("tokens", [5, 40])
@pytest.mark.parametrize("wanted", ["x", "lora_A", "lora_B"])
def test_only_the_gradients_asked_for_are_computed(wanted: str, tokens: int) -> None:
    layer, oracle = build(12, 8, 4, 2)
    x = torch.randn(tokens, 8, requires_grad=wanted == "x")
    for name in ("lora_A", "lora_B"):
        getattr(the_adapter(layer), name).requires_grad_(name == wanted)
    (layer(x) ** 2).sum().backward()
    (oracle(x_oracle := x.detach().clone().requires_grad_()) ** 2).sum().backward()
    dense = {
        "x": x_oracle.grad,
        "lora_A": oracle.a.grad.T[oracle.mask_a.T != 0].reshape(8, 2),
        "lora_B": oracle.b.grad[oracle.mask_b != 0].reshape(12, 2),
    }
    found = {
        "x": x.grad,
        "lora_A": the_adapter(layer).lora_A.grad,
        "lora_B": the_adapter(layer).lora_B.grad,
    }
    assert [name for name, grad in found.items() if grad is not None] == [wanted]
    torch.testing.assert_close(found[wanted], dense[wanted])


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (5, {(5, 48), (5, 8), (48, 2), (96, 2)}),
        (99, {(99, 48), (48, 2), (96, 2), (96, 48)}),
    ],
)
def test_nothing_dense_is_saved_for_backward(tokens: int, expected: set[tuple[int, ...]]) -> None:
    layer, _ = build(96, 48, 8, 2)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(tokens, 48))
    floats = [t for t in saved if t.is_floating_point()]
    assert {tuple(t.shape) for t in floats} == expected
    assert len(floats) == 4
    for tensor in floats:
        if tensor.shape == layer.weight.shape:  # the frozen weight itself, not a copy
            assert tensor.data_ptr() == layer.weight.data_ptr()


def test_first_values_follow_the_seed_and_the_true_fan_in() -> None:
    graph = random_biregular(4096, 64, 2, rng=0)
    values = uniform_values(graph, seed=2**64 - 1)
    assert torch.equal(values, uniform_values(graph, seed=2**64 - 1))
    assert not torch.equal(values, uniform_values(graph, seed=0))
    bound = math.sqrt(64 / (4096 * 2))
    assert bound * 0.99 < float(values.abs().max()) <= bound
    # LoRA's A, uniform within 1/sqrt(k), gives A x the variance 1/3 for inputs of variance 1.
    assert float(values.double().var()) * graph.d2 == pytest.approx(1 / 3, rel=0.05)


@pytest.mark.parametrize(
    ("r", "dtype"),
    [(256, torch.uint8), (257, torch.int32), (2**15 + 1, torch.int32)],
)
def test_indices_take_the_smallest_dtype_that_holds_them(r: int, dtype: torch.dtype) -> None:
    assert index_dtype(r) == dtype
    assert torch.tensor(r - 1).to(dtype).item() == r - 1


@pytest.mark.parametrize("r", [256, 320])
def test_large_ranks_index_the_right_rows(r: int) -> None:
    layer, oracle = build(320 if r == 320 else 256, 640 if r == 320 else 512, r, 2)
    x = torch.randn(3, layer.in_features)
    torch.testing.assert_close(layer(x), oracle(x))
    assert the_adapter(layer).index_a.dtype == (torch.uint8 if r == 256 else torch.int32)


def test_indices_are_the_graph_and_are_not_saved() -> None:
    graph = random_biregular(24, 8, 2, rng=0)
    assert np.array_equal(index_of(graph).numpy().T, graph.neighbors)
    model = mlp()
    attached(model)
    assert not any("index" in name for name in model.state_dict())


def test_the_layer_answers_for_its_base() -> None:
    layer, _ = build(12, 8, 4, 2)
    assert (layer.in_features, layer.out_features) == (8, 12)
    assert layer.weight is layer.base.weight
    assert layer.bias is layer.base.bias
    assert "r=4, values=40, scale=0.7" in repr(layer)
