"""Balanced and pyramidal densities."""

from __future__ import annotations

import pytest

from expandermask.errors import InvalidInputError
from expandermask.masks import balanced, pyramidal
from expandermask.masks.schedules import depths_of

NAMES = ["embed", "enc.4.a", "enc.4.b", "enc.5.a", "enc.11.a", "pooler"]


def test_depth_counts_the_layers_there_are() -> None:
    assert list(depths_of(NAMES).values()) == [1, 1, 1, 2, 3, 3]


def test_pyramidal_is_the_power_of_the_depth() -> None:
    found = pyramidal(NAMES, 0.5)
    assert [d.rows for d in found.values()] == [0.5, 0.5, 0.5, 0.25, 0.125, 0.125]
    assert all(d.rows == d.columns for d in found.values())
    assert pyramidal(["a", "b"], 0.5, depths={"a": 3, "b": 1})["a"].rows == 0.125


def test_balanced_is_the_same_everywhere() -> None:
    assert set(balanced(NAMES, 0.3).values()) == {(0.3, 0.3)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: balanced([], 0.5), "at least one module"),
        (lambda: balanced("query", 0.5), "modules must be names"),
        (lambda: balanced(["a"], 0.0), r"density must lie in \(0, 1\]"),
        (lambda: pyramidal(["a"], 1.5), r"density must lie in \(0, 1\], got 1.5; the nearest is 1"),
        (lambda: pyramidal(["a"], 0.5, depths={}), "'a' is missing"),
        (lambda: pyramidal(["a"], 0.5, depths={"a": 0}), "depth of 'a' must be at least 1"),
        (lambda: pyramidal(["a"], 0.5, depths={"a": 10**6}), "is zero at depth 1000000"),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()  # type: ignore[operator]
