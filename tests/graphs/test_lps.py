"""lps: the group, the theorem's numbers, spectra computed elsewhere, and every refusal."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import sympy

from expandermask.certificates import certify, ramanujan_bound, spectrum
from expandermask.errors import ExpanderMaskError, InvalidInputError
from expandermask.graphs import BiregularGraph, Recipe, _lps_kernels, _lps_pairs
from expandermask.graphs.distances import diameter, girth, least_diameter
from expandermask.graphs.lps import (
    BUILDERS,
    lps,
    lps_girth,
)
from tests.oracles import lps as oracle
from tests.without_compiler import only_with_compiler, passed_without_compiler

lps_module = importlib.import_module("expandermask.graphs.lps")
ROOT = Path(__file__).parents[2]
ANSWERS = json.loads((ROOT / "tests" / "vectors" / "lps.json").read_text())["graphs"]
SMALL = [entry for entry in ANSWERS if entry["q"] <= 11]

PRIMES = list(sympy.primerange(3, 200))
EXISTING = [
    (p, q) for q in (3, 5, 7, 11) for p in PRIMES if p != q and _lps_pairs.works(p, q) and p < 140
]


def named(entry):
    return "{p}-{q}".format(**entry)


@pytest.mark.parametrize("entry", ANSWERS, ids=named)
def test_against_the_plain_construction(entry):
    """Labels, order, girth and diameter, from matrices written out and the group grown."""
    p, q = entry["p"], entry["q"]
    graph = lps(p, q)
    residue = sympy.legendre_symbol(p, q) == 1
    assert entry["order"] == graph.n1 * (1 if residue else 2) == q * (q * q - 1) // (1 + residue)
    assert graph.digest == entry["digest"]
    assert girth(graph, roots=[0]) == lps_girth(p, q) == entry["girth"]
    assert diameter(graph, roots=[0]) == entry["diameter"]


@pytest.mark.parametrize("entry", SMALL, ids=named)
def test_the_spectrum_is_that_of_the_plain_construction(entry):
    values = spectrum(lps(entry["p"], entry["q"]))
    expected = [value for value, times in entry["spectrum"] for _ in range(times)]
    assert np.allclose(values, expected, atol=2e-9)
    assert values[1] <= 2 * math.sqrt(entry["p"])


def test_the_plain_construction_is_still_the_stored_one():
    for entry in ANSWERS[:4]:
        assert json.loads(json.dumps(oracle.answers(entry["p"], entry["q"]))) == entry


def test_every_case_is_among_the_known_answers():
    cases = {(e["p"] % 4, e["q"] % 4, int(sympy.legendre_symbol(e["p"], e["q"]))) for e in ANSWERS}
    assert cases == {(p, q, r) for p in (1, 3) for q in (1, 3) for r in (-1, 1)}


@pytest.mark.parametrize(("p", "q"), EXISTING)
def test_what_the_theorem_says(p, q):
    graph = lps(p, q)
    n = q * (q * q - 1) // 2
    assert (graph.n1, graph.n2, graph.d1, graph.d2) == (n, n, p + 1, p + 1)
    assert graph == BiregularGraph(graph.neighbors, n)  # simple and biregular, checked again
    assert graph.recipe == Recipe("lps", 1, n, n, p + 1, 0)
    cycle = girth(graph, roots=[0])
    assert cycle == lps_girth(p, q)
    assert cycle >= 4 * math.log(q, p)
    distance = diameter(graph, roots=[0])
    assert least_diameter(n, n, p + 1) <= distance <= 2 * math.log(2 * n, p) + 2


@pytest.mark.parametrize(("p", "q"), [(p, q) for p, q in EXISTING if q <= 7])
def test_small_ones_are_proved_ramanujan(p, q):
    """Also where q <= 2 sqrt(p), which theorem 4.2.2 of Davidoff, Sarnak and Valette leaves out."""
    proof = certify(lps(p, q))
    assert proof.verdict == "PROVED"
    assert proof.sigma2[1] <= ramanujan_bound(p + 1, p + 1) * (1 + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p", "q"), [(p, 13) for p in PRIMES if _lps_pairs.works(p, 13)] + [(5, 17), (13, 17)]
)
def test_larger_ones_are_proved_ramanujan(p, q):
    assert certify(lps(p, q)).verdict == "PROVED"


@pytest.mark.parametrize(
    ("p", "q", "sigma"),
    [(5, 13, 4.2497), (13, 5, 4.0), (3, 5, 3.0), (3, 7, 3.0), (7, 11, 5.1231), (11, 13, 6.4058)],
)
def test_second_singular_values(p, q, sigma):
    stored = {(e["p"], e["q"]): e["spectrum"] for e in ANSWERS}[p, q]
    assert stored[0] == [p + 1.0, 1]
    assert abs(stored[1][0] - sigma) < 1e-4


@pytest.mark.parametrize("p", [3, 5, 7, 11, 13, 29, 31, 37, 97, 101, 103])
def test_p_plus_one_generators_up_to_sign_closed_under_inversion(p):
    a, b, c, d = lps_module._quaternions(p)
    ours = {tuple(map(int, v)) for v in zip(a, b, c, d, strict=True)}
    assert len(a) == len(ours) == p + 1
    every = {v for u in oracle.quaternions(p) for v in (u, tuple(-x for x in u))}
    assert {v for u in ours for v in (u, tuple(-x for x in u))} == every
    conjugates = {(a, -b, -c, -d) for a, b, c, d in every}
    assert conjugates == every


@pytest.mark.parametrize("q", [3, 5, 7, 11, 13, 17, 19])
def test_generators_have_norm_p_and_multiply_as_quaternions(q):
    x, y = lps_module._sum_of_squares_is_minus_one(q)
    assert (x * x + y * y + 1) % q == 0
    assert (y == 0) == (q % 4 == 1)
    i, j, k = ((x, -y, -y, -x), (0, 1, -1, 0), (y, x, x, -y))
    minus_one = (q - 1, 0, 0, q - 1)
    assert [oracle.times(u, u, q) for u in (i, j, k)] == [minus_one] * 3
    assert oracle.times(i, j, q) == tuple(entry % q for entry in k)
    assert oracle.times(oracle.times(i, j, q), k, q) == minus_one
    for p in (23, 29):
        generators = lps_module._generators(p, q)
        assert {int(a * d - b * c) % q for a, b, c, d in generators} == {p % q}


@pytest.mark.parametrize(("p", "q"), [(5, 3), (7, 3), (3, 5), (11, 5), (3, 7), (11, 7)])
def test_kernel_rows_agree_with_the_oracle(p, q):
    tables = lps_module._tables(q)
    rows = _lps_kernels.cayley_rows(lps_module._generators(p, q), p, q, *tables)
    assert rows.dtype == np.int32
    assert [sorted(row) for row in rows.tolist()] == oracle.rows(p, q)


def test_kernel_check_sees_what_is_wrong():
    good = np.array([[0, 1], [1, 2], [0, 2]], dtype=np.int32)
    assert _lps_kernels.is_simple_biregular(good, 3)
    for bad in ([[0, 1], [1, 2], [1, 2]], [[0, 0], [1, 1], [2, 2]], [[0, 1], [1, 3], [0, 2]],
                [[0, 1], [2, 1], [0, 2]], [[-1, 1], [1, 2], [0, 2]]):  # fmt: skip
        assert not _lps_kernels.is_simple_biregular(np.array(bad, dtype=np.int32), 3)


def test_a_graph_that_comes_out_wrong_is_not_returned(monkeypatch):
    n = 60
    circle = np.stack([np.arange(n), (np.arange(n) + 1) % n], axis=1)
    squares = np.stack([np.arange(n) // 2 * 2, np.arange(n) // 2 * 2 + 1], axis=1)
    for rows in (
        circle,  # of degree 2
        np.hstack([circle, circle]),  # parallel
        np.hstack([squares, (squares + 2) % n])[: n // 2],  # half of them
        np.hstack([(squares + 4 * s) % 20 + squares // 20 * 20 for s in (0, 1)]),  # in parts
    ):
        wrong = rows.astype(np.int32)
        monkeypatch.setattr(_lps_kernels, "cayley_rows", lambda *_, wrong=wrong: wrong.copy())
        with pytest.raises(ExpanderMaskError, match=r"lps\(3, 5\) did not come out"):
            lps(3, 5)


def test_the_group_acts_on_both_sides():
    """Multiplying by a fixed element of PSL_2(q) on the left is an automorphism, so one root will
    do; and in both cases some automorphism exchanges the sides."""
    for p, q in [(3, 5), (11, 5), (7, 3), (5, 7)]:
        graph = lps(p, q)
        assert {girth(graph, roots=[i]) for i in range(graph.n1)} == {lps_girth(p, q)}
        alone = {diameter(graph, roots=[i]) for i in range(graph.n1)}
        assert alone == {diameter(graph)} == {diameter(graph.transpose())}


def test_a_recipe_rebuilds_the_graph():
    version, build = BUILDERS["lps"]
    for p, q in [(5, 13), (11, 5)]:
        graph = lps(p, q)
        assert graph.recipe.version == version
        again = build(graph.recipe, None)
        assert again == graph
        assert again.recipe == graph.recipe
    with pytest.raises(InvalidInputError, match="no LPS graph has the shape"):
        build(Recipe("lps", 1, 100, 100, 6), None)


@only_with_compiler
def test_the_kernels_pass_with_the_compiler_off():
    assert passed_without_compiler(__file__, "kernel_") == 7
