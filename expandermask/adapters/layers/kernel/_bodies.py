"""The kernel as numba compiles it: what each thread does, down to LLVM's vectors of 16 floats.

Plain numba loops over tiles of 64 tokens do the same in two thirds of the statements, but LLVM
makes no shuffles of their transposes. A training step then takes 0.87 of a LoRA step's time for a
BERT of 6x384 and 0.83 at 12x768, where this kernel takes 0.77 at both, and a step without adapters
0.71 and 0.74 (r = 64, Xeon with AVX-512, one thread, medians of paired ratios).

Everything compiled is in this one file: numba looks at one file to see whether what it cached is
still right. Read it from the end. A *body* is the C callback that a thread runs. It takes blocks of
16 tokens by 16 features through two *passes*, which are written in LLVM's language by llvmlite.

Threads take chunks from a counter they share. Which chunks there are depends on the number of
tokens alone, and each has sums of its own, so the result is the same bits on any number of threads.
Within a chunk, 16 tokens at a time: a tile of h is made from x, and y from the tile; backward, a
tile of h's gradient from y's, and x's from that, with the gradients of the values on the way.

Arguments are int64: addresses, strides in bytes, counts and flags. A *tile* is h = x A', or its
gradient, for 16 tokens: float32 (r, 16), so that one rank's row is one vector. A *factor* is a row
of indices, int32, and one of values, float32, for each slot: (degree, width) both, with ``width``
the factor's n rounded up to 16. Blocks are float32, or bfloat16 where ``half`` is not zero. LLVM's
vectors are wider than the machine's where they must be, so the code runs on every processor.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_Words = namedtuple(
    "_Words",
    (
        "next",  # the counter threads take chunks from
        "chunks",
        "tokens",
        "rank",
        "half",  # 1 where x, y and their gradients are bfloat16, 0 where they are float32
        "scale",  # a float32, in the word's lower half
        "k",
        "d",
        "degree_a",
        "degree_b",
        "index_a",  # addresses from here on
        "index_b",
        "values_a",
        "values_b",
        "x",
        "y",
        "out",
        "h",
        "grad",
        "grad_h",
        "grad_x",  # the rest are 0 where they are not wanted
        "sums_a",
        "sums_b",
        "add",  # 1 to add to what grad_x holds
    ),
)
"""The int64 words that a body is told, the same for both directions."""
at = _Words(*range(len(_Words._fields)))
"""Where each word is; of two that belong to A and B, or to k and d, the second is the next one."""
_A, _B = 0, 1
"""What to add for either side."""

# -- vectors -------------------------------------------------------------------------------------

LANES = 16
I8, I32, I64, F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
VECTOR = ir.VectorType(F32, LANES)
_ZEROS = ir.Constant(VECTOR, [0.0] * LANES)
_WORDS, _HALVES = ir.VectorType(I32, LANES), ir.VectorType(ir.IntType(16), LANES)
_ALIGN = {I64: 8, _HALVES: 2}
"""Bytes that values in memory are aligned to; others to 4."""

# Which lanes of two vectors a shuffle takes; 16 and more mean the second. Quarters are 128 bits
# wide, as the cheap shuffles of x86 work within them or on whole ones.
_QUARTERS = range(0, LANES, 4)
_UNPACK_LOW = [i for q in _QUARTERS for i in (q, 16 + q, q + 1, 17 + q)]
_UNPACK_HIGH = [i for q in _QUARTERS for i in (q + 2, 18 + q, q + 3, 19 + q)]
_PAIR_LOW = [i for q in _QUARTERS for i in (q, q + 1, 16 + q, 17 + q)]
_PAIR_HIGH = [i for q in _QUARTERS for i in (q + 2, q + 3, 18 + q, 19 + q)]
_EVEN_QUARTERS = [i + 8 * j for j in range(4) for i in range(4)]
_ODD_QUARTERS = [i + 4 for i in _EVEN_QUARTERS]


def pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, offset: int = 0) -> ir.Value:
    """A pointer to ``kind`` from an address and a constant offset in bytes."""
    if offset:
        address = builder.add(address, I64(offset))
    return builder.inttoptr(address, kind.as_pointer())


def load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, offset: int = 0) -> ir.Value:
    """A value from memory that is aligned to its elements only."""
    return builder.load(pointer(builder, address, kind, offset), align=_ALIGN.get(kind, 4))


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    """A value to memory that is aligned to its elements only."""
    align = _ALIGN.get(value.type, 4)
    builder.store(value, pointer(builder, address, value.type), align=align)


def splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """A scalar in every lane."""
    kind = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(_WORDS, [0] * LANES))


def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a * b + c, rounded once."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    function = builder.module.declare_intrinsic(f"llvm.fma.v{LANES}f32", (), kind)
    return builder.call(function, [a, b, c])


def prefetch(builder: ir.IRBuilder, address: ir.Value, ahead: int, *, write: bool) -> None:
    """Ask for the cache line ``ahead`` bytes on, which may be past the end of anything."""
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
    at = pointer(builder, address, I8, ahead)
    builder.call(function, [at, I32(int(write)), I32(3), I32(1)])


def load_half(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """16 bfloat16 values, as floats: a bfloat16 is the upper half of one."""
    bits = builder.zext(load(builder, address, _HALVES), _WORDS)
    return builder.bitcast(builder.shl(bits, splat(builder, I32(16))), VECTOR)


def store_half(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    """16 floats as bfloat16: rounded to nearest, ties to even; NaN stays NaN."""
    bits = builder.bitcast(value, _WORDS)
    upper = builder.lshr(bits, splat(builder, I32(16)))
    odd = builder.and_(upper, splat(builder, I32(1)))
    bias = builder.add(odd, splat(builder, I32(0x7FFF)))
    rounded = builder.lshr(builder.add(bits, bias), splat(builder, I32(16)))
    # Adding to a NaN's bits could carry into infinity or zero; its quiet bit keeps it a NaN.
    quiet = builder.or_(upper, splat(builder, I32(0x40)))
    result = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    store(builder, builder.trunc(result, _HALVES), address)


def transpose(builder: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """The columns of a 16 by 16 block given by its rows: 64 shuffles."""
    groups = [_quarter_columns(builder, rows[i : i + 4]) for i in range(0, LANES, 4)]
    columns: list[ir.Value] = [None] * LANES
    for c in range(4):
        u0, u1, u2, u3 = (group[c] for group in groups)
        for first, mask in ((0, _EVEN_QUARTERS), (1, _ODD_QUARTERS)):
            low, high = shuffle(builder, u0, u1, mask), shuffle(builder, u2, u3, mask)
            columns[4 * first + c] = shuffle(builder, low, high, _EVEN_QUARTERS)
            columns[4 * first + 8 + c] = shuffle(builder, low, high, _ODD_QUARTERS)
    return columns


def _quarter_columns(builder: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """Of four rows, vectors whose quarter q holds their column 4q, 4q + 1, 4q + 2 and 4q + 3."""
    a, b, c, d = rows
    columns = []
    for mask in (_UNPACK_LOW, _UNPACK_HIGH):
        ab, cd = shuffle(builder, a, b, mask), shuffle(builder, c, d, mask)
        columns += [shuffle(builder, ab, cd, pair) for pair in (_PAIR_LOW, _PAIR_HIGH)]
    return columns


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, mask: Sequence[int]) -> ir.Value:
    """The lanes of ``a`` and ``b`` that ``mask`` names."""
    return builder.shuffle_vector(a, b, ir.Constant(_WORDS, list(mask)))


def fold(
    builder: ir.IRBuilder, a: ir.Value, b: ir.Value, masks: Sequence[Sequence[int]]
) -> ir.Value:
    """The sum of two shuffles of ``a`` and ``b``: one level of a tree of sums of lanes."""
    low, high = (shuffle(builder, a, b, mask) for mask in masks)
    return builder.fadd(low, high)


FOLDS = (
    (_UNPACK_LOW, _UNPACK_HIGH),
    (_PAIR_LOW, _PAIR_HIGH),
    (_EVEN_QUARTERS, _ODD_QUARTERS),
    (_EVEN_QUARTERS, _ODD_QUARTERS),
)
"""Masks of the four levels that take 16 vectors to one: its lane i is the sum of vector i's."""


