"""Malformed files: bytes flipped, cut and put in, headers and documents changed in structure.

Every mutant is drawn from a `random.Random`, so that a fault can be found again by its seed.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from random import Random
from typing import Any

KEY, METADATA = "expandermask", "__metadata__"
HUGE = "9" * 5000
ODD_TEXTS = (
    *(
        "",
        "x",
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        "a\0b",
        "\ud800",
        "\udfff\ud800",
        "é",
        "头",
    ),
    *("F32", "F64", "I32", "BF16", "U8", "F6_E3M2", "__metadata__", "first.A", "first.module_gate"),
    *("random_biregular", "transpose", "covering", "os.system", "0" * 64, "x" * 1000, "NaN"),
)
ODD_NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 8, 16, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**18, 10**40),
    *(10**400, -(2**63), 0.0, -0.0, 0.5, 1.0, 1e308, 5e-324, 4.0, 16.0),
)
TOKENS = (
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"null", b"true", b"[]", b"{}", b'""', b"-"),
    *(b'"\\ud800"', b'"\\u0000"', b"1e5", b"0x1", b"01", b"\xff", b"\xc0\x80", b"\xed\xa0\x80"),
    *(b"[" * 60, b"[" * 2000, b'{"a":' * 2000, HUGE.encode(), b",", b":", b'{"', b"\0", b" " * 9),
)


def bytes_changed(data: bytes, random: Random) -> bytes:
    """A few of: a bit or byte changed, a stretch cut out, repeated or put in, the end cut off."""
    new = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        place = random.randrange(len(new) + 1)
        kind, end = random.randrange(7), place + 1 + random.randrange(random.choice((1, 8, 200)))
        if kind == 0 and place < len(new):
            new[place] ^= 1 << random.randrange(8)
        elif kind == 1 and place < len(new):
            new[place] = random.randrange(256)
        elif kind == 2:
            del new[place:end]
        elif kind == 3:
            new[place:place] = new[place:end]
        elif kind == 4:
            new[place:place] = random.choice(TOKENS)
        elif kind == 5:
            del new[place:]
        else:
            new[place:place] = random.randbytes(random.choice((1, 8, 50)))
    return bytes(new)


def token_changed(text: bytes, random: Random) -> bytes:
    """One token of a JSON text exchanged for another, or put in the text twice."""
    starts = [k for k, c in enumerate(text) if c in b'{}[],:"0123456789']
    place = random.choice(starts)
    end = random.choice((place, place + 1, random.choice(starts)))
    return text[:place] + random.choice((*TOKENS, text[place:end] * 2)) + text[max(place, end) :]


def odd_value(random: Random) -> Any:
    """A value that is seldom right."""
    kind = random.randrange(8)
    if kind < 3:
        return random.choice(ODD_NUMBERS)
    if kind < 5:
        return random.choice(ODD_TEXTS)
    return random.choice((None, True, False, [], {}, [0], [0, 8], {"a": 1}, [[[]]], [None] * 50))


def value_changed(value: Any, random: Random) -> Any:
    """A JSON value with one change, at any depth, to a value, a name or the number of items."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        new, name = dict(value), random.choice(list(value))
        kind = random.random()
        if kind < 0.75:
            new[name] = value_changed(value[name], random)
        elif kind < 0.83:
            del new[name]
        elif kind < 0.91:
            new[random.choice(ODD_TEXTS)] = new.pop(name)
        elif kind < 0.95:
            other = random.choice(list(value))
            new[name], new[other] = value[other], value[name]
        else:
            new[random.choice(ODD_TEXTS)] = odd_value(random)
        return new
    if isinstance(value, list) and value and random.random() < 0.85:
        place = random.randrange(len(value))
        kind, rest = random.random(), value[place + 1 :]
        middle = [] if kind < 0.1 else [value[place]] * 2 if kind < 0.2 else None
        return [*value[:place], *(middle or [value_changed(value[place], random)]), *rest]
    if type(value) is int and random.random() < 0.5:
        return value + random.choice((-8, -4, -1, 1, 4, 8, 64))
    if isinstance(value, str) and value and random.random() < 0.3:
        place = random.randrange(len(value))
        return value[:place] + random.choice("0aZ./é\0") + value[place + 1 :]
    return odd_value(random)


def doubled(text: str, random: Random) -> str:
    """A JSON text in which some object has one of its fields twice."""
    places = [k for k, c in enumerate(text) if c == "{" and text[k + 1 : k + 2] == '"']
    place = random.choice(places)
    end = text.index('"', place + 2) + 1
    return text[: place + 1] + text[place + 1 : end] + ":0," + text[place + 1 :]


