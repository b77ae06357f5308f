"""Bernoulli masks: entries, or whole rows, kept independently with one probability.

Partial-LoRA ("The quest for winning tickets in low-rank adapters", section 4.2) draws which rows of
B and which columns of A are kept; its theorem 4.1 speaks of entries. A mask has one row for each
output (of B) or input (of A) and one column for each rank.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import (
    InvalidInputError,
    check_edges,
    check_real,
    check_size,
    require_memory,
)
from expandermask.graphs.bipartite import BernoulliRecipe, BipartiteGraph, from_kept
from expandermask.graphs.random import RandomState, draw_seed

_STEPS = 2**53
_CHUNK = 2**22


def bernoulli(n1: int, n2: int, density: float, *, rng: RandomState = None) -> BipartiteGraph:
    """A mask that keeps every one of its n1 x n2 entries independently with one probability.

    Parameters
    ----------
    n1, n2 : int
        Rows (inputs or outputs) and columns (ranks).
    density : float
        The probability, in (0, 1].
    rng : None, int or numpy.random.Generator
        One seed, kept in the recipe: the same int gives the same mask everywhere.

    Returns
    -------
    BipartiteGraph
        With a recipe, so that a plan's file holds no indices of it. Rows, columns, or all of it may
        be empty: see `expandermask.inspection.mask_outcomes`.

    Raises
    ------
    InvalidInputError
        A size below 1, 2**31 entries or more, or a density outside (0, 1].

    Notes
    -----
    An entry is kept if a 53-bit number, from the top of PCG64's 64, is below density * 2**53. O(n1
    n2) time, O(n1 + entries kept) memory.

    Examples
    --------
    >>> from expandermask.masks import bernoulli
    >>> mask = bernoulli(768, 64, 0.25, rng=0)
    >>> mask
    BipartiteGraph(n1=768, n2=64, num_edges=12214)
    >>> mask.recipe
    BernoulliRecipe(density=0.25, seed=0, version=1)
    """
    n1, n2 = check_size("n1", n1), check_size("n2", n2)
    check_edges(n1, n2)
    return redraw(BernoulliRecipe(check_density("density", density), draw_seed(rng)), n1, n2)


def row_column(n1: int, n2: int, density: float, *, rng: RandomState = None) -> BipartiteGraph:
    """A mask that keeps every one of its n1 rows, whole, independently with one probability.

    As a mask of B it keeps rows of B, as one of A, which has a row for every input, columns of A:
    Partial-LoRA's u_row and u_col (equation 6).

    Parameters
    ----------
    n1, n2 : int
        Rows (inputs or outputs) and columns (ranks).
    density : float
        The probability, in (0, 1].
    rng : None, int or numpy.random.Generator
        The same int gives the same mask everywhere.

    Raises
    ------
    InvalidInputError
        A size below 1, 2**31 entries or more, or a density outside (0, 1].

    Examples
    --------
    >>> from expandermask.masks import row_column
    >>> mask = row_column(768, 64, 0.25, rng=0)
    >>> sorted(set(mask.left_degrees.tolist())), mask.num_edges // 64
    ([0, 64], 181)
    """
    n1, n2 = check_size("n1", n1), check_size("n2", n2)
    check_edges(n1, n2)
    density = check_density("density", density)
    kept = np.flatnonzero(_kept(np.random.PCG64(draw_seed(rng)), n1, density))
    require_memory(4 * len(kept) * n2, f"a mask of {len(kept)} rows of {n2}")
    return from_kept(kept, n1, n2)


def redraw(recipe: BernoulliRecipe, n1: int, n2: int) -> BipartiteGraph:
    """The mask of a recipe, of n1 x n2 entries."""
    require_memory(int(4 * n1 * n2 * recipe.density), f"a mask of {n1} x {n2}")
    stream = np.random.PCG64(recipe.seed)
    degrees, rights = np.zeros(n1, dtype=np.int64), []
    for start in range(0, n1 * n2, _CHUNK):
        draws = min(_CHUNK, n1 * n2 - start)
        kept = start + np.flatnonzero(_kept(stream, draws, recipe.density))
        first = start // n2
        counts = np.bincount(kept // n2 - first)
        degrees[first : first + len(counts)] += counts
        rights.append((kept % n2).astype(np.int32))
    starts = np.concatenate([[0], degrees.cumsum()])
    return BipartiteGraph(starts, np.concatenate(rights), n2, recipe)


def check_density(name: str, value: object) -> float:
    """``value`` as a float in (0, 1]; `InvalidInputError` for anything else."""
    density = check_real(name, value)
    if not 0 < density <= 1:
        near = "" if math.isnan(density) else f"; the nearest is {1.0 if density > 1 else 2**-53:g}"
        raise InvalidInputError(f"{name} must lie in (0, 1], got {density!r}{near}")
    return density


def _kept(stream: np.random.PCG64, draws: int, density: float) -> NDArray[np.bool_]:
    below: NDArray[np.bool_] = (stream.random_raw(draws) >> 11) < math.ceil(density * _STEPS)
    return below
