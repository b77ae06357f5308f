"""The same masks and verdicts on every BLAS kernel, with and without the compiler, on every numpy.

    python reliability/platforms.py [--environments FOLDER]

Each row is a process of its own that rebuilds golden_masks.json and certifies the masks, the traps
and random graphs. OpenBLAS is told which kernels to use, and says which it took; the numpy releases
are installed by pip, each with what the library needs, in a temporary folder or in one that is
kept. Minutes, most of them pip's. Writes results/platforms.json; exits with 1 if a row differs, or
if fewer than three kernels and two releases could be tried.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _common import ROOT, parser, print_table, write_record
from tqdm import tqdm

CHILD = Path(__file__).with_name("_goldens.py")
GOLDEN = Path(__file__).with_name("golden_masks.json")
KERNELS = ("Nehalem", "Sandybridge", "Haswell", "SkylakeX")
"""One of each vector width: SSE, AVX, AVX2 with fused multiply-add, AVX-512."""
LEAST_KERNELS, LEAST_RELEASES = 3, 2
OURS = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NUMBA_DISABLE_JIT"}

Row = dict[str, Any]


def run(python: str, **environment: str) -> Row:
    """The report of one interpreter under some environment variables."""
    inherited = {k: v for k, v in os.environ.items() if k not in OURS}
    inherited["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [python, str(CHILD)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == -signal.SIGILL and "OPENBLAS_CORETYPE" in environment:
        return {"outcome": "not run by this processor: it has not the kernel's instructions"}
    if done.returncode:
        return {"outcome": f"failed: {last_line(done.stderr)}"}
    report: Row = json.loads(done.stdout)
    return report


def compared(report: Row) -> Row:
    """A report with the golden masks and verdicts replaced by how many of them differ."""
    if "outcome" in report:
        return report
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    masks, verdicts = report.pop("masks"), report.pop("verdicts")
    pairs = zip(masks, golden["masks"], strict=True)
    differing = [found for found, entry in pairs if found != entry]
    verdicts_differ = sum(a != b for a, b in zip(verdicts, golden["verdicts"], strict=True))
    return {
        **report,
        "masks": len(masks),
        "masks that differ": len(differing),
        "differing": differing[:5],
        "verdicts": len(verdicts),
        "verdicts that differ": verdicts_differ,
        "outcome": "same" if not differing and not verdicts_differ else "DIFFERS",
    }


def kernel_rows() -> Iterator[tuple[str, Row]]:
    """This interpreter on each kernel OpenBLAS can run here, then without the compiler."""
    for kernel in KERNELS:
        row = compared(run(sys.executable, OPENBLAS_CORETYPE=kernel))
        if "blas" in row and not all(kernel in blas for blas in row["blas"]):
            row["outcome"] = f"not run by this processor: took {', '.join(row['blas'])}"
        yield f"kernel {kernel}", row
    yield "no compiler", compared(run(sys.executable, NUMBA_DISABLE_JIT="1"))


def release_rows(folder: Path) -> Iterator[tuple[str, Row]]:
    """Each minor release of numpy that is allowed and offered, with all else as pip resolves it."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for minor in releases():
        python = folder / f"numpy-{minor}" / "bin" / "python"
        wanted = [f"numpy=={minor}.*", *(r for r in requirements if not r.startswith("numpy"))]
        problem = installed(python, wanted)
        row = {"outcome": f"cannot be installed: {problem}"} if problem else run(str(python))
        yield f"numpy {minor}", compared(row)


def releases() -> list[str]:
    """The minor releases of numpy, from 2.0 on, that pip finds for this Python."""
    command = [sys.executable, "-m", "pip", "index", "versions", "numpy"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    minors = {(int(a), int(b)) for a, b in re.findall(r"\b(\d+)\.(\d+)\.\d+\b", listed)}
    return [f"{a}.{b}" for a, b in sorted(minors) if a >= 2]


def installed(python: Path, wanted: list[str]) -> str:
    """Make an environment with the requirements unless it is there; what went wrong, or ""."""
    if not python.exists():
        venv.create(python.parents[1], with_pip=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    return last_line(done.stderr) if done.returncode else ""


def last_line(text: str) -> str:
    """The last line that is not blank."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")


def main() -> int:
    """Run every row, print the table, write the record."""
    options = parser(__doc__)
    options.add_argument("--environments", type=Path, help="where to keep the environments")
    options.add_argument("--no-releases", action="store_true", help="this numpy only")
    arguments = options.parse_args()
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as temporary, tqdm(desc="platforms", unit="row") as bar:
        for name, row in kernel_rows():
            rows[name] = row
            bar.update()
        if not arguments.no_releases:
            for name, row in release_rows(arguments.environments or Path(temporary)):
                rows[name] = row
                bar.update()
    columns = ("numpy", "scipy", "numba", "blas", "masks that differ", "verdicts that differ")
    print_table(
        ["platform", *columns, "outcome"],
        [[name, *(row.get(c, "") for c in columns), row["outcome"]] for name, row in rows.items()],
    )
    same = [name for name, row in rows.items() if row["outcome"] == "same"]
    wrong = [n for n, row in rows.items() if row["outcome"].startswith(("DIFFERS", "failed"))]
    enough = sum(name.startswith("kernel") for name in same) >= LEAST_KERNELS and (
        arguments.no_releases or sum(name.startswith("numpy") for name in same) >= LEAST_RELEASES
    )
    passed = not wrong and enough
    body = {"rows": rows, "same": len(same), "differ or fail": wrong, "passed": passed}
    print(f"record: {write_record(arguments, 'platforms', body).name}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
