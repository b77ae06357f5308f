"""Refined vectors: quotients beyond a bound that floating-point vectors cannot pass."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

import pytest

from expandermask import BiregularGraph, certify
from expandermask.certificates import refine
from expandermask.certificates.bounds import RamanujanBound
from expandermask.certificates.recheck import image, recheck
from expandermask.certificates.refine import refined_vector
from expandermask.certificates.spectrum import rayleigh_quotient, top_nontrivial
from expandermask.graphs import hypercube, random_biregular
from tests import cases

RING = BiregularGraph.from_mask(cases.bipartition(cases.cycle(10)))
"""N has the eigenvalues 4, (3 + sqrt 5) / 2 and (3 - sqrt 5) / 2, the last two twice each."""


@dataclass(frozen=True)
class Near:
    """Bounds that miss the ends of the spectrum of `RING` by about 10**-digits."""

    digits: int

    def exceeded_by(self, square: Fraction) -> bool:
        return square > (3 + self._root()) / 2 - Fraction(1, 10**self.digits)

    def least_missed_by(self, square: Fraction) -> bool:
        return square < (3 - self._root()) / 2 + Fraction(1, 10**self.digits)

    def _root(self) -> Fraction:
        return Fraction(isqrt(5 * 10 ** (2 * self.digits)), 10**self.digits)


def quotient(graph, vector):
    """By the checker's own sums, exactly."""
    rows = graph.neighbors.tolist()
    y = image(rows, vector, graph.n2)
    return Fraction(sum(v * v for v in y), sum(v * v for v in vector))


@pytest.mark.parametrize("digits", [10, 40, 300])
@pytest.mark.parametrize("below", [False, True])
def test_as_many_digits_as_it_takes(digits, below):
    square, vector = refined_vector(RING, Near(digits), below=below)
    assert square == quotient(RING, vector)
    assert sum(vector) == 0
    assert (Near(digits).least_missed_by if below else Near(digits).exceeded_by)(square)


def test_floats_would_not_do():
    square, _ = rayleigh_quotient(RING, top_nontrivial(RING, RING.gram()))
    assert not Near(40).exceeded_by(square)


@pytest.mark.parametrize("graph", [hypercube(7), BiregularGraph.from_mask(cases.prism(16))])
def test_where_floats_do_it_agrees(graph):
    square, vector = refined_vector(graph, RamanujanBound(graph.d1, graph.d2))
    assert square == quotient(graph, vector) > RamanujanBound(graph.d1, graph.d2).value ** 2


def cycles(weights: list[int]) -> BiregularGraph:
    """Edges of Z_v, v = 2 len(weights) + 1, subdivided: weights[i - 1] of each {g, g + i}."""
    v = 2 * len(weights) + 1
    edges = [
        sorted((g, (g + step) % v))
        for step, weight in enumerate(weights, 1)
        for g in range(v)
        for _ in range(weight)
    ]
    return BiregularGraph(edges, v)


# Two eigenvalues of the Gram matrix lie within 1e-18 of each other and of rho**2, on either side.
WEIGHTS = (
    "26 26 22 28 24 26 30 25 25 26 25 26 34 28 23 18 26 22 23 24 18 26 "
    "16 25 12 14 19 15 19 24 11 17 22 20 27 21 25 23 21 23 22 27 24 22"
)
STRADDLE = cycles(list(map(int, WEIGHTS.split())))


def test_eigenvalues_on_both_sides_that_floats_cannot_tell_apart():
    proof = certify(STRADDLE)
    assert (proof.verdict, proof.method) == ("REFUTED", "descartes")
    square = Fraction(*map(int, proof.evidence["square"]))
    assert square == quotient(STRADDLE, proof.evidence["vector"])
    assert RamanujanBound(STRADDLE.d1, STRADDLE.d2).exceeded_by(square)
    assert float(square) == pytest.approx(RamanujanBound(2, 2000).value ** 2, rel=1e-15)
    assert recheck(proof.to_json(), STRADDLE.neighbors.tolist(), STRADDLE.n2).outcome == "CONFIRMED"


def test_nothing_is_refuted_without_a_vector(monkeypatch):
    monkeypatch.setattr(refine, "_MOST_BITS", 0)
    proof = certify(STRADDLE)
    assert (proof.verdict, proof.method) == ("UNDECIDED", "none")
    assert "no vector" in proof.reason
    assert recheck(proof.to_json(), STRADDLE.neighbors.tolist(), STRADDLE.n2).outcome == "BEYOND"


def test_none_where_no_eigenvalue_lies_beyond():
    graph = random_biregular(24, 12, 3, rng=5)
    with pytest.raises(ArithmeticError, match="2048 bits"):
        refined_vector(graph, RamanujanBound(graph.d1, graph.d2))
    with pytest.raises(ArithmeticError, match="2048 bits"):
        refined_vector(RING, Near(2000))
