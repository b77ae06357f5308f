"""The masked layer in training: what moves, what does not, and the modes PyTorch trains in."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from expandermask import MaskPlan
from expandermask.adapters import AdapterConfig
from tests.adapters.models import attached, bert, layers, mlp, state, tokens, trainable
from tests.adapters.pairs import build, close, the_adapter, wrapped
from tests.oracles.masked_lora import DenseMaskedLoRA


@pytest.mark.parametrize("tokens", [6, 60])
def test_training_never_moves_anything_off_the_support_or_in_the_base(tokens: int) -> None:
    model = mlp()
    plan = attached(model)
    frozen = state(model[0].base), state(model[2].base)
    masks = [
        (layer, *(torch.from_numpy(g.mask()) for g in (pair.a, pair.b)))
        for layer, pair in zip(layers(model), plan.values(), strict=True)
    ]
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    started = [p.detach().clone() for p in trainable(model)]
    for _ in range(10):
        optimiser.zero_grad()
        (model(torch.randn(tokens, 64)) ** 2).mean().backward()
        optimiser.step()
        for layer, mask_a, mask_b in masks:
            a, b = the_adapter(layer).factors()
            assert ((a.T == 0) | (mask_a == 1)).all()
            assert ((b == 0) | (mask_b == 1)).all()
    for moved, start in zip(trainable(model), started, strict=True):
        assert (moved != start).all()
    for base, before in zip((model[0].base, model[2].base), frozen, strict=True):
        assert all(torch.equal(t, before[n]) for n, t in base.state_dict().items())


@pytest.mark.parametrize("tokens", [6, 60])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_bit(reentrant: bool, tokens: int) -> None:
    model = mlp()
    attached(model)
    x = torch.randn(tokens, 64, requires_grad=True)
    grads = []
    for run in (model, lambda t: checkpoint(model, t, use_reentrant=reentrant)):
        model.zero_grad()
        (run(x) ** 2).sum().backward()
        grads.append([p.grad.clone() for p in trainable(model)])
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_values_and_gradients_float32(dtype: torch.dtype) -> None:
    layer, oracle = build(48, 96, 8, 2)
    x = torch.randn(90, 96)
    with torch.autocast("cpu", dtype):
        y = layer(x)
    assert y.dtype == dtype
    assert close(y, oracle(x), dtype)
    y.float().pow(2).sum().backward()
    oracle(x).pow(2).sum().backward()
    assert the_adapter(layer).lora_A.grad.dtype == torch.float32
    assert close(
        the_adapter(layer).lora_B.grad, oracle.b.grad[oracle.mask_b != 0].reshape(48, 2), dtype
    )


@pytest.mark.parametrize("tokens", [6, 90])
def test_autocast_around_backward_does_not_touch_a_float32_layer(tokens: int) -> None:
    layer, _ = build(48, 96, 8, 2)
    grads = []
    for enabled in (False, True):
        layer.zero_grad()
        loss = layer(torch.ones(tokens, 96)).sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss.backward()
        grads.append(the_adapter(layer).lora_A.grad.clone())
    assert torch.equal(*grads)


def test_dropout_falls_on_the_update_alone_and_only_in_training() -> None:
    layer, _ = build(48, 96, 8, 2)
    the_adapter(layer).dropout = 0.999999
    x = torch.randn(90, 96)
    assert torch.equal(layer(x), layer.base(x))
    layer.eval()
    assert not torch.equal(layer(x), layer.base(x))


@pytest.mark.parametrize("r", [8, 64])
@pytest.mark.parametrize("scaling", ["matched", "paper"])
def test_first_gradient_step_beside_dense_loras(r: int, scaling: str) -> None:
    """One SGD step from B = 0 on a linear loss: compare how far the loss falls."""
    config = AdapterConfig(r=r, left_degree=2, lora_alpha=16, scaling=scaling)
    torch.manual_seed(0)
    base = nn.Linear(512, 512).requires_grad_(False)
    pair = MaskPlan.for_shapes({"m": (512, 512)}, r=r, left_degree=2, rng=0)["m"]
    masked = wrapped(base, pair, scale=config.scale)
    a = (2 * torch.rand(r, 512) - 1) / math.sqrt(512)
    ones = torch.ones(r, 512), torch.ones(512, r)
    dense = DenseMaskedLoRA(base.weight, base.bias, a, torch.zeros(512, r), ones, 16 / r)
    x, weights = torch.randn(64, 512), torch.randn(64, 512)
    change = []
    for layer, b in ((masked, the_adapter(masked).lora_B), (dense, dense.b)):
        before = layer(x)
        (before * weights).sum().backward()
        with torch.no_grad():
            b -= b.grad
            change.append(float(((before - layer(x)) * weights).sum()))
    expected = 1 if scaling == "matched" else 2 / r
    assert change[0] / change[1] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("tokens", [6, 60])
def test_compiles_to_one_graph(tokens: int) -> None:
    model = mlp()
    attached(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(tokens, 64)
    torch.testing.assert_close(compiled(x), model(x))
    grads = []
    for run in (model, compiled):
        model.zero_grad()
        run(x).pow(2).sum().backward()
        grads.append([p.grad.clone() for p in trainable(model)])
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-4)  # sums of terms that cancel


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    model = bert()
    attached(model)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(tokens()).logits, model(tokens()).logits)
