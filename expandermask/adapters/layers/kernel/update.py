"""The masked update by the kernel: operators, an autograd function, and the rule for when it pays.

    expandermask::masked_update_(out, y, x, values_a, ..., scale) -> h
    expandermask::masked_update_backward_(grad_x, grad, x, h, values_a, ..., scale, add, wanted)
        -> (grad_a, grad_b)

The first writes y + scale * x A' B' over ``out``, or adds to what ``out`` holds where y is None;
h is scale * x A' in tiles of 16 tokens: float32 (ceil(tokens / 16), r, 16). The second writes over
``grad_x``, or with ``add`` adds to it; a grad_x of no elements is not wanted. A gradient of values
that is not ``wanted`` comes back with no elements. Neither is differentiable by itself.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter, functional

from expandermask.adapters.layers.factors import Factors
from expandermask.adapters.layers.kernel.few import LEAST_TOKENS
from expandermask.adapters.layers.kernel.launch import available, run, usable
from expandermask.adapters.layers.plain import differentiable_gradients
from expandermask.errors import InvalidInputError

LEAST_ENTRIES = 2**16
"""From where on the kernel was measured to be faster, beside `LEAST_TOKENS`."""
_TILE = 16
_TILES_IN_CHUNK, _MOST_CHUNKS = 8, 64
_INDEX_DTYPES = (torch.uint8, torch.int16, torch.int32)
_FACTORS = "Tensor values_a, Tensor values_b, Tensor index_a, Tensor index_b, int r, float scale"


def masked_update(
    y: Tensor,
    x: Tensor,
    values_a: Tensor,
    values_b: Tensor,
    index_a: Tensor,
    index_b: Tensor,
    r: int,
    scale: float,
    *,
    inplace: bool = False,
) -> Tensor:
    """y + scale * x A' B', with A (r, k) and B (d, r) held as values and indices.

    Computes what `MaskedUpdate` does, with products accumulated in float32, on CPUs where
    `supports` says so. Gradients flow to y, x and both values; they and the output are the
    same bits on any number of threads. O(tokens * left_degree * (k + d)) time; kept for backward
    are x, the values, the indices, and x A' in float32.

    Parameters
    ----------
    y : Tensor
        (tokens, d), float32 or bfloat16.
    x : Tensor
        (tokens, k), of y's dtype.
    values_a, values_b : Tensor
        (k, left_degree) and (d, left_degree), float32.
    index_a, index_b : Tensor
        (left_degree, k) and (left_degree, d), uint8, int16 or int32. They are trusted: call
        `check_index` once, when they are made.
    r, scale : int, float
        The rank, and the factor on the update.
    inplace : bool
        y is a temporary that nothing else reads: write over it where that can be done.

    Raises
    ------
    InvalidInputError
        If the shapes do not fit together or a dtype is none of those above.
    """
    inplace = inplace and not torch.compiler.is_compiling() and _is_temporary(y)
    return _KernelUpdate.apply(  # type: ignore[no-any-return]
        y, x, values_a, values_b, index_a, index_b, r, scale, None, None, inplace
    )


def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    values_a: Tensor,
    values_b: Tensor,
    index_a: Tensor,
    index_b: Tensor,
    r: int,
    scale: float,
) -> Tensor:
    """x W' + bias + scale * x A' B' for a frozen W (d, k), as `masked_update` of the first two.

    Faster than the two apart, whose gradients of x autograd adds up in a pass of its own: here each
    direction writes its product with W once and adds the update to it where it lies. Other
    arguments are those of `masked_update`; weight and bias are of x's dtype and get no gradient.

    Raises
    ------
    InvalidInputError
        As `masked_update` does.
    """
    return _KernelUpdate.apply(  # type: ignore[no-any-return]
        None, x, values_a, values_b, index_a, index_b, r, scale, weight, bias, False
    )


def supports(
    x: Tensor,
    values_a: Tensor,
    values_b: Tensor,
    index_a: Tensor,
    index_b: Tensor,
    *,
    y: Tensor | None = None,
) -> bool:
    """Whether the kernel takes these and is faster than the portable path: a few attributes.

    ``y`` is looked at where it is given: `masked_linear` has none. The first yes compiles the
    kernel: seconds once, then from numba's cache.
    """
    factors = (values_a, values_b, index_a, index_b)
    given = (x, *factors) if y is None else (x, y, *factors)
    return (
        available()
        and x.dim() == 2
        and x.shape[0] >= LEAST_TOKENS
        and all(t.dim() == 2 for t in factors)  # the regular layout
        and x.shape[0] * (x.shape[1] + values_b.shape[0]) >= LEAST_ENTRIES
        and x.dtype in (torch.float32, torch.bfloat16)
        and (y is None or y.dtype == x.dtype)
        and values_a.dtype == values_b.dtype == torch.float32
        and all(
            (type(t) is Tensor or type(t) is Parameter)
            and t.device.type == "cpu"
            and t.layout == torch.strided
            for t in given
        )
        and (torch.compiler.is_compiling() or usable())
    )


def check_index(index: Tensor, r: int) -> None:
    """Raise unless every entry is in [0, r) and no column names a rank twice.

    ``index`` is (left_degree, n), uint8, int16 or int32. The kernel writes to the rank an index
    names without looking, and the dense factors of the portable path keep one value a place.
    O(left_degree * n * log(left_degree)).

    Raises
    ------
    InvalidInputError
        Saying which entry breaks the rule.
    """
    outside = (index.int() < 0) | (index.int() >= r)
    if outside.any():
        slot, i = outside.nonzero()[0].tolist()
        raise InvalidInputError(
            f"index[{slot}, {i}] is {int(index[slot, i])}; ranks are from 0 to r - 1 = {r - 1}"
        )
    ordered = index.int().sort(dim=0).values
    repeated = (ordered[1:] == ordered[:-1]).nonzero()
    if len(repeated):
        slot, i = repeated[0].tolist()
        raise InvalidInputError(
            f"index[:, {i}] names rank {int(ordered[slot, i])} twice; the ranks of one column "
            "must differ"
        )


def _is_temporary(y: Tensor) -> bool:
    """Whether autograd lets y be written over, and its memory is laid out for it."""
    return y.is_contiguous() and not y._is_view() and not (y.requires_grad and y.is_leaf)


def _is_batch(grad: Tensor) -> bool:
    """Whether these are many gradients at once, of ``is_grads_batched``: nothing has an address."""
    return not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(grad)


class _KernelUpdate(torch.autograd.Function):
    """`masked_update`, or where there is a weight instead of y, `masked_linear`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor | None, x: Tensor, *rest: Any) -> Tensor:
        """Run the forward operator; saves x, h, the values and the indices, and W if given."""
        *factors, weight, bias, inplace = rest
        if y is None:
            out = functional.linear(x, weight, bias)
        elif inplace:
            out = y
            y = None
            ctx.mark_dirty(out)
        else:
            out = torch.empty_like(y, memory_format=torch.contiguous_format)
        h = torch.ops.expandermask.masked_update_(out, y, x, *factors)
        ctx.save_for_backward(weight, x, h, *factors[:4])
        ctx.r, ctx.scale = factors[4:]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of y, x and both values, each only where it is asked for."""
        weight, x, *saved = ctx.saved_tensors
        need_y, *needed = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled() or _is_batch(grad):
            _, values_a, values_b, index_a, index_b = saved
            factors = Factors(values_a, values_b, index_a, index_b, ctx.r, ctx.scale)
            found = differentiable_gradients(needed, grad, x, factors, weight=weight)
            return grad if need_y else None, *found, *(None,) * 7
        need_x, *wanted = needed
        grads: list[Tensor | None] = [None] * 3
        if need_x or any(wanted):
            grad_x = x.new_empty(x.shape if need_x else 0)
            if need_x and weight is not None:
                with torch.autocast(grad.device.type, enabled=False):
                    grad_x = torch.mm(grad, weight)
            made = torch.ops.expandermask.masked_update_backward_(
                grad_x, grad, x, *saved, ctx.r, ctx.scale, weight is not None, wanted
            )
            pairs = zip((grad_x, *made), (need_x, *wanted), strict=True)
            grads = [made if want else None for made, want in pairs]
        return grad if need_y else None, *grads, *(None,) * 7


# -- operators -----------------------------------------------------------------------------------


_FORWARD, _BACKWARD = "expandermask::masked_update_", "expandermask::masked_update_backward_"
torch.library.define(_FORWARD, f"(Tensor(a!) out, Tensor? y, Tensor x, {_FACTORS}) -> Tensor")
torch.library.define(
    _BACKWARD,
    f"(Tensor(a!) grad_x, Tensor grad, Tensor x, Tensor h, {_FACTORS}, bool add, bool[2] wanted)"
    " -> (Tensor, Tensor)",
)


@torch.library.impl(_FORWARD, "cpu")
def _forward(out: Tensor, y: Tensor | None, x: Tensor, *factors: Any) -> Tensor:
    y = out if y is None else y
    _check(y, x, *factors[:4])
    _require_room(out, y)
    y, x = y.contiguous(), x.contiguous()
    h = _new_h(x, *factors)
    words, kept = _words(x, y, *factors)
    if words["chunks"]:
        run("forward", words | {"y": y.data_ptr(), "out": out.data_ptr(), "h": h.data_ptr()})
    del kept
    return h


@torch.library.impl(_BACKWARD, "cpu")
def _backward(
    grad_x: Tensor, grad: Tensor, x: Tensor, h: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    *factors, add, wanted = rest
    _check(grad, x, *factors[:4])
    if grad_x.numel():
        _require_room(grad_x, x)
    grad, x, h = grad.contiguous(), x.contiguous(), h.contiguous()
    words, kept = _words(x, grad, *factors)
    chunks = words["chunks"]
    pairs = zip(factors[:2], wanted, strict=True)
    sums_a, sums_b = (_new_sums(values, chunks, want) for values, want in pairs)
    grad_h = h.new_empty(chunks, *h.shape[1:])
    if chunks:
        own = {"grad": grad, "h": h, "grad_h": grad_h, "grad_x": grad_x}
        own |= {"sums_a": sums_a, "sums_b": sums_b}
        # An empty tensor's address is 0, which is how the kernel knows what is not wanted.
        words |= {name: tensor.data_ptr() for name, tensor in own.items()}
        run("backward", words | {"add": int(add)})
    del kept
    return _total(sums_a, x.shape[1]), _total(sums_b, grad.shape[1])


def _fake_forward(out: Tensor, y: Tensor | None, x: Tensor, *factors: Any) -> Tensor:
    return _new_h(x, *factors)


def _fake_backward(
    grad_x: Tensor, grad: Tensor, x: Tensor, h: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    wanted = zip(rest[:2], rest[-1], strict=True)
    return tuple(values.new_empty(values.shape if want else 0) for values, want in wanted)


torch.library.register_fake(_FORWARD, _fake_forward)
torch.library.register_fake(_BACKWARD, _fake_backward)


def _words(
    x: Tensor,
    y: Tensor,
    values_a: Tensor,
    values_b: Tensor,
    index_a: Tensor,
    index_b: Tensor,
    r: int,
    scale: float,
) -> tuple[dict[str, int], list[Tensor]]:
    """What both directions are told, and the tensors to keep while they run."""
    kept = [_padded(index.int()) for index in (index_a, index_b)]
    kept += [_padded(values.t()) for values in (values_a, values_b)]
    tiles = -(-x.shape[0] // _TILE)
    words = {
        # A function of the number of tokens alone, or the sums would depend on the threads.
        "chunks": min(_MOST_CHUNKS, -(-tiles // _TILES_IN_CHUNK)),
        "tokens": x.shape[0],
        "rank": r,
        "half": int(x.dtype == torch.bfloat16),
        "scale": int.from_bytes(struct.pack("<f", scale), "little"),
        "k": x.shape[1],
        "d": y.shape[1],
        "degree_a": values_a.shape[1],
        "degree_b": values_b.shape[1],
        "x": x.data_ptr(),
    }
    names = ("index_a", "index_b", "values_a", "values_b")
    return words | {n: t.data_ptr() for n, t in zip(names, kept, strict=True)}, kept


def _padded(rows: Tensor) -> Tensor:
    """``rows`` (degree, n) with n rounded up to a multiple of 16 by zeros, contiguous."""
    missing = -rows.shape[1] % _TILE
    return (functional.pad(rows, (0, missing)) if missing else rows).contiguous()


def _new_h(x: Tensor, *factors: Any) -> Tensor:
    tiles = (x.shape[0] + _TILE - 1) // _TILE
    return x.new_empty(tiles, factors[4], _TILE, dtype=torch.float32)


def _new_sums(values: Tensor, chunks: int, wanted: bool) -> Tensor:
    """Room for each chunk's gradient of ``values``, n rounded up to a multiple of 16."""
    n, degree = values.shape
    return values.new_empty((chunks, degree, n + -n % _TILE) if wanted else 0)


