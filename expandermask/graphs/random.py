"""Random biregular graphs: uniform over the simple ones of a given shape.

Configuration model, repair of repeated edges by switches, then a run of the switch chain. Repair
alone is measurably biased; the chain's moves are symmetric, so its stationary law is uniform
(Kannan, Tetali and Vempala, "Simple Markov-chain algorithms for generating bipartite graphs and
tournaments", 1999), and it connects all simple graphs of the shape (Ryser, 1957).
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import (
    InvalidInputError,
    check_edges,
    check_integer,
    check_shape,
    require_memory,
)
from expandermask.graphs import _kernels
from expandermask.graphs.biregular import BiregularGraph, Builder, Recipe

RandomState = None | int | np.random.Generator
"""What ``rng`` takes: None (fresh entropy), an int in [0, 2**64), or a numpy Generator."""

ALGORITHM, VERSION = "random_biregular", 1
_EXTRA_TRIALS = 256
_SHORT_ROW = 32


def random_biregular(n1: int, n2: int, d1: int, *, rng: RandomState = None) -> BiregularGraph:
    """A simple biregular graph drawn (nearly) uniformly from all of its shape.

    One seed gives one graph, in every process and on every platform: the generator is SplitMix64,
    written in integers. For n1 != n2, exchanging the sides gives the transpose of the same graph.

    Parameters
    ----------
    n1, n2 : int
        Numbers of left and right vertices; either may be larger.
    d1 : int
        Degree of the left vertices, 1 <= d1 <= n2, with n1 * d1 divisible by n2.
    rng : None, int or numpy.random.Generator
        An int in [0, 2**64) is the seed itself; from None or a Generator one 64-bit seed is drawn.
        The seed is kept in ``recipe``.

    Raises
    ------
    InvalidInputError, InfeasibleShapeError
        Naming the nearest shape that works.
    TooLargeError
        More memory would be needed than is free.

    Notes
    -----
    O(n1 * d1) expected time for sparse graphs, with one switch trial per edge after the repair and
    256 more, so that small graphs are mixed well too. More than half-full shapes are drawn as the
    complement of a sparse one.

    Examples
    --------
    >>> from expandermask.graphs import random_biregular
    >>> random_biregular(12, 6, 3, rng=0)
    BiregularGraph(n1=12, n2=6, d1=3, d2=6)
    >>> random_biregular(12, 6, 3, rng=0) == random_biregular(12, 6, 3, rng=0)
    True
    """
    n1, n2, d1, d2 = check_shape(n1, n2, d1)
    seed = draw_seed(rng)
    edges = check_edges(n1, d1)
    require_memory(8 * edges, f"a graph of {edges} edges")
    if n1 >= n2:
        rows = _long_side_rows(n1, n2, d1, seed)
    else:
        rows = _kernels.transpose_rows(_long_side_rows(n2, n1, d2, seed), n1)
    return BiregularGraph._trusted(rows, n2, Recipe(ALGORITHM, VERSION, n1, n2, d1, seed))


def _long_side_rows(n1: int, n2: int, d1: int, seed: int) -> NDArray[np.int32]:
    """Sorted neighbour rows for n1 >= n2, through the complement where that is sparser."""
    sparse = min(d1, n2 - d1)
    if sparse == 0:
        return np.tile(np.arange(n2, dtype=np.int32), (n1, 1))
    trials = n1 * sparse + _EXTRA_TRIALS
    rows: NDArray[np.int32] = _kernels.random_neighbors(n1, n2, sparse, np.uint64(seed), trials)
    if sparse < d1:
        rows = _kernels.complement_rows(rows, n2)
    elif sparse > _SHORT_ROW:
        rows.sort(axis=1)
    else:
        _kernels.sort_rows(rows)
    return rows


def draw_seed(rng: RandomState) -> int:
    """The 64-bit seed behind ``rng``: an int is itself, anything else is asked for one.

    From None it is below 2**53, so that every reader of JSON keeps all of its digits.
    """
    if rng is None:
        return secrets.randbits(53)
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**64, dtype=np.uint64))
    seed = check_integer("rng", rng, minimum=0)
    if seed >= 2**64:
        raise InvalidInputError(f"rng must be below 2**64 to be a seed, got {seed}")
    return seed


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 64-bit seed for one labelled use of ``seed``: independent of order and of other uses."""
    text = "\0".join(str(part) for part in ("expandermask", seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _from_recipe(recipe: Recipe, base: BiregularGraph | None) -> BiregularGraph:
    return random_biregular(recipe.n1, recipe.n2, recipe.d1, rng=recipe.seed)


BUILDERS: dict[str, tuple[int, Builder]] = {ALGORITHM: (VERSION, _from_recipe)}
