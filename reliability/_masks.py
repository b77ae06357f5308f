"""Random small masks of several kinds, chosen so that ties, near misses and disconnection are met.

Each kind takes a `random.Random`, whose stream Python keeps from release to release.
"""

from __future__ import annotations

from math import gcd
from random import Random

import numpy as np
from numpy.typing import NDArray

from expandermask.graphs import random_biregular

Mask = NDArray[np.int64]


def uniform(shape: tuple[int, int, int], random: Random) -> Mask:
    """A uniform simple biregular graph of a shape (n1, n2, d1)."""
    return random_biregular(*shape, rng=random.getrandbits(64)).mask().astype(np.int64)


def shape(random: Random, largest: int, least: int = 2) -> tuple[int, int, int]:
    """A random shape with both sides up to ``largest`` and both degrees at least ``least``."""
    while True:
        n1, n2 = random.randint(least, largest), random.randint(least, largest)
        step = n2 // gcd(n1, n2)
        degrees = [d for d in range(step, n2 + 1, step) if d >= least and n1 * d // n2 >= least]
        if degrees:
            return n1, n2, random.choice(degrees)


def switched(mask: Mask, random: Random, times: int = 1) -> Mask:
    """``times`` switches of two edges that keep the graph simple; fewer if few are found."""
    mask = mask.copy()
    for _ in range(times):
        edges = np.argwhere(mask).tolist()
        for _ in range(50):
            (i, x), (j, y) = random.sample(edges, 2)
            if not mask[i, y] and not mask[j, x]:
                mask[i, x] = mask[j, y] = 0
                mask[i, y] = mask[j, x] = 1
                break
    return mask


def union(parts: list[Mask]) -> Mask:
    """The disjoint union of graphs."""
    mask = np.zeros((sum(len(p) for p in parts), sum(p.shape[1] for p in parts)), dtype=np.int64)
    i = x = 0
    for part in parts:
        mask[i : i + len(part), x : x + part.shape[1]] = part
        i, x = i + len(part), x + part.shape[1]
    return mask


def cycle(n: int) -> Mask:
    """Adjacency of C_n, n >= 3."""
    step = np.roll(np.eye(n, dtype=np.int64), 1, axis=1)
    return step + step.T


def complete(n: int) -> Mask:
    """Adjacency of K_n."""
    return np.ones((n, n), dtype=np.int64) - np.eye(n, dtype=np.int64)


def box(a: Mask, b: Mask) -> Mask:
    """Adjacency of the Cartesian product: its eigenvalues are all sums of theirs."""
    return np.kron(a, np.eye(len(b), dtype=np.int64)) + np.kron(np.eye(len(a), dtype=np.int64), b)


def subdivision(adjacency: Mask) -> Mask:
    """Edges against vertices of a d-regular graph: M'M = A + d I."""
    edges = np.argwhere(np.triu(adjacency))
    mask = np.zeros((len(edges), len(adjacency)), dtype=np.int64)
    mask[np.arange(len(edges))[:, None], edges] = 1
    return mask


def small(random: Random) -> Mask:
    """Uniform on a random shape with sides up to 10."""
    return uniform(shape(random, 10), random)


def joined(random: Random) -> Mask:
    """Two or three graphs of one shape side by side, then up to three switches: nearly cut."""
    each = shape(random, 6)
    parts = [uniform(each, random) for _ in range(random.choice((2, 2, 3)))]
    return switched(union(parts), random, random.choice((0, 1, 1, 2, 3)))


def tiled(random: Random) -> Mask:
    """A small graph repeated like tiles."""
    return np.tile(uniform(shape(random, 6), random), random.choice(((1, 2), (2, 2), (3, 1))))


def cayley(random: Random) -> Mask:
    """Sums of translations of Z_a x Z_b: large multiplicities, ties, subgroups that cut it."""
    a, b = random.choice(((1, 7), (1, 9), (1, 12), (1, 16), (2, 4), (2, 6), (3, 4), (3, 6), (4, 4)))
    group = [(x, y) for x in range(a) for y in range(b)]
    steps = random.sample(group, random.randint(2, min(6, len(group))))
    mask = np.zeros((len(group), len(group)), dtype=np.int64)
    for i, (x, y) in enumerate(group):
        for s, t in steps:
            mask[i, (x + s) % a * b + (y + t) % b] = 1
    return mask


def sparse(random: Random) -> Mask:
    """Degrees 2 to 5 and up to 32 x 16: long cycles, and sigma_2 near the bound."""
    while True:
        n2, d1 = random.randint(8, 16), random.choice((2, 3))
        n1 = random.randint(n2, 32)
        if n1 * d1 % n2 == 0 and n1 * d1 // n2 <= 5:
            return uniform((n1, n2, d1), random)


def prism(random: Random) -> Mask:
    """C_m box K_k, m = 3 .. 8, k = 2 .. 4, as a double cover, or switched; C_6 box K_4 ties."""
    mask = box(cycle(random.randint(3, 8)), complete(random.randint(2, 4)))
    return switched(mask, random, random.choice((0, 0, 1)))


KINDS = {
    "small": (small, 50),
    "joined": (joined, 15),
    "tiled": (tiled, 10),
    "cayley": (cayley, 10),
    "sparse": (sparse, 10),
    "prism": (prism, 5),
}
"""Each kind with its share in percent."""


def draw(random: Random) -> tuple[str, Mask]:
    """A mask of a kind drawn by its share, and the name of the kind."""
    names = list(KINDS)
    name = random.choices(names, [share for _, share in KINDS.values()])[0]
    return name, KINDS[name][0](random)
