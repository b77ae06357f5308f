"""Budgets are met to the unit: against slow definitions, and whatever the weights."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from expandermask.allocation.budget import best, share
from expandermask.errors import InvalidInputError

WEIGHTS = st.lists(
    st.one_of(st.integers(0, 9).map(float), st.floats(0, 1e9)), min_size=1, max_size=12
).filter(any)


def named(values: object) -> dict[str, object]:
    return {f"m{i}": v for i, v in enumerate(values)}


def hamilton(weights: list[float], total: int) -> list[int]:
    """The textbook: floors of the quotas, then one each by remainder."""
    exact = [Fraction(w) * total / sum(map(Fraction, weights)) for w in weights]
    ranks = [q.numerator // q.denominator for q in exact]
    for _ in range(total - sum(ranks)):
        i = max(range(len(exact)), key=lambda i: (exact[i] - ranks[i], -i))
        ranks[i] += 1
    return ranks


@given(WEIGHTS, st.integers(0, 200))
def test_without_caps_it_is_hamiltons_method(weights: list[float], total: int) -> None:
    found = share(named(weights), total)
    assert list(found.values()) == hamilton(weights, total)
    assert sum(found.values()) == total


WEIGHTS_AND_CAPS = WEIGHTS.flatmap(
    lambda weights: st.tuples(
        st.just(weights),
        st.lists(st.integers(0, 40), min_size=len(weights), max_size=len(weights)),
    )
)


@given(WEIGHTS_AND_CAPS, st.integers(0, 300))
@example(([0, 0, 1.1e-308], [0, 0, 3]), 1)
def test_with_caps_the_sum_is_exact_and_no_cap_is_passed(
    weights_and_caps: tuple[list[float], list[int]], total: int
) -> None:
    weights, caps = weights_and_caps
    found = list(share(named(weights), total, caps=named(caps)).values())
    room = sum(c for c, w in zip(caps, weights, strict=True) if w)
    assert sum(found) == min(total, room)
    assert all(0 <= r <= c for r, c in zip(found, caps, strict=True))
    assert all(r == 0 for r, w in zip(found, weights, strict=True) if w == 0)
    # Each is within one of min(cap, factor * weight).
    if total < room:
        factor = water_level([Fraction(w) for w in weights], caps, total)
        for r, c, w in zip(found, caps, weights, strict=True):
            assert abs(r - min(c, factor * Fraction(w))) < 1


def water_level(weights: list[Fraction], caps: list[int], total: int) -> Fraction:
    """The factor at which the sum of min(cap, factor * weight) is ``total``, exactly.

    The sum bends where a cap is reached. Those reached below ``total`` give their caps, and the
    others share what is left.
    """
    bends = sorted({Fraction(c) / w for c, w in zip(caps, weights, strict=True) if w})
    pairs = list(zip(caps, weights, strict=True))
    full = [b for b in bends if sum(min(c, b * w) for c, w in pairs) <= total]
    low = full[-1] if full else Fraction(0)
    given = sum(c for c, w in pairs if w and c <= low * w)
    return (total - given) / sum(w for c, w in pairs if w and c > low * w)


def test_the_level_is_that_of_hand() -> None:
    # Weights 1, 2, 3 with caps 1, 9, 9: at a factor of 2 the first is full, and 1 + 4 + 6 = 11.
    assert water_level([Fraction(1), Fraction(2), Fraction(3)], [1, 9, 9], 11) == 2
    assert water_level([Fraction(1), Fraction(2)], [9, 9], 6) == 2


@given(WEIGHTS, st.integers(0, 5000), st.data())
def test_costs_are_never_exceeded_and_what_is_left_buys_nothing(
    weights: list[float], total: int, data: st.DataObject
) -> None:
    n = len(weights)
    costs = data.draw(st.lists(st.integers(1, 99), min_size=n, max_size=n))
    caps = data.draw(st.lists(st.integers(0, 40), min_size=n, max_size=n))
    found = list(share(named(weights), total, costs=named(costs), caps=named(caps)).values())
    left = total - sum(r * c for r, c in zip(found, costs, strict=True))
    assert left >= 0
    for r, price, cap, w in zip(found, costs, caps, weights, strict=True):
        assert r <= cap
        assert w == 0 or r == cap or price > left


def test_equal_weights_are_shared_evenly_and_ties_go_to_the_first() -> None:
    assert share({"a": 0.1, "b": 0.1, "c": 0.1}, 8) == {"a": 3, "b": 3, "c": 2}
    assert share({"a": 1.0}, 7) == {"a": 7}
    assert share({"a": 1.0, "b": 3.0}, 0) == {"a": 0, "b": 0}
    assert share({"a": 1e-300, "b": 1e300}, 5) == {"a": 0, "b": 5}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.data())
def test_the_best_are_exactly_so_many_and_ties_go_to_the_first(
    scores: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(scores)))
    chosen = best(scores, count)
    slow = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    assert np.flatnonzero(chosen).tolist() == sorted(slow)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: share({}, 3), "weights of 0 modules are all 0"),
        (lambda: share({"a": 0.0}, 3), "are all 0"),
        (lambda: share({"a": -1.0}, 3), "weight of 'a' must be finite and at least 0, got -1.0"),
        (lambda: share({"a": 1.0, "b": float("nan")}, 3), "weight of 'b' must be finite"),
        (lambda: share({"a": float("inf")}, 3), "must be finite"),
        (lambda: share({"a": "1"}, 3), "weight of 'a' must be a real number"),
        (lambda: share({"a": 1.0}, -1), "total must be at least 0, got -1"),
        (lambda: share({"a": 1.0}, 1.5), "total must be an integer"),
        (lambda: share({"a": 1.0}, 3, costs={}), "costs must name every module, and 'a'"),
        (lambda: share({"a": 1.0}, 3, costs={"a": 0}), "costs of 'a' must be at least 1"),
        (lambda: share({"a": 1.0}, 3, caps={"a": -1}), "caps of 'a' must be at least 0"),
        (lambda: best([1.0, 2.0], 3), "count must be at most the 2 scores, got 3"),
        (lambda: best([[1.0]], 1), "scores must be a vector"),
        (lambda: best([1.0, float("nan")], 1), "score 1 is NaN"),
        (lambda: best([1.0], -1), "count must be at least 0"),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()
