"""Orbit designs by their definitions: sets of sets, complex characters, and Python integers."""

from __future__ import annotations

import cmath
import math
from itertools import combinations, product

from tests.oracles.graphs import Rows, SplitMix64

Group = tuple[int, ...]
Element = tuple[int, ...]


def elements(group: Group) -> list[Element]:
    return list(product(*map(range, group)))


def plus(group: Group, x: int, y: int) -> int:
    """The number of the sum of the elements numbered x and y."""
    every = elements(group)
    total = [(a + b) % n for a, b, n in zip(every[x], every[y], group, strict=True)]
    return every.index(tuple(total))


def translates(group: Group, block: list[int]) -> list[frozenset[int]]:
    """block + g for each g in order; a column beyond the group lies in another copy of it."""
    h = math.prod(group)
    return [
        frozenset(x // h * h + plus(group, x % h, g) for x in block)
        for g in range(math.prod(group))
    ]


def orbits(group: Group, m: int) -> dict[tuple[int, ...], int]:
    """The least sorted set of each orbit of m-subsets, with the order of its stabiliser."""
    found = {}
    for block in combinations(range(math.prod(group)), m):
        images = [tuple(sorted(image)) for image in translates(group, list(block))]
        if block == min(images):
            found[block] = images.count(block)
    return found


def character_squares(group: Group, block: list[int]) -> list[float]:
    """|sum of chi(x), x in block|**2, for one nontrivial character of each conjugate pair."""
    every = elements(group)
    squares = []
    for c, chi in enumerate(every):
        opposite = tuple(-a % n for a, n in zip(chi, group, strict=True))
        if 0 < c <= every.index(opposite):
            angles = (
                sum(a * b / n for a, b, n in zip(chi, every[x], group, strict=True)) for x in block
            )
            squares.append(abs(sum(cmath.exp(2j * cmath.pi * angle) for angle in angles)) ** 2)
    return squares


def shuffled(n: int, random: SplitMix64) -> list[int]:
    order = list(range(n))
    for i in reversed(range(1, n)):
        j = random.below(i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def expanded(
    parts: list[tuple[Group, Rows, int]], names: list[int], order: list[int]
) -> list[list[int]]:
    """Each distinct translate of each block, so many times; renamed, dealt out in this order."""
    rows: Rows = [[] for _ in order]
    at = 0
    for group, blocks, copies in parts:
        for block in blocks:
            for image in dict.fromkeys(translates(group, block)):
                for _ in range(copies):
                    rows[order[at]] = sorted(names[x] for x in image)
                    at += 1
    assert at == len(order)
    return rows


def descended(
    values: Rows,
    ranges: Rows,
    kinds: list[int],
    chosen: list[int],
    level: int,
    goal: int,
    steps: int,
    random: SplitMix64,
) -> tuple[int, list[int]]:
    """The descent of the kernel, each energy worked out from nothing."""
    chosen = list(chosen)

    def sums() -> list[int]:
        return [sum(values[o][c] for o in chosen) for c in range(len(values[0]))]

    def energy() -> int:
        return sum(min(max(s - level, 0), 2**22) ** 2 for s in sums())

    least, best = max(sums()), list(chosen)
    order, unchanged = shuffled(len(chosen), random), 0
    for step in range(steps):
        if least <= goal:
            break
        if step % len(chosen) == 0:
            order = shuffled(len(chosen), random)
        slot = order[step % len(chosen)]
        old, now = chosen[slot], energy()
        scores = []
        for o in range(*ranges[kinds[slot]]):
            chosen[slot] = o
            scores.append((energy(), o))
        chosen[slot] = min(scores)[1] if min(scores)[0] < now else old
        unchanged = unchanged + 1 if chosen[slot] == old else 0
        if max(sums()) < least:
            least, best = max(sums()), list(chosen)
        if unchanged == len(chosen):
            rise = (max(sums()) - level) // 4
            if rise < 64:
                break
            level += rise
            unchanged = 0
    return least, best
