"""safetensors files, written whole: a header, then the tensors' bytes, no copy of them made.

The order is that of the stock writer, larger dtypes first and then by name, so every tensor is
aligned. Adapters are read by `expandermask.adapters.files.stored`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from expandermask.errors import AdapterError, FileFormatError
from expandermask.files import replacing
from expandermask.safetensors_header import (
    LENGTH_BYTES,
    METADATA,
    Entry,
    header_text,
    parse_whole_header,
)

TensorShape = tuple[int, ...]

_ALIGNMENT = 8
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool},
}
"""The dtypes that are read and written, by their names in the format."""
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def dtype_code(dtype: torch.dtype, name: str) -> str:
    """The format's name of a dtype; `AdapterError` for a tensor of one that cannot be saved."""
    if dtype not in _CODES:
        raise AdapterError(
            f"tensor {name!r} is {dtype}, which cannot be saved; convert it to one of "
            f"{', '.join(str(d) for d in _CODES)}"
        )
    return _CODES[dtype]


def plain(tensor: Tensor) -> Tensor:
    """The values of a tensor on the CPU, one after another; itself where it is that already."""
    return tensor.detach().cpu().contiguous()


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a `plain` tensor, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors to a safetensors file, whole or not at all.

    Raises `AdapterError`, before anything is written, for a dtype that cannot be saved.
    """
    flat = {name: plain(tensor) for name, tensor in tensors.items()}
    described = {n: (dtype_code(t.dtype, n), tuple(t.shape)) for n, t in flat.items()}
    header = header_bytes(described, metadata)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(header)
        for name in _in_order(described):
            stream.write(raw_bytes(flat[name]))


def header_bytes(
    tensors: Mapping[str, tuple[str, TensorShape]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The start of a safetensors file, up to the first tensor: its length, and the header.

    ``tensors`` has the dtype, by its name in the format, and the shape of each.
    """
    header: dict[str, Any] = {} if metadata is None else {METADATA: metadata}
    end = 0
    for name in _in_order(tensors):
        dtype, shape = tensors[name]
        start, end = end, end + DTYPES[dtype].itemsize * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def read_tensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of any safetensors file, under the strict rules of `parse_header`.

    Raises `FileFormatError` for what is no such file, or holds a dtype that is not read.
    """
    what = "the file of tensors"
    text = header_text(BytesIO(data), len(data), what)
    start = LENGTH_BYTES + len(text)
    entries, metadata = parse_whole_header(text, len(data) - start, what)
    buffer = bytearray(memoryview(data)[start:])
    for name, entry in entries.items():
        if entry.dtype not in DTYPES:
            raise FileFormatError(f"{what}: {name!r:.200} has dtype {entry.dtype!r:.20}, not read")
    return {name: view_of(buffer, entry) for name, entry in entries.items()}, metadata


def view_of(buffer: bytearray, entry: Entry) -> Tensor:
    """A tensor that shares the memory of the data of a file; a copy if it is not aligned there."""
    dtype, count = DTYPES[entry.dtype], math.prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=dtype)
    if entry.first % dtype.itemsize:
        own = bytearray(memoryview(buffer)[entry.first : entry.last])
        return torch.frombuffer(own, dtype=dtype).reshape(entry.shape)
    flat = torch.frombuffer(buffer, dtype=dtype, count=count, offset=entry.first)
    return flat.reshape(entry.shape)


def float32_file_size(
    shapes: Mapping[str, TensorShape], metadata: Mapping[str, str] | None = None
) -> int:
    """Bytes of the safetensors file that holds float32 tensors of these shapes."""
    values = sum(math.prod(shape) for shape in shapes.values())
    described = {name: ("F32", shape) for name, shape in shapes.items()}
    return len(header_bytes(described, metadata)) + DTYPES["F32"].itemsize * values


def _in_order(tensors: Mapping[str, tuple[str, TensorShape]]) -> list[str]:
    """The names, larger dtypes first: so each starts at a multiple of its size."""
    return sorted(tensors, key=lambda name: (-DTYPES[tensors[name][0]].itemsize, name))
