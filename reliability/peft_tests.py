"""PEFT's own tests, with XoraConfig in LoraConfig's place.

    python reliability/peft_tests.py TESTS [--files NAME ...] [--work FOLDER]

TESTS is the folder ``tests`` of peft's source distribution:
``pip download --no-deps --no-binary :all: peft==VERSION`` fetches it, for the version that is
installed. The tests also import diffusers, datasets and parameterized. The models that they ask the
hub for are tiny ones with random weights. A rank that a model's widths do not allow becomes the
nearest one that they do. Tests that read LoRA's own tensors, or its repr, find XoRA's under LoRA's
names (`_peft_tests_names.py`). Two tests of converting adapters to LoRA are left out: one has an
adapter of LoKr, the other one of LoRA itself.

A test that fails or is skipped runs again with LoraConfig. If it fails there too, what it needs is
not on this machine, and it counts as not run. If it runs there, skipping it counts as failing. Each
file of tests is recorded when it is done. ``--files`` runs some of them again and keeps what is
recorded of the others.

Writes results/peft_tests.json: each test with what it did, why, and the rank that it asked for
beside the rank that was used. Exits with 1 if a test fails for more than the text of a message, if
more than 10 fail for that, if fewer than 877 ran, or if one that passed before is lacking now.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peft
from _common import ROOT, parser, print_table, write_record
from tqdm import tqdm

HERE = Path(__file__).parent
FILES = (
    "test_config",
    "test_custom_models",
    "test_decoder_models",
    "test_encoder_decoder_models",
    "test_feature_extraction_models",
    "test_hub_features",
    "test_lora_conversion",
    "test_loraplus",
    "test_low_level_api",
    "test_mixed",
    "test_seq_classifier",
    "test_token_classification_qa",
)
NEEDED = ("datasets", "diffusers", "parameterized")
LEAST_RUN, MOST_MESSAGES = 877, 10
MESSAGE = "AssertionError: Regex pattern did not match"
"""How pytest says that an error came with another text than the test expects."""

Line = dict[str, Any]
Tests = dict[str, dict[str, dict[str, list[str]]]]
"""The parameters of the tests by file, by function and by what they did."""


def checked(options: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, if the tests and what they import are there."""
    arguments = options.parse_args()
    absent = [name for name in NEEDED if find_spec(name) is None]
    if absent:
        options.error(f"PEFT's tests import {', '.join(absent)}: pip install {' '.join(absent)}")
    missing = [f"{name}.py" for name in FILES if not (arguments.tests / f"{name}.py").is_file()]
    if missing:
        options.error(
            f"{arguments.tests} has no {missing[0]}; give the folder tests of peft's source "
            f"distribution: pip download --no-deps --no-binary :all: peft=={peft.__version__}"
        )
    return arguments


