"""An adapter's file, read strictly: what is cheap to check first, what is costly last.

First the header alone, of which every size is compared with every other; then, by whoever loads it,
the names, shapes and dtypes with the model; and only then are the data read, once, into one buffer
that the tensors are views of, and the masks made from their recipes. Memory stays below twice the
file.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.files.tensors import DTYPES, TensorShape, view_of
from expandermask.adapters.layers.factors import value_shape
from expandermask.errors import FileFormatError, TooLargeError, require_memory
from expandermask.masks.adapter_file import AdapterDocument, read_document
from expandermask.masks.declared import DeclaredMask
from expandermask.masks.plan import MaskPlan
from expandermask.safetensors_header import LENGTH_BYTES, Entry, header_text, parse_whole_header

GATES = ("rank_gate", "module_gate")
_FLOATS = ("F64", "F32", "F16", "BF16")
"""Dtypes of values and gates: a model that was converted as a whole has half-precision ones."""
_ROOM = 2**20
_MARKS = 2**16


@dataclass(frozen=True)
class StoredAdapter:
    """A file's content, checked against itself in full."""

    config: AdapterConfig
    plan: MaskPlan
    tensors: Mapping[str, Tensor]
    """Views of one buffer, by name."""


@dataclass(frozen=True)
class AdapterFile:
    """An adapter's open file, of which only the header is read and checked."""

    config: AdapterConfig
    document: AdapterDocument
    entries: Mapping[str, Entry]
    _stream: BinaryIO
    _room: int
    _what: str

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor."""
        return DTYPES[self.entries[name].dtype]

    @property
    def gates(self) -> list[str]:
        """The names of the gates among the tensors."""
        return [
            f"{place}.{gate}"
            for place in self.document.masks
            for gate in GATES
            if f"{place}.{gate}" in self.entries
        ]

    @property
    def saved(self) -> set[str]:
        """The names of the tensors of modules to save."""
        values = {f"{place}.{side}" for place in self.document.masks for side in "AB"}
        return set(self.entries) - values - set(self.gates)

    def read(self) -> StoredAdapter:
        """The data and the masks, each checked against its hash.

        Raises `FileFormatError` where one does not fit or the file ends early, and `TooLargeError`
        where they do not fit in memory.
        """
        tensors = self._read_tensors()
        try:
            plan = self.document.build_plan()
        except FileFormatError as error:
            raise FileFormatError(f"{self._what}: {error}") from None
        for name, shape in value_shapes(plan).items():
            if tuple(tensors[name].shape) != shape:
                raise FileFormatError(
                    f"{self._what}: tensor {name!r} must have shape {list(shape)}, that of its "
                    f"mask: {list(tensors[name].shape)}"
                )
        return StoredAdapter(self.config, plan, tensors)

    def _read_tensors(self) -> dict[str, Tensor]:
        require_memory(self._room, self._what)
        try:
            buffer = bytearray(self._room)
        except (MemoryError, OverflowError):
            raise TooLargeError(f"{self._what}: {self._room} bytes do not fit in memory") from None
        view, done = memoryview(buffer), 0
        while count := _read_into(self._stream, view[done:], self._what):
            done += count
        if done != self._room:
            raise FileFormatError(f"{self._what} ends early (truncated?)")
        for name, entry in self.entries.items():
            if hashlib.sha256(view[entry.first : entry.last]).hexdigest() != self._hash(name):
                raise FileFormatError(f"{self._what}: tensor {name!r} was altered: its hash")
        return {name: view_of(buffer, entry) for name, entry in self.entries.items()}

    def _hash(self, name: str) -> str:
        return self.document.sha256[name]


def open_adapter(stream: BinaryIO, size: int, what: str) -> AdapterFile:
    """Read and check the header of an adapter file of ``size`` bytes, from its start.

    Parameters
    ----------
    stream : binary stream
        The file, at its start. `AdapterFile.read` reads on.
    size : int
        Its length in bytes.
    what : str
        What errors call it.

    Raises
    ------
    FileFormatError
        Whatever is wrong with the header or the document in it, or between the two.
    TooLargeError
        The plan's masks are too large to make.
    """
    try:
        text = header_text(stream, size, what)
    except OSError as error:
        raise FileFormatError(f"cannot read {what}: {error.strerror}") from None
    _require_bounded(text, size, what)
    room = size - LENGTH_BYTES - len(text)
    header = parse_whole_header(text, room, what)
    del text
    document = read_document(header, what)
    try:
        config = AdapterConfig.from_dict(document.config)
        _check_tensors(config, document, header.entries)
    except FileFormatError as error:
        raise FileFormatError(f"{what}: {error}") from None
    return AdapterFile(config, document, header.entries, stream, room, what)


def read_adapter(data: bytes) -> StoredAdapter:
    """The adapter in the bytes of a file, without a model; raises as `open_adapter` does."""
    return open_adapter(io.BytesIO(data), len(data), "the adapter").read()


def value_shapes(plan: MaskPlan) -> dict[str, TensorShape]:
    """Shapes of the values by their names in the file: (k, left_degree) and (d, left_degree).

    Masks that are not regular have those of `value_shape`.
    """
    shapes: dict[str, TensorShape] = {}
    for place, pair in plan.items():
        shapes |= {f"{place}.A": value_shape(pair.a), f"{place}.B": value_shape(pair.b)}
    return shapes


def _require_bounded(text: bytes, size: int, what: str) -> None:
    """Refuse a header whose values would take more memory than the file is large.

    A mark is what separates two values of JSON, and a value takes some 100 bytes in memory. In text
    that is not ASCII each character may take four.
    """
    if not text.isascii():
        raise FileFormatError(f"{what}: its header is not ASCII (save_adapter escapes the rest)")
    if len(text) > _ROOM + size // 2:
        raise FileFormatError(f"{what}: a header of {len(text)} bytes in a file of {size}")
    marks = sum(map(text.count, (b",", b"[", b"{", b":")))
    if marks > _MARKS + size // 256:
        raise FileFormatError(f"{what}: a header of some {marks} values in a file of {size} bytes")


def _check_tensors(
    config: AdapterConfig, document: AdapterDocument, entries: Mapping[str, Entry]
) -> None:
    """The tensors are those that the config and the plan imply, of sizes that fit the masks."""
    plan, masks = document.plan, document.masks
    if (plan["r"], plan["left_degree"]) != (config.r, config.left_degree):
        raise FileFormatError("the config and the plan differ in r or left_degree")
    implied = set()
    for place, pair in masks.items():
        for side, mask in (("A", pair.a), ("B", pair.b)):
            implied.add(name := f"{place}.{side}")
            _check_values(name, entries.get(name), mask)
        for gate, size in zip(GATES, (plan["r"], 1), strict=True):
            implied.add(name := f"{place}.{gate}")
            if (entry := entries.get(name)) is not None:
                _check_gate(name, entry, size)
    for name, entry in entries.items():
        if name not in implied:
            _check_saved(name, entry, config)
        item = DTYPES[entry.dtype].itemsize
        if entry.first % item and entry.last > entry.first:
            raise FileFormatError(
                f"tensor {name!r}: {entry.dtype} must start at a multiple of {item} bytes, not at "
                f"{entry.first}"
            )


def _check_values(name: str, entry: Entry | None, mask: DeclaredMask) -> None:
    if entry is None:
        raise FileFormatError(f"tensor {name!r:.200}, of the plan's masks, is missing")
    if entry.dtype not in _FLOATS:
        raise FileFormatError(f"tensor {name!r}: values are {_FLOATS}, not {entry.dtype!r:.20}")
    shape = None if mask.recipe is None else (mask.n1, mask.recipe.d1)
    fits = len(entry.shape) in (1, 2) if shape is None else entry.shape == shape
    if not fits or math.prod(entry.shape) != mask.num_edges:
        wanted = list(shape) if shape else f"of {mask.num_edges} values"
        raise FileFormatError(
            f"tensor {name!r} must have shape {wanted}, that of its mask: {list(entry.shape)}"
        )


def _check_gate(name: str, entry: Entry, size: int) -> None:
    shape = (size,) if size > 1 else ()
    if entry.dtype not in _FLOATS or entry.shape != shape:
        raise FileFormatError(
            f"tensor {name!r}: a gate must have shape {shape} and one of the dtypes {_FLOATS}, "
            f"got {entry.shape!r:.80} {entry.dtype!r:.20}"
        )


def _check_saved(name: str, entry: Entry, config: AdapterConfig) -> None:
    """A tensor that is no mask's is one of a module to save."""
    if not any(f".{item}." in f".{name}" for item in config.modules_to_save):
        raise FileFormatError(
            f"tensor {name!r:.200} is neither of the plan nor of modules_to_save="
            f"{list(config.modules_to_save)!r:.200}"
        )
    if entry.dtype not in DTYPES:
        raise FileFormatError(f"tensor {name!r}: dtype {entry.dtype!r:.20} is not read")


def _read_into(stream: BinaryIO, view: memoryview, what: str) -> int:
    if not view:
        return 0
    try:
        return stream.readinto(view) or 0  # type: ignore[attr-defined]
    except OSError as error:
        raise FileFormatError(f"cannot read {what}: {error.strerror}") from None
