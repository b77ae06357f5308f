"""SVD scores of a 12x768 model, beside full singular value decompositions.

    python benchmarks/importance.py

A BERT of 12 layers of width 768, random weights, all 73 linear layers but the head. The library's
scores come from Gram matrices, in float64; the definition takes a full SVD of every weight, by
numpy, once and for all. Both on one thread, in turn. Writes results/importance.json.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from _adapter_arms import bert
from _common import print_table, write_record
from threadpoolctl import threadpool_limits

from expandermask.importance import svd_scores
from expandermask.masks import Scores

BAR = 60.0


def by_definition(model: torch.nn.Module, names: list[str]) -> dict[str, Scores]:
    """||W V||_2 of rows, V = Q' L, and the same of W' for columns."""
    found = {}
    for name in names:
        w = model.get_submodule(name).weight.detach().double().numpy()
        p, singular, q = np.linalg.svd(w, full_matrices=False)
        rows = np.linalg.norm(w @ (q.T * singular), axis=1)
        found[name] = Scores(rows, np.linalg.norm(w.T @ (p * singular), axis=1))
    return found


def main() -> None:
    """Time both, compare, write the record."""
    torch.set_num_threads(1)
    model = bert("12x768").eval()
    start = time.perf_counter()
    own = svd_scores(model)
    middle = time.perf_counter()
    with threadpool_limits(1):
        other = by_definition(model, list(own))
    seconds = {"svd_scores": middle - start, "full SVD": time.perf_counter() - middle}
    error = max(
        float((np.abs(a - b) / b.max()).max())
        for name in own
        for a, b in zip(own[name], other[name], strict=True)
    )
    ranks_equal = all(
        np.array_equal(np.argsort(a), np.argsort(b))
        for name in own
        for a, b in zip(own[name], other[name], strict=True)
    )
    print_table(["", "seconds"], [[name, f"{value:.1f}"] for name, value in seconds.items()])
    print(f"{len(own)} modules, largest relative error {error:.1e}, same order: {ranks_equal}")
    body = {
        "modules": len(own),
        "seconds": seconds,
        "largest_relative_error": error,
        "same_order": ranks_equal,
        "bars": {f"under {BAR:g} s": seconds["svd_scores"] < BAR},
    }
    print(f"record: {write_record('importance', body).name}")


if __name__ == "__main__":
    main()
