"""The fast tests in random order: what passes only after or before another test fails here.

    python reliability/random_order.py [--runs N] [--first SEED]

Each run is a process of pytest with two workers; its seed gives the order of all tests. Runs go on
from the record, so that many can be made in parts: a run of other code than the last replaces what
is recorded. Writes results/random_order.json after each; exits with 1 if a test failed in any. Six
minutes a run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

from _common import ROOT, parser, write_record
from tqdm import tqdm

Row = dict[str, Any]


def commit() -> str:
    """The commit that is checked out."""
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run(seed: int) -> Row:
    """What the tests did in the order of one seed."""
    order = ["--shuffle", str(seed)]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "not slow", *order]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    counts = re.findall(r"(\d+) (passed|skipped|failed|errors?)\b", lines[-1] if lines else "")
    return {
        "seed": seed,
        "counts": {what: int(number) for number, what in counts},
        "failed": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
        "passed": done.returncode == 0,
    }


def main() -> int:
    """Make the runs that are asked for, and print what failed."""
    options = parser(__doc__ or "")
    options.add_argument("--runs", type=int, default=20, help="how many are to be recorded")
    options.add_argument("--first", type=int, default=1, help="seed of the first")
    arguments = options.parse_args()
    path = arguments.results / "random_order.json"
    before: Row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    now = commit()
    rows: list[Row] = before["runs"] if before.get("commit") == now else []
    for seed in tqdm(range(arguments.first + len(rows), arguments.first + arguments.runs)):
        rows.append(run(seed))
        for failure in rows[-1]["failed"]:
            tqdm.write(f"seed {seed}: {failure}")
        write_record(arguments, "random_order", {"commit": now, "runs": rows})
    failed = [row["seed"] for row in rows if not row["passed"]]
    print(f"{len(rows)} runs, failed with the seeds {failed}" if failed else f"{len(rows)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
