"""A hundred thousand hostile folders, and what reading them imports, opens, starts and calls.

    python reliability/hostile_configs.py [--times M] [--jobs N]

Each folder asks for something: code to be imported, an address to be called, a path outside, a
pickle to be read, memory. It goes to each reader, under an audit hook (`sys.addaudithook`) that
sees every import of a module that is not loaded yet, socket, process, compiled code, unpickled
class, changed file, and every file opened outside of the folder; none may be. The readers may raise
the library's own errors and nothing else, and a refusal may not change the model. Writes
results/hostile_configs.json; exits with 1 if anything is otherwise.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from _adapters import WEIGHTS, adapted, digest, model
from _common import parser, print_table, workers, write_record
from _hostile import CONFIG, PEFT, Hostile, stock_tensors
from tqdm import tqdm

from expandermask.adapters import load_adapter, save_adapter
from expandermask.errors import ExpanderMaskError
from expandermask.inspection.checkpoints import open_masks

FOLDERS, CHUNK = 100_000, 1000
READERS: dict[str, Callable[[Any, Path], Any]] = {
    "load_adapter": load_adapter,
    "open_masks": lambda _, folder: open_masks(folder),
}
"""What is called with a model and a folder; one more reader is one more line."""

LAZY = ("sympy", "scipy.sparse", "networkx", "flint")
"""What the library loads when it is first needed, whatever the folder says."""
MEMORY = ("/proc/meminfo",)
"""What psutil opens to find out how much memory is free."""
ACTS = {
    "sockets": ("socket.",),
    "processes": ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn"),
    "code": ("compile", "exec", "pickle.", "marshal.", "ctypes.", "code."),
    "changed files": (
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.chmod",
        "os.link",
        "os.symlink",
        "os.truncate",
        "os.rmdir",
        "shutil.",
        "tempfile.",
    ),
    "addresses": ("urllib.", "http.", "ftplib.", "smtplib.", "webbrowser."),
}
"""Kinds of audit events by how their names start."""


class Watch:
    """What an audit hook saw while a folder was read."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[tuple[str, str]] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note an event; a hook cannot be removed, so it is idle between folders."""
        folder = self.folder
        if folder is None:
            return
        if event == "import":
            if arguments[0] not in sys.modules:
                self.seen.append(("imports", str(arguments[0])))
        elif event == "open":
            self._opened(arguments[0], folder)
        else:
            for kind, starts in ACTS.items():
                if event.startswith(starts):
                    self.seen.append((kind, f"{event} {arguments!r:.80}"))

    def _opened(self, path: object, folder: str) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a file that is open already
        self.folder = None  # realpath must not be watched
        real = os.path.realpath(os.fsdecode(path))
        self.folder = folder
        if real not in MEMORY and not real.startswith(folder + os.sep) and real != folder:
            self.seen.append(("files outside", real))

    @contextmanager
    def on(self, folder: Path) -> Iterator[None]:
        """Watch what happens within, for a reader of ``folder``."""
        self.seen = []
        self.folder = os.path.realpath(folder)
        try:
            yield
        finally:
            self.folder = None


@cache
def watch() -> Watch:
    """The hook of this process, once all that is loaded late is loaded."""
    for name in LAZY:
        try:
            import_module(name)
        except ImportError:
            continue
    with tempfile.TemporaryDirectory() as place:
        save_adapter(adapted(), place)
        target = model()
        for read in READERS.values():
            read(target, Path(place))
        warm(Path(place))
    return Watch()


def warm(place: Path) -> None:
    """Read one plain PEFT folder and one that is damaged, so that errors have been formatted."""
    import json

    (place / CONFIG).write_text(json.dumps(PEFT))
    for data in (stock_tensors(Random(0)), b"x"):
        (place / WEIGHTS).write_bytes(data)
        for read in READERS.values():
            try:
                read(model(), place)
            except ExpanderMaskError:
                continue


@cache
def hostile() -> Hostile:
    """Hostile folders of the small adapter."""
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(adapted(), folder)
        return Hostile((Path(folder) / WEIGHTS).read_bytes())


@cache
def bare() -> tuple[Any, str]:
    """The model the folders are read for, and its digest."""
    made = model()
    return made, digest(made)


def read_one(name: str, folder: Path) -> tuple[str, list[tuple[str, str]]]:
    """How one reader ends on one folder, and what is wrong with it."""
    target, before = bare()
    faults, outcome = [], "read"
    watched = watch()
    with watched.on(folder):
        try:
            READERS[name](target, folder)
        except ExpanderMaskError:
            outcome = "refused"
        except BaseException as error:
            outcome = "foreign"
            faults = [("foreign exceptions", f"{type(error).__name__}: {error!s:.200}")]
    faults += watched.seen
    if digest(target) != before:
        if outcome != "read":
            faults.append(("changed models", outcome))
        bare.cache_clear()
    if (folder / "sprung").exists():
        faults.append(("changed files", "the trap was sprung"))
    return outcome, faults


def chunk(task: tuple[int, int]) -> tuple[Counter[tuple[str, str]], list[tuple[str, str]]]:
    """How the readers end on the folders of one seed, and all faults, with what was done."""
    seed, count = task
    counts, faults = Counter[tuple[str, str]](), []
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=root) as place:
        for number in range(count):
            folder = Path(place) / "adapter"
            folder.mkdir()
            kind = hostile().fill(folder, Random(f"{seed} {number}"))
            counts["folders", kind] += 1
            for name in READERS:
                outcome, wrong = read_one(name, folder)
                counts[name, outcome] += 1
                faults += [(what, f"'{seed} {number}', {kind}, {name}: {d}") for what, d in wrong]
            shutil.rmtree(folder)
    return counts, faults


def main() -> int:
    """Read all folders, print the counts, write the record."""
    arguments = parser(__doc__).parse_args()
    total = max(1, round(FOLDERS * arguments.times))
    work = [(s, min(CHUNK, total - s * CHUNK)) for s in range(-(-total // CHUNK))]
    counts, faults = Counter[tuple[str, str]](), []
    with workers(arguments.jobs) as spread:
        for found, wrong in tqdm(spread(chunk, work), total=len(work), disable=None):
            counts += found
            faults += wrong
    kinds = ("imports", "files outside", *ACTS, "foreign exceptions", "changed models")
    seen = Counter(kind for kind, _ in faults)
    seen = {kind: seen[kind] for kind in kinds}
    print_table(["what", "which", "count"], [(*key, n) for key, n in sorted(counts.items())])
    print_table(["fault", "count"], seen.items())
    body = {
        "folders": total,
        "counts": {f"{a}: {b}": n for (a, b), n in sorted(counts.items())},
        "seen": seen,
        "first faults": [f"{kind}: {what}" for kind, what in faults[:20]],
        "passed": not faults,
    }
    print(f"{total} folders; record: {write_record(arguments, 'hostile_configs', body).name}")
    for kind, what in faults[:20]:
        print(f"{kind}: {what}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
