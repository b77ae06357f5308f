"""Which smaller graphs the biregular graphs of a shape can cover: a matter of divisors."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from expandermask.errors import check_ramanujan_shape, divisors_between
from expandermask.graphs.coverings import RANDOM, TOWER

_TOWER_SIZE = 2048


@dataclass(frozen=True)
class CoverOf:
    """Which graphs the biregular graphs of one shape can cover: `cover_of`."""

    n1: int
    n2: int
    d1: int
    d2: int
    bases: tuple[tuple[int, int, int], ...]
    """Every (a, b, r): an a x b base of the same degrees and r >= 2, smallest base first."""
    reason: str
    """The answer in a sentence; if there is no base, why, and the nearest sizes that have one."""

    @property
    def complete(self) -> bool:
        """Whether the smallest base is the complete bipartite graph K_{d2,d1}, itself Ramanujan."""
        return bool(self.bases) and self.bases[0][1] == self.d1

    @property
    def algorithm(self) -> str:
        """What to try first on the smallest base: `two_lift_tower` where r is a power of two.

        The tower has always been proved, at or near the smallest sigma_2 a covering can have. It is
        cubic, so from 2048 vertices on the smaller side `covering` comes first, as for other r.
        """
        if not self.bases:
            return ""
        r = self.bases[0][2]
        return TOWER if r & (r - 1) == 0 and min(self.n1, self.n2) <= _TOWER_SIZE else RANDOM


def cover_of(n1: int, n2: int, d1: int) -> CoverOf:
    """Which smaller graphs a biregular graph of this shape can cover, or why there is none.

    With g = gcd(d1, d2) every shape of these degrees is n1 = T d2/g, n2 = T d1/g for a whole
    T >= g, and a base has the same degrees: it is the shape of some T' >= g that divides T. T' = g
    is the complete bipartite graph K_{d2,d1}.

    Raises `InfeasibleShapeError` and `InvalidInputError` for shapes without a graph, and for stars.

    Examples
    --------
    >>> from expandermask.graphs.cover_shapes import cover_of
    >>> cover_of(12, 6, 3).reason
    '12x6 (3, 6) is a 2-covering of K_{6,3}'
    >>> cover_of(768, 8, 2).bases
    ((192, 2, 4), (384, 4, 2))
    >>> cover_of(14, 7, 3).bases
    ()
    """
    n1, n2, d1, d2 = check_ramanujan_shape(n1, n2, d1)
    least = gcd(d1, d2)
    size, tall, wide = n1 * least // d2, d2 // least, d1 // least
    bases = tuple((t * tall, t * wide, size // t) for t in _base_sizes(size, least))
    shape = f"{n1}x{n2} ({d1}, {d2})"
    if not bases:
        return CoverOf(n1, n2, d1, d2, bases, f"{shape} {_why_none(size, least, tall, wide)}")
    (a, b, r), rest = bases[0], bases[1:]
    name = f"K_{{{a},{b}}}" if b == d1 else f"a {a}x{b} ({d1}, {d2}) graph"
    others = f" (larger bases: {len(rest)})" if rest else ""
    return CoverOf(n1, n2, d1, d2, bases, f"{shape} is a {r}-covering of {name}{others}")


def _base_sizes(size: int, least: int) -> list[int]:
    """The proper divisors of ``size`` that are at least ``least``, ascending."""
    return divisors_between(size, least, size - 1)


def _why_none(size: int, least: int, tall: int, wide: int) -> str:
    """Why T = ``size`` has no base, with the nearest sizes of these degrees that do."""
    why = "is complete bipartite, and covers nothing smaller"
    if size > least:
        multiples = " x ".join("T" if k == 1 else f"{k}T" for k in (tall, wide))
        why = (
            f"covers nothing smaller: a base of the same degrees has sizes {multiples} with T a "
            f"proper divisor of {size} and at least {least}"
        )
    fewest = 2 * least  # every even t from here on covers T' = t / 2
    below = next((t for t in range(size - 1, fewest - 1, -1) if _base_sizes(t, least)), None)
    above = next(t for t in (max(size + 1, fewest), size + 2) if _base_sizes(t, least))
    near = " or ".join(f"{t * tall}x{t * wide}" for t in (below, above) if t)
    return f"{why}; the nearest that do: {near}"
