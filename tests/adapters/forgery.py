"""An adapter's file taken apart, changed, and put together again, under a seal that fits or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[["Parts"], object]


class Parts:
    """The header, document and data of an adapter file, to be changed in place."""

    def __init__(self, content: bytes) -> None:
        end = 8 + int.from_bytes(content[:8], "little")
        self.header: dict[str, Any] = json.loads(content[8:end])
        self.metadata: dict[str, Any] = self.header.pop("__metadata__")
        self.document: Any = json.loads(self.metadata["expandermask"])
        self.data = bytearray(content[end:])

    def tensor(self, name: str) -> bytes:
        """The bytes of one tensor."""
        first, last = self.header[name]["data_offsets"]
        return bytes(self.data[first:last])

    def hashed(self) -> None:
        """Give every tensor in the header the hash of the bytes it has now."""
        self.document["sha256"] = {
            name: hashlib.sha256(self.tensor(name)).hexdigest() for name in self.header
        }

    def sealed(self) -> None:
        """Compute the seal anew, as anyone can."""
        body = {name: value for name, value in self.document.items() if name != "seal"}
        body["header"] = {name: [e["dtype"], e["shape"]] for name, e in self.header.items()}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        self.document["seal"] = hashlib.sha256(text.encode()).hexdigest()

    def content(self) -> bytes:
        """The file again."""
        document = json.dumps(self.document, separators=(",", ":"))
        header = {"__metadata__": {**self.metadata, "expandermask": document}, **self.header}
        return framed(json.dumps(header).encode(), bytes(self.data))


def framed(header: bytes, data: bytes) -> bytes:
    """A safetensors file of this header and these data."""
    return len(header).to_bytes(8, "little") + header + data


def split(content: bytes) -> tuple[bytes, bytes]:
    """The header and the data of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def forge(change: Change, *, seal: bool = True, hashes: bool = False) -> Callable[[Path], None]:
    """A function that changes the parts of the file at a path, and by default seals it again."""

    def damage(path: Path) -> None:
        parts = Parts(path.read_bytes())
        change(parts)
        if hashes:
            parts.hashed()
        if seal:
            parts.sealed()
        path.write_bytes(parts.content())

    return damage


def edit(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A function that changes the bytes of the file at a path."""

    def damage(path: Path) -> None:
        old = path.read_bytes()
        new = change(old)
        assert new != old
        path.write_bytes(new)

    return damage


def edit_header(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A function that changes the text of the header, and its length with it."""

    def new(content: bytes) -> bytes:
        header, data = split(content)
        return framed(change(header), data)

    return edit(new)
