"""Tiling and cropping: found exactly where they are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from expandermask.graphs import random_biregular
from expandermask.inspection.inspect_mask import inspect_mask
from tests.inspection.matrices import matrices
from tests.oracles import inspection as oracle


def signs(mask, axis="rows"):
    return {s.kind: s.numbers for s in inspect_mask(mask).symptoms if s.axis == axis}


def enough(period, length):
    """Whether the definition calls it a repetition: two copies, or an eighth of the rows."""
    return 2 * period <= length or (length - period >= 2 and 8 * (length - period) >= length)


def is_whole(matrix):
    """Whether whole rows and columns are kept, so that equal ones are no sign of tiling."""
    return matrix.sum() == matrix.any(axis=1).sum() * matrix.any(axis=0).sum()


@settings(max_examples=200)
@given(matrices(4), st.integers(2, 4), st.integers(1, 3), st.integers(0, 3))
def test_a_tiled_block_is_found_with_its_smallest_period(block, down, across, cut):
    tiled = np.tile(block, (down, across))
    tiled = tiled[: len(tiled) - min(cut, len(block) - 1)]
    assume(tiled.any() and not is_whole(tiled))
    for axis, matrix in (("rows", tiled), ("columns", tiled.T)):
        period = oracle.period(oracle.classes(matrix))
        found = signs(tiled, axis).get("repeats")
        if enough(period, len(matrix)):
            assert found is not None
            assert found["period"] == period
            whole = np.tile(matrix[:period], (found["copies"], 1))
            assert np.array_equal(np.vstack([whole, matrix[: found["rest"]]]), matrix)
            assert found["rest"] < period


@settings(max_examples=200)
@given(matrices())
def test_no_period_is_reported_that_is_not_there(matrix):
    assume(matrix.any() and not is_whole(matrix))
    for axis, side in (("rows", matrix), ("columns", matrix.T)):
        found = signs(matrix, axis)
        degrees = side.sum(axis=1)
        length = len(side)
        if "dead end" in found:
            length = found["dead end"]["start"]
            assert not degrees[length:].any()
            assert degrees[length - 1]
        elif not degrees[-1]:
            assert "repeats" in found
        labels = oracle.classes(side[:length])
        assert ("repeats" in found) == enough(oracle.period(labels), length)
        if drop := found.get("drop"):
            start = drop["start"]
            assert 2 * start >= length
            assert set(degrees[:start]) == {drop["before"]}
            after = degrees[start:length]
            assert (after.min(), after.max()) == (drop["least"], drop["most"])
            assert after.max() < drop["before"]


@pytest.mark.parametrize("seed", range(20))
def test_random_masks_show_no_signs(seed):
    assert inspect_mask(random_biregular(96, 32, 3, rng=seed)).symptoms == ()
    random = np.random.default_rng(seed)
    irregular = (random.random((60, 40)) < 0.2).astype(np.uint8)
    assert {s.kind for s in inspect_mask(irregular).symptoms} <= {"dead end"}


def test_a_cropped_tiling_is_told_in_sentences():
    block = random_biregular(60, 12, 3, rng=1).mask()
    rows = np.tile(block, (13, 1))[:768]
    report = inspect_mask(rows)
    assert [str(s) for s in report.symptoms] == [
        "the rows repeat with period 60: 12 copies and 48 of the 60 rows of another"
    ]
    assert report.verdict == "NOT BIREGULAR"
    once = random_biregular(660, 12, 3, rng=1).mask()
    report = inspect_mask(np.vstack([once, once])[:768])
    assert [str(s) for s in report.symptoms] == [
        "the rows repeat with period 660: 1 copy and 108 of the 660 rows of another"
    ]
    padded = np.zeros((768, 12), dtype=np.uint8)
    padded[:473] = np.tile(block, (8, 1))[:473]
    report = inspect_mask(padded)
    assert report.left.dead == 295
    assert [str(s) for s in report.symptoms] == [
        "the rows from 473 to the last are dead",
        "the rows repeat with period 60: 7 copies and 53 of the 60 rows of another",
    ]


def test_lower_degrees_at_the_end_are_told():
    mask = random_biregular(60, 40, 4, rng=1).mask()
    mask[:30, 36:] = 0
    drop = signs(mask, "columns")["drop"]
    assert (drop["start"], drop["before"]) == (36, 6)
    shown = [str(s) for s in inspect_mask(mask).symptoms]
    assert shown == [
        f"the columns from 36 on have degrees {drop['least']} to {drop['most']}, all before them 6"
    ]
    mask[:, 36:] = 0
    mask[0, 36:] = 1
    assert "have degrees 1, all before them 6" in str(inspect_mask(mask).symptoms[-1])


def test_tiling_a_proved_mask_leaves_the_verdict_to_the_certificate():
    from expandermask.graphs import heawood

    report = inspect_mask(np.tile(heawood().mask(), (3, 1)))
    assert report.verdict == "PROVED"
    assert [s.numbers["period"] for s in report.symptoms] == [7]


def test_whole_rows_are_no_tiling():
    """A weight matrix with a row of zeros, as embeddings have for padding."""
    weights = np.ones((10, 8))
    weights[0] = 0
    assert inspect_mask(weights).symptoms == ()
    assert inspect_mask(weights.T).symptoms == ()
