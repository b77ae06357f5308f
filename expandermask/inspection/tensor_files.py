"""Tensors in a safetensors file, read by rows and without torch.

The header is checked in full (`expandermask.safetensors_header`) before any data are looked at, and
no more of the file is in memory than the rows asked for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import FileFormatError
from expandermask.files import reading
from expandermask.inspection.supports import StoredTensor
from expandermask.safetensors_header import (
    LENGTH_BYTES,
    Entry,
    Header,
    header_text,
    parse_whole_header,
)

_PLAIN = {
    **{"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2"},
    **{"U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8"},
}
_NAMES = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    **{code: np.dtype(kind).name for code, kind in _PLAIN.items()},
}
"""The dtypes that can be read, as numpy and torch name them."""


def open_header(path: str | os.PathLike[str], *, within: Path | None = None) -> tuple[Header, int]:
    """The header of a safetensors file, and the byte at which its data start.

    Raises `FileFormatError` for a file that is truncated, or no safetensors file, or not in the
    folder ``within``, if that is given.
    """
    where = os.fspath(path)
    with reading(path, within=within) as (stream, size):
        text = header_text(stream, size, repr(where))
    start = LENGTH_BYTES + len(text)
    return parse_whole_header(text, size - start, repr(where)), start


def read_header(
    path: str | os.PathLike[str], *, within: Path | None = None
) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file by name; their rows are read when asked for.

    Raises as `open_header` does.
    """
    return stored_tensors(path, *open_header(path, within=within))


def stored_tensors(
    path: str | os.PathLike[str], header: Header, start: int
) -> dict[str, StoredTensor]:
    """`read_header` of a file whose header is read already, and whose data start at ``start``."""
    where = os.fspath(path)
    return {
        name: _stored(path, entry, start, f"{where!r}, tensor {name!r}")
        for name, entry in header.entries.items()
    }


def _stored(path: str | os.PathLike[str], entry: Entry, start: int, what: str) -> StoredTensor:
    """One tensor of a file whose data start at byte ``start``."""
    code = entry.dtype

    def read_rows(first: int, last: int) -> NDArray[Any]:
        if code not in _NAMES:
            raise FileFormatError(f"{what}: dtype {code} cannot be read, only {sorted(_NAMES)}")
        width = entry.shape[1]
        offset = start + entry.first + first * width * _word(code).itemsize
        words = np.fromfile(path, _word(code), (last - first) * width, offset=offset)
        if words.size != (last - first) * width:
            raise FileFormatError(f"{what}: the file ends before its data (truncated?)")
        return _values(code, words).reshape(last - first, width)

    return StoredTensor(entry.shape, _NAMES.get(code, code), read_rows)


def _word(code: str) -> np.dtype[Any]:
    """What numpy reads a value as: itself, or the raw word of a float type it lacks."""
    return np.dtype({"BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1"}.get(code) or _PLAIN[code])


def _values(code: str, words: NDArray[Any]) -> NDArray[Any]:
    """The numbers that raw words stand for; float32 holds all of bfloat16 and the 8-bit floats."""
    if code == "BF16":
        return np.asarray((words.astype(np.uint32) << 16).view(np.float32))
    if code == "F8_E5M2":  # the upper half of a float16
        return np.asarray((words.astype(np.uint16) << 8).view(np.float16))
    if code == "F8_E4M3":
        return np.asarray(_E4M3[words])
    return words


def _e4m3_values() -> NDArray[np.float32]:
    """The 256 values of float8_e4m3fn: bias 7, no infinities, NaN where all but the sign are 1."""
    word = np.arange(256)
    exponent, fraction = word >> 3 & 15, word & 7
    normal = np.ldexp(8.0 + fraction, exponent - 10)
    size = np.where(exponent == 0, np.ldexp(fraction, -9), normal)
    size[(word & 127) == 127] = np.nan
    return np.asarray(np.where(word < 128, size, -size), dtype=np.float32)


_E4M3 = _e4m3_values()
