"""Mutation score of the certificates: how many small changes to the code some test notices.

    python reliability/mutation.py [MODULE ...] [--tests PATH ...] [--jobs N]

mutmut (https://mutmut.readthedocs.io, version 3) works on a copy of the repository in a temporary
folder, so nothing is left behind. MODULE is a file name in expandermask/certificates without its
.py, all of them if none is given; PATH is what pytest is to run. mutmut leaves alone decorated
functions, properties and numba kernels among them, and constants of modules. Needs
``pip install mutmut``; all modules take hours. Writes results/mutation.json with every survivor.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from _common import ROOT, parser, print_table, write_record

PACKAGE = "expandermask/certificates"
_TEXT = re.compile(r'f?"(?:[^"\\]|\\.)*"')
COPIED = ("expandermask", "tests", "docs", "README.md", "pyproject.toml")
CONFIGURATION = """
[tool.mutmut]
source_paths = ["expandermask"]
only_mutate = {files}
also_copy = ["docs", "README.md"]
pytest_add_cli_args = [
    "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-m", "not slow",
    "-k", "not stands_alone and not as_a_module",
]
pytest_add_cli_args_test_selection = {tests}
"""
"""Left out: a test that counts lines, which the mutants of a file add to, and one in isolation."""


def prepare(folder: Path, modules: list[str], tests: list[str]) -> None:
    """Copy the repository and tell mutmut, in its pyproject.toml, what to mutate."""
    ignored = shutil.ignore_patterns("__pycache__", "_build", ".*_cache")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    files = [f"{PACKAGE}/{module}.py" for module in modules]
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write(CONFIGURATION.format(files=files, tests=tests))


def mutmut(folder: Path, *arguments: str, capture: bool = True) -> str:
    """What a mutmut command prints, run in ``folder``; errors end the run."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=capture, text=True, check=True)
    return done.stdout if capture else ""


def outcomes(folder: Path) -> dict[str, str]:
    """The outcome of every mutant by its name: killed, survived, timeout, no tests ..."""
    listed = mutmut(folder, "results", "--all", "true")
    return dict(re.findall(r"^\s*(\S+): (.+)$", listed, flags=re.MULTILINE))


def changed_lines(folder: Path, mutant: str) -> list[str]:
    """The lines a mutant takes away and puts in."""
    shown = mutmut(folder, "show", mutant).splitlines()
    return [x for x in shown if x[:1] in "+-" and not x.startswith(("+++", "---"))]


def is_in_a_message(lines: list[str]) -> bool:
    """Whether a mutant differs in a text alone, or in None for the message of `recheck.need`."""
    before, after = (
        [_TEXT.sub("TEXT", line[1:]) for line in lines if line[0] == sign] for sign in "-+"
    )
    return before == [re.sub(r", None\)$", ", TEXT)", line) for line in after]


def main() -> int:
    """Run mutmut, print a table by module, write the record with the survivors."""
    options = parser(__doc__)
    options.add_argument("modules", nargs="*", metavar="MODULE")
    options.add_argument("--tests", nargs="+", default=["tests/certificates"], metavar="PATH")
    arguments = options.parse_args()
    known = sorted(p.stem for p in (ROOT / PACKAGE).glob("*.py") if p.stem != "__init__")
    modules = arguments.modules or known
    if unknown := set(modules) - set(known):
        options.error(f"no such modules: {', '.join(sorted(unknown))}; there are {known}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, modules, arguments.tests)
        mutmut(folder, "run", "--max-children", str(arguments.jobs), capture=False)
        found = outcomes(folder)
        noticed = {"killed", "timeout", "segfault", "suspicious", "caught by type check"}
        missed = sorted(name for name, outcome in found.items() if outcome not in noticed)
        survivors = {name: changed_lines(folder, name) for name in missed}
    totals = Counter(name.split(".")[2] for name in found)
    alive = Counter(name.split(".")[2] for name in survivors)
    score = {module: round(1 - alive[module] / totals[module], 4) for module in totals}
    print_table(
        ["module", "mutants", "survived", "score"],
        [(module, totals[module], alive[module], score[module]) for module in totals],
    )
    body = {
        "modules": modules,
        "mutants": sum(totals.values()),
        "outcomes": dict(Counter(found.values())),
        "score": round(1 - len(survivors) / max(1, len(found)), 4),
        "by module": score,
        "in messages alone": sum(map(is_in_a_message, survivors.values())),
        "survivors": survivors,
    }
    print(f"record: {write_record(arguments, 'mutation', body).name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
