"""Quasi-cyclic graphs: lifts of a random base by voltages in Z_r, for large graphs with a proof.

A base graph on n1/r + n2/r vertices is drawn, and a voltage in Z_r for each of its edges; every
base vertex becomes r vertices, every base edge a cyclic shift between two groups of r (Gross, 1974;
Fossorier, 2004). Adding 1 to the place in every group is an automorphism, so the proof that such a
graph is Ramanujan falls apart into r blocks of size n2/r. ``docs/theory/quasi_cyclic.md``.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from expandermask.errors import (
    InfeasibleShapeError,
    InvalidInputError,
    check_edges,
    check_integer,
    check_shape,
    divisors_between,
    nearest_multiples,
    require_memory,
)
from expandermask.graphs import _covering_kernels
from expandermask.graphs.biregular import BiregularGraph, Builder, Recipe
from expandermask.graphs.random import RandomState, derive_seed, draw_seed, random_biregular

ALGORITHM, VERSION = "quasi_cyclic", 1
USUAL_ORDER = 80
"""The r that is aimed for: more characters fail more often, fewer make larger blocks."""


def quasi_cyclic(
    n1: int, n2: int, d1: int, *, r: int | None = None, rng: RandomState = None
) -> BiregularGraph:
    """A random quasi-cyclic graph: a Z_r lift of a random simple biregular base graph.

    With b the base, of n1/r + n2/r vertices, and V its voltages, left vertex ``i*r + g`` is joined
    to the right vertices ``j*r + (g + V[i, j]) % r``, j running over the neighbours of i in b. The
    base and each voltage are uniform. Nothing is proved here: about one draw in three is Ramanujan,
    and `certify` proves it block by block, also where a dense test could never fit in memory.

    Parameters
    ----------
    n1, n2 : int
        Numbers of left and right vertices; either may be larger.
    d1 : int
        Degree of the left vertices, 1 <= d1 <= n2 / r, with n1 * d1 divisible by n2.
    r : int, optional
        Order of the cyclic group; it divides n1 and n2. None takes the one nearest to 80.
    rng : None, int or numpy.random.Generator
        An int in [0, 2**64) is the seed itself; from None or a Generator one 64-bit seed is drawn.

    Raises
    ------
    InvalidInputError, InfeasibleShapeError
        Naming the nearest r or shape that works.
    TooLargeError
        More memory would be needed than is free.

    Notes
    -----
    O(n1 * d1) time. The recipe's ``base`` is that of the base graph, so r is n1 / base.n1.

    Examples
    --------
    >>> from expandermask.graphs.quasi_cyclic import quasi_cyclic
    >>> quasi_cyclic(2000, 1000, 3, rng=0)
    BiregularGraph(n1=2000, n2=1000, d1=3, d2=6)
    >>> quasi_cyclic(2000, 1000, 3, rng=0).recipe.base.n1
    20
    """
    n1, n2, d1, _ = check_shape(n1, n2, d1)
    order = usual_order(n1, n2, d1) if r is None else _check_order(n1, n2, d1, r)
    seed = draw_seed(rng)
    base = random_biregular(n1 // order, n2 // order, d1, rng=derive_seed(seed, ALGORITHM, "base"))
    return _lift(base, order, seed)


def _lift(base: BiregularGraph, r: int, seed: int) -> BiregularGraph:
    """The Z_r lift of ``base`` by voltages drawn from ``seed``."""
    edges = check_edges(r * base.n1, base.d1)
    require_memory(32 * edges, f"a graph of {edges} edges")
    stream = np.uint64(derive_seed(seed, ALGORITHM, "voltages"))
    voltages = _covering_kernels.random_voltages(base.n1, base.d1, r, stream)
    places = (np.arange(r)[:, None] + voltages[:, None, :]) % r
    groups = base.neighbors[:, None, :].astype(np.int64) * r
    # A row meets each group once and the base's rows ascend, so these rows ascend too.
    rows = (groups + places).reshape(base.n1 * r, base.d1).astype(np.int32)
    n1, n2 = base.n1 * r, base.n2 * r
    recipe = Recipe(ALGORITHM, VERSION, n1, n2, base.d1, seed, base=base.recipe)
    return BiregularGraph._trusted(rows, n2, recipe)


def _orders(n1: int, n2: int, d1: int) -> list[int]:
    """Every r > 1 that divides both sides and leaves d1 neighbours in a simple base."""
    return divisors_between(gcd(n1, n2), 2, n2 // d1)


def usual_order(n1: int, n2: int, d1: int) -> int:
    """The admissible r whose ratio to the usual one is nearest to 1."""
    orders = _orders(n1, n2, d1)
    if not orders:
        raise InfeasibleShapeError(
            f"(n1, n2, d1) = ({n1}, {n2}, {d1}) is no lift of a simple base: no r > 1 divides both "
            f"n1 and n2 with d1 <= n2/r{_nearest_degree(n1, n2)}"
        )
    return min(orders, key=lambda r: max(r, USUAL_ORDER) / min(r, USUAL_ORDER))


def _nearest_degree(n1: int, n2: int) -> str:
    """The largest d1 that some r > 1 admits: a multiple of n2/g up to n2/p, p the least prime."""
    common = gcd(n1, n2)
    if common == 1:
        return "; the sides have no common factor"
    least = divisors_between(common, 2, common)[0]
    degree = nearest_multiples(n2 // least, n2 // common, n2 // common, n2 // least)[-1]
    return f"; the nearest that works: d1 = {degree} (r = {least})"


def _check_order(n1: int, n2: int, d1: int, r: object) -> int:
    """``r`` itself if the shape is a Z_r lift of a simple base, naming the nearest that is."""
    order = check_integer("r", r)
    if gcd(n1, n2) % order == 0 and order * d1 <= n2:
        return order
    nearest = min([1, *_orders(n1, n2, d1)], key=lambda s: abs(s - order))
    raise InvalidInputError(
        f"r must divide n1 = {n1} and n2 = {n2} and be at most n2/d1 = {n2 // d1}, got {order}; "
        f"the nearest that works: r = {nearest}"
    )


def _from_recipe(recipe: Recipe, base: BiregularGraph | None) -> BiregularGraph:
    if base is None:
        raise InvalidInputError("a quasi_cyclic recipe needs the recipe of its base graph")
    return _lift(base, max(1, recipe.n1 // base.n1), recipe.seed)


BUILDERS: dict[str, tuple[int, Builder]] = {ALGORITHM: (VERSION, _from_recipe)}
