"""E-optimal block designs: masks whose second singular value is near the least any can have.

Read the r columns of a mask as treatments and its rows as blocks of m treatments. Making sigma_2
least is then E-optimality of block designs (Bailey and Cameron, "Combinatorics of optimal
designs", Surveys in Combinatorics 2009). In a balanced design all codegrees are equal; putting one
under a mask moves sigma_2**2 and its integrality limit by the same number. So only the number of
rows modulo a balanced design matters, and for each remainder orbits of an abelian group are chosen
once (`orbits`). Theory: ``docs/theory/designs.md``.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb, lcm
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import (
    check_edges,
    check_ramanujan_shape,
    require_memory,
)
from expandermask.graphs import _design_kernels, _kernels, balance
from expandermask.graphs._design_table import Design, shipped_table
from expandermask.graphs.biregular import BiregularGraph, Builder, Recipe
from expandermask.graphs.orbits import abelian_groups, orbits_of, search, translations
from expandermask.graphs.random import RandomState, draw_seed

ALGORITHM, VERSION = "design", 1

Source = Literal["table", "search", "polish"]
Plan = tuple[tuple[Design, int], ...]
"""Designs to put under one another, and how often each."""

SEARCH_COLUMNS = 16
"""Most columns for which orbits are searched for on the spot."""

_CLIMBS, _STEPS = 3, 1000


def design(n1: int, n2: int, d1: int, *, rng: RandomState = None) -> BiregularGraph:
    """A biregular graph whose sigma_2 is near the least any graph of its shape can have.

    With r the shorter side and m the degree of the longer: the rows are orbits of m-subsets of the
    columns under an abelian group of order r, chosen so that no eigenvalue stands out. Their base
    blocks come from a shipped table (r = 4, 8, 16, 32, 64 with m or r - m at most 4, any number of
    rows) or, for other r <= 16 that divide the longer side, from a search of bounded work, which is
    remembered. The seed then relabels the columns and permutes the rows: sigma_2 is the same for
    all seeds. Every other shape is made by a greedy choice of rows, then switches of edges
    (`balance.balanced`), and its sigma_2 varies a little.

    Parameters
    ----------
    n1, n2 : int
        Numbers of left and right vertices; either may be larger.
    d1 : int
        Degree of the left vertices, 2 <= d1 <= n2, with d2 = n1 * d1 / n2 an integer >= 2.
    rng : None, int or numpy.random.Generator
        As for `random_biregular`; the seed is kept in ``recipe``.

    Raises
    ------
    InvalidInputError, InfeasibleShapeError
        Naming the nearest shape that works.
    TooLargeError
        More memory would be needed than is free.

    Notes
    -----
    From the table O(n1 d1**2): 0.1 ms at 768x8, under 1 ms at 14336x64. A search makes at most 3
    descents of 1000 steps in each abelian group of order r, for two sizes: milliseconds for m <= 4,
    up to 0.2 s for m = 8. It counts in whole numbers, so it chooses the same on every platform.
    Nothing is proved here: `certify` the graph.

    Examples
    --------
    >>> import expandermask as xm
    >>> from expandermask.graphs.designs import design
    >>> round(xm.certify(design(1024, 8, 2, rng=0)).ratio, 6)
    1.0
    """
    n1, n2, d1, d2 = check_ramanujan_shape(n1, n2, d1)
    seed, edges = draw_seed(rng), check_edges(n1, d1)
    require_memory(8 * edges, f"a graph of {edges} edges")
    if n1 >= n2:
        rows = _long_side_rows(n1, n2, d1, seed)
    else:
        rows = _kernels.transpose_rows(_long_side_rows(n2, n1, d2, seed), n1)
    return BiregularGraph._trusted(rows, n2, Recipe(ALGORITHM, VERSION, n1, n2, d1, seed))


def design_source(n1: int, n2: int, d1: int) -> Source:
    """How `design` would make a shape, without making it. Raises as `design` does.

    "table": from shipped base blocks, or plain ones (all rows full, or full but for one entry).
    "search": r divides the longer side and r <= 16, so orbits are searched for first.
    "polish": everything else, edge by edge.

    Examples
    --------
    >>> design_source(768, 8, 2), design_source(120, 12, 3), design_source(100, 40, 4)
    ('table', 'search', 'polish')
    """
    n1, n2, d1, d2 = check_ramanujan_shape(n1, n2, d1)
    rows, r, m = (n1, n2, d1) if n1 >= n2 else (n2, n1, d2)
    m = min(m, r - m)
    if m == 0 or _known_plan(rows, r, m) is not None:
        return "table"
    return "search" if _is_searchable(rows, r) else "polish"


def is_quick(n1: int, n2: int, d1: int) -> bool:
    """Whether `design` takes at most about half a second: decided by the shape, not the clock.

    Examples
    --------
    >>> is_quick(768, 64, 2), is_quick(60, 60, 4), is_quick(2000, 1000, 3)
    (True, True, False)
    """
    n1, n2, d1, d2 = check_ramanujan_shape(n1, n2, d1)
    rows, r, m = (n1, n2, d1) if n1 >= n2 else (n2, n1, d2)
    return design_source(n1, n2, d1) != "polish" or balance.is_quick(rows, r, m)


def _long_side_rows(n1: int, n2: int, d1: int, seed: int) -> NDArray[np.int32]:
    """Sorted neighbour rows for n1 >= n2.

    Full rows, and the complements of sparser rows: J - M has the singular values of M but for the
    trivial one.
    """
    m = min(d1, n2 - d1)
    if m == 0:
        return np.tile(np.arange(n2, dtype=np.int32), (n1, 1))
    plan = _known_plan(n1, n2, m)
    if plan is None and _is_searchable(n1, n2):
        plan = _searched_plan(n1, n2, m)
    if plan is None:
        return balance.balanced(n1, n2, d1, seed)
    rows = _expanded(plan, n1, n2, m, seed)
    if m < d1:
        rows = _kernels.complement_rows(rows, n2)
    return rows


def _expanded(plan: Plan, n1: int, r: int, m: int, seed: int) -> NDArray[np.int32]:
    """The rows of a plan, columns relabelled and rows permuted by the seed."""
    state = np.array([seed], dtype=np.uint64)
    names = _design_kernels.shuffled(r, state)
    order = _design_kernels.shuffled(n1, state)
    rows, at = np.empty((n1, m), dtype=np.int32), 0
    for made, copies in plan:
        moves = translations(made.group, r)
        at = _design_kernels.expand(made.blocks, moves, copies, names, order, at, rows)
    _kernels.sort_rows(rows)
    return rows


def _known_plan(n1: int, r: int, m: int) -> Plan | None:
    """What needs no search: single labels in turn, and the shipped table."""
    if m == 1:
        return ((_singles(r), n1 // r),)
    family = shipped_table().get((r, m))
    return None if family is None else family.find(n1)


@lru_cache(maxsize=256)
def _singles(r: int) -> Design:
    return Design(r, (r,), np.zeros((1, 1), dtype=np.int64), rows=r, excess=0.0)


def _is_searchable(n1: int, r: int) -> bool:
    """Whether orbits of whole length r can add up to n1 rows and are few enough to search."""
    return n1 % r == 0 and r <= SEARCH_COLUMNS


@lru_cache(maxsize=256)
def _searched_plan(n1: int, r: int, m: int) -> Plan:
    """Copies of all m-subsets, which are balanced, and the best orbits found for the other rows.

    With one more copy among the rows searched there are more choices, so that is tried as well.
    """
    group = abelian_groups(r)[0]
    period = lcm(comb(r, m), r)
    everything = Design(r, group, orbits_of(group, m).blocks, comb(r, m), 0.0)
    rest, copies = n1 % period, n1 // period
    if rest == 0:
        return ((everything, n1 // everything.rows),)
    best = _best_orbits(rest, r, m)
    if copies and best.excess > 0:
        larger = _best_orbits(rest + period, r, m)
        best = min(best, larger, key=lambda made: made.excess)
    return (best, 1), (everything, (n1 - best.rows) // everything.rows)


def _best_orbits(rows: int, r: int, m: int) -> Design:
    """The best of all abelian groups of order r, the first of equals."""
    degree = rows * m // r
    goal = degree - degree * (m - 1) // (r - 1)
    found = []
    for group in abelian_groups(r):
        made = search(group, m, rows, goal=goal, climbs=_CLIMBS, steps=_STEPS, seed=rows)
        assert made is not None, "whole orbits add up to any multiple of r"
        found.append(Design(r, group, made.blocks, rows, max(made.square - goal, 0.0)))
        if found[-1].excess == 0:
            break
    return min(found, key=lambda made: made.excess)


def _from_recipe(recipe: Recipe, base: BiregularGraph | None) -> BiregularGraph:
    return design(recipe.n1, recipe.n2, recipe.d1, rng=recipe.seed)


BUILDERS: dict[str, tuple[int, Builder]] = {ALGORITHM: (VERSION, _from_recipe)}
