"""certify() against exact arithmetic on a million random small biregular graphs.

    python reliability/agreement.py [--times M] [--jobs N]

Each mask is certified three times and judged once by `tests.oracles.roots`: the characteristic
polynomial by python-flint, root counts in integers, components by union-find. Counted are verdicts
that differ from the exact one, enclosures of sigma_2 that miss it (exact signs at both ends),
certificates that differ between repeats, and UNDECIDED away from ties; and on a tenth of the masks
the verdict by the two-sided definition. Writes results/agreement.json; exits with 1 if anything
disagrees.
"""

from __future__ import annotations

import sys
from collections import Counter
from random import Random
from typing import Any

from _common import parser, print_table, workers, write_record
from _masks import Mask, draw
from tqdm import tqdm

import expandermask as xm
from tests.oracles.roots import truth

GRAPHS, CHUNK, REPEATS = 1_000_000, 500, 3
TWO_SIDED_EVERY = 10
MOST_UNDECIDED = 0.001
FAULTS = (
    "verdict differs",
    "two-sided verdict differs",
    "enclosure misses",
    "repeats differ",
)


def examine(kind: str, mask: Mask, two_sided: bool) -> list[str]:
    """The names of what is to be counted of one mask."""
    exact, proof = truth(mask), xm.certify(mask)
    seen = [
        f"kind: {kind}",
        f"verdict: {proof.verdict}",
        f"method: {proof.method}",
        f"exact: {exact.verdict}",
    ]
    if exact.tied:
        seen.append("ties" if exact.components == 1 else "ties of disjoint cycles")
    if proof.verdict == "UNDECIDED":
        seen.append("undecided at a tie" if exact.tied else "undecided away from ties")
    elif proof.verdict != exact.verdict:
        seen.append("verdict differs")
    if not exact.encloses(*proof.sigma2):
        seen.append("enclosure misses")
    graph = xm.BiregularGraph.from_mask(mask)
    if any(xm.certify(graph) != proof for _ in range(REPEATS - 1)):
        seen.append("repeats differ")
    if two_sided:
        verdict = xm.certify(graph, definition="two-sided").verdict
        seen.append(f"two-sided: {verdict}")
        if verdict not in (exact.two_sided, "UNDECIDED"):
            seen.append("two-sided verdict differs")
    return seen


def chunk(seed: int) -> tuple[Counter[str], list[dict[str, Any]]]:
    """The counts over the masks of one seed, and the masks at fault."""
    random, counts, faults = Random(seed), Counter[str](), []
    for _ in range(CHUNK):
        kind, mask = draw(random)
        seen = examine(kind, mask, two_sided=seed % TWO_SIDED_EVERY == 0)
        counts.update(seen)
        if found := [fault for fault in FAULTS if fault in seen]:
            faults.append({"seed": seed, "kind": kind, "faults": found, "mask": mask.tolist()})
    return counts, faults


def main() -> int:
    """Count, print, write the record."""
    arguments = parser(__doc__).parse_args()
    chunks = max(1, round(GRAPHS * arguments.times / CHUNK))
    counts, faults = Counter[str](), []
    with workers(arguments.jobs) as spread:
        done = spread(chunk, range(chunks))
        for found, wrong in tqdm(done, total=chunks, desc="chunks of 500", unit="chunk"):
            counts += found
            faults += wrong
    graphs = chunks * CHUNK
    share = counts["undecided away from ties"] / graphs
    good = not faults and share <= MOST_UNDECIDED
    print_table(["what", "count"], [("graphs", graphs), *sorted(counts.items())])
    print_table(["fault", "count"], [(fault, counts[fault]) for fault in FAULTS])
    body = {
        "graphs": graphs,
        "seeds": [0, chunks - 1],
        "repeats": REPEATS,
        "disagreements": {fault: counts[fault] for fault in FAULTS},
        "undecided away from ties": share,
        "counts": dict(sorted(counts.items())),
        "faults": faults[:20],
        "passed": good,
    }
    print(f"{'passed' if good else 'FAILED'}: {write_record(arguments, 'agreement', body).name}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