# -- blocks --------------------------------------------------------------------------------------

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
    columns = [cgutils.alloca_once(builder, VECTOR) for _ in range(LANES)]
    for column in columns:
        builder.store(_ZEROS, column)
    with _each_slot(builder, degree, width) as offset:
        index, values = builder.add(index, offset), builder.add(values, offset)
        for f, column in enumerate(columns):
            row = load(builder, _tile_row(builder, tile, index, f), VECTOR)
            value = splat(builder, load(builder, values, F32, 4 * f))
            builder.store(fma(builder, value, row, builder.load(column)), column)
    rows = transpose(builder, [builder.load(column) for column in columns])
    kinds = ((load_half, store_half), (_load_single, store))
    with builder.if_else(_is_set(builder, half)) as branches:
        for branch, kind in zip(branches, kinds, strict=True):
            with branch:
                _store_rows(builder, rows, base, out, stride, *kind)


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
    size = builder.mul(vectors, I64(_ROW))
    cgutils.memset(builder, pointer(builder, address, I8), size, 0)


@_instructions()
def multiply(builder, address, vectors, factor):
    """Multiply so many vectors by the float at the address ``factor``."""
    by = splat(builder, load(builder, factor, F32))
    with cgutils.for_range(builder, vectors) as loop:
        at = builder.add(address, builder.mul(loop.index, I64(_ROW)))
        store(builder, builder.fmul(load(builder, at, VECTOR), by), at)


