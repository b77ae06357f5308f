"""The kernel: what each thread does, chunk by chunk of tokens, compiled by numba as a C callback.

Threads take chunks from a counter they share. Which chunks there are depends on the number of
tokens alone, and each has sums of its own, so the result is the same bits on any number of threads.
Within a chunk, 16 tokens at a time: a tile of h is made from x, and y from the tile; backward, a
tile of h's gradient from y's, and x's from that, with the gradients of the values on the way.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import njit

from expandermask.adapters.layers.kernel import _job as at
from expandermask.adapters.layers.kernel._blocks import (
    add_chunks,
    copy_element,
    fill_zero,
    lanes_pass,
    multiply,
    rows_pass,
    scratch,
    take,
    word,
)
from expandermask.adapters.layers.kernel._vectors import LANES

_ROW = 4 * LANES
_compiled = njit(error_model="numpy")  # not cached: they are part of the bodies, which are


@_compiled
def _width(n):
    """n rounded up to whole vectors."""
    return (n + LANES - 1) // LANES * LANES


@_compiled
def _copy(half, source, source_stride, target, target_stride, rows, columns):
    """Copy part of a block, element by element."""
    size = 4 - 2 * half
    for t in range(rows):
        for f in range(columns):
            copy_element(
                half, source + t * source_stride + f * size, target + t * target_stride + f * size
            )


@_compiled
def _columns_to_tile(half, source, rows, n, index, values, degree, tile, factors, sums, block):
    """`lanes_pass` over all n columns of ``rows`` <= 16 rows; ``block`` is for padding edges."""
    size, width = 4 - 2 * half, _width(n)
    for f in range(0, n, LANES):
        first, stride = source + f * size, n * size
        if rows < LANES or n - f < LANES:
            fill_zero(block, LANES)
            _copy(half, first, stride, block, LANES * size, rows, min(n - f, LANES))
            first, stride = block, LANES * size
        offset = 4 * f
        total = sums + offset if sums else 0
        lanes_pass(
            half,
            first,
            stride,
            index + offset,
            values + offset,
            width,
            degree,
            tile,
            factors,
            total,
        )


@_compiled
def _tile_to_columns(half, base, out, rows, n, index, values, degree, tile, block):
    """`rows_pass` over all n columns of ``rows`` <= 16 rows; ``block`` is for padding edges."""
    size, width = 4 - 2 * half, _width(n)
    for f in range(0, n, LANES):
        skip, stride, offset = f * size, n * size, 4 * f
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
def _forward_tile(job, tile, block):
    """h for 16 tokens, times scale, and their output."""
    half, k, d, rank = word(job, at.HALF), word(job, at.K), word(job, at.D), word(job, at.RANK)
    size, token = 4 - 2 * half, tile * LANES
    rows = min(LANES, word(job, at.TOKENS) - token)
    h = word(job, at.H) + tile * rank * _ROW
    fill_zero(h, rank)
    index, values, degree = word(job, at.INDEX_A), word(job, at.VALUES_A), word(job, at.DEGREE_A)
    x = word(job, at.X) + token * k * size
    _columns_to_tile(half, x, rows, k, index, values, degree, h, 0, 0, block)
    multiply(h, rank, job + 8 * at.SCALE)
    index, values, degree = word(job, at.INDEX_B), word(job, at.VALUES_B), word(job, at.DEGREE_B)
    skip = token * d * size
    base, out = word(job, at.Y) + skip, word(job, at.OUT) + skip
    _tile_to_columns(half, base, out, rows, d, index, values, degree, h, block)


@_compiled
def _backward_tile(job, tile, grad_h, sums_a, sums_b, block):
    """Everything that 16 tokens give: their gradient of x, and their part of the values'."""
    half, k, d, rank = word(job, at.HALF), word(job, at.K), word(job, at.D), word(job, at.RANK)
    size, token = 4 - 2 * half, tile * LANES
    rows = min(LANES, word(job, at.TOKENS) - token)
    h = word(job, at.H) + tile * rank * _ROW
    grad_x = word(job, at.GRAD_X)
    index, values, degree = word(job, at.INDEX_B), word(job, at.VALUES_B), word(job, at.DEGREE_B)
    grad = word(job, at.GRAD) + token * d * size
    goes_on = grad_x != 0 or sums_a != 0
    if goes_on:
        fill_zero(grad_h, rank)
    into = grad_h if goes_on else 0
    _columns_to_tile(half, grad, rows, d, index, values, degree, into, h, sums_b, block)
    if goes_on:
        multiply(grad_h, rank, job + 8 * at.SCALE)
    index, values, degree = word(job, at.INDEX_A), word(job, at.VALUES_A), word(job, at.DEGREE_A)
    skip = token * k * size
    if sums_a:
        x = word(job, at.X) + skip
        _columns_to_tile(half, x, rows, k, index, values, degree, 0, grad_h, sums_a, block)
    if grad_x:
        out = grad_x + skip
        base = out if word(job, at.ADD) else 0
        _tile_to_columns(half, base, out, rows, k, index, values, degree, grad_h, block)


