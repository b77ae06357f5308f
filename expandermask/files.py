"""Reading and writing files: strict JSON documents, and writes that are whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from expandermask.errors import FileFormatError


def write_document(kind: str, version: int, body: dict[str, Any]) -> str:
    """``body`` as JSON text that says what it is: the fields ``format`` and ``format_version``."""
    document = {"format": kind, "format_version": version, **body}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def read_document(text: str | bytes, kind: str, version: int) -> dict[str, Any]:
    """The body of a JSON document of this kind; `FileFormatError` for anything else.

    Read by `parse_json`; a newer version is refused too.
    """
    data = parse_json(text)
    if not isinstance(data, dict) or data.pop("format", None) != kind:
        raise FileFormatError(f"not an {kind} file: its field 'format' must be {kind!r}")
    found = data.pop("format_version", None)
    if type(found) is not int or found != version:
        raise FileFormatError(
            f"{kind}: format version {found!r}, and this library reads version {version}"
            + ("; upgrade expandermask" if type(found) is int and found > version else "")
        )
    return data


def parse_json(text: str | bytes) -> Any:
    """Strict JSON: `FileFormatError` for duplicate keys, NaN, infinities and what is not JSON."""
    try:
        return json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_finite, parse_float=_finite
        )
    except FileFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"not valid JSON (truncated?): {error}") from None


def require_fields(
    data: object, expected: Mapping[str, type | tuple[type, ...]], what: str
) -> dict[str, Any]:
    """``data`` itself if it is a dict with exactly these fields, each of exactly its type.

    Where several types are given, any one of them.
    """
    if not isinstance(data, dict) or set(data) != set(expected):
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise FileFormatError(f"{what} must have exactly the fields {sorted(expected)}: {found}")
    for name, kind in expected.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(data[name]) not in kinds:
            names = " or ".join(k.__name__ for k in kinds)
            raise FileFormatError(f"{what}: field {name!r} must be {names}, got {data[name]!r:.80}")
    return data


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; renamed over it once written and synced.

    If the body raises, or the process dies, the old file is untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
        _sync(target.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all (UTF-8)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, with a `FileFormatError` that names the path if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise FileFormatError(f"duplicate key in JSON: {key!r:.80}")
        data[key] = value
    return data


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise FileFormatError(f"{text} is not allowed in JSON")
    return number


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, where the system can."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
