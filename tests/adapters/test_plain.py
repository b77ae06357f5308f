"""Few tokens, gradients of gradients, `torch.func` and forward mode, on every kind of mask."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from expandermask import MaskPlan
from expandermask.adapters import AdapterConfig, MaskedLinear, attach
from expandermask.adapters.layers import compute, kernel
from expandermask.adapters.layers.kernel import few, launch
from expandermask.adapters.layers.plain import gathered_update
from tests.adapters.models import attached, mlp, randomise
from tests.adapters.pairs import build, the_adapter
from tests.adapters.test_layouts import KINDS, mask

TOKENS = (1, 20)
"""Few, and too many to be gathered."""


def double(kind: str) -> MaskedLinear:
    """A layer 8 -> 6 of rank 4 in float64, with masks of one kind."""
    generator = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(8, 6)).double()
    masks = {"0": (mask(kind, 8, 4, generator), mask(kind, 6, 4, generator))}
    attach(model, MaskPlan.from_masks(masks, rng=0))
    randomise(model)
    return model[0]


def of_values(layer: nn.Module, x: torch.Tensor):
    """The layer as a function of its values and its input."""

    def call(a: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        values = {"adapters.default.lora_A": a, "adapters.default.lora_B": b}
        return functional_call(layer, values, (x,))

    adapter = the_adapter(layer)
    leaves = [v.detach().requires_grad_() for v in (adapter.lora_A, adapter.lora_B, x)]
    return call, leaves


def inputs(tokens: int, k: int = 8) -> torch.Tensor:
    return torch.randn(tokens, k, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# -- few tokens ------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    sizes=st.sampled_from([(32, 48, 16, 2), (16, 16, 16, 2), (64, 32, 64, 4), (24, 24, 64, 8)]),
    tokens=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_a_few_tokens_are_those_of_the_dense_oracle(
    sizes: tuple[int, int, int, int], tokens: int, seed: int
) -> None:
    layer, oracle = build(*sizes, seed=seed, dtype=torch.float64)
    layer.eval()
    x = torch.randn(tokens, sizes[1], dtype=torch.float64)
    torch.testing.assert_close(layer(x), oracle(x))
    gathered = gathered_update(layer.base(x), x, the_adapter(layer).stored())
    torch.testing.assert_close(gathered, oracle(x))


def test_a_token_of_bfloat16_is_as_near_as_bfloat16_allows() -> None:
    layer, oracle = build(64, 64, 64, 2)
    layer.eval()
    layer.base.bfloat16()
    x = torch.randn(1, 64).bfloat16()
    exact = oracle(x.float())
    assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer(x).float(), exact, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("backend", compute.BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_decoding_makes_no_dense_factor(
    dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "MaskedUpdate", None)
    monkeypatch.setattr(compute, "_chosen", backend)
    layer, oracle = build(64, 64, 64, 2)
    layer.eval()
    layer.to(dtype)
    x = torch.randn(2, 3, 64).to(dtype)
    near = 3e-2 if dtype == torch.bfloat16 else 1e-5
    with torch.no_grad():
        found = layer(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), oracle(x.float()).double(), rtol=near, atol=near)


@pytest.mark.parametrize("tokens", [0, 1, 15, 16])
@pytest.mark.parametrize("r", [16, 512])
def test_the_compiled_loops_give_what_the_oracle_gives(tokens: int, r: int) -> None:
    layer, oracle = build(512, 512, r, 16)
    layer.eval()
    x = torch.randn(tokens, 512)
    y = layer.base(x).detach()
    with torch.no_grad():
        if kernel.available():
            assert kernel.supports_few(y, x, the_adapter(layer).stored()) is (tokens < 16)
            found = kernel.few_update(y, x, the_adapter(layer).stored())
            torch.testing.assert_close(found, oracle(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer(x), oracle(x), rtol=1e-5, atol=1e-5)


def test_what_the_compiled_loops_leave_to_others() -> None:
    layer, _ = build(32, 32, 16, 2)
    layer.eval()
    x = torch.randn(1, 32)
    y, factors = torch.randn(1, 32), the_adapter(layer).stored()
    assert not kernel.supports_few(y, x, factors), "gradients are enabled"
    with torch.no_grad():
        assert kernel.supports_few(y, x, factors) is kernel.available()
        assert not kernel.supports_few(y.double(), x.double(), factors)
        assert not kernel.supports_few(y.T.contiguous().T.expand(1, 32)[:, ::2], x, factors)
        assert not kernel.supports_few(y.to("meta"), x.to("meta"), factors)
        wide = factors._replace(values_a=factors.values_a.double())
        assert not kernel.supports_few(y, x, wide)


@pytest.mark.skipif(not kernel.available(), reason="the kernel does not run here")
def test_loops_that_do_not_compile_are_warned_of_and_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ImportError("no LLVM")

    few._compiled.cache_clear()
    monkeypatch.setattr(few, "compile_kept", broken)
    monkeypatch.setattr(launch, "_FAILURES", [])
    layer, oracle = build(32, 32, 16, 2)
    layer.eval()
    x = torch.randn(1, 32)
    try:
        with torch.no_grad(), pytest.warns(RuntimeWarning, match="without the CPU kernel.*no LLVM"):
            torch.testing.assert_close(layer(x), oracle(x), rtol=1e-5, atol=1e-5)
        assert not kernel.available()
    finally:
        few._compiled.cache_clear()


def test_a_trace_holds_the_update() -> None:
    layer, oracle = build(32, 32, 16, 2)
    layer.eval()
    with torch.no_grad():
        traced = torch.jit.trace(layer, torch.randn(1, 32))
        x = torch.randn(1, 32)
        torch.testing.assert_close(traced(x), oracle(x), rtol=1e-5, atol=1e-5)


def test_a_trace_of_one_token_serves_more_of_them() -> None:
    layer, oracle = build(32, 32, 16, 2)
    layer.eval()
    with torch.no_grad():
        traced = torch.jit.trace(layer, torch.randn(1, 32))
        x = torch.randn(5, 32)
        torch.testing.assert_close(traced(x), oracle(x), rtol=1e-5, atol=1e-5)


def test_a_graph_of_one_token_holds_the_update() -> None:
    layer, oracle = build(32, 32, 16, 2)
    layer.eval()
    with torch.no_grad():
        graph = make_fx(layer)(torch.randn(1, 32))
        x = torch.randn(1, 32)
        torch.testing.assert_close(graph(x), oracle(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("write", ["data", "fused", "vector", "load"])
def test_values_that_change_behind_a_version_counter_are_used(write: str) -> None:
    layer, _ = build(32, 32, 16, 2)
    layer.eval()
    adapter = the_adapter(layer)
    x = torch.randn(1, 32)
    with torch.no_grad():
        before = layer(x)
    values = [adapter.lora_A, adapter.lora_B]
    if write == "data":
        adapter.lora_B.data.mul_(2)
    elif write == "fused":
        for value in values:
            value.grad = torch.ones_like(value)
        torch.optim.AdamW(values, lr=0.1, fused=True).step()
    elif write == "vector":
        vector = nn.utils.parameters_to_vector(values)
        nn.utils.vector_to_parameters(2 * vector, values)
    else:
        layer.load_state_dict({k: 2 * v for k, v in layer.state_dict().items()})
    with torch.no_grad():
        after = layer(x)
    dense = layer.base(x) + x @ adapter.delta().T
    torch.testing.assert_close(after, dense, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(after, before)


# -- derivatives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_finite_differences(kind: str, tokens: int) -> None:
    layer = double(kind)
    call, leaves = of_values(layer, inputs(tokens))
    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("kind", KINDS)
def test_per_sample_gradients_are_those_of_one_sample_at_a_time(kind: str, tokens: int) -> None:
    call, leaves = of_values(double(kind), inputs(3 * tokens).view(3, tokens, 8))
    a, b, x = leaves

    def loss(a: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return call(a, b, x).pow(3).sum()

    found = vmap(grad(loss, (0, 1)), (None, None, 0))(a.detach(), b.detach(), x.detach())
    for i, sample in enumerate(x.detach()):
        wanted = torch.autograd.grad(loss(a, b, sample), (a, b))
        for one, many in zip(wanted, found, strict=True):
            torch.testing.assert_close(many[i], one)


@pytest.mark.parametrize("kind", KINDS)
def test_many_adapters_at_once(kind: str) -> None:
    call, (a, b, x) = of_values(double(kind), inputs(5))
    stacked = torch.stack([a, 2 * a]), torch.stack([b, 3 * b])
    found = vmap(call, (0, 0, None))(*stacked, x)
    for i in range(2):
        torch.testing.assert_close(found[i], call(stacked[0][i], stacked[1][i], x))


@pytest.mark.parametrize("tokens", TOKENS)
def test_forward_mode_is_the_merged_weight(tokens: int) -> None:
    layer = double("regular")
    weight = layer.weight + the_adapter(layer).delta()
    x, tangent = inputs(tokens), inputs(tokens).flip(0) + 1
    _, found = jvp(layer, (x,), (tangent,))
    torch.testing.assert_close(found, tangent @ weight.T)
    with forward_ad.dual_level():
        out = layer(forward_ad.make_dual(x, tangent))
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, tangent @ weight.T)
    torch.testing.assert_close(jacfwd(layer)(x[0]), weight)


@pytest.mark.parametrize("tokens", [*TOKENS, 300])
@pytest.mark.parametrize("backend", compute.BACKENDS)
def test_a_gradient_penalty_is_that_of_the_dense_model(backend: str, tokens: int) -> None:
    chosen = compute.get_backend()
    compute.set_backend(backend)
    try:
        model = mlp()
        attached(model, AdapterConfig(r=16))
        randomise(model)
        dense = mlp()
        for i in (0, 2):
            dense[i].weight.data += the_adapter(model[i]).delta()
        x = torch.randn(tokens, 64, requires_grad=True)
        seconds = []
        for one in (model, dense):
            (first,) = torch.autograd.grad(one(x).pow(2).sum(), x, create_graph=True)
            seconds.append(torch.autograd.grad(first.pow(2).sum(), x)[0])
        largest = float(seconds[1].abs().max())
        torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-5 * largest)
    finally:
        compute.set_backend(chosen)


def test_an_embedding_has_every_derivative_too() -> None:
    model = nn.Sequential(nn.Embedding(12, 8, padding_idx=3)).double()
    attached(model, AdapterConfig(r=4, target_modules=["0"]))
    randomise(model)
    ids = torch.tensor([[1, 3, 5], [5, 0, 11]])
    adapter = the_adapter(model[0])
    leaves = [v.detach().requires_grad_() for v in (adapter.lora_A, adapter.lora_B)]

    def call(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        values = {"0.adapters.default.lora_A": a, "0.adapters.default.lora_B": b}
        return functional_call(model, values, (ids,)).pow(2)

    def first(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in grad(lambda *v: call(*v).sum(), (0, 1))(a, b)])

    wanted = torch.autograd.grad(call(*leaves).sum(), leaves)
    found = first(*(v.detach() for v in leaves))
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in wanted]))
    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True, check_backward_ad=False)
    (again,) = torch.autograd.grad(
        torch.autograd.grad(call(*leaves).sum(), leaves[1], create_graph=True)[0].pow(2).sum(),
        leaves[:1],
    )
    assert again.isfinite().all()
    assert again.any()


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("tokens", [8, 600])
@pytest.mark.parametrize("module", [nn.Linear(64, 256), nn.Embedding(64, 256)])
def test_many_gradients_at_once_are_those_one_by_one(
    module: nn.Module, tokens: int, create_graph: bool
) -> None:
    layer = nn.Sequential(copy.deepcopy(module))
    attach(layer, AdapterConfig(r=16, target_modules=["0"]), rng=0)
    randomise(layer)
    x = torch.arange(tokens) % 64
    if isinstance(module, nn.Linear):
        x = torch.randn(tokens, 64)
    out = layer(x)
    values = [p for p in layer.parameters() if p.requires_grad]
    grads = torch.randn(3, *out.shape)
    each = [torch.autograd.grad(out, values, one, retain_graph=True) for one in grads]
    together = torch.autograd.grad(
        out, values, grads, is_grads_batched=True, create_graph=create_graph
    )
    for found, *expected in zip(together, *each, strict=True):
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)
