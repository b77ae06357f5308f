"""SparsityResult: how much of each module is needed, the curves behind it, and its file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expandermask.errors import FileFormatError
from expandermask.files import (
    read_bytes,
    read_sealed,
    require_fields,
    write_sealed,
    write_text,
)
from expandermask.importance.search import SEARCHES
from expandermask.masks.schedules import Density
from expandermask.tables import Tabled, text_table

FORMAT = "expandermask sparsity"
FORMAT_VERSION = 1

MAX_SIZE = 2**31
"""No weight has so many rows."""


@dataclass(frozen=True)
class AxisSparsity:
    """What Algorithm 1 found for the rows, or the columns, of one module."""

    size: int
    """n, how many there are."""
    kept: int
    """How many are left in the last state that passed."""
    curve: tuple[tuple[int, float], ...]
    """Every evaluation in the order made: how many were left, and the metric."""

    @property
    def density(self) -> float:
        """The share kept."""
        return self.kept / self.size

    @property
    def evaluations(self) -> int:
        """How many times the metric was evaluated."""
        return len(self.curve)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"size": self.size, "kept": self.kept, "curve": [list(p) for p in self.curve]}

    @classmethod
    def from_dict(cls, data: object, what: str) -> AxisSparsity:
        """Read `to_dict` back; `FileFormatError` for anything else."""
        fields = require_fields(data, {"size": int, "kept": int, "curve": list}, what)
        size, kept = fields["size"], fields["kept"]
        if not 0 <= kept <= size or not 1 <= size < MAX_SIZE:
            raise FileFormatError(f"{what}: kept={kept!s:.40} of size={size!s:.40}")
        for point in fields["curve"]:
            if (
                not isinstance(point, list)
                or [type(x) for x in point] != [int, float]
                or not 0 <= point[0] < size
            ):
                raise FileFormatError(f"{what}: {point!r:.80} is no point of its curve")
        curve = tuple((n, value) for n, value in fields["curve"])
        if kept not in {size, *dict(curve)}:
            raise FileFormatError(f"{what}: kept={kept}, which is nowhere on its curve")
        return cls(size, kept, curve)


@dataclass(frozen=True)
class ModuleSparsity:
    """Rows and columns of one module."""

    rows: AxisSparsity
    columns: AxisSparsity

    @property
    def density(self) -> Density:
        """The shares kept, for `partial_plan`."""
        return Density(self.rows.density, self.columns.density)


@dataclass(frozen=True)
class SparsityResult(Tabled):
    """What `derive_sparsity` found. ``print`` shows a table; `densities` go to `partial_plan`."""

    baseline: float
    """mu, the metric of the untouched model."""
    threshold: float
    """The share of mu that has to be left."""
    search: str
    """"one-by-one" or "bisection"."""
    modules: Mapping[str, ModuleSparsity]

    @property
    def densities(self) -> dict[str, Density]:
        """Kept shares of every module of which something is kept; see `nothing_kept` for others."""
        return {n: m.density for n, m in self.modules.items() if min(m.density) > 0}

    @property
    def nothing_kept(self) -> tuple[str, ...]:
        """Modules of which all rows, or all columns, can go: no adapter is needed there."""
        return tuple(name for name, m in self.modules.items() if min(m.density) == 0)

    @property
    def evaluations(self) -> int:
        """How many times the metric was evaluated, that of the untouched model included."""
        return 1 + sum(m.rows.evaluations + m.columns.evaluations for m in self.modules.values())

    def rows(self) -> list[tuple[str, str]]:
        """Name and kept shares of every module, after what was asked."""
        head = [
            ("metric of the untouched model", f"{self.baseline:.4g}"),
            ("has to stay at or above", f"{self.threshold * self.baseline:.4g}"),
            ("evaluations", f"{self.evaluations:,} ({self.search})"),
        ]
        return head + [
            (name, f"rows {m.density.rows:7.2%}  columns {m.density.columns:7.2%}")
            for name, m in self.modules.items()
        ]

    def __str__(self) -> str:
        return text_table(self.rows())

    def to_json(self) -> str:
        """The result as JSON, with a seal that catches damage."""
        modules = {
            name: {"rows": m.rows.to_dict(), "columns": m.columns.to_dict()}
            for name, m in self.modules.items()
        }
        body = {"baseline": self.baseline, "threshold": self.threshold, "search": self.search}
        return write_sealed(FORMAT, FORMAT_VERSION, {**body, "modules": modules})

    @classmethod
    def from_json(cls, text: str | bytes) -> SparsityResult:
        """Read `to_json` back; `FileFormatError` for anything else."""
        fields = require_fields(
            read_sealed(text, FORMAT, FORMAT_VERSION),
            {"baseline": float, "threshold": float, "search": str, "modules": dict},
            "a sparsity result",
        )
        if not fields["baseline"] > 0 or not 0 < fields["threshold"] <= 1:
            raise FileFormatError(
                f"a sparsity result: baseline={fields['baseline']} and "
                f"threshold={fields['threshold']}; one must be positive, the other in (0, 1]"
            )
        if fields["search"] not in SEARCHES:
            raise FileFormatError(
                f"a sparsity result: search={fields['search']!r:.80} is none of {list(SEARCHES)}"
            )
        modules = {}
        for name, entry in fields["modules"].items():
            entry = require_fields(entry, {"rows": dict, "columns": dict}, f"module {name!r:.200}")
            modules[name] = ModuleSparsity(
                *(
                    AxisSparsity.from_dict(entry[axis], f"{axis} of {name!r:.200}")
                    for axis in ("rows", "columns")
                )
            )
        return cls(fields["baseline"], fields["threshold"], fields["search"], modules)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file, whole or not at all."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SparsityResult:
        """Read a saved result."""
        return cls.from_json(read_bytes(path))
