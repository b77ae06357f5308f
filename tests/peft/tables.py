"""The tables of docs/reference/lora_options.md, by the headings they stand under."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "lora_options.md"


def table(heading: str) -> dict[str, tuple[str, str]]:
    """The last table under a heading: the second and third cell of each row by the first."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = section.split("\n\n")
    last = [block for block in lines if block.startswith("| ")][-1]
    rows = [re.split(r"\s*\|\s*", line.strip())[1:-1] for line in last.splitlines()[2:]]
    names = [row[0] for row in rows]
    assert len(names) == len(set(names)), "a row stands twice"
    return {plain(name): (here, plain(details)) for name, here, details in rows}


def plain(cell: str) -> str:
    """A cell without the marks of code."""
    return cell.replace("`", "")
