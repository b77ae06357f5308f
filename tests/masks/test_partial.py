"""partial_plan: counts to the digit, each way to select, what it refuses and what it warns of."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expandermask import MaskPlan
from expandermask.errors import InvalidInputError
from expandermask.masks import (
    NothingKeptWarning,
    Scores,
    balanced,
    inverted,
    partial_plan,
    stochastic,
    targeted,
)

SHAPES = {"layer.0.up": (24, 10), "layer.0.down": (10, 24), "layer.1.up": (24, 10)}


def scores(seed: int = 0) -> dict[str, Scores]:
    rng = np.random.default_rng(seed)
    return {name: Scores(rng.random(d), rng.random(k)) for name, (d, k) in SHAPES.items()}


def kept(mask: object) -> int:
    return int((mask.left_degrees > 0).sum())  # type: ignore[attr-defined]


@given(
    select=st.sampled_from(["bernoulli", "targeted", "inverted", "stochastic"]),
    density=st.floats(0.15, 0.85),
    r=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
def test_values_are_r_times_the_kept_rows_and_columns(
    select: str, density: float, r: int, seed: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingKeptWarning)
        plan = partial_plan(
            SHAPES, balanced(SHAPES, density), r=r, select=select, scores=scores(), rng=seed
        )
    assert plan.num_values == r * sum(kept(p.a) + kept(p.b) for p in plan.values())
    for name, pair in plan.items():
        d, k = SHAPES[name]
        assert pair.shape == (d, k)
        if select in ("targeted", "stochastic"):
            assert (kept(pair.b), kept(pair.a)) == (round(density * d), round(density * k))
        if select == "inverted":
            assert (kept(pair.b), kept(pair.a)) == (d - round(density * d), k - round(density * k))
    assert MaskPlan.from_json(plan.to_json()).to_json() == plan.to_json()


def test_the_scored_ways_keep_what_their_own_functions_keep() -> None:
    densities, own = balanced(SHAPES, 0.5), scores()
    for select, function in (("targeted", targeted), ("inverted", inverted)):
        plan = partial_plan(SHAPES, densities, r=3, select=select, scores=own, rng=0)
        for name, (d, k) in SHAPES.items():
            assert plan[name].b == function(own[name].rows, d // 2, 3)
            assert plan[name].a == function(own[name].columns, k // 2, 3)
    cold = partial_plan(
        SHAPES, densities, r=3, select="stochastic", scores=own, temperature=1e-9, rng=0
    )
    best = partial_plan(SHAPES, densities, r=3, select="targeted", scores=own, rng=0)
    assert all(cold[name] == best[name] for name in SHAPES)
    assert kept(stochastic(own["layer.0.up"].rows, 12, 3, rng=0)) == 12


def test_modules_and_sides_draw_apart_and_seeds_repeat() -> None:
    shapes = {"a": (200, 200), "b": (200, 200)}
    plan = partial_plan(shapes, balanced(shapes, 0.5), r=4, rng=3)
    masks = [plan[n].a for n in shapes] + [plan[n].b for n in shapes]
    assert len({mask.digest for mask in masks}) == 4
    assert partial_plan(shapes, balanced(shapes, 0.5), r=4, rng=3).to_json() == plan.to_json()
    alone = partial_plan({"b": (200, 200)}, balanced(shapes, 0.5), r=4, rng=3)
    assert alone["b"] == plan["b"]


@pytest.mark.parametrize("select", ["bernoulli", "elements", "targeted", "stochastic"])
def test_rows_are_of_b_and_columns_of_a(select: str) -> None:
    shapes = {"m": (400, 200)}
    rng = np.random.default_rng(0)
    own = {"m": Scores(rng.random(400), rng.random(200))}
    plan = partial_plan(shapes, {"m": (0.2, 0.7)}, r=5, select=select, scores=own, rng=4)
    assert plan["m"].b.num_edges / (5 * 400) == pytest.approx(0.2, abs=0.08)
    assert plan["m"].a.num_edges / (5 * 200) == pytest.approx(0.7, abs=0.1)
    assert plan.seed == 4  # of the first values, too


def test_single_elements_have_recipes() -> None:
    plan = partial_plan(SHAPES, balanced(SHAPES, 0.5), r=4, select="elements", rng=0)
    assert all(p.a.recipe is not None and p.b.recipe is not None for p in plan.values())


def test_modules_of_which_nothing_is_kept_are_left_out_and_named() -> None:
    densities = balanced(SHAPES, 1.0) | {"layer.0.down": (0.01, 0.01)}
    for select in ("targeted", "bernoulli"):
        with pytest.warns(NothingKeptWarning, match=r"1 of 3 modules keep nothing.*layer\.0\.down"):
            plan = partial_plan(SHAPES, densities, r=2, select=select, scores=scores(), rng=1)
        assert list(plan) == ["layer.0.up", "layer.1.up"]
    with pytest.raises(InvalidInputError, match="nothing is kept in any of 3 modules"):
        partial_plan(SHAPES, balanced(SHAPES, 0.001), r=2, rng=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": "best"}, "select must be one of"),
        ({"shapes": {}}, "shapes is empty"),
        ({"shapes": {"a": 3}}, r"shape of 'a' must be a pair \(d, k\), got 3"),
        (
            {"select": "targeted", "scores": {n: (np.ones(3),) for n in SHAPES}},
            r"must be Scores\(rows, columns\)",
        ),
        ({"densities": {}}, "for 'layer.0.up' it has None"),
        ({"densities": dict.fromkeys(SHAPES, 0.5)}, "for 'layer.0.up' it has 0.5"),
        ({"densities": dict.fromkeys(SHAPES, (0.0, 0.5))}, r"row density of 'layer.0.up' must lie"),
        (
            {"densities": dict.fromkeys(SHAPES, (0.5, 2))},
            r"column density of 'layer.0.up' must lie",
        ),
        ({"select": "targeted"}, "scores must name every module"),
        ({"temperature": 0}, "temperature must be positive"),
        ({"temperature": "hot"}, "temperature must be a real number"),
        (
            {"select": "targeted", "scores": dict.fromkeys(SHAPES, Scores(np.ones(3), np.ones(3)))},
            r"are of a \(d, k\) = \(3, 3\) weight",
        ),
        (
            {
                "select": "targeted",
                "scores": {n: Scores(np.zeros(d), np.ones(k)) for n, (d, k) in SHAPES.items()},
            },
            "all zero",
        ),
        ({"r": 0}, "r must be at least 1"),
    ],
)
def test_bad_input(changes: dict[str, object], message: str) -> None:
    asked = {"shapes": SHAPES, "densities": balanced(SHAPES, 0.5), "r": 4, "rng": 0} | changes
    with pytest.raises(InvalidInputError, match=message):
        partial_plan(asked.pop("shapes"), asked.pop("densities"), **asked)  # type: ignore[arg-type]
