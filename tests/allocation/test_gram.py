"""Gram matrices against the arc-cosine kernel, scipy's normal law, and Monte Carlo."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from expandermask.allocation.gram import (
    activation_matrix,
    compare_gates,
    estimate_gram,
    generalisation_bound,
    gram_matrix,
)
from expandermask.errors import InvalidInputError


def draws(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def test_without_gates_it_is_the_arc_cosine_kernel() -> None:
    x = draws(7, 5)
    x[3] = -2 * x[2]
    x[5] = 3 * x[4]
    for i in range(7):
        for j in range(7):
            lengths = np.linalg.norm(x[i]) * np.linalg.norm(x[j])
            angle = math.acos(np.clip(x[i] @ x[j] / lengths, -1, 1))
            expected = x[i] @ x[j] * (math.pi - angle) / (2 * math.pi)
            assert gram_matrix(x)[i, j] == pytest.approx(expected, abs=1e-7)
    # Gates that are all the same change nothing without w0.
    np.testing.assert_allclose(gram_matrix(x, gates=[0.3] * 5), gram_matrix(x), atol=1e-7)


NUMBERS = st.floats(-3, 3).map(lambda v: 0.0 if abs(v) < 1e-3 else v)


@given(
    st.lists(NUMBERS, min_size=9, max_size=9),
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_probabilities_are_those_of_scipys_normal_law(
    numbers: list[float], gates: list[float]
) -> None:
    x, w0 = np.array(numbers[:6]).reshape(2, 3), np.array(numbers[6:])
    gated, mean = x * gates, x @ w0
    covariance = gated @ gated.T
    deviation = np.sqrt(np.diag(covariance))
    found = activation_matrix(x, gates=gates, w0=w0)
    assert ((found >= -1e-12) & (found <= 1 + 1e-12)).all()
    for i in range(2):
        if deviation[i] == 0:
            assert found[i, i] == float(mean[i] >= 0)
        else:
            alone = 0.5 * math.erfc(-mean[i] / deviation[i] / math.sqrt(2))
            assert found[i, i] == pytest.approx(alone, abs=1e-9)
    if (deviation == 0).any():
        assert found[0, 1] == pytest.approx(found[0, 0] * found[1, 1], abs=1e-9)
        return
    law = multivariate_normal(-mean, covariance, allow_singular=True)  # P[-u <= 0]
    with np.errstate(all="ignore"):
        expected = float(law.cdf(np.zeros(2)))
    assert found[0, 1] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("mean", [(0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("rho", [-0.999, -0.5, 0.0, 0.3, 0.999])
def test_means_of_zero_are_the_limits_beside_them(mean: tuple[float, float], rho: float) -> None:
    x = np.array([[1.0, 0.0, mean[0], 0.0], [rho, math.sqrt(1 - rho**2), 0.0, mean[1]]])
    gates, w0 = [1, 1, 0, 0], [0.0, 0.0, 1.0, 1.0]
    found = activation_matrix(x, gates=gates, w0=w0)[0, 1]
    near = np.array(x)
    for push in (1e-9, -1e-9):
        near[0, 2], near[1, 3] = mean[0] + push, mean[1] + 2 * push
        assert found == pytest.approx(activation_matrix(near, gates=gates, w0=w0)[0, 1], abs=1e-7)


def test_monte_carlo_agrees_and_its_intervals_cover() -> None:
    x, gates, w0 = draws(5, 8), [1, 1, 0, 1, 0, 0.5, 1, 0], draws(1, 8, 3)[0] / 2
    exact = gram_matrix(x, gates=gates, w0=w0)
    least = float(np.linalg.eigvalsh(exact)[0])
    covered = 0
    for seed in range(60):
        found = estimate_gram(x, gates=gates, w0=w0, samples=4000, rng=seed)
        if seed == 0:
            assert (np.abs(found.matrix - exact) <= 5 * found.standard_error + 1e-12).all()
            assert (found.standard_error > 0).any()
        covered += found.interval[0] <= least <= found.interval[1]
        assert found.interval[0] <= found.least_eigenvalue <= found.interval[1]
    assert covered >= 51  # of 60 at 95 %: below 51 once in a thousand times
    again = estimate_gram(x, gates=gates, w0=w0, samples=4000, rng=0)
    assert again.interval == estimate_gram(x, gates=gates, w0=w0, samples=4000, rng=0).interval


def test_matrices_are_positive_semidefinite_and_positive_where_no_inputs_are_parallel() -> None:
    x = draws(9, 6)
    assert np.linalg.eigvalsh(gram_matrix(x))[0] > 1e-3
    gates = [1, 0, 1, 0, 1, 0]
    assert np.linalg.eigvalsh(gram_matrix(x, gates=gates, w0=draws(1, 6, 5)[0]))[0] > -1e-12


def test_the_assumption_fails_where_the_documentation_says() -> None:
    x, gates = draws(6, 8), [1, 1, 1, 1, 1, 0, 0, 0]
    without = compare_gates(x, gates)
    assert without.assumption_holds is False
    assert np.diag(activation_matrix(x, gates=gates)) == pytest.approx(0.5)
    assert compare_gates(x, np.ones(8)).assumption_holds is None  # equal: zero to rounding
    w0 = draws(1, 8, 2)[0]
    assert (x @ w0 < 0).any()
    assert compare_gates(x, gates, w0=w0).assumption_holds is False
    # Far on the positive side of w0 all are nearly sure to be active: there it can hold.
    assert compare_gates(x[:1] * np.sign(x[:1] @ w0), gates, w0=w0).assumption_holds is True
    text = str(without)
    assert "theorem 2's assumption holds" in text
    assert "no" in text
    assert without._repr_html_().startswith("<table>")


def test_theorem_3_by_hand() -> None:
    h, y = np.diag([0.5, 0.25]), np.array([1.0, 2.0])
    exact, loose = generalisation_bound(h, y, delta=math.exp(-2), constant=3)
    assert exact == pytest.approx(3 * math.sqrt((2 + 16) / 2) + 1)
    assert loose == pytest.approx(3 * math.sqrt(5 / 0.25 / 2) + 1)
    assert generalisation_bound(np.ones((2, 2)), y, delta=0.1) == (math.inf, math.inf)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gram_matrix(np.ones(3)), r"x must be a non-empty \(n, d\) array"),
        (lambda: gram_matrix(np.ones((2, 3)), gates=[1, 1]), r"gates must have shape \(3,\)"),
        (lambda: gram_matrix(np.ones((2, 3)), w0=[[1]]), r"w0 must have shape \(3,\)"),
        (lambda: gram_matrix([[1.0, math.nan]]), "x must be finite"),
        (lambda: estimate_gram(np.ones((2, 3)), samples=39), "samples must be at least 40"),
        (lambda: generalisation_bound(np.eye(2), [1.0], delta=0.1), r"gram must be \(N, N\)"),
        (
            lambda: generalisation_bound(np.eye(1), [1.0], delta=0.5),
            r"delta must lie in \(0, 1/e\]",
        ),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()
