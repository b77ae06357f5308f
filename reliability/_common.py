"""What every figure shares: the tests' oracles on the path, work on all cores, a JSON record."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "expandermask",
    "numpy",
    "scipy",
    "numba",
    "networkx",
    "python-flint",
    "torch",
    "transformers",
)

sys.path.insert(0, str(ROOT))  # the exact arithmetic to compare with is the tests' own
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for the processes started here


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options all figures take."""
    found = argparse.ArgumentParser(description=description.splitlines()[0])
    found.add_argument("--times", type=float, default=1.0, help="multiplies every count")
    found.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    found.add_argument("--results", type=Path, default=RESULTS, help="folder for the record")
    return found


@contextmanager
def workers(jobs: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A lazy, unordered map over ``jobs`` fresh processes; over none if one is enough."""
    if jobs == 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield pool.imap_unordered


def write_record(arguments: argparse.Namespace, name: str, body: dict[str, Any]) -> Path:
    """Write ``results/name.json``: the figures, the command that made them, and the versions."""
    record = {
        "command": " ".join(["python", f"reliability/{name}.py", *map(_relative, sys.argv[1:])]),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {p: v for p in PACKAGES if (v := _version(p)) is not None},
        "jobs": arguments.jobs,
        "seconds": round(time.perf_counter() - _START, 1),
        **body,
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    path: Path = arguments.results / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def print_table(header: list[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a plain table, columns as wide as their widest cell."""
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    for row in cells:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


_START = time.perf_counter()


def _relative(argument: str) -> str:
    """An argument without the folders of this machine."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
