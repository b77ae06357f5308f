"""The table of readers in the docs, made from the record of reliability/serving.py.

``python -m tests.adapters.serving_table`` writes it.
"""

from __future__ import annotations

import json
from typing import Any

from tests.without_compiler import ROOT

RECORD = ROOT / "reliability" / "results" / "serving.json"
PAGE = ROOT / "docs" / "tutorials" / "serving.md"
FIRST = "| adapter | written by |"
COLUMNS = {
    "`peft`": (
        "PEFT",
        "PEFT, low memory",
        "PEFT, AutoPeftModel",
        "transformers, load_adapter",
    ),
    "`peft-batches`": ("PEFT, 8 adapters in a batch",),
    "`peft-hotswap`": ("PEFT, hot swap", "PEFT, hot swap compiled"),
    "`llama.cpp`": ("llama.cpp, scale 1", "llama.cpp, scale 0.5"),
    "`vllm`": ("vLLM",),
}
"""The readers whose rows make one cell."""

Row = dict[str, Any]


def record() -> Row:
    """The record that is committed."""
    found: Row = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def table(rows: list[Row]) -> list[str]:
    """The lines of the table: a row for each folder that was written, a column for each program."""
    by_folder: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        by_folder.setdefault((row["adapter"], row["written by"]), {})[row["reader"]] = row
    lines = [f"{FIRST} {' | '.join(COLUMNS)} |", "|" + "---|" * (2 + len(COLUMNS))]
    for (adapter, form), found in by_folder.items():
        cells = [cell([found[reader] for reader in readers]) for readers in COLUMNS.values()]
        lines.append("| " + " | ".join([adapter, form, *cells]) + " |")
    return lines


def cell(rows: list[Row]) -> str:
    """What is said of a program's rows."""
    verdicts = [row["verdict"].split(":")[0] for row in rows]
    largest = max(row["difference"] or 0 for row in rows)
    if verdicts[0] == "refused when writing":
        return refused(rows, largest)
    if "not tried" in verdicts:
        return "not tried"
    if set(verdicts) == {"right"}:
        return number(largest)
    others = [r["reader"].split(", ")[1] for r in rows if r["verdict"] == "refused by the reader"]
    return f"{number(largest)}, refused by {', '.join(others)}"


def refused(rows: list[Row], largest: float) -> str:
    """Bold where the program would be wrong without a word; otherwise it refuses the folder too."""
    outcomes = {row["if written all the same"].split(":")[0] for row in rows}
    if "WRONG" in outcomes:
        return f"**refused** (wrong by {largest:.1g})" if largest else "**refused** (wrong)"
    return "refused (not tried)" if "not tried" in outcomes else "refused"


def number(difference: float) -> str:
    """A difference to one digit."""
    return f"{difference:.0e}" if difference else "0"


def main() -> None:
    """Put the table of the record into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, after = text.partition(FIRST)
    rest = after.partition("\n\n")[2]
    PAGE.write_text(before + "\n".join(table(record()["rows"])) + "\n\n" + rest, encoding="utf-8")


if __name__ == "__main__":
    main()
