"""The folder of an adapter: which files may lie in it, and its one file opened with care.

A folder may come from anywhere. What lies in it must not decide what else is opened, and what two
programs left in one folder is not guessed at.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from expandermask.errors import AdapterError, FileFormatError
from expandermask.inspection.checkpoints import PICKLES
from expandermask.inspection.tensor_files import open_header
from expandermask.masks.adapter_file import WEIGHTS_NAME, is_adapter

CONFIG_NAME = "adapter_config.json"
"""PEFT's config, beside its tensors; this library has none."""


def require_folder(folder: Path, *, own: bool) -> None:
    """Refuse to write over a file, or over an adapter in the other of the two formats.

    This library's folders (``own``) and PEFT's have a file of the same name. Raises `AdapterError`.
    """
    if folder.exists() and not folder.is_dir():
        raise AdapterError(f"{os.fspath(folder)!r} is a file; an adapter is written to a folder")
    if own and (pickle := _pickle_in(folder)) is not None:
        raise AdapterError(
            f"{os.fspath(folder)!r} holds the pickle {pickle!r}, beside which no adapter is "
            "loaded; save the adapter to a folder of its own"
        )
    path = folder / WEIGHTS_NAME
    present = path.exists() or (folder / CONFIG_NAME).exists()
    if present and _is_own(path) is not own:
        kind = "another kind of checkpoint (PEFT's?)" if own else "an adapter of save_adapter"
        raise AdapterError(
            f"{os.fspath(folder)!r} holds {kind}, whose file has the same name; choose another "
            "folder"
        )


@contextmanager
def opened_adapter(folder: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file of an adapter, open for reading, and its size; `FileFormatError` if it cannot be.

    Nothing else in the folder is opened, nor anything outside of it: a link that leads out is
    refused, but for those of huggingface_hub's cache.
    """
    path, where = folder / WEIGHTS_NAME, os.fspath(folder)
    try:
        _require_alone(folder)
        _require_inside(path, folder)
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to open a pipe is to wait for its other end
            raise FileFormatError(f"{os.fspath(path)!r} is no regular file")
        stream = path.open("rb", buffering=0)
    except OSError as error:
        raise FileFormatError(f"cannot read an adapter from {where!r}: {error.strerror}") from None
    except ValueError as error:  # a null byte in the path
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"cannot read an adapter from {where!r}: {error}") from None
    with stream:
        yield stream, os.fstat(stream.fileno()).st_size


def _require_alone(folder: Path) -> None:
    """No pickle and no PEFT config beside the adapter."""
    if not folder.is_dir():
        raise FileFormatError(
            f"{os.fspath(folder)!r} is no folder; an adapter is the folder that holds its "
            f"{WEIGHTS_NAME}"
        )
    if (pickle := _pickle_in(folder)) is not None:
        raise FileFormatError(
            f"{os.fspath(folder)!r} holds the pickle {pickle!r}: to read one is to run what is in "
            "it, and it is not guessed which of two is meant; move it to another folder"
        )
    if (folder / CONFIG_NAME).exists() and _is_own(folder / WEIGHTS_NAME):
        raise FileFormatError(
            f"{os.fspath(folder)!r} holds an adapter of save_adapter and PEFT's {CONFIG_NAME}, and "
            "it is not guessed which of two is meant; move one to another folder"
        )


def _pickle_in(folder: Path) -> str | None:
    """The name of a pickle in a folder, the first of them, or None."""
    if not folder.is_dir():
        return None
    names = (entry.name for entry in os.scandir(folder))
    return min((n for n in names if Path(n).suffix.lower() in PICKLES), default=None)


def _require_inside(path: Path, folder: Path) -> None:
    """The file is in the folder, or is a blob of the cache the folder is a snapshot in."""
    root, real = (Path(os.path.realpath(p, strict=True)) for p in (folder, path))
    allowed = [root, *(p.parent / "blobs" for p in root.parents if p.name == "snapshots")]
    if not any(real.parent == place for place in allowed):
        raise FileFormatError(
            f"{os.fspath(path)!r} is a link that leads out of its folder, to {os.fspath(real)!r}; "
            "put the file itself in its place"
        )


def _is_own(path: Path) -> bool:
    try:
        return is_adapter(open_header(path)[0])
    except FileFormatError:
        return False