@_instructions()
def copy_bytes(builder, source, target, count):
    """Copy so many bytes."""
    ends = (pointer(builder, target, I8), pointer(builder, source, I8))
    cgutils.raw_memcpy(builder, *ends, count, 1)


# -- bodies --------------------------------------------------------------------------------------

_compiled = njit(error_model="numpy")
"""Not cached: these functions are part of the bodies, which are."""


@_compiled
def _width(n):
    """n rounded up to whole vectors."""
    return (n + LANES - 1) // LANES * LANES


@_compiled
def _copy(half, source, source_stride, target, target_stride, rows, columns):
    """Copy part of a block, row by row."""
    for t in range(rows):
        copy_bytes(source + t * source_stride, target + t * target_stride, columns * (4 - 2 * half))


@_compiled
def _columns_to_tile(job, side, source, number, tile, factors, sums, block):
    """`lanes_pass` over all columns of the 16 tokens of a tile, with the factor of one side.

    ``source`` is the address of all tokens; ``block`` is for padding edges.
    """
    half, n, degree = word(job, at.half), word(job, at.k + side), word(job, at.degree_a + side)
    index, values = word(job, at.index_a + side), word(job, at.values_a + side)
    size, width = 4 - 2 * half, _width(n)
    rows = min(LANES, word(job, at.tokens) - number * LANES)
    source += number * LANES * n * size
    for f in range(0, n, LANES):
        first, stride = source + f * size, n * size
        if rows < LANES or n - f < LANES:
            fill_zero(block, LANES)
            _copy(half, first, stride, block, LANES * size, rows, min(n - f, LANES))
            first, stride = block, LANES * size
        index_f, values_f = index + 4 * f, values + 4 * f
        sums_f = sums + 4 * f if sums else 0
        lanes_pass(half, first, stride, index_f, values_f, width, degree, tile, factors, sums_f)


