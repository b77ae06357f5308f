"""safetensors files, written whole and read strictly: see `expandermask.safetensors_header`."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from expandermask.errors import FileFormatError
from expandermask.files import replacing
from expandermask.safetensors_header import LENGTH_BYTES, parse_header

TensorShape = tuple[int, ...]

_ALIGNMENT = 8
_WHAT = "the file of tensors"


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
    data = _with_metadata_in_order(save(plain, metadata))
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _with_metadata_in_order(data: bytes) -> bytes:
    """The file with its metadata sorted: the writer's order differs from one call to the next."""
    start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    header = json.loads(data[LENGTH_BYTES:start])
    if "__metadata__" not in header:
        return data
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + data[start:]


def describe(data: bytes) -> dict[str, dict[str, Any]]:
    """Name -> {dtype, shape, sha256} of a safetensors file; `FileFormatError` for anything else.

    The hash is of a tensor's raw bytes in the file.
    """
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    start = LENGTH_BYTES + length
    if len(data) < LENGTH_BYTES or start > len(data):
        raise FileFormatError(
            f"{_WHAT} is not a safetensors file (truncated?): {len(data)} bytes, header of {length}"
        )
    found = {}
    for name, entry in parse_header(data[LENGTH_BYTES:start], len(data) - start, _WHAT).items():
        digest = hashlib.sha256(data[start + entry.first : start + entry.last]).hexdigest()
        found[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "sha256": digest}
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
    return LENGTH_BYTES + -(-len(text) // _ALIGNMENT) * _ALIGNMENT + end