def _total(sums: Tensor, n: int) -> Tensor:
    """The gradient of values, (n, degree), of its sums over chunks, which are added in order."""
    if sums.dim() == 1:  # not wanted
        return sums
    return torch.from_numpy(np.add.reduce(sums.numpy(), axis=0)[:, :n].T.copy())


def _require_room(out: Tensor, like: Tensor) -> None:
    """The kernel writes by addresses, as if ``out`` were ``like`` and contiguous."""
    if not (out.is_contiguous() and out.shape == like.shape and out.dtype == like.dtype):
        raise InvalidInputError(
            f"what is written over must be contiguous, {like.dtype} {tuple(like.shape)}; got "
            f"{out.dtype} {tuple(out.shape)} with strides {out.stride()}"
        )


def _check(
    y: Tensor, x: Tensor, values_a: Tensor, values_b: Tensor, index_a: Tensor, index_b: Tensor
) -> None:
    """Raise InvalidInputError for what would make the kernel read or write past an end."""
    given = (y, x, values_a, values_b, index_a, index_b)
    shapes_fit = (
        x.dim() == y.dim() == 2
        and x.shape[0] == y.shape[0]
        and values_a.shape == index_a.shape[::-1]
        and values_b.shape == index_b.shape[::-1]
        and (values_a.shape[0], values_b.shape[0]) == (x.shape[1], y.shape[1])
    )
    if not shapes_fit:
        raise InvalidInputError(
            "y (tokens, d), x (tokens, k), values_a (k, left_degree), values_b (d, left_degree), "
            "index_a (left_degree, k) and index_b (left_degree, d) do not fit together: "
            f"{[tuple(t.shape) for t in given]}"
        )
    dtypes_fit = (
        x.dtype == y.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and values_a.dtype == values_b.dtype == torch.float32
        and index_a.dtype in _INDEX_DTYPES
        and index_b.dtype in _INDEX_DTYPES
    )
    if not dtypes_fit:
        raise InvalidInputError(
            "the kernel takes y and x both float32 or both bfloat16, values_a and values_b "
            f"float32, index_a and index_b uint8, int16 or int32; got {[t.dtype for t in given]}"
        )
