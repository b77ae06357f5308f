"""The header of a safetensors file, checked in full before any of its data are looked at.

The format (https://huggingface.co/docs/safetensors, "Format"): 8 bytes with the header's length, a
JSON header {name: {dtype, shape, data_offsets}}, then the raw little-endian data, which the tensors
fill without holes or overlaps. The stock reader lets duplicate names and unknown fields pass; here
the header must say exactly what is expected.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from expandermask.errors import FileFormatError
from expandermask.files import parse_json, require_fields

LENGTH_BYTES = 8
"""Size of the header's length, an unsigned little-endian integer, at the start of the file."""

_METADATA = "__metadata__"
_ITEM_SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes of one value. The format gains dtypes; of one not listed here the size is not checked."""


class Entry(NamedTuple):
    """One tensor as the header describes it."""

    dtype: str
    """The format's name of the type, such as "F32"."""
    shape: tuple[int, ...]
    first: int
    """Where its bytes start, counted from the end of the header."""
    last: int
    """Where they end: the first byte that is not its own."""


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
    header = _json_object(text, f"{what} is not a safetensors file")
    if metadata:
        _check_metadata(header.pop(_METADATA, {}), what)
    elif _METADATA in header:
        raise FileFormatError(f"{what} holds {_METADATA}, which is not expected in it")
    entries = {
        name: _entry(fields, room, f"{what}, tensor {name!r}") for name, fields in header.items()
    }
    _check_places(entries, room, what)
    return entries


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
        raise FileFormatError(f"{what}: {_METADATA} must hold strings by name, got {found!r:.80}")


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
    """Whether values of ``size`` bytes in this shape take as many bytes as ``taken``."""
    if 0 in shape:
        return taken == 0
    for n in shape:
        size *= n
        if size > taken:  # so that a long shape makes no long number
            return False
    return size == taken


def _check_places(entries: dict[str, Entry], room: int, what: str) -> None:
    """Refuse tensors that overlap, and bytes that are no tensor's."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.first != end:
            wrong = "overlap those" if entry.first < end else "leave a hole after those"
            raise FileFormatError(
                f"{what}, tensor {name!r}: its data start at byte {entry.first} and {wrong} before "
                f"them, which end at {end}"
            )
        end = entry.last
    if end != room:
        raise FileFormatError(
            f"{what} is not a safetensors file: {room} bytes follow its header, and its tensors "
            f"take {end}"
        )
