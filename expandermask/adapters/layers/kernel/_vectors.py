"""Vectors of 16 floats in LLVM: loads, stores, conversion, a 16 by 16 transpose, sums of lanes.

These functions write LLVM instructions through llvmlite; `_blocks` makes numba intrinsics of them.
LLVM's vectors are wider than the machine's where it must be, so the code runs on every processor.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

LANES = 16
I16, I32, I64, F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
VECTOR = ir.VectorType(F32, LANES)
_WORDS, _HALVES = ir.VectorType(I32, LANES), ir.VectorType(I16, LANES)

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
    align = 8 if kind is I64 else 2 if kind in (I16, _HALVES) else 4
    return builder.load(pointer(builder, address, kind, offset), align=align)


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    """A value to memory that is aligned to its elements only."""
    align = 2 if value.type in (I16, _HALVES) else 4
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
    byte = ir.IntType(8)
    kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), I32, I32, I32])
    function = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
    at = pointer(builder, address, byte, ahead)
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
