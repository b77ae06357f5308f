"""What `derive_sparsity` has found so far, kept in a file so that it can go on from there."""

from __future__ import annotations

import os
from pathlib import Path

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


class Progress:
    """The axes that are done, by module and axis; written to the file, if any, after each."""

    def __init__(self, path: Path | None, question: str, baseline: float, threshold: float) -> None:
        self.path = path
        self.question = question
        self.baseline = baseline
        self.passing = threshold * baseline * (1 - 1e-12)
        """The metric that has to be reached; 0.9 * (20 / 25) is rounded to more than 18 / 25."""
        self._done: dict[tuple[str, str], AxisSparsity] = {}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None,
        question: str,
        baseline: float,
        threshold: float,
    ) -> Progress:
        """What is in the file, if it is there; `InvalidInputError` if it is of another question."""
        progress = cls(None if path is None else Path(path), question, baseline, threshold)
        if progress.path is None or not progress.path.exists():
            return progress
        fields = require_fields(
            read_sealed(read_bytes(progress.path), FORMAT, FORMAT_VERSION),
            {"question": str, "baseline": float, "done": list},
            "sparsity in progress",
        )
        for name, found in (("question", question), ("baseline", baseline)):
            if fields[name] != found:
                raise InvalidInputError(
                    f"resume={os.fspath(progress.path)!r} is of another "
                    + (
                        "search, threshold or scores"
                        if name == "question"
                        else f"model or metric: that of its untouched model is {fields[name]!r}, "
                        f"and here {found!r}"
                    )
                    + "; give another file, or remove it"
                )
        for entry in fields["done"]:
            if not isinstance(entry, list) or [type(x) for x in entry] != [str, str, dict]:
                raise FileFormatError(f"sparsity in progress: {entry!r:.80} is no finished axis")
            name, axis, data = entry
            progress._done[name, axis] = AxisSparsity.from_dict(data, f"{axis} of {name!r:.200}")
        return progress

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
        body = {"question": self.question, "baseline": self.baseline, "done": done}
        write_text(self.path, write_sealed(FORMAT, FORMAT_VERSION, body))