def environment(work: Path) -> dict[str, str]:
    """The variables of a process that runs tests in ``work``, offline."""
    places = [work, HERE, ROOT]  # each has a package `tests`, and PEFT's must come first
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "HF_HOME": str(work / "hub"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def prepare(work: Path, tests: Path) -> None:
    """Copy the tests into ``work`` as a package, and make the models of the hub beside it."""
    shutil.copytree(tests, work / "tests", dirs_exist_ok=True)
    (work / "tests" / "__init__.py").touch()
    (work / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    if not (work / "hub").exists():
        command = [sys.executable, str(HERE / "_peft_tests_hub.py")]
        subprocess.run(command, env=environment(work), check=True)


def run(work: Path, *arguments: str) -> list[Line]:
    """What the plugin reports of the tests that pytest runs."""
    records = work / "records.jsonl"
    records.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "_peft_tests_plugin", "-p", "no:cacheprovider"]
    command += [
        "-q",
        "--tb=native",
        "--no-summary",
        "--disable-warnings",
        "--records",
        str(records),
    ]
    done = subprocess.run([*command, *arguments], cwd=work, env=environment(work), check=False)
    if done.returncode > 1 or not records.exists():
        raise RuntimeError(f"pytest {' '.join(arguments)} ended with {done.returncode}")
    return [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]


def examine(work: Path, name: str) -> list[Line]:
    """What the tests of a file do, judged by what they do with LoraConfig where they do not run."""
    lines = run(work, "--xora", f"tests/{name}.py")
    doubtful = [line for line in lines if line["outcome"] in ("failed", "not run")]
    if doubtful:
        again = work / "again.txt"
        again.write_text("".join(f"tests/{line['id']}\n" for line in doubtful), encoding="utf-8")
        plain = {line["id"]: line for line in run(work, f"@{again}")}
        for line in doubtful:
            judge(line, plain[line["id"]])
    with (work / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return lines


def judge(line: Line, plain: Line) -> None:
    """Compare a test that failed or did not run with the same test with LoraConfig."""
    if line["outcome"] == "failed" and plain["outcome"] != "passed":
        line["outcome"] = "not run"
        line["reason"] = f"with LoraConfig too: {plain['reason']}"
    elif line["outcome"] == "not run" and plain["outcome"] == "passed":
        line["outcome"] = "failed"
        line["reason"] = f"skipped with XoraConfig alone: {line['reason']}"


def told(line: Line) -> str:
    """What the record says of a test, in one line."""
    reason = f": {line['reason']}" if line["reason"] else ""
    ranks = [f"r {asked} -> {used}" for asked, used in line["ranks"]]
    return f"{', '.join([line['outcome'], *ranks])}{reason}"


def grouped(lines: list[Line]) -> dict[str, dict[str, list[str]]]:
    """The tests of a file by their functions and by what they did."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in sorted(lines, key=lambda line: line["id"]):
        function, _, parameters = line["id"].partition("::")[2].partition("[")
        cases = found.setdefault(function, {}).setdefault(told(line), [])
        cases.append(parameters.removesuffix("]"))
    return found


def flat(tests: Tests) -> Iterator[tuple[str, str]]:
    """Every test's name with what it did."""
    for name, functions in tests.items():
        for function, cases in functions.items():
            for outcome, all_parameters in cases.items():
                for parameters in all_parameters:
                    yield f"{name}::{function}[{parameters}]", outcome


def moved(before: Tests, after: Tests) -> list[str]:
    """The tests that passed before and are lacking now."""
    passed = {test for test, outcome in flat(before) if outcome.startswith("passed")}
    lacking = (test for test, outcome in flat(after) if outcome.startswith("lacking"))
    return [test for test in lacking if test in passed]


def body(before: Tests, tests: Tests) -> Line:
    """The record of the files that are done."""
    outcomes = [outcome for _, outcome in flat(tests)]
    kinds = Counter(re.split("[,:]", outcome)[0] for outcome in outcomes)
    messages = sum(MESSAGE in outcome for outcome in outcomes)
    ran = kinds["passed"] + kinds["failed"]
    worse = moved(before, tests)
    good = ran >= LEAST_RUN and kinds["failed"] == messages <= MOST_MESSAGES and not worse
    return {
        "ran": ran,
        "outcomes": dict(sorted(kinds.items())),
        "failed for a message alone": messages,
        "lacking": reasons(outcomes, "lacking"),
        "not run": reasons(outcomes, "not run"),
        "failed": reasons(outcomes, "failed"),
        "passed before, lacking now": worse,
        "passed": good,
        "tests": tests,
    }


def reasons(outcomes: list[str], kind: str) -> dict[str, int]:
    """How many tests of a kind there are for each reason, the most frequent first."""
    found = Counter(o.partition(": ")[2] for o in outcomes if o.startswith(kind))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def recorded(path: Path) -> Tests:
    """The tests in an earlier record, none if there is no record."""
    if not path.exists():
        return {}
    tests: Tests = json.loads(path.read_text(encoding="utf-8"))["tests"]
    return tests


def main() -> int:
    """Run the files, record each, and print what the tests did."""
    options = parser(__doc__ or "")
    options.add_argument("tests", type=Path, help="folder of PEFT's tests")
    options.add_argument("--files", nargs="+", choices=FILES, default=FILES, metavar="NAME")
    options.add_argument("--work", type=Path, help="folder to keep, with a trace of each failure")
    arguments = checked(options)
    before = recorded(arguments.results / "peft_tests.json")
    tests = dict(before)
    found: Line = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        prepare(work, arguments.tests)
        for name in tqdm(arguments.files, unit="file"):
            tests[name] = grouped(examine(work, name))
            found = body(before, dict(sorted(tests.items())))
            write_record(arguments, "peft_tests", found)
    print_table(["outcome", "tests"], found["outcomes"].items())
    print_table(["lacking", "tests"], found["lacking"].items())
    print_table(["failed", "tests"], found["failed"].items())
    print("passed" if found["passed"] else "FAILED")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
