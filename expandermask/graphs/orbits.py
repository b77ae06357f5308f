"""Orbits of m-subsets under an abelian group, and a search for a balanced choice of them.

Let an abelian group G of order r act on itself by translation. A choice of orbits of m-subsets, the
subsets taken as the rows of a mask with r columns, makes the codegree matrix N = M'M invariant
under G, so the characters chi of G diagonalise it:

    lambda_chi = sum over the chosen orbits of |sum of chi(x) over x in B|**2 / |stab B|,

B any block of the orbit. Making the largest nontrivial lambda_chi small is a vector balancing
problem with few coordinates: choose vectors so that the largest entry of their sum is least.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from expandermask.graphs import _design_kernels as kernels
from expandermask.graphs._kernels import below

Group = tuple[int, ...]
"""The abelian group Z_a x Z_b x ..., by its orders; elements are numbered in mixed radix."""

SCALE = 2**14
"""Eigenvalues are searched in fixed point, in units of 1 / SCALE."""

_COSINE_BITS = 30
_SHORT_QUARTERS = (0, 4, 1)


@dataclass(frozen=True)
class Orbits:
    """The orbits of the m-subsets of a group, one representative each."""

    group: Group
    blocks: NDArray[np.int64]
    """Shape (orbits, m): the lexicographically least set of each orbit that contains 0."""
    stabilisers: NDArray[np.int64]
    """Shape (orbits,): how many translations fix the block; its orbit has r / that many sets."""
    values: NDArray[np.int64]
    """Shape (orbits, characters): |sum of chi over the block|**2 in units of 1 / SCALE, for one
    nontrivial character out of each pair of conjugates."""


@dataclass(frozen=True)
class Found:
    """A choice of orbits: the base blocks, and the largest nontrivial eigenvalue they give."""

    group: Group
    blocks: NDArray[np.int64]
    """Shape (blocks, m); a block that occurs k times contributes its orbit k times."""
    square: float
    """sigma_2**2 to about 1e-3 (a whole number of 1 / SCALE)."""


def abelian_groups(order: int) -> list[Group]:
    """Every abelian group of an order, up to isomorphism, as products of cyclic p-groups.

    >>> abelian_groups(8)
    [(8,), (4, 2), (2, 2, 2)]
    """
    prime_parts = [
        [tuple(p**a for a in part) for part in _partitions(k, k)] for p, k in _factored(order)
    ]
    return [tuple(n for part in parts for n in part) for parts in product(*prime_parts)]


def _factored(order: int) -> list[tuple[int, int]]:
    """Primes and exponents by trial division: the orders are small, and sympy slow to load."""
    found, p = [], 2
    while order > 1:
        exponent = 0
        while order % p == 0:
            order, exponent = order // p, exponent + 1
        if exponent:
            found.append((p, exponent))
        p += 1
    return found


def _partitions(total: int, largest: int) -> list[tuple[int, ...]]:
    """The partitions of ``total`` into parts of at most ``largest``, largest parts first."""
    if total == 0:
        return [()]
    return [
        (part, *rest)
        for part in range(min(total, largest), 0, -1)
        for rest in _partitions(total - part, part)
    ]


@lru_cache(maxsize=64)
def addition_table(group: Group) -> NDArray[np.int32]:
    """The table of x + y, int32 (r, r), read-only.

    >>> addition_table((2, 2))[3].tolist()
    [3, 2, 1, 0]
    """
    elements = _elements(group)
    total = (elements[:, None, :] + elements[None, :, :]) % np.array(group)
    table: NDArray[np.int32] = np.ravel_multi_index(tuple(total.T), group).astype(np.int32)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=64)
def translations(group: Group, columns: int) -> NDArray[np.int32]:
    """Where each element of the group takes each column, int32 (h, columns), read-only.

    The columns are columns / h copies of the group, moved side by side.

    >>> translations((2,), 4).tolist()
    [[0, 1, 2, 3], [1, 0, 3, 2]]
    """
    add = addition_table(group)
    copies = range(0, columns, len(add))
    table = np.concatenate([add + start for start in copies], axis=1, dtype=np.int32)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=32)
def orbits_of(group: Group, m: int) -> Orbits:
    """The orbits of m-subsets of ``group``: all C(r - 1, m - 1) subsets with 0 are looked at.

    >>> orbits_of((4,), 2).blocks.tolist(), orbits_of((4,), 2).stabilisers.tolist()
    ([[0, 1], [0, 2]], [1, 2])
    """
    add = addition_table(group)
    negative = np.argmin(add, axis=1)
    blocks, stabilisers = map(np.array, kernels.orbit_representatives(add, negative, m))
    count = len(blocks)
    differences = np.zeros((count, prod(group)), dtype=np.int64)
    for i, j in product(range(m), repeat=2):
        np.add.at(differences, (np.arange(count), add[blocks[:, i], negative[blocks[:, j]]]), 1)
    drop = _COSINE_BITS - (SCALE.bit_length() - 1)
    values = (differences @ _cosines(group).T + (1 << (drop - 1))) >> drop
    return Orbits(group, blocks, stabilisers, values)


def search(
    group: Group, m: int, rows: int, *, goal: float, climbs: int, steps: int, seed: int
) -> Found | None:
    """The best of several descents: orbits of m-subsets with ``rows`` sets in all.

    Parameters
    ----------
    group : Group
        Of order r.
    m, rows : int
        Size of the sets, 1 <= m < r, and their number, at least 1.
    goal : float
        Stop at sigma_2**2 <= goal.
    climbs, steps : int
        Bounds on the work: descents from random starts, and replacements tried in each.
    seed : int
        Of the random starts. The result depends on the arguments alone, on every platform.

    Returns
    -------
    Found or None
        None if no orbits of this group add up to ``rows`` sets.

    Notes
    -----
    Each step costs (number of orbits) x (number of characters) additions. How much is made of short
    orbits (of blocks that some translation fixes) varies from one descent to the next.
    """
    choices, r = _choices(group, m), prod(group)
    if rows % choices.lengths[-1]:
        return None
    state = np.array([seed], dtype=np.uint64)
    mean = SCALE * rows * m * (r - m) // (r * (r - 1))
    least, best = np.inf, np.empty(0, dtype=np.int64)
    for climb in range(climbs):
        share = _SHORT_QUARTERS[climb % len(_SHORT_QUARTERS)]
        kinds = _kinds(rows, choices.lengths, share, state)
        chosen = np.array([a + below(state, b - a) for a, b in choices.ranges[kinds].tolist()])
        enough = float(np.floor(SCALE * goal) + len(kinds))  # each value is rounded by up to 1/2
        reached = kernels.descend(
            choices.values, choices.ranges, kinds, chosen, float(mean), enough, steps, state
        )
        if reached < least:
            least, best = reached, chosen
        if least <= enough:
            break
    blocks = np.repeat(choices.blocks[best], choices.copies[best], axis=0)
    return Found(group, blocks[np.lexsort(blocks.T[::-1])], least / SCALE)


@dataclass(frozen=True)
class _Choices:
    """What a slot may hold, by kind: whole multiples of r rows first, then single short orbits."""

    blocks: NDArray[np.int64]
    copies: NDArray[np.int64]
    values: NDArray[np.float64]
    ranges: NDArray[np.int64]
    lengths: tuple[int, ...]
    """Rows that a slot of each kind makes, the longest first."""


@lru_cache(maxsize=32)
def _choices(group: Group, m: int) -> _Choices:
    orbits, r = orbits_of(group, m), prod(group)
    short = sorted({int(t) for t in orbits.stabilisers} - {1})
    members = [np.arange(len(orbits.blocks))]
    members += [np.flatnonzero(orbits.stabilisers == t) for t in short]
    copies = [orbits.stabilisers] + [np.ones(len(part), dtype=np.int64) for part in members[1:]]
    values = [orbits.values[part] // t for t, part in zip([1, *short], members, strict=True)]
    ends = np.cumsum([0, *map(len, members)])
    return _Choices(
        orbits.blocks[np.concatenate(members)],
        np.concatenate(copies),
        np.concatenate(values).astype(np.float64),
        np.stack([ends[:-1], ends[1:]], axis=1),
        tuple(r // t for t in [1, *short]),
    )


def _kinds(
    rows: int, lengths: tuple[int, ...], short_quarters: int, state: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """The kind of each slot: some quarters of the rows in short orbits, and what r leaves over."""
    r = lengths[0]
    if len(lengths) == 1:
        short_quarters = 0
    counts = [rows // r * (4 - short_quarters) // 4]
    left = rows - counts[0] * r
    for length in lengths[1:-1]:
        whole = below(state, left // r + 1)
        counts.append(whole * (r // length))
        left -= whole * r
    if len(lengths) > 1:
        counts.append(left // lengths[-1])
    return np.repeat(np.arange(len(counts)), counts)


@lru_cache(maxsize=32)
def _cosines(group: Group) -> NDArray[np.int64]:
    """cos of every character at every element, in units of 2**-30: int64 (characters, r)."""
    elements, orders = _elements(group), np.array(group)
    exponent = int(np.lcm.reduce(orders))
    add = addition_table(group)
    conjugate = np.argmin(add, axis=1)
    characters = elements[[c for c in range(1, len(add)) if c <= conjugate[c]]]
    angles = (characters * (exponent // orders)) @ elements.T % exponent
    turn = 2 * np.pi * np.arange(exponent) / exponent
    whole: NDArray[np.int64] = np.rint(2.0**_COSINE_BITS * np.cos(turn)).astype(np.int64)
    return np.asarray(whole[angles])


def _elements(group: Group) -> NDArray[np.int64]:
    """The elements as rows of coordinates, int64 (r, factors), in order of their numbers."""
    return np.array(list(product(*map(range, group))), dtype=np.int64)
