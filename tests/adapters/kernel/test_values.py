"""The kernel's output and gradients against dense products in float64, and on the edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.adapters.layers.compute import MaskedUpdate
from expandermask.adapters.layers.kernel import available, masked_update
from tests.adapters.kernel.cases import Case, assert_close, expected, make, sizes

pytestmark = pytest.mark.skipif(not available(), reason="the kernel does not run here")
DTYPES = [torch.float32, torch.bfloat16]


def results(case: Case, *, inplace: bool = False) -> list[torch.Tensor]:
    y = case.leaves[0] * 1 if inplace else case.leaves[0]
    out = masked_update(y, *case.leaves[1:], *case.rest, inplace=inplace)
    assert (out is y) == inplace
    return [out, *torch.autograd.grad(out, case.leaves, case.grad)]


@settings(max_examples=120)
@given(data=st.data())
def test_output_and_gradients_equal_the_dense_oracle(data: st.DataObject) -> None:
    r = data.draw(st.sampled_from([1, 2, 5, 8, 16, 64, 256, 257]), "r")
    degree = st.integers(1, min(r, 6))
    size = st.one_of(st.integers(1, 50), st.sampled_from([16, 64, 96]))
    case = make(
        data.draw(st.one_of(st.integers(0, 70), st.sampled_from([128, 129, 400])), "tokens"),
        data.draw(size, "k"),
        data.draw(size, "d"),
        r,
        (data.draw(degree, "degree_a"), data.draw(degree, "degree_b")),
        data.draw(st.sampled_from(DTYPES), "dtype"),
        data.draw(st.integers(0, 2**32), "seed"),
    )
    found = results(case, inplace=data.draw(st.booleans(), "inplace"))
    dtypes = [case.grad.dtype] * 3 + [torch.float32] * 2
    for actual, wanted, size, dtype in zip(found, expected(case), sizes(case), dtypes, strict=True):
        assert actual.dtype == dtype
        assert_close(actual, wanted, size, dtype)


def test_terms_that_cancel_are_close_by_their_sizes() -> None:
    case = make(1, 4, 16, 1, (1, 1), seed=470745545)
    wanted, size = expected(case), sizes(case)
    ratios = [float((small.abs() / whole).min()) for small, whole in zip(wanted, size, strict=True)]
    assert min(ratios) < 0.01  # so that this is such a case
    for actual, exact, whole in zip(results(case), wanted, size, strict=True):
        assert_close(actual, exact, whole, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_size_of_practice_equals_the_portable_function_in_float64(dtype: torch.dtype) -> None:
    case = make(300, 384, 1536, 64, dtype=dtype)
    leaves = [t.detach().double().requires_grad_() for t in case.leaves]
    out = MaskedUpdate.apply(*leaves, *case.rest)
    wanted = [out, *torch.autograd.grad(out, leaves, case.grad.double())]
    pairs = zip(results(case), wanted, sizes(case), strict=True)
    for i, (actual, exact, size) in enumerate(pairs):
        assert_close(actual, exact, size, dtype if i < 3 else torch.float32)


@pytest.mark.parametrize("tokens", [5, 40])
@pytest.mark.parametrize(
    "needed", [(i >> 3 & 1, i >> 2 & 1, i >> 1 & 1, i & 1) for i in range(1, 16)]
)
def test_any_subset_of_gradients_is_the_same_bits(needed: tuple[int, ...], tokens: int) -> None:
    case = make(tokens, 24, 40, 8)
    full = results(case)[1:]
    for leaf, need in zip(case.leaves, needed, strict=True):
        leaf.requires_grad_(bool(need))
    out = masked_update(*case.leaves, *case.rest)
    wanted = [leaf for leaf in case.leaves if leaf.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, case.grad))
    for gradient, need in zip(full, needed, strict=True):
        assert not need or torch.equal(next(found), gradient)


def test_strided_arguments_are_read_right() -> None:
    case = make(33, 20, 36, 8)
    y, x, values_a, values_b = case.leaves
    found = masked_update(
        y.detach().T.contiguous().T,
        torch.stack([x, x])[1].repeat(1, 2)[:, :20],
        values_a.detach().T.contiguous().T,
        values_b.detach(),
        *case.rest,
    )
    assert torch.equal(found, masked_update(*case.leaves, *case.rest))


def test_a_broadcast_gradient_is_read_right() -> None:
    case = make(33, 20, 36, 8)
    out = masked_update(*case.leaves, *case.rest)
    case.grad = torch.ones(33, 36)
    for actual, wanted in zip(
        torch.autograd.grad(out.sum(), case.leaves), results(case)[1:], strict=True
    ):
        assert torch.equal(actual, wanted)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_reaches_all_it_is_connected_to(bad: float, dtype: torch.dtype) -> None:
    case = make(20, 24, 40, 8, dtype=dtype)
    y, x, values_a, values_b = case.leaves
    with torch.no_grad():
        x[17, 3] = bad
    found = masked_update(*case.leaves, *case.rest)
    index_a, index_b, *_ = case.rest
    reached = torch.zeros(20, 40, dtype=torch.bool)
    reached[17] = (index_b[:, :, None] == index_a[:, 3]).any(0).any(-1)
    assert 0 < reached.sum() < 40
    # The dense product of the portable path makes NaN of the whole row, as 0 * NaN is NaN.
    assert torch.equal(~found.isfinite(), reached)
    if bad != bad:
        assert torch.equal(found.isnan(), reached)


def test_bfloat16_passes_through_unchanged() -> None:
    y = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    y = y.reshape(1024, 64)
    case = make(1024, 8, 64, 8)
    nothing = torch.zeros(1024, 8, dtype=torch.bfloat16)
    found = masked_update(y, nothing, *case.leaves[2:], *case.rest)
    assert torch.equal(found.isnan(), y.isnan())
    assert torch.equal(found[~y.isnan()], y[~y.isnan()])


@pytest.mark.parametrize("low", [0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_bfloat16_rounds_to_nearest_even_and_keeps_nan(low: int) -> None:
    upper = torch.arange(-(2**15), 2**15, 7, dtype=torch.int32)
    values = (upper * 2**16 + low).view(torch.float32)[:, None]
    n = len(values)
    index = torch.zeros(1, 1, dtype=torch.uint8), torch.zeros(1, n, dtype=torch.uint8)
    y, x = torch.zeros(1, n, dtype=torch.bfloat16), torch.ones(1, 1, dtype=torch.bfloat16)
    found = masked_update(y, x, torch.ones(1, 1), values, *index, 1, 1.0)[0]
    wanted = values[:, 0].bfloat16()
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found[~wanted.isnan()], wanted[~wanted.isnan()])