@_compiled
def _tile_to_columns(job, side, base, out, number, tile, block):
    """`rows_pass` over all columns of the 16 tokens of a tile, with the factor of one side.

    ``base``, which may be 0, and ``out`` are addresses of all tokens; ``block`` as above.
    """
    half, n, degree = word(job, at.half), word(job, at.k + side), word(job, at.degree_a + side)
    index, values = word(job, at.index_a + side), word(job, at.values_a + side)
    size, width = 4 - 2 * half, _width(n)
    rows = min(LANES, word(job, at.tokens) - number * LANES)
    stride = n * size
    for f in range(0, n, LANES):
        skip, offset = number * LANES * stride + f * size, 4 * f
        old, new, step = base + skip if base else 0, out + skip, stride
        edge = rows < LANES or n - f < LANES
        if edge:
            if base:
                _copy(half, old, stride, block, LANES * size, rows, min(n - f, LANES))
                old = block
            new, step = block, LANES * size
        rows_pass(half, old, new, step, index + offset, values + offset, width, degree, tile)
        if edge:
            _copy(half, block, step, out + skip, stride, rows, min(n - f, LANES))


@_compiled
def _forward_tile(job, number, block):
    """h for 16 tokens, times scale, and their output."""
    rank = word(job, at.rank)
    h = word(job, at.h) + number * rank * _ROW
    fill_zero(h, rank)
    _columns_to_tile(job, _A, word(job, at.x), number, h, 0, 0, block)
    multiply(h, rank, job + 8 * at.scale)
    _tile_to_columns(job, _B, word(job, at.y), word(job, at.out), number, h, block)


@_compiled
def _backward_tile(job, number, grad_h, sums_a, sums_b, block):
    """Everything that 16 tokens give: their gradient of x, and their part of the values'."""
    rank, grad_x = word(job, at.rank), word(job, at.grad_x)
    h = word(job, at.h) + number * rank * _ROW
    goes_on = grad_x != 0 or sums_a != 0
    if goes_on:
        fill_zero(grad_h, rank)
    into = grad_h if goes_on else 0
    _columns_to_tile(job, _B, word(job, at.grad), number, into, h, sums_b, block)
    if goes_on:
        multiply(grad_h, rank, job + 8 * at.scale)
    if sums_a:
        _columns_to_tile(job, _A, word(job, at.x), number, 0, grad_h, sums_a, block)
    if grad_x:
        base = grad_x if word(job, at.add) else 0
        _tile_to_columns(job, _A, base, grad_x, number, grad_h, block)


@_compiled
def _first_tile(job, chunk):
    """Where a chunk starts: tiles are shared out evenly."""
    tiles = _width(word(job, at.tokens)) // LANES
    return chunk * tiles // word(job, at.chunks)


@_compiled
def _chunk_sums(job, side, chunk):
    """The address of a chunk's own sums of one side, set to zero; 0 where they are not wanted."""
    sums = word(job, at.sums_a + side)
    if sums:
        vectors = _width(word(job, at.k + side)) // LANES * word(job, at.degree_a + side)
        sums += chunk * vectors * _ROW
        fill_zero(sums, vectors)
    return sums


def forward(job):
    """The forward body."""
    block = scratch()
    chunk = take(job)
    while chunk < word(job, at.chunks):
        for tile in range(_first_tile(job, chunk), _first_tile(job, chunk + 1)):
            _forward_tile(job, tile, block)
        chunk = take(job)


def backward(job):
    """The backward body."""
    block = scratch()
    chunk = take(job)
    while chunk < word(job, at.chunks):
        grad_h = word(job, at.grad_h) + chunk * word(job, at.rank) * _ROW
        sums_a, sums_b = _chunk_sums(job, _A, chunk), _chunk_sums(job, _B, chunk)
        for tile in range(_first_tile(job, chunk), _first_tile(job, chunk + 1)):
            _backward_tile(job, tile, grad_h, sums_a, sums_b, block)
        chunk = take(job)
