"""An adapter's file, read strictly: what is cheap to check first, what is costly last.

First the header alone, of which every size is compared with every other; then, by whoever loads it,
the names, shapes and dtypes with the model; and only then are the data read, once, into one buffer
that the tensors are views of, and the masks made from their recipes. Memory stays below twice the
file.

A folder may come from anywhere. What lies in it must not decide what else is opened, and what two
programs left in one folder is not guessed at.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.layers.factors import stored_shape
from expandermask.errors import AdapterError, FileFormatError
from expandermask.files import reading
from expandermask.inspection.checkpoints import PICKLES
from expandermask.inspection.tensor_files import open_header
from expandermask.io.tensors import (
    DTYPES,
    TensorFile,
    digest,
    open_tensors,
)
from expandermask.masks.adapter_file import (
    WEIGHTS_NAME,
    AdapterDocument,
    is_adapter,
    read_document,
)
from expandermask.masks.declared import DeclaredMask
from expandermask.masks.peft_file import CONFIG_NAME
from expandermask.masks.plan import MaskPlan
from expandermask.safetensors_header import Entry, TensorShape

_FLOATS = ("F64", "F32", "F16", "BF16")
"""Dtypes of values and gates: a model that was converted as a whole has half-precision ones."""


@dataclass(frozen=True)
class AdapterFile:
    """An adapter's open file, of which only the header is read and checked."""

    config: AdapterConfig
    document: AdapterDocument
    saved: frozenset[str]
    """The names of the tensors of modules to save."""
    file: TensorFile

    def shells(self) -> dict[str, Tensor]:
        """Tensors without data, on the meta device, of the dtypes and shapes in the header."""
        return {
            name: torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device="meta")
            for name, entry in self.file.header.entries.items()
        }

    def read(self) -> tuple[MaskPlan, dict[str, Tensor]]:
        """The masks and the data, each checked against its hash.

        Raises `FileFormatError` where one does not fit or the file ends early, and `TooLargeError`
        where they do not fit in memory.
        """
        tensors = self.file.read()
        for name, tensor in tensors.items():
            if digest(tensor) != self.document.sha256[name]:
                raise FileFormatError(f"{self.file.what}: tensor {name!r} was altered: its hash")
        try:
            plan = self.document.build_plan()
            for name, shape in value_shapes(plan).items():
                _require_shape(name, tuple(tensors[name].shape), shape)
        except FileFormatError as error:
            raise FileFormatError(f"{self.file.what}: {error}") from None
        return plan, tensors


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
    file = open_tensors(stream, size, what, bounded=True)
    document = read_document(file.header, what)
    try:
        config = AdapterConfig.from_dict(document.config)
        saved = _check_tensors(config, document, file.header.entries)
    except FileFormatError as error:
        raise FileFormatError(f"{what}: {error}") from None
    return AdapterFile(config, document, saved, file)


def value_shapes(plan: MaskPlan) -> dict[str, TensorShape]:
    """Shapes of the values by their names in the file: (k, left_degree) and (d, left_degree).

    Masks that are not regular have those of `stored_shape`.
    """
    return {
        f"{place}.{side}": stored_shape(mask)
        for place, pair in plan.items()
        for side, mask in (("A", pair.a), ("B", pair.b))
    }


