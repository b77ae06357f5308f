"""The header of a safetensors file: written, or checked in full before any data are looked at.

The format (https://huggingface.co/docs/safetensors, "Format"): 8 bytes with the header's length, a
JSON header {name: {dtype, shape, data_offsets}}, then the raw little-endian data, which the tensors
fill without holes or overlaps. The stock reader lets duplicate names and unknown fields pass; here
the header must say exactly what is expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from expandermask.errors import FileFormatError
from expandermask.files import parse_json, require_fields

LENGTH_BYTES = 8
"""Size of the header's length, an unsigned little-endian integer, at the start of the file."""

HEADER_LIMIT = 100_000_000
"""The format's own limit on the length of a header."""

METADATA = "__metadata__"
"""The name in the header that is no tensor's: strings by name."""

_ITEM_SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes of one value. The format gains dtypes; of one not listed here the size is not checked."""

_COUNTABLE = 2**63 - 1
"""The largest size that the readers of tensors, numpy and torch, can count with."""


TensorShape = tuple[int, ...]

_ALIGNMENT = 8
_ROOM = 2**20
_MARKS = 2**16


class Entry(NamedTuple):
    """One tensor as the header describes it."""

    dtype: str
    """The format's name of the type, such as "F32"."""
    shape: TensorShape
    first: int
    """Where its bytes start, counted from the end of the header."""
    last: int
    """Where they end: the first byte that is not its own."""


class Header(NamedTuple):
    """All that the header of a file says."""

    entries: dict[str, Entry]
    """The tensors by name, in the order of the header."""
    metadata: dict[str, str]
    """The strings of ``__metadata__``, none if there is none."""


def header_text(stream: BinaryIO, size: int, what: str) -> bytes:
    """The header of a safetensors file of ``size`` bytes, from its start; not parsed yet.

    Raises `FileFormatError` where the file, or the limit of the format, has no room for a header as
    long as it says, before any of it is read.
    """
    length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
    if not 0 < length <= min(size - LENGTH_BYTES, HEADER_LIMIT):
        raise FileFormatError(
            f"{what} is not a safetensors file (truncated?): {size} bytes, header of {length}"
        )
    text = stream.read(length)
    if len(text) != length:
        raise FileFormatError(f"{what} ends within its header of {length} bytes (truncated?)")
    return text


def parse_header(text: bytes, room: int, what: str, *, metadata: bool = False) -> dict[str, Entry]:
    """Every tensor of a safetensors file by name, in the order of its header.

    Parameters
    ----------
    text : bytes
        The header: JSON in UTF-8, perhaps with spaces after it.
    room : int
        The number of bytes that follow it in the file.
    what : str
        What errors call the file.
    metadata : bool
        Let the header hold ``__metadata__``, strings by name, which are left out.

    Raises
    ------
    FileFormatError
        Not such JSON, a name or field twice, unknown fields, a shape or offsets that are no whole
        numbers, data beyond the end of the file, of another size than the shape and dtype take,
        or that overlap or leave bytes between or after them.

    Notes
    -----
    O(n log n) for a header of n bytes, whatever numbers it holds.

    Examples
    --------
    >>> header = b'{"m": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}'
    >>> parse_header(header, 24, "m.safetensors")
    {'m': Entry(dtype='F32', shape=(2, 3), first=0, last=24)}
    """
    found = _json_object(text, f"{what} is not a safetensors file")
    if METADATA in found and not metadata:
        raise FileFormatError(f"{what} holds {METADATA}, which is not expected in it")
    return _header(found, room, what).entries


def parse_whole_header(text: bytes, room: int, what: str) -> Header:
    """`parse_header` with the metadata, if there are any.

    >>> text = b'{"__metadata__": {"format": "pt"}}'
    >>> parse_whole_header(text, 0, "m.safetensors").metadata
    {'format': 'pt'}
    """
    return _header(_json_object(text, f"{what} is not a safetensors file"), room, what)


def require_bounded(text: bytes, size: int, what: str) -> None:
    """Refuse a header whose values would take more memory than the file is large.

    A mark is what separates two values of JSON, and a value takes some 100 bytes in memory. In text
    that is not ASCII each character may take four.
    """
    if not text.isascii():
        raise FileFormatError(f"{what}: its header is not ASCII (save_adapter escapes the rest)")
    if len(text) > _ROOM + size // 2:
        raise FileFormatError(f"{what}: a header of {len(text)} bytes in a file of {size}")
    marks = sum(map(text.count, (b",", b"[", b"{", b":")))
    if marks > _MARKS + size // 256:
        raise FileFormatError(f"{what}: a header of some {marks} values in a file of {size} bytes")


