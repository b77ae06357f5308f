"""What `derive_sparsity` has found so far, kept in a file so that it can go on from there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from expandermask.errors import FileFormatError, InvalidInputError
from expandermask.files import (
    read_bytes,
    read_sealed,
    require_fields,
    write_sealed,
    write_text,
)
from expandermask.importance.result import AxisSparsity

FORMAT = "expandermask sparsity in progress"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Question:
    """What is asked: a file that is of another is no help."""

    search: str
    """A hash of the search, the threshold and the order in which every axis is removed."""
    model: str
    """A hash of every value of the model; empty where nothing is kept in a file."""
    baseline: float
    """The metric of the untouched model, all that can be known of the metric."""
    sizes: Mapping[tuple[str, str], int]
    """How many rows or columns every axis has, by module and axis."""


class Progress:
    """The axes that are done, by module and axis; written to the file, if any, after each."""

    def __init__(self, path: Path | None, question: Question, threshold: float) -> None:
        self.path = path
        self.question = question
        self.passing = threshold * question.baseline * (1 - 1e-12)
        """The metric that has to be reached; 0.9 * (20 / 25) is rounded to more than 18 / 25."""
        self._done: dict[tuple[str, str], AxisSparsity] = {}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None,
        question: Question,
        threshold: float,
    ) -> Progress:
        """What is in the file, if it is there; `InvalidInputError` if it is of another question."""
        progress = cls(None if path is None else Path(path), question, threshold)
        if progress.path is None or not progress.path.exists():
            return progress
        fields = require_fields(
            read_sealed(read_bytes(progress.path), FORMAT, FORMAT_VERSION),
            {"search": str, "model": str, "baseline": float, "done": list},
            "sparsity in progress",
        )
        others = {
            "search": "search, threshold or scores",
            "model": "model: not all of its values are those here",
            "baseline": "metric: that of its untouched model is "
            f"{fields['baseline']!r}, and here {question.baseline!r}",
        }
        for name, what in others.items():
            if fields[name] != getattr(question, name):
                raise InvalidInputError(
                    f"resume={os.fspath(progress.path)!r} is of another {what}; give another file, "
                    "or remove it"
                )
        for entry in fields["done"]:
            progress._take(entry)
        return progress

    def _take(self, entry: object) -> None:
        """One finished axis out of a file."""
        if not isinstance(entry, list) or [type(x) for x in entry] != [str, str, dict]:
            raise FileFormatError(f"sparsity in progress: {entry!r:.80} is no finished axis")
        name, axis, data = entry
        what = f"{axis:.20} of {name!r:.200}"
        found = AxisSparsity.from_dict(data, what)
        size = self.question.sizes.get((name, axis))
        if found.size != size or (name, axis) in self:
            raise FileFormatError(
                f"sparsity in progress: {what} is there twice, or of size {found.size} where "
                f"{size} is right"
            )
        self._done[name, axis] = found

    def __contains__(self, key: object) -> bool:
        return key in self._done

    def __getitem__(self, key: tuple[str, str]) -> AxisSparsity:
        return self._done[key]

    def add(self, name: str, axis: str, found: AxisSparsity) -> None:
        """Keep one more axis."""
        self._done[name, axis] = found
        if self.path is None:
            return
        done = [[n, a, axis.to_dict()] for (n, a), axis in self._done.items()]
        asked = self.question
        body = {"search": asked.search, "model": asked.model, "baseline": asked.baseline}
        write_text(self.path, write_sealed(FORMAT, FORMAT_VERSION, {**body, "done": done}))


def model_hash(model: nn.Module) -> str:
    """A hash of the names, types and values of a model's parameters and buffers.

    Those that are not plain tensors (quantized), or have no storage, count by name and type alone.
    """
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if type(tensor) in (nn.Parameter, torch.Tensor) and not tensor.is_meta:
            values = tensor.detach().cpu().contiguous().view(-1)
            digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()
