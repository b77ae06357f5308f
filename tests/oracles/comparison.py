"""Comparisons of masks by Python sets, by all orders of rows and columns, by all subsets."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, permutations

import numpy as np

from tests.oracles.graphs import SplitMix64

Cells = set[tuple[int, int]]


def cells(mask: np.ndarray) -> Cells:
    return {(i, j) for i, row in enumerate(mask.tolist()) for j, entry in enumerate(row) if entry}


def moments(values: list[int]) -> tuple[Fraction, Fraction]:
    """Mean and (population) variance."""
    mean = Fraction(sum(values), len(values))
    return mean, sum((value - mean) ** 2 for value in values) / Fraction(len(values))


def relabelled_common(a: np.ndarray, b: np.ndarray) -> list[int]:
    """The common entries for every order of b's rows and columns."""
    n1, n2 = a.shape
    return [
        int((a * b[np.ix_(rows, columns)]).sum())
        for rows in permutations(range(n1))
        for columns in permutations(range(n2))
    ]


def subset_common(size: int, kept_a: int, kept_b: int) -> list[int]:
    """How much each subset of ``kept_b`` of ``size`` things shares with the first ``kept_a``."""
    return [sum(x < kept_a for x in chosen) for chosen in combinations(range(size), kept_b)]


def two_regular_masks() -> Iterator[np.ndarray]:
    """All 90 masks 4 x 4 with two entries in each row and column."""
    pairs = list(combinations(range(4), 2))
    for first in pairs:
        for second in pairs:
            for third in pairs:
                for fourth in pairs:
                    mask = np.zeros((4, 4), dtype=int)
                    for row, chosen in enumerate((first, second, third, fourth)):
                        mask[row, list(chosen)] = 1
                    if (mask.sum(axis=0) == 2).all():
                        yield mask


def random_cells(total: int, kept: int, seed: int) -> list[int]:
    words, chosen = SplitMix64(seed), []
    for cell in range(total):
        if len(chosen) < kept and words.below(total - cell) < kept - len(chosen):
            chosen.append(cell)
    return chosen


def codegrees(mask: np.ndarray) -> list[int]:
    """How many vertices each two vertices of the smaller side share (columns if equal)."""
    columns = (mask if mask.shape[1] <= mask.shape[0] else mask.T).T.tolist()
    return [
        sum(x * y for x, y in zip(one, other, strict=True))
        for one, other in combinations(columns, 2)
    ]


def norm_less_density(mask: np.ndarray) -> float:
    """The spectral norm of M - p J."""
    return float(np.linalg.svd(mask - mask.mean(), compute_uv=False)[0])
