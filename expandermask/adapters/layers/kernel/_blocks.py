"""The two passes over a 16 by 16 block, and the few helpers they need, as numba intrinsics.

All arguments are int64: addresses, strides in bytes, counts and flags. A *tile* is h = x A', or its
gradient, for 16 tokens: float32 (r, 16), so that one rank's row is one vector. A *factor* is a row
of indices, int32, and one of values, float32, for each slot: (degree, width) both, with ``width``
the factor's n rounded up to 16. Blocks are float32, or bfloat16 where ``half`` is not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from expandermask.adapters.layers.kernel._vectors import (
    F32,
    FOLDS,
    I16,
    I32,
    I64,
    LANES,
    VECTOR,
    fma,
    fold,
    load,
    load_half,
    pointer,
    prefetch,
    splat,
    store,
    store_half,
    transpose,
)

_ROW = 64
"""Bytes of a vector, which is one row of a tile."""
_AHEAD = 128
"""How many bytes on to prefetch in each row of a block: 10 % of the time; 256 gains less."""


def _instructions(result: Any = types.void) -> Callable[[Callable[..., ir.Value]], Any]:
    """Make an intrinsic on int64 arguments of a function that writes its instructions."""

    def decorate(emit: Callable[..., ir.Value]) -> Any:
        def code(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
            value = emit(builder, *values)
            return context.get_dummy_value() if value is None else value

        def typed(typing_context: Any, *arguments: Any) -> Any:
            return result(*(types.int64 for _ in arguments)), code

        typed.__name__, typed.__doc__ = emit.__name__, emit.__doc__
        # numba passes arguments on by the signature, and knows no *arguments there.
        vars(typed)["__signature__"] = signature(emit)
        return intrinsic(typed)

    return decorate


# -- the passes ----------------------------------------------------------------------------------


@_instructions()
def lanes_pass(builder, half, source, stride, index, values, width, degree, tile, factors, sums):
    """Of a block's columns c: tile[index] += value * c, and sums += c . factors[index].

    ``tile`` and ``sums`` may each be 0, to leave its part out. ``sums`` has the factor's layout.
    """
    columns = transpose(builder, _load_rows(builder, half, source, stride))
    with _each_slot(builder, degree, width) as offset:
        at = [builder.add(address, offset) for address in (index, values, sums)]
        with builder.if_then(_is_set(builder, tile)):
            for f, column in enumerate(columns):
                row = _tile_row(builder, tile, at[0], f)
                value = splat(builder, load(builder, at[1], F32, 4 * f))
                store(builder, fma(builder, value, column, load(builder, row, VECTOR)), row)
        with builder.if_then(_is_set(builder, sums)):

            def products(f):
                row = _tile_row(builder, factors, at[0], f)
                return builder.fmul(columns[f], load(builder, row, VECTOR))

            total = _lane_sums(builder, products, 0, LANES)
            store(builder, builder.fadd(load(builder, at[2], VECTOR), total), at[2])


@_instructions()
def rows_pass(builder, half, base, out, stride, index, values, width, degree, tile):
    """A block whose column f is the sum over slots of value_f * tile[index_f], plus ``base``.

    ``base`` may be 0, to add nothing, and may be ``out``.
    """
    columns = [
        cgutils.alloca_once_value(builder, ir.Constant(VECTOR, [0.0] * LANES)) for _ in range(LANES)
    ]
    for column in columns:
        builder.store(ir.Constant(VECTOR, [0.0] * LANES), column)
    with _each_slot(builder, degree, width) as offset:
        index, values = builder.add(index, offset), builder.add(values, offset)
        for f, column in enumerate(columns):
            row = load(builder, _tile_row(builder, tile, index, f), VECTOR)
            value = splat(builder, load(builder, values, F32, 4 * f))
            builder.store(fma(builder, value, row, builder.load(column)), column)
    rows = transpose(builder, [builder.load(column) for column in columns])
    with builder.if_else(_is_set(builder, half)) as (is_half, is_single):
        with is_half:
            _store_rows(builder, rows, base, out, stride, load_half, store_half)
        with is_single:
            _store_rows(builder, rows, base, out, stride, _load_single, store)


def _load_single(builder, address):
    return load(builder, address, VECTOR)


def _load_rows(builder, half, source, stride):
    """The 16 rows of a block, as floats."""
    rows = [cgutils.alloca_once(builder, VECTOR) for _ in range(LANES)]
    with builder.if_else(_is_set(builder, half)) as branches:
        for branch, read in zip(branches, (load_half, _load_single), strict=True):
            with branch:
                for t, row in enumerate(rows):
                    address = builder.add(source, builder.mul(stride, I64(t)))
                    prefetch(builder, address, _AHEAD, write=False)
                    builder.store(read(builder, address), row)
    return [builder.load(row) for row in rows]


def _store_rows(builder, rows, base, out, stride, read, write):
    """Write a block's rows, each with the one of ``base`` added unless that is 0."""
    offsets = [builder.mul(stride, I64(t)) for t in range(LANES)]
    with builder.if_else(_is_set(builder, base)) as (added, alone):
        with added:
            for row, offset in zip(rows, offsets, strict=True):
                source, target = builder.add(base, offset), builder.add(out, offset)
                prefetch(builder, source, _AHEAD, write=False)
                prefetch(builder, target, _AHEAD, write=True)
                write(builder, builder.fadd(read(builder, source), row), target)
        with alone:
            for row, offset in zip(rows, offsets, strict=True):
                target = builder.add(out, offset)
                prefetch(builder, target, _AHEAD, write=True)
                write(builder, row, target)


