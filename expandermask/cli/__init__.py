"""The command line: parse, call, print. Everything it does is a few lines of the public API.

`build` holds the commands that make something (mask, feasible, plan, demo), `judge` those that
answer something about a mask (certify, recheck, inspect, cheeger, compare).

Exit codes: 0 proved or done, 1 refuted, 2 bad input, 3 undecided.
"""

from __future__ import annotations

import sys
import traceback

import typer

from expandermask.cli import build, judge
from expandermask.cli._app import BAD_INPUT, DEFECT, EXIT, app
from expandermask.errors import ExpanderMaskError, NotProvedError

__all__ = ["app", "build", "judge", "main"]


def main() -> None:
    """Run the command line, turning the library's errors into messages and exit codes."""
    try:
        app()
    except NotProvedError as error:
        typer.echo(f"undecided: {error}", err=True)
        sys.exit(EXIT["UNDECIDED"])
    except (ExpanderMaskError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(BAD_INPUT)
    except Exception:  # a defect of ours must not leave with 1, which would say "refuted"
        traceback.print_exc()
        sys.exit(DEFECT)
