"""The folder of an adapter: which files may lie in it, and its one file opened with care.

A folder may come from anywhere. What lies in it must not decide what else is opened, and what two
programs left in one folder is not guessed at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expandermask.errors import AdapterError, FileFormatError
from expandermask.files import OpenFile, reading
from expandermask.inspection.checkpoints import PICKLES
from expandermask.inspection.tensor_files import open_header
from expandermask.masks.adapter_file import WEIGHTS_NAME, is_adapter
from expandermask.masks.peft_file import CONFIG_NAME


def require_folder(folder: Path, *, own: bool) -> None:
    """Refuse to write over a file, or over an adapter in the other of the two formats.

    This library's folders (``own``) and PEFT's have a file of the same name. Raises `AdapterError`.
    """
    if folder.exists() and not folder.is_dir():
        raise AdapterError(f"{os.fspath(folder)!r} is a file; an adapter is written to a folder")
    if own and (beside := _pickle_in(folder)) is not None:
        raise AdapterError(
            f"{os.fspath(folder)!r} holds the pickle {beside!r}, beside which no adapter is "
            "loaded; save the adapter to a folder of its own"
        )
    path = folder / WEIGHTS_NAME
    present = os.path.lexists(path) or os.path.lexists(folder / CONFIG_NAME)
    if present and _is_own(path) is not own:
        kind = "another kind of checkpoint (PEFT's?)" if own else "an adapter of save_adapter"
        raise AdapterError(
            f"{os.fspath(folder)!r} holds {kind}, whose file has the same name; choose another "
            "folder"
        )


@contextmanager
def opened_adapter(folder: Path) -> Iterator[OpenFile]:
    """The file of an adapter, open for reading, and its size; `FileFormatError` if it cannot be.

    Nothing else in the folder is opened but for a PEFT config's sake, and nothing outside of it.
    """
    _require_alone(folder)
    with reading(folder / WEIGHTS_NAME, within=folder) as found:
        yield found


def _require_alone(folder: Path) -> None:
    """No pickle and no PEFT config beside the adapter."""
    if not os.path.isdir(folder):  # which takes a null byte in the path for a no
        raise FileFormatError(
            f"{os.fspath(folder)!r} is no folder; an adapter is the folder that holds its "
            f"{WEIGHTS_NAME}"
        )
    if (beside := _pickle_in(folder)) is not None:
        raise FileFormatError(
            f"{os.fspath(folder)!r} holds the pickle {beside!r}: to read one is to run what is in "
            "it, and it is not guessed which of two is meant; move it to another folder"
        )
    if os.path.lexists(folder / CONFIG_NAME) and _is_own(folder / WEIGHTS_NAME):
        raise FileFormatError(
            f"{os.fspath(folder)!r} holds an adapter of save_adapter and PEFT's {CONFIG_NAME}, and "
            "it is not guessed which of two is meant; move one to another folder"
        )


def _pickle_in(folder: Path) -> str | None:
    """The name of a pickle in a folder, the first of them, or None."""
    if not os.path.isdir(folder):
        return None
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise FileFormatError(f"cannot list {os.fspath(folder)!r}: {error.strerror}") from None
    return min((n for n in names if Path(n).suffix.lower() in PICKLES), default=None)


def _is_own(path: Path) -> bool:
    """Whether a file in a folder is an adapter of this library."""
    try:
        return is_adapter(open_header(path, within=path.parent)[0])
    except FileFormatError:
        return False
