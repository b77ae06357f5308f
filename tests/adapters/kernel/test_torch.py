"""The kernel under threads, checkpoints and torch.compile, and writing over its argument."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from expandermask.adapters.layers.kernel import available, masked_update
from tests.adapters.kernel.cases import Case, dense, make

pytestmark = pytest.mark.skipif(not available(), reason="the kernel does not run here")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def results(case: Case) -> list[torch.Tensor]:
    out = masked_update(*case.leaves, *case.rest)
    return [out, *torch.autograd.grad(out, case.leaves, case.grad)]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_on_any_number_of_threads_and_every_time(dtype: torch.dtype) -> None:
    case = make(1000, 96, 72, 16, dtype=dtype)
    torch.set_num_threads(1)
    once = results(case)
    for threads in (1, 2, 3, 2, 8, 1):
        torch.set_num_threads(threads)
        for _ in range(5):
            assert equal(results(case), once)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_bits(reentrant: bool) -> None:
    case = make(100, 48, 32, 8)

    def layer(y: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return masked_update(y * 2, *rest, *case.rest, inplace=True)

    def run(out: torch.Tensor) -> list[torch.Tensor]:
        for leaf in case.leaves:
            leaf.grad = None
        out.backward(case.grad)
        return [out, *(leaf.grad for leaf in case.leaves)]

    plain = run(layer(*case.leaves))
    assert equal(run(checkpoint(layer, *case.leaves, use_reentrant=reentrant)), plain)


def test_writing_over_y_is_known_to_autograd() -> None:
    case = make(40, 24, 32, 8)
    y = case.leaves[0].tanh()  # tanh's backward reads its output
    masked_update(y, *case.leaves[1:], *case.rest, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y = case.leaves[0] * 2
    out = masked_update(y, *case.leaves[1:], *case.rest, inplace=True)
    assert out is y
    (doubled,) = torch.autograd.grad(out, case.leaves[0], case.grad)
    assert torch.equal(doubled, 2 * case.grad)


def test_y_is_left_alone_where_it_is_no_temporary() -> None:
    case = make(40, 24, 32, 8)
    leaf, rest = case.leaves[0], (*case.leaves[1:], *case.rest)
    wanted = masked_update(leaf, *rest)
    for y in (leaf, (leaf * 1)[:], (leaf * 1).T.contiguous().T):
        before = y.detach().clone()
        assert torch.equal(masked_update(y, *rest, inplace=True), wanted)
        assert torch.equal(y, before)


def test_gradients_have_gradients() -> None:
    case = make(20, 16, 16, 4)
    leaves = [leaf.detach().double().requires_grad_() for leaf in case.leaves]
    index_a, index_b, r, scale = case.rest
    a, b = dense(leaves[2], index_a, r), dense(leaves[3], index_b, r)
    products = leaves[0] + scale * leaves[1] @ a @ b.T
    seconds = []
    for out, of in ((masked_update(*case.leaves, *case.rest), case.leaves), (products, leaves)):
        grads = torch.autograd.grad(out.pow(3).sum(), of, create_graph=True)
        penalty = sum(grad.pow(2).sum() for grad in grads)
        seconds.append(torch.autograd.grad(penalty, of))
    for found, wanted in zip(*seconds, strict=True):
        torch.testing.assert_close(
            found.double(), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max()
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 20])
def test_the_operators_keep_the_rules_of_operators(tokens: int, dtype: torch.dtype) -> None:
    case = make(tokens, 20, 36, 8, dtype=dtype)
    y, x, *values = (leaf.detach() for leaf in case.leaves)
    operators = torch.ops.expandermask
    h = operators.masked_update_(y.clone(), None, x, *values, *case.rest)
    for added in (None, y):
        arguments = (y.clone(), added, x, *values, *case.rest)
        torch.library.opcheck(operators.masked_update_.default, arguments)
    for add, wanted in ((True, [True, True]), (False, [True, False]), (False, [False, False])):
        for grad_x in (x.clone(), x.new_empty(0)):
            arguments = (grad_x, case.grad, x, h, *values, *case.rest, add, wanted)
            torch.library.opcheck(operators.masked_update_backward_.default, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_without_a_graph_break(dynamic: bool) -> None:
    _compiles("aot_eager", dynamic)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_it_compiles_with_inductor() -> None:
    _compiles("inductor", dynamic=False)


def _compiles(backend: str, dynamic: bool) -> None:
    torch._dynamo.reset()

    def layer(y: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return masked_update(y * 2, *rest, *case.rest, inplace=True)

    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=dynamic)
    for tokens in (48, 64, 30):
        case = make(tokens, 24, 40, 8)
        found, wanted = (
            [out := f(*case.leaves), *torch.autograd.grad(out, case.leaves, case.grad)]
            for f in (compiled, layer)
        )
        assert equal(found, wanted)