def _lane_sums(builder, vector, first, count):
    """One vector of the lane sums of ``vector(f)`` for 16 f: depth first, so few are alive."""
    if count == 1:
        return vector(first)
    half = count // 2
    low = _lane_sums(builder, vector, first, half)
    high = _lane_sums(builder, vector, first + half, half)
    return fold(builder, low, high, FOLDS[half.bit_length() - 1])


def _tile_row(builder, tile, index, f):
    """The address of the tile's row that feature ``f`` of the block has at this slot."""
    row = builder.zext(load(builder, index, I32, 4 * f), I64)
    return builder.add(tile, builder.mul(row, I64(_ROW)))


@contextmanager
def _each_slot(builder: ir.IRBuilder, degree: ir.Value, width: ir.Value) -> Iterator[ir.Value]:
    """Run the body once a slot, with the offset of its row of a factor in bytes."""
    with cgutils.for_range(builder, degree) as loop:
        yield builder.mul(loop.index, builder.mul(width, I64(4)))


def _is_set(builder, value):
    return builder.icmp_unsigned("!=", value, I64(0))


# -- helpers -------------------------------------------------------------------------------------


@_instructions(types.int64)
def word(builder, job, position):
    """The int64 at a position of an array."""
    return load(builder, builder.add(job, builder.mul(position, I64(8))), I64)


@_instructions(types.int64)
def take(builder, counter):
    """The next number of a counter that threads share."""
    return builder.atomic_rmw("add", pointer(builder, counter, I64), I64(1), "monotonic")


@_instructions(types.int64)
def scratch(builder):
    """The address of 16 by 16 floats on the stack."""
    kind = ir.ArrayType(VECTOR, LANES)
    return builder.ptrtoint(cgutils.alloca_once(builder, kind), I64)


@_instructions()
def fill_zero(builder, address, vectors):
    """Zero so many vectors."""
    with cgutils.for_range(builder, vectors) as loop:
        at = builder.add(address, builder.mul(loop.index, I64(_ROW)))
        store(builder, ir.Constant(VECTOR, [0.0] * LANES), at)


@_instructions()
def multiply(builder, address, vectors, factor):
    """Multiply so many vectors by the float at the address ``factor``."""
    by = splat(builder, load(builder, factor, F32))
    with cgutils.for_range(builder, vectors) as loop:
        at = builder.add(address, builder.mul(loop.index, I64(_ROW)))
        store(builder, builder.fmul(load(builder, at, VECTOR), by), at)


@_instructions()
def add_chunks(builder, sums, stride, chunks, out, out_stride):
    """Sum a vector over chunks, first to last; write its lanes ``out_stride`` bytes apart."""
    total = cgutils.alloca_once(builder, VECTOR)
    builder.store(load(builder, sums, VECTOR), total)
    with cgutils.for_range(builder, chunks, start=I64(1)) as loop:
        at = builder.add(sums, builder.mul(loop.index, stride))
        builder.store(builder.fadd(builder.load(total), load(builder, at, VECTOR)), total)
    value = builder.load(total)
    for i in range(LANES):
        at = builder.add(out, builder.mul(out_stride, I64(i)))
        store(builder, builder.extract_element(value, I32(i)), at)


@_instructions()
def copy_element(builder, half, source, target):
    """Copy one element."""
    with builder.if_else(_is_set(builder, half)) as branches:
        for branch, kind in zip(branches, (I16, F32), strict=True):
            with branch:
                store(builder, load(builder, source, kind), target)
