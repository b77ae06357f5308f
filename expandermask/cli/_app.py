"""What all commands share: the app they belong to, its exit codes, and ways to print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from expandermask.tables import text_table

EXIT = {"PROVED": 0, "REFUTED": 1, "UNDECIDED": 3}
BAD_INPUT = 2
DEFECT = 70
INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Build, prove, judge and use sparse Ramanujan masks.",
    epilog="Exit codes: 0 proved or done, 1 refuted, 2 bad input, 3 undecided.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Names in one column, values in the other."""
    typer.echo(text_table(rows))