def _check_tensors(
    config: AdapterConfig, document: AdapterDocument, entries: Mapping[str, Entry]
) -> frozenset[str]:
    """The tensors are those that the config and the plan imply; the names of those to save."""
    plan = document.plan
    ranks = {place: pair.r for place, pair in document.masks.items()}
    if not config.fits(ranks, plan["left_degree"]):
        raise FileFormatError("the config and the plan differ in r or left_degree")
    shapes: dict[str, TensorShape] = {}
    for place, pair in document.masks.items():
        for name, mask in ((f"{place}.A", pair.a), (f"{place}.B", pair.b)):
            if name not in entries:
                raise FileFormatError(f"tensor {name!r:.200}, of the plan's masks, is missing")
            shapes[name] = _implied_shape(mask, entries[name].shape)
        shapes |= {f"{place}.rank_gate": (pair.r,), f"{place}.module_gate": ()}
    for name, entry in entries.items():
        item = DTYPES[entry.dtype].itemsize
        if entry.first % item and entry.last > entry.first:
            raise FileFormatError(
                f"tensor {name!r}: {entry.dtype} must start at a multiple of {item} bytes, not at "
                f"{entry.first}"
            )
        if name not in shapes:  # then it is one of a module to save
            if not any(f".{item}." in f".{name}" for item in config.modules_to_save):
                raise FileFormatError(
                    f"tensor {name!r:.200} is neither of the plan nor of modules_to_save="
                    f"{list(config.modules_to_save)!r:.200}"
                )
            continue
        _require_shape(name, entry.shape, shapes[name])
        if entry.dtype not in _FLOATS:
            raise FileFormatError(f"tensor {name!r}: values are {_FLOATS}, not {entry.dtype!r:.20}")
    return frozenset(entries.keys() - shapes.keys())


def _implied_shape(mask: DeclaredMask, shape: TensorShape) -> TensorShape:
    """The shape of a mask's values; of a mask without a recipe any that holds as many."""
    if mask.recipe is not None:
        return mask.n1, mask.recipe.d1
    fits = len(shape) in (1, 2) and math.prod(shape) == mask.num_edges
    return shape if fits else (mask.num_edges,)


def _require_shape(name: str, found: TensorShape, shape: TensorShape) -> None:
    if found != shape:
        raise FileFormatError(
            f"tensor {name!r} must have shape {list(shape)}, as the plan implies: {list(found)}"
        )


# -- the folder ------------------------------------------------------------------------------------


def require_folder(folder: Path, *, own: bool) -> None:
    """Refuse to write over a file, or over an adapter in the other of the two formats.

    This library's folders (``own``) and PEFT's have a file of the same name. Raises `AdapterError`.
    """
    if not folder.exists():
        return
    where = repr(os.fspath(folder))
    if not folder.is_dir():
        raise AdapterError(f"{where} is a file; an adapter is written to a folder")
    if own and (beside := _pickle_in(folder)) is not None:
        raise AdapterError(
            f"{where} holds the pickle {beside!r}, beside which no adapter is loaded; save the "
            "adapter to a folder of its own"
        )
    path = folder / WEIGHTS_NAME
    present = os.path.lexists(path) or os.path.lexists(folder / CONFIG_NAME)
    if present and _is_own(path) is not own:
        kind = "another kind of checkpoint (PEFT's?)" if own else "an adapter of save_adapter"
        raise AdapterError(
            f"{where} holds {kind}, whose file has the same name; choose another folder"
        )


@contextmanager
def opened_adapter(folder: Path) -> Iterator[AdapterFile]:
    """The file of an adapter, open for reading; `FileFormatError` if it cannot be.

    Nothing else in the folder is opened but for a PEFT config's sake, and nothing outside of it.
    """
    where = repr(os.fspath(folder))
    if not os.path.isdir(folder):  # which takes a null byte in the path for a no
        raise FileFormatError(
            f"{where} is no folder; an adapter is the folder that holds its {WEIGHTS_NAME}"
        )
    if (beside := _pickle_in(folder)) is not None:
        raise FileFormatError(
            f"{where} holds the pickle {beside!r}: to read one is to run what is in it, and it is "
            "not guessed which of two is meant; move it to another folder"
        )
    if os.path.lexists(folder / CONFIG_NAME) and _is_own(folder / WEIGHTS_NAME):
        raise FileFormatError(
            f"{where} holds an adapter of save_adapter and PEFT's {CONFIG_NAME}, and it is not "
            "guessed which of two is meant; move one to another folder"
        )
    with reading(folder / WEIGHTS_NAME, within=folder) as (stream, size):
        yield open_adapter(stream, size, where)


def _pickle_in(folder: Path) -> str | None:
    """The name of a pickle in a folder, the first of them, or None."""
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
