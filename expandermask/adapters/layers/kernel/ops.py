"""The kernel as torch.library operators: what they take, and what they make of it.

    expandermask::masked_update(y, x, values_a, values_b, index_a, index_b, r, scale) -> (out, h)
    expandermask::masked_update_(y, ...) -> h, which writes the output over y
    expandermask::masked_update_backward(grad, x, h, ..., wanted) -> (grad_x, grad_a, grad_b)
    expandermask::masked_update_backward_(grad_x, grad, ...) -> (grad_a, grad_b), adding to grad_x

h is scale * x A' in tiles of 16 tokens: float32 (ceil(tokens / 16), r, 16). A gradient that is not
``wanted`` comes back with no elements. None of them is differentiable by itself; see `update`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from expandermask.adapters.layers.kernel.launch import run
from expandermask.errors import InvalidInputError

TILE = 16
_TILES_IN_CHUNK, _MOST_CHUNKS = 8, 64
_FACTORS = "Tensor values_a, Tensor values_b, Tensor index_a, Tensor index_b, int r, float scale"
_INDEX_DTYPES = (torch.uint8, torch.int16, torch.int32)


class Factors(NamedTuple):
    """A and B as the operators take them."""

    values_a: Tensor
    values_b: Tensor
    index_a: Tensor
    index_b: Tensor
    r: int
    scale: float


def _forward(y: Tensor, x: Tensor, *factors: Tensor | float) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(y, memory_format=torch.contiguous_format)
    return out, _update(y.contiguous(), x, out, Factors(*factors))  # type: ignore[arg-type]


def _forward_(y: Tensor, x: Tensor, *factors: Tensor | float) -> Tensor:
    if not y.is_contiguous():
        raise InvalidInputError(f"y must be contiguous to be written over, got {y.stride()}")
    return _update(y, x, y, Factors(*factors))  # type: ignore[arg-type]


def _update(y: Tensor, x: Tensor, out: Tensor, factors: Factors) -> Tensor:
    """Write y + scale * x A' B' to ``out``; return h."""
    _check(y, x, factors)
    x = x.contiguous()
    h = _new_h(x, factors.r)
    words, kept = _words(x, y, factors)
    if words["chunks"]:
        run("forward", words | {"y": y.data_ptr(), "out": out.data_ptr(), "h": h.data_ptr()})
    del kept
    return h


def _backward(
    grad: Tensor, x: Tensor, h: Tensor, *rest: Tensor | float | list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    factors, (need_x, *wanted) = Factors(*rest[:-1]), rest[-1]  # type: ignore[arg-type,misc]
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if need_x else None
    grads = _gradients(grad, x, h, factors, grad_x, wanted, add=False)
    return x.new_empty(0) if grad_x is None else grad_x, *grads


def _backward_(
    grad_x: Tensor, grad: Tensor, x: Tensor, h: Tensor, *rest: Tensor | float | list[bool]
) -> tuple[Tensor, Tensor]:
    factors, wanted = Factors(*rest[:-1]), rest[-1]  # type: ignore[arg-type]
    if not (grad_x.is_contiguous() and grad_x.shape == x.shape and grad_x.dtype == x.dtype):
        raise InvalidInputError(
            f"grad_x must be contiguous and like x, {x.dtype} {tuple(x.shape)}; got "
            f"{grad_x.dtype} {tuple(grad_x.shape)} with strides {grad_x.stride()}"
        )
    return _gradients(grad, x, h, factors, grad_x, wanted, add=True)  # type: ignore[arg-type]


def _gradients(
    grad: Tensor,
    x: Tensor,
    h: Tensor,
    factors: Factors,
    grad_x: Tensor | None,
    wanted: list[bool],
    *,
    add: bool,
) -> tuple[Tensor, Tensor]:
    """Write x's gradient to ``grad_x``, or add it; return the values'."""
    _check(grad, x, factors)
    if h.shape != _new_h(x, factors.r, "meta").shape or h.dtype != torch.float32:
        raise InvalidInputError(
            f"h must be what the forward operator returned, got {h.dtype} {tuple(h.shape)}"
        )
    grad, x, h = grad.contiguous(), x.contiguous(), h.contiguous()
    words, kept = _words(x, grad, factors)
    chunks = words["chunks"]
    grad_a, sums_a = _new_sums(factors.values_a, chunks, wanted[0])
    grad_b, sums_b = _new_sums(factors.values_b, chunks, wanted[1])
    scratch = h.new_empty(chunks, factors.r, TILE)
    if chunks:
        own = {"grad": grad, "h": h, "grad_h": scratch, "sums_a": sums_a, "sums_b": sums_b}
        own |= {"grad_a": grad_a, "grad_b": grad_b}
        # An empty tensor's address is 0, which is how the kernel knows what is not wanted.
        words |= {name: tensor.data_ptr() for name, tensor in own.items()}
        words |= {"grad_x": 0 if grad_x is None else grad_x.data_ptr(), "add": int(add)}
        run("backward", words)
        run("total", words, threads=1)
    del kept
    return grad_a[: x.shape[1]], grad_b[: grad.shape[1]]


def _words(x: Tensor, y: Tensor, factors: Factors) -> tuple[dict[str, int], list[Tensor]]:
    """What both directions are told, and the tensors to keep while they run."""
    kept = [_padded(index.int()) for index in (factors.index_a, factors.index_b)]
    kept += [_padded(values.t()) for values in (factors.values_a, factors.values_b)]
    tiles = -(-x.shape[0] // TILE)
    # A function of the number of tokens alone, or the sums would depend on the threads.
    chunks = min(_MOST_CHUNKS, -(-tiles // _TILES_IN_CHUNK))
    words = {
        "chunks": chunks,
        "tokens": x.shape[0],
        "rank": factors.r,
        "half": int(x.dtype == torch.bfloat16),
        "scale": int.from_bytes(struct.pack("<f", factors.scale), "little"),
        "k": x.shape[1],
        "d": y.shape[1],
        "degree_a": factors.values_a.shape[1],
        "degree_b": factors.values_b.shape[1],
        "x": x.data_ptr(),
    }
    names = ("index_a", "index_b", "values_a", "values_b")
    return words | {n: t.data_ptr() for n, t in zip(names, kept, strict=True)}, kept


def _padded(rows: Tensor) -> Tensor:
    """``rows`` (degree, n) with n rounded up to a multiple of 16 by zeros, contiguous."""
    missing = -rows.shape[1] % TILE
    return (functional.pad(rows, (0, missing)) if missing else rows).contiguous()


def _new_h(x: Tensor, r: int, device: str | None = None) -> Tensor:
    tiles = (x.shape[0] + TILE - 1) // TILE
    return x.new_empty(tiles, r, TILE, dtype=torch.float32, device=device or x.device)


def _new_sums(values: Tensor, chunks: int, wanted: bool) -> tuple[Tensor, Tensor]:
    """Room for a gradient of ``values``, n rounded up to a multiple of 16, and for the chunks'."""
    if not wanted:
        return values.new_empty(0), values.new_empty(0)
    n, degree = values.shape
    width = -(-n // TILE) * TILE
    if not chunks:
        return values.new_zeros(n, degree), values.new_empty(0)
    return values.new_empty(width, degree), values.new_empty(chunks, degree, width)


def _check(y: Tensor, x: Tensor, factors: Factors) -> None:
    """Raise InvalidInputError for what would make the kernel read or write past an end."""
    shapes_fit = (
        x.dim() == y.dim() == 2
        and x.shape[0] == y.shape[0]
        and factors.values_a.shape == factors.index_a.shape[::-1]
        and factors.values_b.shape == factors.index_b.shape[::-1]
        and (factors.values_a.shape[0], factors.values_b.shape[0]) == (x.shape[1], y.shape[1])
    )
    if not shapes_fit:
        shapes = [tuple(t.shape) for t in (y, x, *factors[:4])]
        raise InvalidInputError(
            "y (tokens, d), x (tokens, k), values_a (k, left_degree), values_b (d, left_degree), "
            f"index_a (left_degree, k) and index_b (left_degree, d) do not fit together: {shapes}"
        )
    dtypes_fit = (
        x.dtype == y.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and factors.values_a.dtype == factors.values_b.dtype == torch.float32
        and factors.index_a.dtype in _INDEX_DTYPES
        and factors.index_b.dtype in _INDEX_DTYPES
    )
    if not dtypes_fit:
        dtypes = [t.dtype for t in (y, x, *factors[:4])]
        raise InvalidInputError(
            "the kernel takes y and x both float32 or both bfloat16, values_a and values_b "
            f"float32, index_a and index_b uint8, int16 or int32; got {dtypes}"
        )


# -- registration --------------------------------------------------------------------------------


def _fake_forward(
    y: Tensor, x: Tensor, va: Tensor, vb: Tensor, ia: Tensor, ib: Tensor, r: int, scale: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(y, memory_format=torch.contiguous_format), _new_h(x, r)


def _fake_forward_(
    y: Tensor, x: Tensor, va: Tensor, vb: Tensor, ia: Tensor, ib: Tensor, r: int, scale: float
) -> Tensor:
    return _new_h(x, r)


def _fake_backward(
    grad: Tensor, x: Tensor, h: Tensor, va: Tensor, vb: Tensor, *rest: object
) -> tuple[Tensor, ...]:
    wanted = rest[-1]
    assert isinstance(wanted, list)
    made = (x.new_empty(x.shape), va.new_empty(va.shape), vb.new_empty(vb.shape))
    return tuple(t if want else t.new_empty(0) for t, want in zip(made, wanted, strict=True))


def _fake_backward_(grad_x: Tensor, *rest: object) -> tuple[Tensor, ...]:
    _, _, _, values_a, values_b, *_, wanted = rest
    assert isinstance(values_a, Tensor)
    assert isinstance(values_b, Tensor)
    assert isinstance(wanted, list)
    made = (values_a.new_empty(values_a.shape), values_b.new_empty(values_b.shape))
    return tuple(t if want else t.new_empty(0) for t, want in zip(made, wanted, strict=True))


_GRADIENT = f"Tensor grad, Tensor x, Tensor h, {_FACTORS}"
for _name, _schema, _real, _fake in (
    ("", f"(Tensor y, Tensor x, {_FACTORS}) -> (Tensor, Tensor)", _forward, _fake_forward),
    ("_", f"(Tensor(a!) y, Tensor x, {_FACTORS}) -> Tensor", _forward_, _fake_forward_),
    (
        "_backward",
        f"({_GRADIENT}, bool[3] wanted) -> (Tensor, Tensor, Tensor)",
        _backward,
        _fake_backward,
    ),
    (
        "_backward_",
        f"(Tensor(a!) grad_x, {_GRADIENT}, bool[2] wanted) -> (Tensor, Tensor)",
        _backward_,
        _fake_backward_,
    ),
):
    torch.library.define(f"expandermask::masked_update{_name}", _schema)
    torch.library.impl(f"expandermask::masked_update{_name}", "cpu", _real)
    torch.library.register_fake(f"expandermask::masked_update{_name}", _fake)
