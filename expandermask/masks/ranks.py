"""Which rank each module of a plan gets: r, or another by a pattern, or the nearest that has masks.

Masks of rank r and left degree l need k * l / r and d * l / r to be integers of at least 2. At
r = l they keep every entry, and then a module may also have a single input or output. Dense LoRA
has no such rule, so a rank that suits one module of a model may not suit another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Any, TypeVar

from expandermask.errors import (
    InfeasibleShapeError,
    InvalidInputError,
    check_size,
    divisors_between,
    nearest_multiples,
)
from expandermask.masks.kinds import Shape

T = TypeVar("T")
Pattern = Mapping[str, T] | Iterable[tuple[str, T]]
"""Values by regular expressions for the ends of names; the first that matches counts."""

INFEASIBLE = ("error", "nearest", "skip")


@dataclass(frozen=True)
class Ranks:
    """The ranks that are asked for, and what happens where no masks have them.

    Raises `InvalidInputError` for numbers, patterns or choices that make no sense.
    """

    r: int
    left_degree: int
    pattern: Pattern[int] = ()
    infeasible: str = "error"
    """"error" raises, "nearest" takes the largest lower rank that works, "skip" leaves out."""

    def __post_init__(self) -> None:
        checked = {
            "r": check_size("r", self.r),
            "left_degree": check_size("left_degree", self.left_degree),
            "pattern": check_pattern("rank_pattern", self.pattern, check_size),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        check_infeasible(self.infeasible)

    def asked(self, name: str) -> int:
        """The rank that a module is to have."""
        return by_pattern(self.pattern, name, self.r)

    def least(self, name: str) -> int:
        """The smallest rank that a module may get."""
        return self.left_degree if self.infeasible == "nearest" else self.asked(name)

    def settle(self, shapes: Mapping[str, Shape]) -> tuple[dict[str, int], dict[str, str]]:
        """The rank of every module that gets masks, and what was done to those asked in vain.

        Raises `InfeasibleShapeError`, with ranks and degrees that work, where no choice is left.
        """
        ranks = {}
        adjusted = {}
        for name, shape in shapes.items():
            asked = self.asked(name)
            possible = self._possible(name, shape)
            if possible:
                ranks[name] = possible[-1]
            elif self.infeasible != "skip":
                raise self._refusal(shapes, name)
            else:
                adjusted[name] = f"skipped, as r={asked} does not work"
            if possible and possible[-1] != asked:
                adjusted[name] = f"r={possible[-1]}, not {asked}"
        if adjusted and not ranks:
            raise self._refusal(shapes, next(iter(adjusted)))
        return ranks, adjusted

    def _possible(self, name: str, shape: Shape) -> list[int]:
        """The ranks that a module may get, ascending."""
        every = _feasible_ranks(shape, self.left_degree, self.asked(name))
        return [rank for rank in every if rank >= self.least(name)]

    def _refusal(self, shapes: Mapping[str, Shape], name: str) -> InfeasibleShapeError:
        """What is wrong with a module's rank, and what works for all modules of that rank."""
        r, degree = self.asked(name), self.left_degree
        alike = [shape for other, shape in shapes.items() if self.asked(other) == r]
        widths = sorted({size for shape in alike for size in shape})
        ranks = _feasible_ranks(widths, degree, gcd(*widths) * degree)
        near = sorted(sorted(ranks, key=lambda rank: abs(rank - r))[:2])
        low = max(2, min(r, -(-2 * r // widths[0])))
        degrees = nearest_multiples(degree, r // gcd(r, gcd(*widths)), low, r)
        sides = zip("BA", "dk", shapes[name], strict=True)
        side, letter, size = next(s for s in sides if not _is_feasible(s[2:], r, degree))
        return InfeasibleShapeError(
            f"module {name!r}: no mask of {side} with r={r} and left_degree={degree}: each rank "
            f"would need {letter}*left_degree/r = {size}*{degree}/{r} = {size * degree / r:g} "
            f"entries, which must be an integer >= 2, and left_degree must lie in [2, r]. "
            f"For all {len(alike)} modules: with left_degree={degree}, r = {_either(near)} works; "
            f"with r={r}, left_degree = {_either(degrees)} works. Or let each module have its own: "
            'infeasible="nearest" takes the largest lower rank that works, "skip" leaves it out'
        )


def check_infeasible(value: object) -> None:
    """Raise unless ``value`` is one of the three choices."""
    if value not in INFEASIBLE:
        raise InvalidInputError(f"infeasible must be one of {INFEASIBLE}, got {value!r:.80}")


def by_pattern(pattern: Pattern[T], name: str, default: T) -> T:
    """The value for a name, matched as PEFT's ``rank_pattern`` and ``alpha_pattern`` are."""
    found = (value for key, value in dict(pattern).items() if _ending(key).match(name))
    return next(found, default)


def exactly(values: Mapping[str, T]) -> dict[str, T]:
    """The pattern that has each of these values for one whole name."""
    return {f"^{re.escape(name)}": value for name, value in values.items()}


@lru_cache(maxsize=2**14)
def _ending(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")


def unmatched(pattern: Pattern[T], names: Iterable[str]) -> list[str]:
    """The regular expressions of a pattern that match none of these names."""
    names = tuple(names)
    return [
        key for key in dict(pattern) if not any(by_pattern({key: True}, n, False) for n in names)
    ]


def check_pattern(
    field: str, pattern: Any, check: Callable[[str, object], T]
) -> tuple[tuple[str, T], ...]:
    """A pattern as pairs, in its own order, with values that ``check`` takes."""
    try:
        pairs = dict(pattern or ())
        for key in pairs:
            re.compile(key)
    except (TypeError, ValueError, re.error) as error:
        raise InvalidInputError(
            f"{field} must map regular expressions to numbers, got {pattern!r:.80}: {error}"
        ) from None
    return tuple((key, check(f"{field}[{key!r}]", value)) for key, value in pairs.items())


def _feasible_ranks(sizes: Iterable[int], degree: int, highest: int) -> list[int]:
    """The ranks up to ``highest`` at which all these sizes have masks, ascending."""
    sizes = tuple(sizes)
    candidates = divisors_between(gcd(*sizes) * degree, degree, highest)
    return [rank for rank in candidates if _is_feasible(sizes, rank, degree)]


def _is_feasible(sizes: Iterable[int], r: int, degree: int) -> bool:
    return 2 <= degree <= r and all(
        size * degree % r == 0 and (degree == r or size * degree // r >= 2) for size in sizes
    )


def _either(values: list[int]) -> str:
    return " or ".join(map(str, values)) or "nothing"
