"""Base blocks of designs, and the table of them that ships with the library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import FileFormatError
from expandermask.files import read_document, require_fields, write_document
from expandermask.graphs.orbits import Group

TABLE_FILE = "data/designs.json"
TABLE_SHA256 = "9f0e9439fde3bf070e02ed07f924d1a9ae16a25499b69930aefa6683e82d699c"
"""Of the shipped table. A table with another hash is another VERSION of `designs`."""

_FORMAT, _FORMAT_VERSION = "expandermask designs", 1
_FIELDS = {"columns": int, "m": int, "rows": int, "excess": float, "group": list, "blocks": str}


@dataclass(frozen=True, eq=False)
class Design:
    """Base blocks whose orbits under an abelian group are the rows of a mask with r columns.

    The columns are one or more copies of the group, which moves them by translation.
    """

    columns: int
    """r, a multiple of the group's order."""
    group: Group
    blocks: NDArray[np.int64]
    """Shape (blocks, m); one that occurs k times gives its orbit k times."""
    rows: int
    """How many rows the orbits have in all."""
    excess: float
    """sigma_2**2 of the mask less its integrality limit, to 1e-3; 0 means no mask is better."""


@dataclass(frozen=True)
class Family:
    """The designs of one r and m: a balanced one, and the best found for each smaller remainder."""

    balanced: Design
    """All codegrees equal: any number of copies may be put under a mask at no cost."""
    others: dict[int, tuple[Design, ...]]
    """By rows modulo ``balanced.rows``: sizes ascending, each better than the smaller ones."""

    def find(self, rows: int) -> tuple[tuple[Design, int], ...] | None:
        """Designs and how often to take each, for a number of rows; None if the table has none."""
        period = self.balanced.rows
        if rows % period == 0:
            return ((self.balanced, rows // period),)
        fitting = [made for made in self.others.get(rows % period, ()) if made.rows <= rows]
        if not fitting:
            return None
        best = fitting[-1]
        return (best, 1), (self.balanced, (rows - best.rows) // period)


Table = dict[tuple[int, int], Family]
"""Families by (r, m)."""


@lru_cache(maxsize=1)
def shipped_table() -> Table:
    """The table of the installed library, read and checked once.

    Raises `FileFormatError` unless its bytes are the ones this version was released with.
    """
    data = files("expandermask.graphs").joinpath(TABLE_FILE).read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != TABLE_SHA256:
        raise FileFormatError(
            f"{TABLE_FILE} has SHA-256 {found}, expected {TABLE_SHA256}: install expandermask again"
        )
    return read_table(data)


def write_table(designs: Iterable[Design]) -> str:
    """The table as JSON text; labels are two hexadecimal digits, blocks follow one another."""
    entries = [
        {
            "columns": made.columns,
            "m": made.blocks.shape[1],
            "rows": made.rows,
            "excess": made.excess,
            "group": list(made.group),
            "blocks": made.blocks.astype(np.uint8).tobytes().hex(),
        }
        for made in designs
    ]
    return write_document(_FORMAT, _FORMAT_VERSION, {"designs": entries})


def read_table(text: str | bytes) -> Table:
    """The families in a table; the first design of each r and m is its balanced one."""
    table: Table = {}
    body = read_document(text, _FORMAT, _FORMAT_VERSION)
    for entry in require_fields(body, {"designs": list}, "a table of designs")["designs"]:
        made = _read_design(require_fields(entry, _FIELDS, "a design"))
        family = table.setdefault((made.columns, entry["m"]), Family(made, {}))
        if made is not family.balanced:
            residue = made.rows % family.balanced.rows
            family.others[residue] = (*family.others.get(residue, ()), made)
    return table


def _read_design(entry: dict[str, Any]) -> Design:
    """One entry as a `Design`; what it claims is checked by ``scripts/design_table.py --check``."""
    flat = np.frombuffer(bytes.fromhex(entry["blocks"]), dtype=np.uint8)
    blocks = flat.reshape(-1, entry["m"]).astype(np.int64)
    blocks.flags.writeable = False
    return Design(entry["columns"], tuple(entry["group"]), blocks, entry["rows"], entry["excess"])
