"""Reading and writing files: strict JSON documents, and writes that are whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from expandermask.errors import FileFormatError

OpenFile = tuple[BinaryIO, int]
"""A file that is open for reading in bytes, and its size."""

MAX_DEPTH = 64
"""How deep arrays and objects may lie in one another in JSON that is read."""

_SUSPECT = re.compile("[\ud800-\udfff]|\\\\u[dD][89a-fA-F]")
"""A surrogate, or the escape of one: half of a pair, or a half that stands alone."""


def write_document(
    kind: str, version: int, body: Mapping[str, Any], *, compact: bool = False
) -> str:
    """``body`` as JSON text that says what it is: the fields ``format`` and ``format_version``.

    ``compact`` leaves out all white space.
    """
    document = {"format": kind, "format_version": version, **body}
    if compact:
        return json.dumps(document, separators=(",", ":"), allow_nan=False)
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def read_document(text: str | bytes, kind: str, version: int) -> dict[str, Any]:
    """The body of a JSON document of this kind; `FileFormatError` for anything else.

    Read by `parse_json`; a newer version is refused too.
    """
    return document_body(parse_json(text), kind, version)


def document_body(data: object, kind: str, version: int) -> dict[str, Any]:
    """`read_document` of what `parse_json` gave."""
    if not isinstance(data, dict) or data.get("format") != kind:
        raise FileFormatError(f"not an {kind} file: its field 'format' must be {kind!r}")
    found = data.get("format_version")
    if type(found) is not int or found != version:
        raise FileFormatError(
            f"{kind}: format version {found!r:.40}, and this library reads version {version}"
            + ("; upgrade expandermask" if type(found) is int and found > version else "")
        )
    return {name: data[name] for name in data if name not in ("format", "format_version")}


def seal(document: Mapping[str, Any]) -> str:
    """SHA-256 of all fields but the seal, as compact JSON with sorted keys.

    It catches damage and careless edits; it is no signature, since anyone can compute it.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_sealed(kind: str, version: int, body: Mapping[str, Any]) -> str:
    """`write_document` with a `seal` of all of it."""
    document = {"format": kind, "format_version": version, **body}
    return write_document(kind, version, {**body, "seal": seal(document)})


def read_sealed(text: str | bytes, kind: str, version: int) -> dict[str, Any]:
    """Read `write_sealed` back, without the seal; `FileFormatError` if that does not fit."""
    body = read_document(text, kind, version)
    found = body.pop("seal", None)
    if found != seal({"format": kind, "format_version": version, **body}):
        raise FileFormatError(f"{kind}: its fields were altered, the seal does not fit")
    return body


def parse_json(text: str | bytes) -> Any:
    """Strict JSON, UTF-8 where it comes in bytes; `FileFormatError` for anything else.

    Refused are duplicate keys, NaN and infinities, lone surrogates, which no text can hold, numbers
    of more digits than Python reads, and nesting deeper than `MAX_DEPTH`, which would end in a
    RecursionError somewhere behind.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()  # left to itself, json takes UTF-16 and UTF-32 as well
        data = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_finite, parse_float=_finite
        )
        _require_shallow(data)
        if ("\\u" in text or not text.isascii()) and _SUSPECT.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except FileFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"not valid JSON (truncated?): {error}") from None
    return data


def require_fields(
    data: object, expected: Mapping[str, type | tuple[type, ...]], what: str
) -> dict[str, Any]:
    """``data`` itself if it is a dict with exactly these fields, each of exactly its type.

    Where several types are given, any one of them.
    """
    if not isinstance(data, dict) or set(data) != set(expected):
        found = f"{sorted(data)}" if isinstance(data, dict) else type(data).__name__
        raise FileFormatError(
            f"{what} must have exactly the fields {sorted(expected)}: {found:.400}"
        )
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
    temporary = Path(name)
    try:
        os.close(handle)
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
    with reading(path) as (stream, _):
        return stream.read()


@contextmanager
def reading(path: str | os.PathLike[str], *, within: Path | None = None) -> Iterator[OpenFile]:
    """A file open for reading, and its size; `FileFormatError` if it cannot be opened, or read.

    Only a regular file is opened: a pipe would be waited for, and a device has no end. ``within``
    is the folder the file has to lie in; a link that leads out of it is then refused, but for those
    of huggingface_hub's cache, which lead from snapshots to blobs.
    """
    where = os.fspath(path)
    stream = _opened(where, within)
    with stream:
        try:
            yield stream, os.fstat(stream.fileno()).st_size
        except OSError as error:
            raise _unreadable(where, error) from None


def _opened(where: str, within: Path | None) -> BinaryIO:
    try:
        if within is not None:
            _require_within(where, within)
        if not stat.S_ISREG(os.stat(where).st_mode):
            raise FileFormatError(f"cannot read {where!r}: it is no regular file")
        return open(where, "rb")
    except FileFormatError:
        raise
    except (OSError, ValueError) as error:  # ValueError for a null byte in the path
        raise _unreadable(where, error) from None


def _unreadable(where: str, error: Exception) -> FileFormatError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return FileFormatError(f"cannot read {where!r}: {reason}")


def _require_within(where: str, folder: Path) -> None:
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(where, strict=True))
    allowed = [root, *(p.parent / "blobs" for p in root.parents if p.name == "snapshots")]
    if not any(real.is_relative_to(place) for place in allowed):
        raise FileFormatError(
            f"cannot read {where!r}: it is a link that leads out of its folder, to "
            f"{os.fspath(real)!r}; put the file itself in its place"
        )


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
        raise FileFormatError(f"{text:.40} is not allowed in JSON")
    return number


def _require_shallow(data: object) -> None:
    """Go through the arrays and objects level by level, without recursion."""
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise FileFormatError(f"JSON nested deeper than {MAX_DEPTH} levels is not read")


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
