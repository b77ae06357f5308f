"""The reliability figures at a small fraction of their counts: they run, count and can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.without_compiler import ROOT

FOLDER = ROOT / "reliability"


def run(results: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / f"{script}.py"), "--results", str(results), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=results,
    )


def record(results: Path, script: str, *arguments: str) -> dict:
    done = run(results, script, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((results / f"{script}.json").read_text())
    assert found["passed"]
    assert found["versions"]["expandermask"]
    return found


def test_agreement(tmp_path):
    found = record(tmp_path, "agreement", "--times", "0.001", "--jobs", "1")
    assert found["graphs"] == 1000
    assert set(found["disagreements"].values()) == {0}
    counts = found["counts"]
    assert counts["verdict: PROVED"] + counts["verdict: REFUTED"] == 1000
    assert min(counts["verdict: REFUTED"], counts["ties of disjoint cycles"]) > 10


def test_traps(tmp_path):
    found = record(tmp_path, "traps", "--times", "0.05", "--jobs", "1")
    assert set(found["wrong"].values()) == {0}
    assert found["on the bound"] >= 5
    truths = [
        sum(kind[truth] for kind in found["kinds"].values())
        for truth in ("PROVED", "REFUTED", "refused")
    ]
    assert min(truths) > 10


@pytest.mark.slow
def test_platforms(tmp_path):
    """All kernels and no compiler, with the numpy that is here."""
    found = record(tmp_path, "platforms", "--no-releases")
    assert found["same"] >= 4


@pytest.mark.parametrize(
    ("script", "lie"),
    [
        ("agreement", "agreement.xm.certify = lambda mask, **options: PROVED"),
        ("traps", "traps.answered = lambda trap: 'PROVED'"),
    ],
)
def test_a_wrong_checker_is_found_out(tmp_path, script, lie):
    """The control: with a certify that says PROVED to everything, the figure fails."""
    program = (
        "import sys, expandermask as xm\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\n"
        f"import {script}\n"
        "PROVED = xm.certify(xm.graphs.heawood())\n"
        f"{lie}\n"
        f"sys.argv = ['x', '--times', '0.001', '--jobs', '1', '--results', {str(tmp_path)!r}]\n"
        f"sys.exit({script}.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert not json.loads((tmp_path / f"{script}.json").read_text())["passed"]
