"""safetensors files: written whole, and read strictly, with no copy made of the tensors' bytes.

The order written is that of the stock writer, larger dtypes first and then by name, so every tensor
is aligned. Reading is in two steps: the header, then the data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from expandermask.errors import AdapterError, FileFormatError, require_memory
from expandermask.files import replacing
from expandermask.safetensors_header import (
    LENGTH_BYTES,
    Header,
    TensorShape,
    header_bytes,
    header_text,
    in_order,
    parse_whole_header,
    require_bounded,
)

DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool},
}
"""The dtypes that are read and written, by their names in the format."""
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def described(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, TensorShape]]:
    """The dtype, by its name in the format, and the shape of each tensor.

    Raises `AdapterError` for a dtype that cannot be saved.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _CODES:
            raise AdapterError(
                f"tensor {name!r} is {tensor.dtype}, which cannot be saved; convert it to one of "
                f"{', '.join(str(d) for d in _CODES)}"
            )
    return {name: (_CODES[t.dtype], tuple(t.shape)) for name, t in tensors.items()}


def plain(tensor: Tensor) -> Tensor:
    """The values of a tensor on the CPU, one after another; itself where it is that already."""
    return tensor.detach().cpu().contiguous()


def digest(tensor: Tensor) -> str:
    """SHA-256 of the bytes of a `plain` tensor."""
    return hashlib.sha256(_raw_bytes(tensor)).hexdigest()


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
    entries = described(flat)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(header_bytes(entries, metadata))
        for name in in_order(entries):
            stream.write(_raw_bytes(flat[name]))


class TensorFile(NamedTuple):
    """An open safetensors file, of which the header is read and checked, and the data are not."""

    header: Header
    what: str
    """What errors call it."""
    stream: BinaryIO
    room: int
    """Bytes of data."""

    def read(self) -> dict[str, Tensor]:
        """The tensors: views of one buffer, but for those that are not aligned in the file.

        Raises `FileFormatError` where the file ends early, and `TooLargeError` where the data do
        not fit in memory.
        """
        require_memory(self.room, self.what)
        buffer = bytearray(self.room)
        view = memoryview(buffer)
        done = 0
        while count := self.stream.readinto(view[done:]):  # type: ignore[attr-defined]
            done += count
        if done != self.room:
            raise FileFormatError(f"{self.what} ends early (truncated?)")
        data = torch.from_numpy(np.frombuffer(buffer, np.uint8))
        found = {}
        for name, entry in self.header.entries.items():
            dtype = DTYPES[entry.dtype]
            raw = data[entry.first : entry.last]
            if entry.first % dtype.itemsize:
                raw = raw.clone()
            found[name] = raw.view(dtype).reshape(entry.shape)
        return found


def open_tensors(stream: BinaryIO, size: int, what: str, *, bounded: bool = False) -> TensorFile:
    """Read the header of any safetensors file, under the strict rules of `parse_header`.

    Parameters
    ----------
    stream : binary stream
        The file, at its start.
    size : int
        Its length in bytes.
    what : str
        What errors call it.
    bounded : bool
        Refuse a header that no `write_tensors` writes, or that would take more memory than the
        file is large.

    Raises
    ------
    FileFormatError
        It is no such file, or holds a dtype that is not read.
    """
    text = header_text(stream, size, what)
    if bounded:
        require_bounded(text, size, what)
    room = size - LENGTH_BYTES - len(text)
    header = parse_whole_header(text, room, what)
    for name, entry in header.entries.items():
        if entry.dtype not in DTYPES:
            raise FileFormatError(
                f"{what}: tensor {name!r:.200} has dtype {entry.dtype!r:.20}, not read"
            )
    return TensorFile(header, what, stream, room)


def _raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a `plain` tensor, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
