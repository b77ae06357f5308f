"""Results as small tables: plain text for terminals, HTML for notebooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape


def text_table(rows: Sequence[tuple[str, str]]) -> str:
    """Names in one column, values in the other, a line each."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}} {value}" for name, value in rows)


def html_table(rows: Sequence[tuple[str, str]]) -> str:
    """The same as an HTML table, what a notebook shows for `_repr_html_`."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table>{cells}</table>"


class Tabled(ABC):
    """A result that a notebook shows as the table of its `rows`."""

    @abstractmethod
    def rows(self) -> list[tuple[str, str]]:
        """The result as names and values."""

    def _repr_html_(self) -> str:
        return html_table(self.rows())
