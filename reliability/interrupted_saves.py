"""Saves that are killed, or run out of space, at every call that changes the disk.

    python reliability/interrupted_saves.py [--times M] [--jobs N]

An adapter, a plan, two kinds of masks and a certificate are written to a place that is empty or
holds an older one, in a process that dies of SIGKILL, or finds the disk full, at its first call to
the disk, at its second, and so on to the last; half of a write is done first. Afterwards the place
must read as the old state or the new one, byte for byte, and after a full disk nothing else may be
left. Then limits of the system itself (RLIMIT_FSIZE at every size in steps, a full tmpfs where one
can be mounted), and two processes that save to one place at once while a third reads. --times
multiplies the rounds of the latter. Writes results/interrupted_saves.json; exits with 1 if
anything else is found.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from _adapters import WEIGHTS, adapted, model
from _common import parser, print_table, write_record
from _interrupt import Interrupter
from tqdm import tqdm

import expandermask as xm
from expandermask.adapters import load_adapter, save_adapter
from expandermask.errors import FileFormatError
from expandermask.files import read_bytes, write_text
from expandermask.masks import load_mask, save_mask

ROUNDS, LIMITS = 200, 40
MOST_CALLS = 200
WHOLE, TWO = "not interrupted", "two at once, reads"
UNHARMED = (WHOLE, TWO)


@dataclass(frozen=True)
class Subject:
    """One kind of file: how state 0 or 1 of it is written to a folder, and how it is read."""

    file: str
    write: Callable[[Path, int], None]
    read: Callable[[Path], object]
    """Raises the library's error for what is no whole file."""


ADAPTED = (adapted(1), adapted(2))
PLANS = tuple(xm.MaskPlan.for_shapes({"m": (64, 32)}, r=8, rng=k) for k in (1, 2))
GRAPHS = tuple(xm.graphs.random_biregular(96, 24, 3, rng=k) for k in (1, 2))
PROOFS = (xm.certify(xm.graphs.heawood()), xm.certify(xm.graphs.pappus()))

SUBJECTS = {
    "adapter": Subject(
        WEIGHTS,
        lambda folder, k: save_adapter(ADAPTED[k], folder),
        lambda folder: load_adapter(model(), folder),
    ),
    "plan": Subject(
        "plan.json",
        lambda folder, k: PLANS[k].save(folder / "plan.json"),
        lambda folder: xm.MaskPlan.load(folder / "plan.json"),
    ),
    "mask, .json": Subject(
        "mask.json",
        lambda folder, k: save_mask(folder / "mask.json", GRAPHS[k]),
        lambda folder: load_mask(folder / "mask.json"),
    ),
    "mask, .npz": Subject(
        "mask.npz",
        lambda folder, k: save_mask(folder / "mask.npz", GRAPHS[k]),
        lambda folder: load_mask(folder / "mask.npz"),
    ),
    "certificate": Subject(
        "proof.json",
        lambda folder, k: write_text(folder / "proof.json", PROOFS[k].to_json()),
        lambda folder: xm.Certificate.from_json(read_bytes(folder / "proof.json")),
    ),
}


def forked(act: Callable[[], None]) -> int:
    """The exit code of a process of its own that does ``act``: 1 for an OSError, -9 if killed."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            act()
            code = 0
        except OSError:
            code = 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Stage:
    """A folder for one kind of file, and what of it is right."""

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.subject = name, SUBJECTS[name]
        self.folder = place / "folder"
        self.states = []
        for k in (0, 1):
            self.clear()
            self.subject.write(self.folder, k)
            self.states.append((self.folder / self.subject.file).read_bytes())

    def clear(self) -> None:
        """An empty folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def set(self, old: bool) -> None:
        """The folder before a save: with state 0 in it, or empty."""
        self.clear()
        if old:
            (self.folder / self.subject.file).write_bytes(self.states[0])

    def found(self, old: bool) -> str:
        """What a folder is after an interruption: "old", "new", or what is wrong with it."""
        path = self.folder / self.subject.file
        if not path.exists():
            return "ABSENT" if old else "old"
        data = path.read_bytes()
        try:
            self.subject.read(self.folder)
        except FileFormatError as error:
            return f"BROKEN {error}"
        if data == self.states[1]:
            return "new"
        return "old" if old and data == self.states[0] else "ANOTHER"

    def litter(self) -> list[str]:
        """Files beside the one that belongs there."""
        return sorted(set(os.listdir(self.folder)) - {self.subject.file})


Found = tuple[Counter[tuple[str, ...]], list[str]]


