"""Random biregular graphs, Gram matrices, hashes and components in plain Python integers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import combinations

Rows = list[list[int]]

_MASK = 2**64 - 1


class SplitMix64:
    """Steele, Lea and Flood's generator, as printed in Java's ``SplittableRandom``."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def word(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """Lemire's rejection on the high 32 bits of each word."""
        while True:
            product = (self.word() >> 32) * n
            if product % 2**32 >= 2**32 % n:
                return product // 2**32


def switch(rows: Rows, i: int, a: int, j: int, b: int) -> None:
    """Exchange the labels in two slots if no row then repeats a label."""
    x, y = rows[i][a], rows[j][b]
    if i != j and x != y and y not in rows[i] and x not in rows[j]:
        rows[i][a], rows[j][b] = y, x


def repaired(rows: Rows, random: SplitMix64) -> bool:
    n1, d1 = len(rows), len(rows[0])
    for i in range(n1):
        for a in range(1, d1):
            for _ in range(64 * n1):
                if rows[i][a] not in rows[i][:a]:
                    break
                j = random.below(n1)
                switch(rows, i, a, j, random.below(d1))
            if rows[i][a] in rows[i][:a]:
                return False
    return True


def shuffled_rows(n1: int, n2: int, d1: int, random: SplitMix64) -> Rows:
    """Configuration model: Fisher-Yates over the right stubs, dealt out d1 to a row."""
    d2 = n1 * d1 // n2
    stubs = [label for label in range(n2) for _ in range(d2)]
    for e in reversed(range(1, len(stubs))):
        f = random.below(e + 1)
        stubs[e], stubs[f] = stubs[f], stubs[e]
    return [stubs[i * d1 : (i + 1) * d1] for i in range(n1)]


def unsorted_rows(n1: int, n2: int, d1: int, seed: int, trials: int) -> Rows:
    """Configuration model, repair, ``trials`` switches; rows in the order the walk leaves them."""
    random = SplitMix64(seed)
    rows = shuffled_rows(n1, n2, d1, random)
    while not repaired(rows, random):
        rows = shuffled_rows(n1, n2, d1, random)
    for _ in range(trials):
        e = random.below(n1 * d1)
        f = random.below(n1 * d1)
        switch(rows, e // d1, e % d1, f // d1, f % d1)
    return rows


def random_rows(n1: int, n2: int, d1: int, seed: int) -> Rows:
    """What ``random_biregular`` promises for a seed, whichever side is longer."""
    if n1 < n2:
        return transposed(random_rows(n2, n1, n1 * d1 // n2, seed), n1)
    if d1 == n2:
        return [list(range(n2)) for _ in range(n1)]
    if d1 > n2 - d1:
        return complement(unsorted_rows(n1, n2, n2 - d1, seed, n1 * (n2 - d1) + 256), n2)
    return [sorted(row) for row in unsorted_rows(n1, n2, d1, seed, n1 * d1 + 256)]


def complement(rows: Rows, n2: int) -> Rows:
    return [[x for x in range(n2) if x not in row] for row in rows]


def transposed(rows: Rows, n2: int) -> Rows:
    other: Rows = [[] for _ in range(n2)]
    for i, row in enumerate(rows):
        for x in row:
            other[x].append(i)
    return other


def dense(rows: Rows, n2: int) -> Rows:
    return [[int(x in row) for x in range(n2)] for row in rows]


def gram(matrix: Rows) -> Rows:
    """M'M by its definition, one triple loop."""
    n = len(matrix[0])
    return [[sum(row[x] * row[y] for row in matrix) for y in range(n)] for x in range(n)]


def digest(rows: Rows, n2: int) -> str:
    """The hash of `BiregularGraph.digest`, from its description."""
    width = 1 if n2 <= 2**8 else 2 if n2 <= 2**16 else 4
    text = f"expandermask graph {len(rows)} {n2} {len(rows[0])}\n".encode()
    body = b"".join(x.to_bytes(width, "little") for row in rows for x in sorted(row))
    return hashlib.sha256(text + body).hexdigest()


def components(matrix: Rows) -> int:
    """Connected components of the bipartite graph, by repeatedly merging labels."""
    n1, n2 = len(matrix), len(matrix[0])
    label = list(range(n1 + n2))
    for i in range(n1):
        for x in range(n2):
            if matrix[i][x] and label[i] != label[n1 + x]:
                old, new = label[n1 + x], label[i]
                label = [new if c == old else c for c in label]
    return len(set(label))


def right_components(rows: Rows, n2: int) -> list[int]:
    """The component of each right vertex, by walks over shared rows, numbered as they appear."""
    labels = [-1] * n2
    for x in range(n2):
        if labels[x] < 0:
            number, waiting = max(labels) + 1, [x]
            while waiting:
                y = waiting.pop()
                if labels[y] < 0:
                    labels[y] = number
                    waiting += [z for row in rows if y in row for z in row]
    return labels


def all_simple(n1: int, n2: int, d1: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every simple biregular graph of a shape, each once, as a tuple of sorted rows."""

    def grow(
        rows: tuple[tuple[int, ...], ...], left: tuple[int, ...]
    ) -> Iterator[tuple[tuple[int, ...], ...]]:
        if len(rows) == n1:
            yield rows
            return
        for row in combinations([x for x in range(n2) if left[x]], d1):
            yield from grow((*rows, row), tuple(c - (x in row) for x, c in enumerate(left)))

    yield from grow((), (n1 * d1 // n2,) * n2)
