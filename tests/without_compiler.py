"""Running a test file once more with numba's compiler off: its kernels are then plain Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

only_with_compiler = pytest.mark.skipif(
    os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="this is the run it would start"
)
"""For the test that starts the second run, which that run must not start again."""


def passed_without_compiler(file: str, select: str = "") -> int:
    """Run ``file``, or its tests that ``select`` (pytest's -k) names; return how many passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, "-o", "addopts=--import-mode=importlib", "-k", select, file],
        cwd=ROOT,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return int(result.stdout.split(" passed")[0].split()[-1])