def at_every_call(stage: Stage) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Kill, and fill the disk, at every call in turn; what came of it, and a fault or None."""
    for kill in (True, False):
        for old in (True, False):
            for at in range(1, MOST_CALLS):
                stage.set(old)

                def act(at: int = at, kill: bool = kill) -> None:
                    Interrupter(at, kill=kill).install()
                    stage.subject.write(stage.folder, 1)

                code = forked(act)
                state, litter = stage.found(old), stage.litter()
                how = "killed" if kill else "disk full"
                wrong = state not in ("old", "new") or (litter and not kill)
                wrong = wrong or code not in (0, -signal.SIGKILL if kill else 1)
                if code == 0 and state == "new" and not litter and not wrong:
                    yield (stage.name, WHOLE, state), None
                    break
                fault = f"{how} at call {at}, old={old}: {state}, exit {code}, left {litter}"
                yield (stage.name, how, state), fault if wrong else None
            else:
                yield (stage.name, "never ended", ""), f"{MOST_CALLS} calls and no end"


def at_sizes(stage: Stage) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Let the system refuse to write beyond a size, from 0 up to what the file needs."""
    size = len(stage.states[1])
    for step in range(LIMITS):
        for old in (True, False):
            stage.set(old)
            limit = size * step // LIMITS

            def act(limit: int = limit) -> None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that write() fails instead
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                stage.subject.write(stage.folder, 1)

            code, state, litter = forked(act), stage.found(old), stage.litter()
            wrong = state != "old" or litter or code != 1
            fault = f"limit {limit}, old={old}: {state}, exit {code}, left {litter}"
            yield (stage.name, "size limit", state), fault if wrong else None


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[bool]:
    """A tmpfs of a few kilobytes at ``place``; False where this process may not mount one."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    mounted = shutil.which("mount") is not None
    mounted = mounted and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def on_a_full_disk(name: str, place: Path) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Save over an old file on a disk that has room for that one only."""
    whole = Stage(name, place)
    kilobytes = 4 * -(-len(whole.states[0]) // 4096)  # a page at least, for the old file
    with small_disk(place / "disk", kilobytes) as mounted:
        if not mounted:
            yield (name, "full tmpfs", "cannot mount one here"), None
            return
        stage = whole
        stage.folder = place / "disk"
        (stage.folder / stage.subject.file).write_bytes(stage.states[0])
        code = forked(lambda: stage.subject.write(stage.folder, 1))
        state, litter = stage.found(True), stage.litter()
        wrong = state != "old" or litter or code != 1
        fault = f"full tmpfs: {state}, exit {code}, left {litter}"
        yield (name, "full tmpfs", state), fault if wrong else None


def two_at_once(stage: Stage, rounds: int) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Two processes save to one place ``rounds`` times each, and every read is of one of them."""
    stage.set(True)

    def writer(k: int) -> int:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                for _ in range(rounds):
                    stage.subject.write(stage.folder, k)
                code = 0
            finally:
                os._exit(code)
        return child

    children, codes, states = [writer(0), writer(1)], [], Counter[str]()
    while children:
        state = stage.found(True)
        states[state if state in ("old", "new") else "neither"] += 1
        ended = [(c, *os.waitpid(c, os.WNOHANG)) for c in children]
        codes += [status for _, found, status in ended if found]
        children = [c for c, found, _ in ended if not found]
    fault = f"two at once: {dict(states)}, codes {codes}, left {stage.litter()}"
    wrong = states["neither"] or any(codes) or stage.litter()
    yield (stage.name, TWO, "one of the two"), fault if wrong else None
    for _ in range(states.total() - 1):
        yield (stage.name, TWO, "one of the two"), None


def order_of_calls() -> list[str]:
    """The calls of one save of an adapter, in order."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "calls"

        def act() -> None:
            counter = Interrupter(0, kill=False)
            kept = open
            counter.install()
            save_adapter(ADAPTED[0], Path(place) / "folder")
            calls = list(counter.calls)
            with kept(path, "w") as stream:
                stream.write("\n".join(calls))

        assert forked(act) == 0
        calls = path.read_text().split("\n")
    return calls


def is_durable(calls: list[str]) -> bool:
    """Whether the file is on the disk before it is renamed, and the name after that."""
    renamed = calls.index("replace")
    return "fsync" in calls[:renamed] and "fsync" in calls[renamed:] and "write" in calls[:renamed]


def everything(times: float, names: list[str]) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """All interruptions of all subjects."""
    rounds = max(1, round(ROUNDS * times))
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            stage = Stage(name, Path(place))
            yield from at_every_call(stage)
            yield from at_sizes(stage)
            yield from two_at_once(stage, rounds)
            yield from on_a_full_disk(name, Path(place))


def main() -> int:
    """Interrupt everything, print the counts, write the record."""
    options = parser(__doc__)
    options.add_argument("--only", choices=SUBJECTS, help="one kind of file")
    arguments = options.parse_args()
    names = [arguments.only] if arguments.only else list(SUBJECTS)
    counts, faults = Counter[tuple[str, ...]](), []
    for key, fault in tqdm(everything(arguments.times, names), unit="save", disable=None):
        counts[key] += 1
        if fault is not None:
            faults.append(f"{key[0]}: {fault}")
    calls = order_of_calls()
    if not is_durable(calls):
        faults.append(f"not written to the disk before the rename: {calls}")
    print_table(["what", "how", "found", "count"], [(*k, n) for k, n in sorted(counts.items())])
    body = {
        "interruptions": sum(n for (_, how, _), n in counts.items() if how not in UNHARMED),
        "reads while two save": sum(n for (_, how, _), n in counts.items() if how == TWO),
        "counts": {", ".join(key): n for key, n in sorted(counts.items())},
        "calls of one save": calls,
        "faults": len(faults),
        "first faults": faults[:20],
        "passed": not faults,
    }
    path = write_record(arguments, "interrupted_saves", body)
    print(f"{len(faults)} faults; record: {path.name}")
    for fault in faults[:20]:
        print(fault)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
