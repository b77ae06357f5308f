"""Which p and q `lps` takes, which shapes are its own, and what each refusal says."""

from __future__ import annotations

import re
from collections import Counter

import psutil
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.errors import InvalidInputError, TooLargeError
from expandermask.graphs import _lps_kernels, _lps_pairs
from expandermask.graphs.lps import lps, lps_girth, lps_obstacle, lps_parameters
from tests.oracles import lps as oracle

PRIMES = list(sympy.primerange(3, 200))


@settings(max_examples=50)
@given(st.sampled_from(PRIMES[:15]), st.sampled_from(PRIMES))
def test_parallel_edges_exactly_where_two_generators_agree(q, p):
    if p == q:
        return
    classes = Counter(oracle.scaled(m, q) for m in oracle.documented_matrices(p, q))
    assert (lps_girth(p, q) > 2) == (len(classes) == p + 1)
    if q * q > p:
        assert lps_girth(p, q) > 2


def test_simple_even_below_the_root():
    assert _lps_pairs.works(197, 13)  # 13**2 < 197, and 197 - 169 = 28 is no sum of three squares
    assert not _lps_pairs._is_three_squares(28)
    brute = {x * x + y * y + z * z for x in range(21) for y in range(21) for z in range(21)}
    assert [_lps_pairs._is_three_squares(n) for n in range(1, 400)] == [
        n in brute for n in range(1, 400)
    ]


# -- what is refused ---------------------------------------------------------------------------

REFUSED = [
    (9, 13, "p = 9 is not an odd prime; the nearest that work: p = 7 or 11"),
    (5, 15, "q = 15 is not an odd prime; the nearest that work: q = 13 or 17"),
    (2, 13, "p = 2 is not an odd prime; the nearest that work: p = 3"),
    (13, 2, "q = 2 is not an odd prime; the nearest that work: q = 5"),
    (1, 5, "p = 1 is not an odd prime; the nearest that work: p = 3"),
    (5, 1, "q = 1 is not an odd prime; the nearest that work: q = 3"),
    (5, 5, "p and q must differ, and both are 5; the nearest that work: p = 3 or 7; q = 3 or 7"),
    (13, 3, "edges would be parallel; the nearest that work: p = 7; q = 5"),
    (17, 3, "edges would be parallel; the nearest that work: p = 7; q = 5"),
    (29, 5, "edges would be parallel; the nearest that work: p = 23; q = 7"),
    (9, 4, "p = 9 is not an odd prime; the nearest that work: p = 11 and q = 5"),
    (4, 2**31 - 1, "p = 4 is not an odd prime; the nearest that work: p = 3 and q = 1021"),
]


@pytest.mark.parametrize(("p", "q", "message"), REFUSED)
def test_refusals_name_the_hypothesis_and_the_mend(p, q, message):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        lps(p, q)


def test_mistakes_of_type():
    for bad in (True, 5.0, "5", None, 0, -5, 2**31):
        with pytest.raises(InvalidInputError, match="p must be"):
            lps(bad, 13)
        with pytest.raises(InvalidInputError, match="q must be"):
            lps_girth(13, bad)
    for p, q in [(9, 13), (13, 13), (5, 2)]:
        with pytest.raises(InvalidInputError, match="the nearest that work"):
            lps_girth(p, q)


@settings(max_examples=150)
@given(st.integers(1, 120), st.integers(1, 13))
def test_the_primes_an_error_names_do_work(p, q):
    try:
        lps(p, q)
    except InvalidInputError as error:
        offer = str(error).split("that work: ")[1]
        both = re.fullmatch(r"p = (\d+) and q = (\d+)", offer)
        if both:
            assert lps(*map(int, both.groups()))
            return
        for name, values in re.findall(r"([pq]) = ([\d or]+)", offer):
            for value in map(int, values.split(" or ")):
                assert lps(**{"p": p, "q": q, name: value})
    else:
        assert _lps_pairs.works(p, q)


@pytest.fixture
def free_memory(monkeypatch):
    """Sets how much memory is free; nothing may be allocated meanwhile."""

    def leave(num_bytes):
        memory = psutil.virtual_memory()._replace(available=num_bytes)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)

    monkeypatch.setattr(_lps_kernels, "cayley_rows", None)
    return leave


def test_too_many_edges(free_memory):
    free_memory(2**40)
    largest = max(q for q in sympy.primerange(2000) if 6 * q * (q * q - 1) // 2 < 2**31)
    message = rf"has 3006304381008 edges; the limit .* the largest q that fits is {largest}$"
    with pytest.raises(TooLargeError, match=message):
        lps(5, 10007)
    with pytest.raises(TooLargeError, match="no q fits; take a smaller p"):
        lps(100_000_007, 10007)


def test_more_memory_than_there_is(free_memory):
    free_memory(2**27)
    with pytest.raises(TooLargeError, match=r"GiB is free; the largest q that fits is 199$"):
        lps(5, 499)


# -- shapes --------------------------------------------------------------------------------------


def test_a_shape_gives_its_primes_back():
    for p, q in [(p, q) for p in PRIMES for q in PRIMES[:12] if _lps_pairs.works(p, q)]:
        n = q * (q * q - 1) // 2
        assert lps_parameters(n, n, p + 1) == (p, q)
        assert lps_obstacle(n, n, p + 1) is None


def test_the_side_tells_q():
    for q in range(2, 1700):
        n = q * (q * q - 1) // 2
        assert _lps_pairs.side(q) == n
        assert [_lps_pairs.largest_q(m) for m in (n - 1, n, n + 1)] == [q - 1, q, q]


OBSTACLES = [
    ((768, 8, 2), "the sides of an LPS graph are equal, and 768 and 8 are not"),
    ((512, 512, 6), "n1 = 512 is not q(q^2-1)/2 for an odd prime q"),
    ((363, 363, 6), "n1 = 363 is not"),
    ((252, 252, 6), "n1 = 252 is not"),  # q = 8
    ((1092, 1092, 3), "d1 - 1 = 2 is not an odd prime p; the nearest: (1092, 1092, 4)"),
    ((60, 60, 5), "d1 - 1 = 4 is not an odd prime p; the nearest: (60, 60, 4), (60, 60, 8)"),
    ((1000, 60, 5), "the nearest: (168, 168, 4), (168, 168, 6), (660, 660, 4), (660, 660, 6)"),
    ((1092, 1092, 14), "lps(13, 13): p and q must differ, and both are 13"),
    ((12, 12, 12), "lps(11, 3): some of the 12 generators are equal modulo 3"),
    ((1, 1, 1), "n1 = 1 is not"),
    ((2, 2, 2), "n1 = 2 is not"),
    ((_lps_pairs.side(1021), _lps_pairs.side(1021), 6), "edges; the limit is 2**31 - 1"),
    ((2**31 - 1, 2**31 - 1, 4), "n1 = 2147483647 is not"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "reason"), OBSTACLES)
def test_why_a_shape_is_no_lps_graph(shape, reason):
    assert lps_parameters(*shape) is None
    obstacle = lps_obstacle(*shape)
    assert reason in obstacle
    named_shapes = re.findall(r"\((\d+), (\d+), (\d+)\)", obstacle.split("the nearest: ")[1])
    assert named_shapes
    for numbers in named_shapes:
        assert lps_parameters(*map(int, numbers))


@pytest.mark.parametrize("bad", [0, True, 2.0, "4"])
def test_bad_shapes(bad):
    with pytest.raises(InvalidInputError, match="n2"):
        lps_parameters(4, bad, 2)
    with pytest.raises(InvalidInputError, match="d1"):
        lps_obstacle(4, 4, bad)
