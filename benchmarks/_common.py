"""What every benchmark shares: interleaved timing, medians of ratios, a JSON record, a table."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("expandermask", "numpy", "scipy", "numba", "networkx", "igraph", "torch", "peft")


def interleaved(
    arms: Mapping[str, Callable[[int], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each arm over ``repeats`` rounds; every round runs all arms, in turn.

    Each arm is called with the round's number, after one call that is not counted.
    """
    for run in arms.values():
        run(0)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for k in range(repeats):
        for name, run in arms.items():
            start = clock()
            run(k)
            seconds[name].append(clock() - start)
    return seconds


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The median of the round-by-round ratios: what drifts of the machine's speed leave alone."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def write_record(name: str, body: dict[str, Any]) -> Path:
    """Write ``results/name.json``: the figures, the command that made them, and the versions."""
    record = {
        "command": " ".join(["python", *map(_relative, sys.argv)]),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {p: v for p in PACKAGES if (v := _version(p)) is not None},
        **body,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a plain table, columns as wide as their widest cell."""
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    for row in cells:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def _relative(argument: str) -> str:
    """An argument without the folders of this machine."""
    path = Path(argument)
    root = Path(__file__).parent.parent
    return str(path.relative_to(root)) if path.is_relative_to(root) else argument


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
