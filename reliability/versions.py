"""The fast tests with the lowest versions that are declared, and with the newest there are.

    python reliability/versions.py [--only NAME ...] [--environments FOLDER] [--pythons PYTHON ...]

Makes one environment for each row, installs into it what `pyproject.toml` declares, and runs the
fast tests there. In "lowest" every package that is declared has its lowest version; what these need
in turn is left to pip. In "newest" all is left to pip but torch, which `constraints.txt` holds,
since a newer one may bring gigabytes of CUDA, and what is in `HELD`. `--pythons` adds the pinned
versions on other Pythons. Writes results/versions.json after each row; exits with 1 if a test fails
in any. Half an hour a row.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from _common import ROOT, parser, print_table, write_record

OTHER_TOOLS = ("mypy", "ruff", "sphinx", "furo", "myst-parser", "types-")
"""Of the packages for development, those that no test needs."""
REPORT = """
import importlib.metadata, json
names = {d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
print(json.dumps(dict(sorted(names.items()))))
"""

HELD = ("transformers<5.24",)
"""Newer releases that do not work with each other: this one's adapters ask for PEFT 0.22, which is
not there yet."""

Row = dict[str, Any]


def declared() -> list[str]:
    """The requirements of the library, of all its extras and of its tests, as they are declared."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    every = [*project["dependencies"], *(r for extra in extras for r in extra)]
    others = ("expandermask", *OTHER_TOOLS)
    return list(dict.fromkeys(r for r in every if not r.startswith(others)))


def lowest() -> list[str]:
    """The declared requirements, each at its lowest version."""
    return [requirement.replace(">=", "==") for requirement in declared()]


def pinned(name: str) -> str:
    """The line of `constraints.txt` about one package."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def rows(pythons: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Name, Python and what pip is asked for, of each environment."""
    yield "lowest", sys.executable, lowest()
    yield "newest", sys.executable, [*declared(), pinned("torch"), *HELD]
    for python in pythons:
        yield (
            f"pinned, {Path(python).name}",
            python,
            [*declared(), "-c", str(ROOT / "constraints.txt")],
        )


def installed(folder: Path, python: str, wanted: list[str]) -> tuple[Path, str]:
    """The Python of an environment with these packages and this library; what went wrong, or ""."""
    inside = folder / "bin" / "python"
    demo = ["--no-deps", "-r", str(ROOT / "demo-packages.txt"), "-e", str(ROOT)]
    steps = [[python, "-m", "venv", str(folder)]] if not inside.exists() else []
    install = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for step in [*steps, [*install, *wanted], [*install, *demo]]:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return inside, " ".join(errors)[-300:] or f"{step[:4]} ended with {done.returncode}"
    return inside, ""


def tested(python: Path, cache: Path) -> Row:
    """What the fast tests did in an environment, whose kernels are compiled into ``cache``."""
    options = ["-n", "2", "-m", "not slow", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [str(python), "-m", "pytest", *options],
        cwd=ROOT,
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    counts = dict(re.findall(r"(\d+) (passed|skipped|failed|error)", lines[-1] if lines else ""))
    return {
        "counts": {what: int(number) for number, what in counts.items()},
        "failed": sorted(line for line in lines if line.startswith(("FAILED", "ERROR"))),
        "outcome": "passed" if done.returncode == 0 else "FAILED",
    }


def row_of(folder: Path, python: str, wanted: list[str]) -> Row:
    """The packages of one environment and what the tests did there."""
    inside, problem = installed(folder, python, wanted)
    if problem:
        return {"outcome": f"cannot be installed: {problem}"}
    report = subprocess.run([str(inside), "-c", REPORT], capture_output=True, text=True, check=True)
    version = subprocess.run([str(inside), "-V"], capture_output=True, text=True, check=True)
    found = tested(inside, folder / "numba")
    return {"python": version.stdout.split()[1], **found, "packages": json.loads(report.stdout)}


def main() -> int:
    """Run the rows that were asked for; the others stay as they are in the record."""
    options = parser(__doc__ or "")
    options.add_argument("--only", nargs="+", metavar="NAME", help="rows to run, by their names")
    options.add_argument("--environments", type=Path, help="where to keep the environments")
    options.add_argument("--pythons", nargs="+", default=[], help="with the pinned versions")
    arguments = options.parse_args()
    record = arguments.results / "versions.json"
    before = json.loads(record.read_text(encoding="utf-8"))["rows"] if record.exists() else {}
    found: dict[str, Row] = dict(before)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.environments or Path(temporary)
        for name, python, wanted in rows(arguments.pythons):
            if arguments.only and name not in arguments.only:
                continue
            place = folder / re.sub(r"\W+", "-", name)
            found[name] = {"date": str(date.today()), **row_of(place, python, wanted)}
            body = {"declared": declared(), "rows": found}
            write_record(arguments, "versions", body)
            print(name, found[name]["outcome"], found[name].get("counts", ""), flush=True)
    print_table(["versions", "outcome"], [(name, row["outcome"]) for name, row in found.items()])
    return 0 if all(row["outcome"] == "passed" for row in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
