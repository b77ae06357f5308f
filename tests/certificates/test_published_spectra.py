"""certify() against graphs whose spectra are in print, in exact arithmetic.

`tests.oracles.published` holds the graphs and their spectra. That the graph built is the one meant
is shown by its own characteristic polynomial; what `certify` must answer is then read off the
published one alone: root counts in integers at the bound, and at both ends of the enclosure.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod

import networkx as nx
import numpy as np
import pytest
import sympy
from flint import fmpz_mat, fmpz_poly
from hypothesis import given, settings

from expandermask import certify
from expandermask.graphs import random_biregular
from tests.oracles import graphs as oracle
from tests.oracles import published, spectra
from tests.oracles.roots import components, truth, truth_of
from tests.strategies import seeds, shapes

X = sympy.Symbol("x")


def factored(factors):
    """The product of polynomials in x written as text, each to its power."""
    parts = (
        fmpz_poly([int(c) for c in reversed(sympy.Poly(text, X).all_coeffs())]) ** power
        for text, power in factors.items()
    )
    return prod(parts, start=fmpz_poly([1]))


def squared(p):
    """The polynomial with the squares of all roots of p: p(w) p(-w) at w**2 = y, up to sign."""
    c = [int(value) for value in p.coeffs()]
    even, odd, y = fmpz_poly(c[::2]), fmpz_poly(c[1::2]), fmpz_poly([0, 1])
    return (even * even - y * odd * odd) * (-1) ** p.degree()


def bipartite_mask(graph):
    """(biadjacency matrix, number of sides): of a bipartite graph, or else of its double cover."""
    order = list(graph)
    if not nx.is_bipartite(graph):
        return nx.to_numpy_array(graph, nodelist=order, dtype=np.int64), 1
    colour = nx.bipartite.color(graph)
    left, right = ([v for v in order if colour[v] == side] for side in (1, 0))
    adjacency = nx.to_numpy_array(graph, nodelist=left + right, dtype=np.int64)
    return adjacency[: len(left), len(left) :], 2


def root_of(p, sides):
    """The square root of p if every squared singular value was counted for both sides."""
    if sides == 1:
        return p
    halves = [(factor, power) for factor, power in p.factor()[1]]
    assert all(power % 2 == 0 for _, power in halves)
    return prod((factor ** (power // 2) for factor, power in halves), start=fmpz_poly([1]))


def truth_from(squares, mask):
    """What the published spectrum of M'M says of a mask."""
    return truth_of(squares, int(mask[0].sum()), int(mask[:, 0].sum()), components(mask))


def check(mask, exact):
    """A certificate of the mask, and of its transpose, says what the published spectrum does."""
    for turned in (mask, mask.T):
        proof = certify(turned)
        assert proof.verdict == exact.verdict
        assert proof.components == exact.components
        assert exact.encloses(*proof.sigma2)
        assert proof.sigma2[1] - proof.sigma2[0] < 1e-6
        assert certify(turned, definition="two-sided").verdict == exact.two_sided
        if exact.tied:
            assert proof.method == "descartes"
            assert proof.evidence["ties"] == exact.ties


@pytest.mark.parametrize("case", published.GRAPHS, ids=lambda case: case.name)
def test_graphs(case):
    graph = case.make()
    adjacency = nx.to_numpy_array(graph, dtype=np.int64)
    spectrum = factored(case.factors)
    assert fmpz_mat(adjacency.tolist()).charpoly() == spectrum, case.source
    mask, sides = bipartite_mask(graph)
    exact = truth_from(root_of(squared(spectrum), sides), mask)
    check(mask, exact)
    assert certify(graph, definition="regular").verdict == exact.verdict


@pytest.mark.parametrize("case", published.DESIGNS, ids=lambda case: case.name)
def test_designs(case):
    mask = case.make()
    side = mask if mask.shape[1] <= mask.shape[0] else mask.T
    squares = factored({f"x-{value}": times for value, times in case.squares.items()})
    assert fmpz_mat((side.T @ side).tolist()).charpoly() == squares, case.source
    check(mask, truth_from(squares, mask))


@pytest.mark.parametrize(
    "case", [c for c in published.GRAPHS if len(c.make()) <= 16], ids=lambda case: case.name
)
def test_sympy_agrees_on_the_smaller_ones(case):
    """The same polynomial by another tool, and sigma_2 as an algebraic number in the enclosure."""
    graph = case.make()
    adjacency = sympy.Matrix(nx.to_numpy_array(graph, dtype=int).tolist())
    expected = sympy.prod(sympy.sympify(text) ** power for text, power in case.factors.items())
    assert sympy.expand(adjacency.charpoly(X).as_expr() - expected) == 0
    roots = [
        root
        for text, power in case.factors.items()
        for root in sympy.Poly(text, X).real_roots()
        for _ in range(power)
    ]
    mask, sides = bipartite_mask(graph)
    second = sorted(sympy.Abs(root) for root in roots)[-1 - sides]
    lo, hi = (sympy.Rational(*Fraction(end).as_integer_ratio()) for end in certify(mask).sigma2)
    assert lo <= second <= hi


def test_the_list_is_long_and_holds_both_verdicts():
    cases = [*published.GRAPHS, *published.DESIGNS]
    assert len({case.name for case in cases}) == len(cases) >= 60
    verdicts = [certify(bipartite_mask(case.make())[0]).verdict for case in published.GRAPHS]
    assert {"PROVED", "REFUTED"} == set(verdicts)


@settings(max_examples=150)
@given(shapes(9, least_degree=2), seeds)
def test_the_two_oracles_agree(shape, seed):
    """Root counts of polynomials, and inertia in exact fractions, which knows no polynomial."""
    mask = random_biregular(*shape, rng=seed).mask().astype(int)
    d1, d2 = int(mask[0].sum()), int(mask[:, 0].sum())
    exact, turned = truth(mask), truth(mask.T)
    side = mask if mask.shape[1] <= mask.shape[0] else mask.T
    gram = (side.T @ side).tolist()
    assert (exact.above, exact.ties) == spectra.ramanujan_counts(gram, d1, d2)
    lower = spectra.surd(d1 + d2 - 2, -2, (d1 - 1) * (d2 - 1))
    reached = sum(spectra.counts_against(gram, lower))
    moved_to_zero = spectra.counts_against([[0]], lower)
    assert exact.below == len(gram) - reached - (moved_to_zero == (0, 0))
    assert (exact.components, exact.verdict) == (turned.components, turned.verdict)
    assert exact.components == oracle.components(mask.tolist())
