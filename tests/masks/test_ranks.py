"""Ranks of single modules: by pattern as PEFT matches them, and the nearest that have masks."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from expandermask import MaskPlan
from expandermask.errors import (
    FileFormatError,
    InfeasibleShapeError,
    InvalidInputError,
    check_ramanujan_shape,
)
from expandermask.files import seal
from expandermask.masks.ranks import Ranks, by_pattern

SHAPES = {"0.q": (48, 48), "0.v": (20, 48), "1.q": (48, 48), "1.odd": (7, 11)}
NAMES = ["q", "0.q", "layers.0.q", "layers.10.q", "layers.0.xq", "up_proj", "qq"]
PATTERNS = ["q", "0.q", "^layers.0.q", r"layers\.\d+\.q", ".*q", "^q", "up.*", "(q|up_proj)"]


@given(st.lists(st.sampled_from(PATTERNS), max_size=4, unique=True), st.sampled_from(NAMES))
def test_patterns_are_matched_as_peft_matches_them(keys: list[str], name: str) -> None:
    pattern = {key: number for number, key in enumerate(keys)}
    assert by_pattern(pattern, name, -1) == pattern.get(get_pattern_key(keys, name), -1)


def is_possible(shape: tuple[int, int], r: int, degree: int) -> bool:
    if r == degree:  # every entry is kept
        return True
    try:
        for size in shape:
            check_ramanujan_shape(size, r, degree)
    except InvalidInputError:
        return False
    return True


@given(st.tuples(st.integers(1, 60), st.integers(1, 60)), st.integers(2, 24), st.integers(2, 6))
@settings(deadline=None)
def test_the_nearest_rank_is_the_largest_of_all_below(shape, r: int, degree: int) -> None:
    possible = [rank for rank in range(degree, r + 1) if is_possible(shape, rank, degree)]
    for choice, expected in (("nearest", possible[-1:]), ("skip", [r] if r in possible else [])):
        ranks = Ranks(r, degree, infeasible=choice)
        if not expected:
            with pytest.raises(InfeasibleShapeError, match="module 'm': no mask of"):
                ranks.settle({"m": shape})
            continue
        found, adjusted = ranks.settle({"m": shape})
        assert found == {"m": expected[0]}
        assert bool(adjusted) == (expected[0] != r)


def test_nothing_is_rounded_unasked() -> None:
    with pytest.raises(InfeasibleShapeError, match=r"'0.v': no mask of B .*infeasible=\"nearest\""):
        MaskPlan.for_shapes(SHAPES, r=12, left_degree=2, rng=0)


def test_nearest_keeps_all_modules_and_says_so_once() -> None:
    with pytest.warns(UserWarning, match="2 of 4 modules .*v .r=8, not 12") as caught:
        plan = MaskPlan.for_shapes(SHAPES, r=12, left_degree=2, infeasible="nearest", rng=0)
    assert len(caught) == 1
    assert {name: pair.r for name, pair in plan.items()} == {
        "0.q": 12,
        "0.v": 8,
        "1.q": 12,
        "1.odd": 2,
    }
    assert plan.r == 12
    assert plan.adjusted == {"0.v": "r=8, not 12", "1.odd": "r=2, not 12"}
    alone = MaskPlan.for_shapes({"0.v": SHAPES["0.v"]}, r=8, left_degree=2, rng=0)
    assert plan["0.v"] == alone["0.v"]


def test_skip_leaves_them_out_and_the_others_as_they_are() -> None:
    with pytest.warns(UserWarning, match="skipped, as r=12 does not work"):
        plan = MaskPlan.for_shapes(SHAPES, r=12, left_degree=2, infeasible="skip", rng=0)
    fine = {name: SHAPES[name] for name in ("0.q", "1.q")}
    assert plan == MaskPlan.for_shapes(fine, r=12, left_degree=2, rng=0)


def test_a_plan_that_needs_no_help_is_the_same_under_every_choice() -> None:
    shapes = {"q": (48, 48)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plans = [
            MaskPlan.for_shapes(shapes, r=12, infeasible=choice, rng=0)
            for choice in ("error", "nearest", "skip")
        ]
    assert plans[0].to_json() == plans[1].to_json() == plans[2].to_json()


def test_the_refusal_speaks_of_the_modules_of_that_rank() -> None:
    shapes = {name: SHAPES[name] for name in ("0.q", "0.v")}
    with pytest.raises(InfeasibleShapeError, match=r"'0.v'.* r=12 .*For all 1 modules"):
        MaskPlan.for_shapes(shapes, r=16, rank_pattern={"v": 12}, rng=0)


def unequal() -> MaskPlan:
    return MaskPlan.for_shapes(
        {"0.q": (48, 48), "0.v": (24, 48)}, r=12, rank_pattern={"v": 8}, rng=0
    )


def test_unequal_ranks_survive_a_file() -> None:
    plan = unequal()
    assert (plan.r, plan["0.q"].r, plan["0.v"].r) == (12, 12, 8)
    assert MaskPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("r", [8, 16])
def test_a_file_with_another_r_than_the_largest_is_refused(r: int) -> None:
    data = json.loads(unequal().to_json())
    del data["seal"]
    data["r"] = r
    with pytest.raises(FileFormatError, match="largest rank of a plan's masks, 12"):
        MaskPlan.from_json(json.dumps({**data, "seal": seal(data)}))


def test_a_plan_without_its_largest_module_has_a_smaller_r() -> None:
    plan = unequal()
    assert plan.with_masks({"0.v": plan["0.v"]}, left_degree=2).r == 8


def test_masks_of_ones_own_may_differ_in_rank() -> None:
    plan = MaskPlan.from_masks(
        {"a": (np.ones((4, 2)), np.ones((5, 2))), "b": (np.ones((4, 3)), np.ones((6, 3)))}, rng=0
    )
    assert plan.r == 3
    assert MaskPlan.from_json(plan.to_json()) == plan
