"""Targeted, inverted, stochastic, continuous: against sorting by hand and exact probabilities."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from expandermask.errors import InvalidInputError
from expandermask.masks import Scores, continuous, inverted, stochastic, targeted

SCORES = st.lists(
    st.one_of(st.floats(-5, 5, allow_subnormal=False), st.sampled_from([0.0, 1.0])),
    min_size=1,
    max_size=25,
).filter(any)


def kept(mask: object) -> list[int]:
    return np.flatnonzero(mask.left_degrees).tolist()  # type: ignore[attr-defined]


@given(scores=SCORES, data=st.data(), n2=st.integers(1, 5))
def test_targeted_is_what_removing_the_least_one_by_one_leaves(
    scores: list[float], data: st.DataObject, n2: int
) -> None:
    keep = data.draw(st.integers(1, len(scores)))
    left = dict(enumerate(scores))
    while len(left) > keep:
        del left[min(left, key=left.__getitem__)]  # of equals the first
    mask = targeted(scores, keep, n2)
    assert kept(mask) == sorted(left)
    assert set(mask.left_degrees) <= {0, n2}
    if keep < len(scores):
        others = inverted(scores, keep, n2)
        assert sorted(kept(mask) + kept(others)) == list(range(len(scores)))


def drawn_first(scores: list[float], temperature: float) -> dict[tuple[int, ...], float]:
    """The probability of every pair, the slow way: softmax, then softmax of the rest."""
    weights = np.exp(np.array(scores) / np.std(scores) / temperature)
    found: dict[tuple[int, ...], float] = {}
    for i, j in permutations(range(len(scores)), 2):
        p = weights[i] / weights.sum() * weights[j] / (weights.sum() - weights[i])
        pair = tuple(sorted((i, j)))
        found[pair] = found.get(pair, 0) + p
    return found


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_stochastic_draws_by_softmax_without_replacement(temperature: float) -> None:
    scores = [0.0, 10.0, 5.0, 25.0]
    law = drawn_first(scores, temperature)
    counts = dict.fromkeys(law, 0)
    for seed in range(4000):
        counts[tuple(kept(stochastic(scores, 2, 1, temperature=temperature, rng=seed)))] += 1
    found, wanted = (np.array([d[pair] for pair in law]) for d in (counts, law))
    assert stats.chisquare(found, wanted * 4000).pvalue > 1e-3


def test_stochastic_at_its_limits() -> None:
    scores = [3.0, 1.0, 2.0, 5.0, 4.0]
    for t in (1e-300, 5e-324):
        for order in (1, -1):
            found = [
                kept(stochastic(scores[::order], 2, 1, temperature=t, rng=s)) for s in range(9)
            ]
            assert found == 9 * [[3, 4] if order == 1 else [0, 1]]
    hot = [kept(stochastic(scores, 1, 1, temperature=1e12, rng=s))[0] for s in range(2000)]
    assert stats.chisquare(np.bincount(hot, minlength=5)).pvalue > 1e-3
    equal = [kept(stochastic([2.0] * 5, 1, 1, rng=s))[0] for s in range(2000)]
    assert stats.chisquare(np.bincount(equal, minlength=5)).pvalue > 1e-3


def test_temperature_does_not_feel_the_scores_unit() -> None:
    scores = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    for seed in range(50):
        one, other = (stochastic(scores * unit, 2, 1, rng=seed) for unit in (1, 1e-9))
        assert one == other
        for unit in (2.0**-700, 2.0**700):  # whose squares are beyond the range of floats
            assert stochastic(scores * unit, 2, 1, rng=seed) == one


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: targeted([], 1, 1), "non-empty vector"),
        (lambda: targeted([[1.0]], 1, 1), "non-empty vector"),
        (lambda: targeted([1.0, float("nan")], 1, 1), "must be finite, got nan"),
        (lambda: targeted(["a"], 1, 1), "must be a vector of real numbers"),
        (lambda: targeted([[1.0], [1.0, 2.0]], 1, 1), "must be a vector of real numbers"),
        (lambda: targeted(np.array([1j, 2.0]), 1, 1), "must be a vector of real numbers"),
        (lambda: targeted([0.0, 0.0], 1, 1), "all zero and rank nothing"),
        (lambda: targeted([1.0, 2.0], 3, 1), "keep=3 of 2 rows; the most is 2"),
        (lambda: targeted([1.0, 2.0], 0, 1), "keep must be at least 1"),
        (lambda: inverted([1.0, 2.0], 2, 1), "complement is empty"),
        (lambda: stochastic([1.0, 2.0], 1, 1, temperature=0), "temperature must be positive"),
        (lambda: stochastic([1.0, 2.0], 1, 1, temperature=float("nan")), "temperature must be"),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()  # type: ignore[operator]


def test_continuous_adds_the_columns_of_the_next_layer() -> None:
    scores = {
        "up": Scores(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0])),
        "down": Scores(np.array([5.0, 5.0]), np.array([10.0, 20.0, 30.0])),
        "next": Scores(np.array([1.0]), np.array([7.0, 8.0])),
    }
    found = continuous(scores)
    assert found["up"].rows.tolist() == [11.0, 22.0, 33.0]
    assert found["down"].rows.tolist() == [12.0, 13.0]
    assert found["next"].rows.tolist() == [1.0]
    assert all((found[n].columns == scores[n].columns).all() for n in scores)
    assert continuous(scores, {})["up"].rows.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(InvalidInputError, match="has 3 outputs, and 'next' 2 inputs"):
        continuous(scores, {"up": "next"})
    with pytest.raises(InvalidInputError, match="no scores of 'other'"):
        continuous(scores, {"up": "other"})
    with pytest.raises(InvalidInputError, match=r"must be Scores\(rows, columns\)"):
        continuous({"m": np.ones(3)})