# -- safetensors -----------------------------------------------------------------------------------


def split(data: bytes) -> tuple[bytes, bytes]:
    """The header and the data of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    return data[8:end], data[end:]


def framed(header: bytes, data: bytes) -> bytes:
    """The file of a header and data."""
    return len(header).to_bytes(8, "little") + header + data


def seal(body: Any, header: Any) -> Any:
    """The document under a seal that fits, as anyone can compute it."""
    body = {name: value for name, value in body.items() if name != "seal"}
    entries = {n: [e["dtype"], e["shape"]] for n, e in header.items() if n != METADATA}
    whole = {**body, "header": entries}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    return {**body, "seal": hashlib.sha256(text.encode()).hexdigest()}


class Mutants:
    """Mutants of one adapter file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.header, self.body = split(data)
        self.parsed = json.loads(self.header)
        self.document = json.loads(self.parsed[METADATA][KEY])

    def draw(self, random: Random) -> tuple[str, bytes]:
        """The name of a kind of change, and a mutant of that kind."""
        kind = random.choice(KINDS)
        return kind.__name__, kind(self, random)

    def with_parts(self, header: Any, document: Any) -> bytes:
        """The file of a parsed header with this document in its metadata."""
        header = copy.deepcopy(header)
        text = json.dumps(document, separators=(",", ":"))
        if isinstance(header, dict) and isinstance(header.get(METADATA), dict):
            header[METADATA][KEY] = text
        return framed(json.dumps(header, separators=(",", ":")).encode(), self.body)

    def any_bytes(self, random: Random) -> bytes:
        """The file's bytes, wherever."""
        return bytes_changed(self.data, random)

    def header_bytes(self, random: Random) -> bytes:
        """The header's bytes, under a length that fits or, now and then, does not."""
        new = framed(bytes_changed(self.header, random), self.body)
        if random.random() < 0.1:
            length = random.choice((0, 1, 7, 2**31, 2**32, 2**63, 2**64 - 1, len(self.data)))
            return length.to_bytes(8, "little") + new[8:]
        return new

    def header_token(self, random: Random) -> bytes:
        """One token of the header."""
        return framed(token_changed(self.header, random), self.body)

    def header_value(self, random: Random) -> bytes:
        """One value, name or item of the header."""
        return framed(json.dumps(value_changed(self.parsed, random)).encode(), self.body)

    def field_twice(self, random: Random) -> bytes:
        """A field twice, in the header or in the document."""
        if random.random() < 0.5:
            return framed(doubled(self.header.decode(), random).encode(), self.body)
        header = copy.deepcopy(self.parsed)
        header[METADATA][KEY] = doubled(header[METADATA][KEY], random)
        return framed(json.dumps(header).encode(), self.body)

    def document_value(self, random: Random) -> bytes:
        """One value, name or item of the document, the seal left as it was."""
        return self.with_parts(self.parsed, value_changed(self.document, random))

    def forged_document(self, random: Random) -> bytes:
        """The same under a seal that fits, as a forger would."""
        body = dict(self.document)
        name = random.choice(("plan", "plan", "sha256", "config"))
        body[name] = value_changed(body[name], random)
        return self.with_parts(self.parsed, seal(body, self.parsed))

    def document_token(self, random: Random) -> bytes:
        """One token of the document."""
        header = copy.deepcopy(self.parsed)
        text = token_changed(header[METADATA][KEY].encode(), random)
        header[METADATA][KEY] = text.decode("utf-8", "surrogateescape")
        return framed(json.dumps(header).encode(), self.body)

    def data_bytes(self, random: Random) -> bytes:
        """The tensors' bytes."""
        return framed(self.header, bytes_changed(self.body, random))

    def other_encoding(self, random: Random) -> bytes:
        """The header in another encoding, or with a mark before it."""
        text = self.header.decode()
        if random.random() < 0.5:
            text = text.replace("matched", "mätched")
        code = random.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7", "cp500"))
        return framed(text.encode(code, "replace"), self.body)


KINDS: list[Callable[[Mutants, Random], bytes]] = [
    *(Mutants.any_bytes, Mutants.header_bytes, Mutants.header_token, Mutants.header_value),
    *(Mutants.field_twice, Mutants.document_value, Mutants.forged_document),
    *(Mutants.document_token, Mutants.data_bytes, Mutants.other_encoding),
]
