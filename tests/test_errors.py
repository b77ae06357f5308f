"""The checks at the door: what they accept, what they say, and what they cost."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import psutil
import pytest
import sympy

from expandermask import errors
from expandermask.errors import (
    ExpanderMaskError,
    InfeasibleShapeError,
    InvalidInputError,
    TooLargeError,
    check_integer,
    check_ramanujan_shape,
    check_shape,
    check_size,
    divisors_between,
    require_memory,
)
from tests.strategies import feasible_shapes

KINDS = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]


def test_every_error_is_one_of_ours_and_of_pythons():
    assert len(KINDS) >= 9
    assert all(issubclass(kind, ExpanderMaskError) for kind in KINDS)
    assert issubclass(InvalidInputError, ValueError)
    assert issubclass(errors.FileFormatError, ValueError)
    assert issubclass(errors.MissingPackageError, ImportError)
    assert not issubclass(errors.FileFormatError, InvalidInputError)


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), 2**70])
def test_integers_are_integers(value):
    assert check_integer("x", value) == int(value)
    assert type(check_integer("x", value)) is int


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float64(3), "3", None, [3], 3j])
def test_what_is_no_integer(value):
    with pytest.raises(InvalidInputError, match=r"x must be an integer, got .*\("):
        check_integer("x", value)


def test_minimum():
    assert check_integer("x", 0, minimum=0) == 0
    with pytest.raises(InvalidInputError, match="x must be at least 2, got 1"):
        check_integer("x", 1, minimum=2)


def test_shapes_are_accepted_exactly_where_graphs_exist():
    every, ramanujan = set(feasible_shapes(8)), set(feasible_shapes(8, least_degree=2))
    for n1, n2, d1 in np.ndindex(8, 8, 10):
        shape = (n1 + 1, n2 + 1, d1 + 1)
        for check, good in ((check_shape, every), (check_ramanujan_shape, ramanujan)):
            if shape in good:
                assert check(*shape) == (*shape, shape[0] * shape[2] // shape[1])
            else:
                with pytest.raises(InfeasibleShapeError):
                    check(*shape)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10, 7, 2), "d1 = 7; n1 = 7 or 14; n2 = 5 or 10"),
        ((768, 10, 3), "d1 = 5; n1 = 760 or 770"),
        ((100, 64, 2), "d1 = 16; n1 = 96 or 128; n2 = 50 or 100"),
    ],
)
def test_indivisible_shapes_name_the_nearest(shape, message):
    with pytest.raises(InfeasibleShapeError, match=message):
        check_shape(*shape)


def test_memory_is_asked_for_only_where_it_matters(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=2**27)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    require_memory(2**27, "something")
    with pytest.raises(TooLargeError, match=r"something needs about 3\.0 GiB .* 0\.1 GiB is free"):
        require_memory(3 * 2**30, "something")
    monkeypatch.setattr(psutil, "virtual_memory", None)
    require_memory(2**26 - 1, "a small thing")


def test_refusing_a_wide_star_costs_no_memory():
    tracemalloc.start()
    try:
        with pytest.raises(InfeasibleShapeError, match=r"stars.* 2$"):
            check_ramanujan_shape(10**6, 10**6, 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


HUGE = {
    "product of two large primes": (
        "from expandermask.graphs import random_biregular\n"
        "random_biregular((10**30 + 57) * (10**31 + 33), 10**29 + 319, 1)"
    ),
    "recipe in a file": (
        "from expandermask.graphs import Recipe, rebuild\n"
        "rebuild(Recipe('random_biregular', 1, (10**30 + 57) * (10**31 + 33), 12, 7, 0))"
    ),
    "rank of a plan": (
        "from expandermask import MaskPlan\n"
        "MaskPlan.for_shapes({'m': (8, 8)}, r=10**9, left_degree=2)"
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_numbers_are_refused_quickly(name):
    code = (
        "from expandermask.errors import ExpanderMaskError\n"
        f"try:\n    {HUGE[name].replace(chr(10), chr(10) + '    ')}\n"
        "except ExpanderMaskError:\n    print('refused')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=15, check=True
    )
    assert result.stdout == "refused\n"


def test_numbers_too_long_to_print_are_refused_like_others():
    with pytest.raises(InvalidInputError, match="got a number of 16610 bits"):
        check_size("n1", 10**5000)
    with pytest.raises(InvalidInputError, match="at least 1, got a number of 16610 bits"):
        check_size("n1", -(10**5000))


@pytest.mark.parametrize("product", [1, 2, 36, 97, 2**31 - 1, 2**31, 3 * 2**40])
def test_divisors_agree_with_sympy(product):
    assert divisors_between(product, 1, product) == sympy.divisors(product)
    assert divisors_between(product, 2, 40) == [d for d in range(2, 41) if product % d == 0]
