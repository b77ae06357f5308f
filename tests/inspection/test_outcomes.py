"""mask_outcomes: expectations against the mean of many draws, and what came out by hand."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from expandermask import MaskPlan
from expandermask.errors import InvalidInputError
from expandermask.inspection import mask_outcomes
from expandermask.masks import NothingKeptWarning, balanced, partial_plan

SHAPES = {"a": (6, 4), "b": (5, 3)}


@pytest.mark.parametrize(("select", "kept"), [("bernoulli", "rows"), ("elements", "elements")])
def test_expectations_are_the_mean_of_many_draws(select: str, kept: str) -> None:
    densities = {"a": (0.3, 0.4), "b": (0.2, 0.35)}
    rows, columns, nothing, draws = [], [], [], 1500
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingKeptWarning)
        for seed in range(draws):
            try:
                plan = partial_plan({"a": (6, 4)}, densities, r=2, select=select, rng=seed)
            except InvalidInputError:  # nothing at all
                nothing.append(1)
                continue
            found = mask_outcomes(plan).modules["a"]
            rows.append(found.empty_rows)
            columns.append(found.empty_columns)
            nothing.append(0)
    plan = partial_plan({"a": (6, 4)}, balanced(["a"], 1.0), r=2, rng=0)
    expected = mask_outcomes(plan, densities=densities, kept=kept).modules["a"].expected
    p, q, each = 0.3, 0.4, 1 if kept == "rows" else 2
    none_b, none_a = (1 - p) ** (6 * each), (1 - q) ** (4 * each)
    assert expected.nothing_kept == pytest.approx(1 - (1 - none_a) * (1 - none_b))
    assert np.mean(nothing) == pytest.approx(expected.nothing_kept, abs=0.03)
    # of the draws in which both masks keep something, so each is over a law without its last case
    wanted = (6 * (1 - p) ** each - 6 * none_b) / (1 - none_b)
    assert np.mean(rows) == pytest.approx(wanted, abs=0.12)
    wanted = (4 * (1 - q) ** each - 4 * none_a) / (1 - none_a)
    assert np.mean(columns) == pytest.approx(wanted, abs=0.12)
    assert expected.empty_rows == pytest.approx(6 * (1 - p) ** each)


def test_empty_disconnected_and_missing_modules_are_named() -> None:
    a = np.zeros((4, 3), dtype=int)
    a[0, 0] = a[1, 1] = 1
    b = np.zeros((6, 3), dtype=int)
    b[2, 0] = b[3, 1] = b[4, 1] = 1
    idle = np.zeros((5, 3), dtype=int)
    idle[0, 2] = 1
    other = np.zeros((3, 3), dtype=int)
    other[0, 0] = 1
    plan = MaskPlan.from_masks({"a": (a, b), "b": (other, idle)}, rng=0)
    found = mask_outcomes(plan, shapes=SHAPES | {"c": (7, 7)})
    assert found.not_adapted == ("c",)
    assert found.disconnected == ("a", "b")
    assert found.carrying_nothing == ("b",)
    assert [(m.empty_rows, m.empty_columns) for m in found.modules.values()] == [
        (3, 2),
        (4, 2),
        (7, 7),
    ]
    text = str(found)
    dead = [m.product.dead_ranks for m in found.modules.values() if m.product is not None]
    assert dead == [1, 1]
    assert "ranks in neither mask               2" in text
    assert "of which nothing is kept            1: c" in text
    assert "product graphs that fall apart      2: a, b" in text
    assert json.loads(found.to_json())["modules"]["c"]["product"] is None


def test_bad_input() -> None:
    plan = partial_plan(SHAPES, balanced(SHAPES, 1.0), r=2, rng=0)
    with pytest.raises(InvalidInputError, match="kept must be"):
        mask_outcomes(plan, kept="columns")
    with pytest.raises(InvalidInputError, match=r"shapes has None for 'b', and the plan \(5, 3\)"):
        mask_outcomes(plan, shapes={"a": (6, 4)})
    with pytest.raises(InvalidInputError, match="for 'b' it has None"):
        mask_outcomes(plan, densities={"a": (0.5, 0.5)})
    with pytest.raises(InvalidInputError, match=r"for 'a' it has \(0.5, 0.5, 0.5\)"):
        mask_outcomes(plan, densities={"a": (0.5, 0.5, 0.5)})  # type: ignore[dict-item]
    with pytest.raises(InvalidInputError, match="row density of 'a' must lie"):
        mask_outcomes(plan, densities=balanced(["b"], 0.5) | {"a": (0, 1)})