@_compiled
def _first_tile(job, chunk):
    """Where a chunk starts: tiles are shared out evenly."""
    tiles = _width(word(job, at.TOKENS)) // LANES
    return chunk * tiles // word(job, at.CHUNKS)


@_compiled
def _chunk_sums(job, position, n, degree, chunk):
    """The address of a chunk's own sums, set to zero; 0 where they are not wanted."""
    sums = word(job, position)
    if sums:
        vectors = _width(n) // LANES * degree
        sums += chunk * vectors * _ROW
        fill_zero(sums, vectors)
    return sums


@_compiled
def _add_up(sums, chunks, n, degree, out):
    """The chunks' sums (chunks, degree, width) added in order, as (width, degree)."""
    if sums:
        width = _width(n)
        for slot in range(degree):
            for f in range(0, width, LANES):
                first, target = sums + 4 * (slot * width + f), out + 4 * (f * degree + slot)
                add_chunks(first, 4 * degree * width, chunks, target, 4 * degree)


def forward_body(fingerprint: int) -> Callable[[int], None]:
    """The forward body; ``fingerprint`` becomes part of the key numba caches it under."""

    def forward(job):
        fingerprint  # noqa: B018  # only what the body mentions is in the key
        block = scratch()
        chunk = take(job)
        while chunk < word(job, at.CHUNKS):
            for tile in range(_first_tile(job, chunk), _first_tile(job, chunk + 1)):
                _forward_tile(job, tile, block)
            chunk = take(job)

    return forward


def backward_body(fingerprint: int) -> Callable[[int], None]:
    """The backward body; see `forward_body`."""

    def backward(job):
        fingerprint  # noqa: B018
        block = scratch()
        chunk = take(job)
        while chunk < word(job, at.CHUNKS):
            grad_h = word(job, at.GRAD_H) + chunk * word(job, at.RANK) * _ROW
            degree_a, degree_b = word(job, at.DEGREE_A), word(job, at.DEGREE_B)
            sums_a = _chunk_sums(job, at.SUMS_A, word(job, at.K), degree_a, chunk)
            sums_b = _chunk_sums(job, at.SUMS_B, word(job, at.D), degree_b, chunk)
            for tile in range(_first_tile(job, chunk), _first_tile(job, chunk + 1)):
                _backward_tile(job, tile, grad_h, sums_a, sums_b, block)
            chunk = take(job)

    return backward


def total_body(fingerprint: int) -> Callable[[int], None]:
    """Sums over chunks, on one thread, after `backward_body`; see `forward_body`."""

    def total(job):
        fingerprint  # noqa: B018
        chunks = word(job, at.CHUNKS)
        k, d = word(job, at.K), word(job, at.D)
        degree_a, degree_b = word(job, at.DEGREE_A), word(job, at.DEGREE_B)
        _add_up(word(job, at.SUMS_A), chunks, k, degree_a, word(job, at.GRAD_A))
        _add_up(word(job, at.SUMS_B), chunks, d, degree_b, word(job, at.GRAD_B))

    return total
