"""How many of n rows can be removed, least important first: the two searches of `derive_sparsity`.

``passes(m)`` says whether the model with m of the n rows removed is still good enough; it is for m
= 0. Both return the largest m they know to pass, such that m + 1 does not or m = n.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Search = Literal["one-by-one", "bisection"]
MAX_EVALUATIONS = 12
"""Most evaluations of a bisection: exact below 2**12 = 4096 rows, else to n / 4096 of them."""


def one_by_one(n: int, passes: Callable[[int], bool]) -> int:
    """Algorithm 1: remove one at a time until one fails. At most n evaluations."""
    return next((m - 1 for m in range(1, n + 1) if not passes(m)), n)


def bisection(n: int, passes: Callable[[int], bool]) -> int:
    """Halve the range between a number that passes and one that fails.

    What it returns passes, and the next number fails, as in Algorithm 1; where the metric goes up
    and down there are several such numbers, and this need not be the first. ceil(log2(n + 1))
    evaluations, and no more than `MAX_EVALUATIONS`: above 4095 rows it may stop up to n / 4096 rows
    short.
    """
    low, high = 0, n + 1  # low passes, high fails or is beyond the last
    for _ in range(MAX_EVALUATIONS):
        if high - low == 1:
            break
        middle = (low + high) // 2
        if passes(middle):
            low = middle
        else:
            high = middle
    return low


SEARCHES: dict[str, Callable[[int, Callable[[int], bool]], int]] = {
    "one-by-one": one_by_one,
    "bisection": bisection,
}
