"""The commands of docs/tutorials/distributed.md, run in order, print what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorials" / "distributed.md"
NUMBER = re.compile(r"\d+\.\d+")
SECONDS = 600
LAUNCHERS = {
    "python": [],
    "torchrun": ["-m", "torch.distributed.run"],
    "accelerate": ["-m", "accelerate.commands.accelerate_cli"],
}


def shown() -> list[tuple[str, list[str]]]:
    """Every console block: its command and the lines under it."""
    blocks = re.findall(r"```console\n\$ (.*?)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [(command, printed.splitlines()) for command, printed in blocks]


def run(command: str, folder: Path) -> list[str]:
    """The lines a command prints, launched with this interpreter's own launchers."""
    program, *rest = command.split()
    start = [sys.executable, *LAUNCHERS[program]]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [*start, *rest, "--output", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return finished.stdout.splitlines()


@pytest.mark.slow
def test_the_page_s_commands_print_what_it_says(tmp_path: Path) -> None:
    blocks = shown()
    assert [command.split()[0] for command, _ in blocks] == [
        "torchrun",
        "torchrun",
        "python",
        "accelerate",
    ]
    for command, expected in blocks:
        folder = tmp_path / ("accelerate" if command.startswith("accelerate") else "run")
        found = [line for line in run(command, folder) if is_ours(line)]
        assert [NUMBER.sub("#", line) for line in found] == [NUMBER.sub("#", e) for e in expected]
        for line, printed in zip(found, expected, strict=True):
            # Another CPU rounds otherwise, and dropout and a short training enlarge that.
            tolerance = 15 if "held-out" in line else 0.1
            for number, other in zip(NUMBER.findall(line), NUMBER.findall(printed), strict=True):
                assert float(number) == pytest.approx(float(other), abs=tolerance)


def is_ours(line: str) -> bool:
    """Whether the script printed it, and not a launcher."""
    return line.startswith(("step ", "loaded ")) or ", world size " in line
