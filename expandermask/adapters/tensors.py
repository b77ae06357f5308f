"""safetensors files, written whole and read strictly.

The format: 8 bytes with the header's length, a JSON header {name: {dtype, shape, data_offsets}},
then the raw little-endian data. The stock reader lets duplicate names and unknown fields pass;
here the header must say exactly what is expected before any of it is decoded.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from expandermask.errors import FileFormatError
from expandermask.files import parse_json, replacing, require_fields

TensorShape = tuple[int, ...]

_LENGTH_BYTES = 8
_ALIGNMENT = 8


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write tensors to a safetensors file, whole or not at all."""
    from safetensors.torch import save

    # Clones, because tensors that share memory are refused by the writer.
    plain = {n: t.detach().cpu().clone().contiguous() for n, t in tensors.items()}
    data = save(plain, metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def describe(data: bytes) -> dict[str, dict[str, Any]]:
    """Name -> {dtype, shape, sha256} of a safetensors file; `FileFormatError` for anything else.

    The hash is of a tensor's raw bytes in the file.
    """
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if len(data) < _LENGTH_BYTES or start > len(data):
        raise FileFormatError(
            f"not a safetensors file (truncated?): {len(data)} bytes, header of {length}"
        )
    header = _parse_header(data[_LENGTH_BYTES:start])
    found = {}
    for name, entry in header.items():
        what = f"safetensors entry {name!r}"
        require_fields(entry, {"dtype": str, "shape": list, "data_offsets": list}, what)
        first, last = _offsets(entry["data_offsets"], len(data) - start, what)
        digest = hashlib.sha256(data[start + first : start + last]).hexdigest()
        found[name] = {"dtype": entry["dtype"], "shape": entry["shape"], "sha256": digest}
    return found


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """Decode the bytes of a safetensors file that `describe` has accepted."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise FileFormatError(f"not a safetensors file: {error}") from None
    return tensors


def float32_file_size(
    shapes: Mapping[str, TensorShape], metadata: dict[str, str] | None = None
) -> int:
    """Bytes of the safetensors file that holds float32 tensors of these shapes."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, shape in sorted(shapes.items()):
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return _LENGTH_BYTES + -(-len(text) // _ALIGNMENT) * _ALIGNMENT + end


def _parse_header(text: bytes) -> dict[str, Any]:
    try:
        header = parse_json(text)
    except FileFormatError as error:
        raise FileFormatError(f"not a safetensors file: its header: {error}") from None
    if not isinstance(header, dict):
        raise FileFormatError("not a safetensors file: its header is not a JSON object")
    return header


def _offsets(pair: list[Any], size: int, what: str) -> tuple[int, int]:
    if len(pair) != 2 or not all(type(x) is int for x in pair) or not 0 <= pair[0] <= pair[1]:
        raise FileFormatError(f"{what}: data_offsets must be two ascending integers, got {pair}")
    if pair[1] > size:
        raise FileFormatError(
            f"{what}: its data end at byte {pair[1]} of {size} (a truncated file?)"
        )
    return pair[0], pair[1]
