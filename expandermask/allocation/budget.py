"""Exact integer budgets: ranks shared out by largest remainder, and the b best of all.

A budget is a number of rank-1 terms, or of parameters, that all modules have together. It is never
exceeded, and counted in terms it is met to the unit as far as caps go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expandermask.errors import InvalidInputError, check_integer, check_real


def share(
    weights: Mapping[str, float],
    total: int,
    *,
    costs: Mapping[str, int] | None = None,
    caps: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Ranks in proportion to weights, which together cost ``total`` or a little less.

    Every module's quota is its weight times one factor, but at most its cap, the factor being such
    that all quotas cost ``total``. Each module gets the whole part of its quota. What is left is
    given out one rank each, largest remainder first, for as long as one can be afforded: Hamilton's
    method of apportionment, with caps and costs.

    Parameters
    ----------
    weights : mapping of str to float
        Finite and at least 0, not all 0. A weight of 0 gets nothing.
    total : int
        At least 0.
    costs : mapping of str to int, optional
        What a rank of each module costs, at least 1; d + k counts parameters. Without it 1 each,
        which counts ranks.
    caps : mapping of str to int, optional
        The most ranks of each module, at least 0. Without it there is no limit.

    Returns
    -------
    dict of str to int
        In the order of ``weights``; of equal remainders the first module's is larger. With costs of
        1 the sum is exactly ``total``, or all caps if they are less. With others, what is left over
        buys no further rank of any module that has a weight and is below its cap.

    Raises
    ------
    InvalidInputError
        Weights that are negative, not finite or all 0; costs or caps that are missing or too small.

    Notes
    -----
    All arithmetic is in fractions: rounding decides no tie. O(n log n) of them for n modules.

    Examples
    --------
    >>> from expandermask.allocation import share
    >>> share({"query": 3.0, "key": 1.0, "value": 2.0}, 10)
    {'query': 5, 'key': 2, 'value': 3}
    >>> share({"query": 3.0, "key": 1.0, "value": 2.0}, 10, caps={"query": 4, "key": 8, "value": 8})
    {'query': 4, 'key': 2, 'value': 4}
    >>> share({"up": 1.0, "down": 1.0}, 10_000, costs={"up": 1920, "down": 1920})
    {'up': 3, 'down': 2}
    """
    names, total = list(weights), check_integer("total", total, minimum=0)
    numbers = _weights(weights)
    price = [_integer("costs", costs, name, 1) if costs is not None else 1 for name in names]
    most = [_integer("caps", caps, name, 0) if caps is not None else total for name in names]
    quotas = _quotas(numbers, price, most, total)
    ranks = [int(quota) for quota in quotas]
    left = total - sum(r * c for r, c in zip(ranks, price, strict=True))
    order = sorted(range(len(names)), key=lambda i: ranks[i] - quotas[i])  # stable: ties in order
    while affordable := [
        i for i in order if numbers[i] and ranks[i] < most[i] and price[i] <= left
    ]:
        for i in affordable:
            if price[i] <= left:
                ranks[i] += 1
                left -= price[i]
    return dict(zip(names, ranks, strict=True))


def best(scores: ArrayLike, count: int) -> NDArray[np.bool_]:
    """Which ``count`` of the scores are the highest: bool, shape (n,), exactly ``count`` of them.

    Of equal scores the first are taken, so no tie is cut through or dropped as a whole. Zero and
    everything are fine; a NaN is not.

    Examples
    --------
    >>> from expandermask.allocation.budget import best
    >>> best([0.5, 0.9, 0.5, 0.5], 2).tolist()
    [True, True, False, False]
    """
    found = np.asarray(scores, dtype=np.float64)
    count = check_integer("count", count, minimum=0)
    if found.ndim != 1:
        raise InvalidInputError(f"scores must be a vector, got shape {found.shape}")
    if count > len(found):
        raise InvalidInputError(f"count must be at most the {len(found)} scores, got {count}")
    if np.isnan(found).any():
        raise InvalidInputError(
            f"score {int(np.isnan(found).argmax())} is NaN, which ranks nothing"
        )
    chosen = np.zeros(len(found), dtype=np.bool_)
    chosen[np.argsort(-found, kind="stable")[:count]] = True
    return chosen


def _quotas(
    weights: Sequence[Fraction], price: Sequence[int], most: Sequence[int], total: int
) -> list[Fraction]:
    """min(cap, factor * weight) for each module, of which the costs are ``total``, or all caps."""
    quotas = [Fraction(0)] * len(weights)
    left, weight = Fraction(total), sum(w * c for w, c in zip(weights, price, strict=True))
    positive = [i for i, w in enumerate(weights) if w]
    for i in sorted(positive, key=lambda i: most[i] / weights[i]):  # who first meets the cap
        quotas[i] = min(Fraction(most[i]), left / weight * weights[i])
        left -= quotas[i] * price[i]
        weight -= weights[i] * price[i]
    return quotas


def _weights(weights: Mapping[str, float]) -> list[Fraction]:
    numbers = {name: check_real(f"weight of {name!r}", w) for name, w in weights.items()}
    if bad := next((n for n, w in numbers.items() if not (isfinite(w) and w >= 0)), None):
        raise InvalidInputError(
            f"weight of {bad!r} must be finite and at least 0, got {numbers[bad]}"
        )
    if not any(numbers.values()):
        raise InvalidInputError(
            f"weights of {len(numbers)} modules are all 0 and share nothing out"
        )
    return [Fraction(w) for w in numbers.values()]


def _integer(what: str, given: Mapping[str, int], name: str, minimum: int) -> int:
    if name not in given:
        raise InvalidInputError(f"{what} must name every module, and {name!r} is missing")
    return check_integer(f"{what} of {name!r}", given[name], minimum=minimum)
