"""What one platform makes of the golden masks and of a list of hard verdicts, as JSON on stdout.

    python reliability/_goldens.py          # what is here, beside golden_masks.json
    python reliability/_goldens.py --write  # golden_masks.json itself

Run by platforms.py in other interpreters and environments; needs no more than the library does.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path
from random import Random
from typing import Any

import _common  # noqa: F401  (puts the repository on the path)
import numba
import numpy as np
import scipy
import scipy.linalg
from _masks import draw
from threadpoolctl import threadpool_info
from traps import all_traps, answered

import expandermask as xm

GOLDEN = Path(__file__).parent / "golden_masks.json"
DRAWN = 400
SHAPES: dict[str, list[tuple[int, int, int]]] = {
    "random": [(30, 20, 4), (12, 36, 6), (64, 8, 2), (100, 50, 3), (40, 40, 5), (27, 9, 4)],
    "design": [(64, 8, 2), (768, 8, 2), (384, 64, 2), (60, 12, 3), (40, 24, 3), (8, 96, 24)],
    "covering": [(45, 45, 3), (96, 48, 3), (28, 14, 6), (64, 64, 4), (60, 30, 3)],
    "quasi-cyclic": [(200, 100, 3), (120, 60, 3), (90, 90, 4), (600, 200, 3)],
    "lps": [(60, 60, 4), (60, 60, 14), (168, 168, 4), (168, 168, 6), (660, 660, 6)],
    "interlacing": [(12, 12, 3), (6, 12, 6), (12, 6, 3), (8, 16, 4), (9, 9, 2)],
    "geometry": [(7, 7, 3), (13, 13, 4), (21, 21, 5), (31, 31, 6), (15, 15, 3), (40, 40, 4)],
    "auto": [(768, 8, 2), (64, 16, 4), (36, 24, 4), (5, 8, 8), (96, 32, 3), (21, 21, 5)],
}
"""Shapes for `ramanujan_graph` by method; each is made from several seeds."""
UNPROVED = [
    (10, 10, 2),
    (10, 10, 3),
    (24, 8, 3),
    (50, 50, 3),
    (9, 12, 4),
    (64, 64, 9),
    (300, 20, 2),
]
"""Shapes for `random_biregular`, whose graphs need not be Ramanujan."""
ONE_SEED = {"lps", "geometry"}
SEEDS = 6


def requests() -> list[dict[str, Any]]:
    """What is asked for: method ("" for `random_biregular`), shape, seed."""
    shapes = [(method, shape) for method, shapes in SHAPES.items() for shape in shapes]
    return [
        {"method": method, "shape": list(shape), "seed": seed}
        for method, shape in [*shapes, *(("", shape) for shape in UNPROVED)]
        for seed in range(1 if method in ONE_SEED else SEEDS)
    ]


def made(method: str, shape: list[int], seed: int) -> dict[str, str]:
    """One mask: the digest of its graph, the SHA-256 of its bytes, its verdict."""
    if method:
        graph = xm.ramanujan_graph(*shape, method=method, rng=seed)
    else:
        graph = xm.graphs.random_biregular(*shape, rng=seed)
    return {
        "digest": graph.digest,
        "mask": hashlib.sha256(graph.mask().tobytes()).hexdigest(),
        "verdict": xm.certify(graph).verdict,
    }


def verdicts() -> str:
    """One letter for each trap, then for each of the drawn masks: Proved, Refuted, r(efused) ..."""
    random = Random(0)
    found = [answered(subject) for _, subject in all_traps(0.25)]
    found += [xm.certify(draw(random)[1]).verdict for _ in range(DRAWN)]
    return "".join(verdict[0] for verdict in found)


def report() -> dict[str, Any]:
    """This platform, its masks and its verdicts."""
    scipy.linalg.svdvals(np.eye(2))  # loads scipy's own BLAS
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
        "jit": not numba.config.DISABLE_JIT,
        "blas": sorted(
            {
                f"{blas['internal_api']} {blas.get('version')} {blas.get('architecture')}"
                for blas in threadpool_info()
                if blas["user_api"] == "blas"
            }
        ),
        "masks": [{**asked, **made(**asked)} for asked in wanted()],
        "verdicts": verdicts(),
    }


def wanted() -> list[dict[str, Any]]:
    """The requests of the golden file, or of this one if it is to be written."""
    if "--write" in sys.argv:
        return requests()
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return [{key: entry[key] for key in ("method", "shape", "seed")} for entry in golden["masks"]]


def main() -> None:
    """Print the report, or keep its masks and verdicts as the golden ones."""
    found = report()
    if "--write" not in sys.argv:
        print(json.dumps(found))
        return
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in found.pop("masks"))
    head = {
        "what": "masks by ramanujan_graph (method, shape, seed; no method: random_biregular), "
        "then verdicts of the traps and random masks of this folder, by first letter",
        "command": "python reliability/_goldens.py --write",
        "made with": {key: found[key] for key in ("python", "numpy", "scipy", "numba", "blas")},
        "verdicts": found["verdicts"],
    }
    text = json.dumps(head, indent=1)[:-2]
    GOLDEN.write_text(f'{text},\n "masks": [\n{lines}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
