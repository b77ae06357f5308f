"""`masked_linear`: the product with a frozen weight and the update in one function."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from expandermask.adapters.layers.kernel import available, masked_linear, masked_update
from tests.adapters.kernel.cases import Case, assert_close, expected, make, sizes

pytestmark = pytest.mark.skipif(not available(), reason="the kernel does not run here")


def results(case: Case, weight: torch.Tensor, bias: torch.Tensor | None) -> list[torch.Tensor]:
    _, *leaves = case.leaves
    out = masked_linear(leaves[0], weight, bias, *leaves[1:], *case.rest)
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    return [out, *torch.autograd.grad(out, wanted, case.grad)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("tokens", [0, 1, 37, 128])
def test_it_is_the_product_and_the_update(tokens: int, with_bias: bool, dtype: torch.dtype) -> None:
    case = make(tokens, 40, 72, 8, dtype=dtype)
    weight = torch.randn(72, 40).to(dtype)
    bias = torch.randn(72).to(dtype) if with_bias else None
    found = results(case, weight, bias)
    x = case.leaves[1]
    with torch.no_grad():
        case.leaves[0].copy_(functional.linear(x, weight, bias))
    out, _, grad_x, grad_a, grad_b = expected(case)
    grad_x = grad_x + (case.grad @ weight).double()
    size_out, _, size_x, *size_values = sizes(case)
    size_x = size_x + (case.grad.abs() @ weight.abs()).double()
    wanted = (out, grad_x, grad_a, grad_b)
    bounds = (size_out, size_x, *size_values)
    for i, (actual, exact, size) in enumerate(zip(found, wanted, bounds, strict=True)):
        assert_close(actual, exact, size, dtype if i < 2 else torch.float32)


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_only_the_gradients_asked_for(wanted: int) -> None:
    case = make(37, 40, 72, 8)
    weight = torch.randn(72, 40)
    full = results(case, weight, None)
    for i in (1, 2, 3):
        case.leaves[i].requires_grad_(i == wanted)
    _, gradient = results(case, weight, None)
    assert torch.equal(gradient, full[wanted])


def test_under_no_grad_it_is_the_same_bits_as_the_two_apart() -> None:
    case = make(37, 40, 72, 8)
    weight, bias = torch.randn(72, 40), torch.randn(72)
    _, x, *values = case.leaves
    with torch.no_grad():
        apart = masked_update(functional.linear(x, weight, bias), x, *values, *case.rest)
        assert torch.equal(masked_linear(x, weight, bias, *values, *case.rest), apart)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_bits(reentrant: bool) -> None:
    case = make(100, 48, 32, 8)
    weight, leaves = torch.randn(32, 48), case.leaves[1:]

    def layer(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return masked_linear(x, weight, None, *values, *case.rest)

    def run(out: torch.Tensor) -> list[torch.Tensor]:
        for leaf in leaves:
            leaf.grad = None
        out.backward(case.grad)
        return [out, *(leaf.grad for leaf in leaves)]

    pairs = zip(
        run(layer(*leaves)),
        run(checkpoint(layer, *leaves, use_reentrant=reentrant)),
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_it_compiles_without_a_graph_break() -> None:
    torch._dynamo.reset()
    weight, bias = torch.randn(40, 24), torch.randn(40)

    def layer(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return masked_linear(x.tanh(), weight, bias, *values, *case.rest).tanh()

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for tokens in (48, 64, 30):
        case = make(tokens, 24, 40, 8)
        leaves = case.leaves[1:]
        found, wanted = (
            [out := f(*leaves), *torch.autograd.grad(out, leaves, case.grad)]
            for f in (compiled, layer)
        )
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
