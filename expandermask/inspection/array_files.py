"""Arrays in .npy and .npz files: one mapped from its file, or many, each loaded when asked for.

What a file declares is checked before memory is taken: a .npz of a few bytes can claim any size.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from expandermask.errors import ExpanderMaskError, FileFormatError, require_memory
from expandermask.masks.files import load_mask, require_distinct

_ENDING = ".npy"


def open_array(path: Path) -> NDArray[Any]:
    """The array in a .npy file, whose rows are read from it when they are looked at."""
    try:
        return np.asarray(npy.open_memmap(path, mode="r"))
    except Exception as error:  # on damaged bytes numpy raises many kinds
        raise _unreadable(path, error) from None


def open_arrays(path: Path) -> Any:
    """What a .npz holds: a mask of `save_mask`, a scipy.sparse matrix, an array, or a mapping.

    Raises `FileFormatError` for a file that is damaged, empty or holds Python objects, and
    `TooLargeError` if one of the arrays, or the parts of a sparse matrix, do not fit in memory.
    """
    try:
        sizes = _sizes(path)
        if "sha256" in sizes:
            return load_mask(path)
        if {"format", "shape", "data"} <= sizes.keys():
            from scipy.sparse import load_npz

            require_memory(sum(sizes.values()), f"the sparse matrix in {os.fspath(path)!r}")
            return load_npz(path)
    except ExpanderMaskError:
        raise
    except Exception as error:  # nor do zipfile, zlib and scipy keep to one
        raise _unreadable(path, error) from None
    if not sizes:
        raise FileFormatError(f"{os.fspath(path)!r} holds no arrays")
    arrays = _StoredArrays(path, tuple(sizes))
    return arrays[next(iter(sizes))] if len(sizes) == 1 else arrays


class _StoredArrays(Mapping[str, NDArray[Any]]):
    """The arrays of a .npz by name; each look-up reads one from the file, and none is kept."""

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        self._path = path
        self._names = names

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(name + _ENDING) as stream:
                array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
        except Exception as error:  # as above
            raise _unreadable(self._path, error) from None
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _sizes(path: Path) -> dict[str, int]:
    """The bytes of each array of a .npz by name, none of which is larger than what is free."""
    sizes = {}
    with zipfile.ZipFile(path) as archive:
        require_distinct(archive.namelist())
        for member in map(archive.getinfo, archive.namelist()):
            what, size = f"{member.filename!r} in {os.fspath(path)!r}", member.file_size
            if not member.filename.endswith(_ENDING):
                raise FileFormatError(f"cannot read {what}: it is no array, a file {_ENDING}")
            require_memory(size, what)  # what its reader can take, whatever its header says
            with archive.open(member) as stream:
                _check_declared(stream, size, what)
            sizes[member.filename.removesuffix(_ENDING)] = size
    return sizes


def _check_declared(stream: IO[bytes], size: int, what: str) -> None:
    """Refuse a .npy of ``size`` bytes whose header is not of the data after it."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):  # 3.0 is for fields with names, which no mask has
        raise FileFormatError(f"cannot read {what}: version {version} of the .npy format")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise FileFormatError(f"cannot read {what}: it holds Python objects, which are pickled")
    room = size - stream.tell()
    if math.prod(shape) * dtype.itemsize != room:
        raise FileFormatError(
            f"cannot read {what}: {dtype} of shape {shape} does not take the {room} bytes it has"
        )


def _unreadable(path: Path, error: Exception) -> FileFormatError:
    return FileFormatError(f"cannot read {os.fspath(path)!r}: {error}")
