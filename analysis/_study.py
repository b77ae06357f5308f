"""What every study is: independent runs, a record of all of them, a summary, and a picture.

    python -m analysis.NAME [--quick | --smoke] [--jobs N] [--fresh] [--dask ADDRESS] [--out FOLDER]

A run is a function of its settings alone, seeds included, so runs go to as many processes as asked
for (through joblib), and a study that is stopped goes on where it was: every run that is done is
kept in ``results/runs/``. The full record and picture are written to ``results/``, those of the
smaller modes to ``results/MODE/``, unless told otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import joblib
from tqdm import tqdm

from expandermask.files import write_text

Mode = Literal["smoke", "quick", "full"]
Settings = dict[str, Any]
"""What a run depends on, JSON-ready."""
Run = dict[str, Any]
"""``settings``, ``result``, ``seconds`` and, of those that train, ``train_seconds`` of one run."""

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("expandermask", "numpy", "scipy", "torch", "transformers", "peft", "joblib")
TRAINING = "train_seconds"
"""What a result may have beside numbers that are the same every time; kept outside it."""
FORMAT = "expandermask study"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Study:
    """One table or figure."""

    name: str
    question: str
    """What it asks, as a sentence."""
    paper: str
    """The paper's table or figure it goes with."""
    runs: Callable[[Mode], list[Settings]]
    """The settings of every run of a mode."""
    run: Callable[[Settings], dict[str, Any]]
    """One run: JSON-ready numbers."""
    summarise: Callable[[list[Run]], dict[str, Any]]
    """What the runs say together, the same in every mode."""
    draw: Callable[[dict[str, Any]], Any]
    """A matplotlib Figure of a record."""
    kept_by: str = ""
    """The study that has all these runs and keeps them, and forgets them with --fresh; this one if
    empty."""

    def main(self) -> None:
        """The command line."""
        parser = argparse.ArgumentParser(
            prog=f"python -m analysis.{self.name}", description=f"{self.question} ({self.paper})"
        )
        mode = parser.add_mutually_exclusive_group()
        mode.add_argument("--quick", action="store_true", help="under two minutes")
        mode.add_argument("--smoke", action="store_true", help="seconds: does it run?")
        parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
        parser.add_argument("--fresh", action="store_true", help="forget kept runs, not densities")
        parser.add_argument("--dask", metavar="ADDRESS", help="a Dask scheduler with more machines")
        parser.add_argument("--out", type=Path, help="folder for the record and the picture")
        options = parser.parse_args()
        chosen: Mode = "smoke" if options.smoke else "quick" if options.quick else "full"
        place = options.out or (RESULTS if chosen == "full" else RESULTS / chosen)
        record = self.record(
            chosen, jobs=options.jobs, fresh=options.fresh, dask=options.dask, place=place
        )
        print(json.dumps(record["summary"], indent=1))
        print(f"{record['num_runs']} runs; {place / self.name}.json, .png")

    def record(
        self,
        mode: Mode,
        *,
        place: Path,
        jobs: int = 1,
        fresh: bool = False,
        dask: str | None = None,
    ) -> dict[str, Any]:
        """Do the runs that are missing, write the record and the picture, return the record."""
        kept = place / "runs" / f"{self.kept_by or self.name}-{mode}"
        settings = self.runs(mode)
        files = [kept / f"{_hash(s)}.json" for s in settings]
        if fresh:
            for file in files:
                file.unlink(missing_ok=True)
        missing = [(s, f) for s, f in zip(settings, files, strict=True) if not _is_kept(s, f)]
        with (
            _backend(jobs, dask),
            tqdm(
                total=len(settings),
                initial=len(settings) - len(missing),
                desc=self.name,
                unit="run",
            ) as bar,
        ):
            work = (joblib.delayed(_do_run)(self.name, s, f) for s, f in missing)
            for file, run in joblib.Parallel(return_as="generator_unordered")(work):
                write_text(file, json.dumps(run, allow_nan=False) + "\n")
                bar.update()
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        record = self._record(mode, runs)
        write_text(
            place / f"{self.name}.json", json.dumps(record, indent=1, allow_nan=False) + "\n"
        )
        _save_picture(self.draw(record), place / f"{self.name}.png")
        return record

    def _record(self, mode: Mode, runs: list[Run]) -> dict[str, Any]:
        flag = "" if mode == "full" else f" --{mode}"
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "question": self.question,
            "paper": self.paper,
            "mode": mode,
            "command": f"python -m analysis.{self.name}{flag}",
            "python": platform.python_version(),
            "machine": platform.machine(),
            "versions": {p: v for p in PACKAGES if (v := _version(p)) is not None},
            "num_runs": len(runs),
            "seconds": round(sum(run["seconds"] for run in runs), 1),
            "summary": self.summarise(runs),
            "runs": runs,
        }


def _do_run(name: str, settings: Settings, file: Path) -> tuple[Path, Run]:
    """One run in a worker, on one thread so that its sums come out the same everywhere.

    A worker may be on a machine with another disk, so it hands over what to keep, and where.
    """
    import torch

    torch.set_num_threads(1)
    study: Study = import_module(f"analysis.{name}").STUDY
    started = time.perf_counter()
    result = study.run(dict(settings))
    seconds = round(time.perf_counter() - started, 2)
    times = {TRAINING: result.pop(TRAINING)} if TRAINING in result else {}
    return file, {"settings": settings, "result": result, "seconds": seconds, **times}


def _is_kept(settings: Settings, file: Path) -> bool:
    if not file.exists():
        return False
    found: Settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
    return found == settings


@contextmanager
def _backend(jobs: int, dask: str | None) -> Iterator[None]:
    """Processes of this machine, or a Dask cluster's."""
    if dask is None:
        with joblib.parallel_config(backend="loky", n_jobs=jobs):
            yield
        return
    try:
        from dask.distributed import Client
    except ImportError:
        raise SystemExit("--dask needs Dask: pip install 'dask[distributed]'") from None
    with Client(dask), joblib.parallel_config(backend="dask"):
        yield


def _hash(settings: Settings) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _save_picture(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