def header_bytes(
    tensors: Mapping[str, tuple[str, TensorShape]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The start of a safetensors file, up to the first tensor: its length, and the header.

    ``tensors`` has the dtype, by its name in the format, and the shape of each.
    """
    header: dict[str, Any] = {} if metadata is None else {METADATA: metadata}
    end = 0
    for name in in_order(tensors):
        dtype, shape = tensors[name]
        start = end
        end += _ITEM_SIZES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def float32_file_size(
    shapes: Mapping[str, TensorShape], metadata: Mapping[str, str] | None = None
) -> int:
    """Bytes of the safetensors file that holds float32 tensors of these shapes."""
    values = sum(math.prod(shape) for shape in shapes.values())
    entries = {name: ("F32", shape) for name, shape in shapes.items()}
    return len(header_bytes(entries, metadata)) + _ITEM_SIZES["F32"] * values


def in_order(tensors: Mapping[str, tuple[str, TensorShape]]) -> list[str]:
    """The names, larger dtypes first: so each starts at a multiple of its size."""
    return sorted(tensors, key=lambda name: (-_ITEM_SIZES[tensors[name][0]], name))


def _header(found: dict[str, Any], room: int, what: str) -> Header:
    metadata = found.pop(METADATA, {})
    _check_metadata(metadata, what)
    entries = {
        name: _entry(fields, room, f"{what}, tensor {name!r:.200}")
        for name, fields in found.items()
    }
    _check_places(entries, room, what)
    return Header(entries, metadata)


def _json_object(text: bytes, complaint: str) -> dict[str, Any]:
    if not text.startswith(b"{"):  # the format demands it, and what follows is then UTF-8
        raise FileFormatError(f"{complaint}: its header is not a JSON object")
    try:
        header: dict[str, Any] = parse_json(text.decode())
    except (FileFormatError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{complaint}: its header: {error}") from None
    return header


def _check_metadata(found: object, what: str) -> None:
    if not isinstance(found, dict) or not all(type(text) is str for text in found.values()):
        raise FileFormatError(f"{what}: {METADATA} must hold strings by name, got {found!r:.80}")


def _entry(found: object, room: int, what: str) -> Entry:
    """One tensor's fields, each checked alone and its size against its shape."""
    fields = require_fields(found, {"dtype": str, "shape": list, "data_offsets": list}, what)
    dtype, shape, ends = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in shape):
        raise FileFormatError(f"{what}: shape must be integers >= 0, got {shape!r:.80}")
    if len(ends) != 2 or not all(type(n) is int for n in ends) or not 0 <= ends[0] <= ends[1]:
        raise FileFormatError(
            f"{what}: data_offsets must be two ascending integers, got {ends!r:.80}"
        )
    first, last = ends
    if last > room:
        raise FileFormatError(f"{what}: its data end at byte {last} of {room} (a truncated file?)")
    size = _ITEM_SIZES.get(dtype)
    if size is not None and not _holds(shape, size, last - first):
        raise FileFormatError(
            f"{what}: {dtype} of shape {shape!r:.80} does not take the {last - first} bytes it has"
        )
    return Entry(dtype, tuple(shape), first, last)


def _holds(shape: list[int], size: int, taken: int) -> bool:
    """Whether values of ``size`` bytes in this shape take as many bytes as ``taken``.

    An empty tensor may have large sizes beside its zero, but none that a reader cannot count with.
    """
    empty = 0 in shape
    limit = _COUNTABLE if empty else taken
    for n in shape:
        size *= n or 1
        if size > limit:  # so that a long shape makes no long number
            return False
    return taken == (0 if empty else size)


def _check_places(entries: dict[str, Entry], room: int, what: str) -> None:
    """Refuse tensors that overlap, and bytes that are no tensor's."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.first != end:
            wrong = "overlap those" if entry.first < end else "leave a hole after those"
            raise FileFormatError(
                f"{what}, tensor {name!r:.200}: its data start at byte {entry.first} and {wrong} "
                f"before them, which end at {end}"
            )
        end = entry.last
    if end != room:
        raise FileFormatError(
            f"{what} is not a safetensors file: {room} bytes follow its header, and its tensors "
            f"take {end}"
        )
