"""Tie vectors against exact root counts, and what the checker makes of them."""

from __future__ import annotations

from math import isqrt

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import BiregularGraph
from expandermask.certificates import ties
from expandermask.certificates.bounds import RamanujanBound
from expandermask.certificates.descartes import count_roots
from expandermask.certificates.ties import elimination_bits, tie_basis
from expandermask.graphs import heawood, hypercube
from tests import cases

C_12_TIMES_C_5 = cases.subdivision(np.kron(cases.cycle(12), cases.cycle(5)))
SURD = 4 + 2 * sympy.sqrt(3)
TIES = [*cases.TIES, cases.Case("subdivided_C_12_times_C_5", C_12_TIMES_C_5, "PROVED", SURD, 2)]


def gram_and_bound(mask):
    graph = BiregularGraph.from_mask(mask)
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    return side.gram(), RamanujanBound(side.d1, side.d2)


@pytest.mark.parametrize("case", TIES, ids=repr)
def test_as_many_as_root_counting_finds(case):
    gram, bound = gram_and_bound(case.mask)
    roots = count_roots(gram, bound.d1 * bound.d2, bound)
    assert roots.ties == case.ties
    basis = tie_basis(gram, bound)
    irrational = isqrt(4 * bound.D) ** 2 != 4 * bound.D
    ends = roots.ties if irrational or bound.d1 == bound.d2 else roots.ties + roots.ties_below
    assert len(basis) == ends
    for b in basis:
        vector = np.array(b, dtype=object)
        assert sum(b) == 0
        shifted = gram.astype(object) @ vector - bound.a * vector
        again = gram.astype(object) @ shifted - bound.a * shifted
        assert (again == 4 * bound.D * vector).all()
    assert sympy.Matrix(basis).rank() == len(basis)


@pytest.mark.parametrize("case", TIES, ids=repr)
def test_few_bits_are_enough(case):
    gram, bound = gram_and_bound(case.mask)
    trivial = bound.d1 * bound.d2
    assert elimination_bits(gram, trivial, bound, tie_basis(gram, bound)) == 64


def test_irrational_ties_span_twice_as_much():
    """b and (N - a) b together are independent, over the whole null space of (N - a)**2 - 4 D."""
    gram, bound = gram_and_bound(cases.TIES[3].mask)
    basis = tie_basis(gram, bound)
    shifted = sympy.Matrix(gram.tolist()) - bound.a * sympy.eye(len(gram))
    whole = sympy.Matrix([[int(x) for x in row] for row in basis])
    both = whole.col_join((shifted * whole.T).T)
    null = (shifted**2 - 4 * bound.D * sympy.eye(len(gram))).nullspace()
    assert both.rank() == 2 * len(basis) == len(null)


@pytest.mark.parametrize("graph", [heawood(), hypercube(5), hypercube(3)])
def test_none_where_there_are_none(graph):
    basis = tie_basis(graph.gram(), RamanujanBound(graph.d1, graph.d2))
    assert basis == []


def test_no_bits_are_enough_without_the_vectors():
    gram, bound = gram_and_bound(cases.TIES[0].mask)
    with pytest.raises(ArithmeticError, match="1024 bits shows"):
        elimination_bits(gram, bound.d1 * bound.d2, bound, [])


def test_a_lower_end_that_does_not_hold():
    """Degrees (2, 4): nearly disconnected, with an eigenvalue under the lower end."""
    gram, bound = gram_and_bound(cases.switched(cases.two_copies(np.ones((4, 2), dtype=np.int64))))
    assert count_roots(gram, bound.d1 * bound.d2, bound).below > 0
    assert elimination_bits(gram, bound.d1 * bound.d2, bound, []) == 64
    with pytest.raises(ArithmeticError, match="1024 bits shows"):
        elimination_bits(gram, bound.d1 * bound.d2, bound, [], two_sided=True)


def test_more_bits_where_the_lower_end_takes_them(monkeypatch):
    """The lower end of a subdivided K_6 is nearer to an eigenvalue (4, and 1) than the upper."""
    gram, bound = gram_and_bound(cases.subdivision(cases.complete(6)))
    basis, trivial = tie_basis(gram, bound), bound.d1 * bound.d2
    monkeypatch.setattr(ties, "_FIRST_BITS", 2)
    one = elimination_bits(gram, trivial, bound, basis)
    both = elimination_bits(gram, trivial, bound, basis, two_sided=True)
    assert (one, both) == (2, 4)


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(0, 7))
def test_long_null_vectors_are_made_short(copies, seed):
    """Eigenvectors of a graph whose vertices are shuffled stay short: LLL finds small entries."""
    case = cases.TIES[copies]
    order = np.random.RandomState(seed).permutation(case.mask.shape[1])
    gram, bound = gram_and_bound(case.mask[:, order])
    assert max(abs(x) for b in tie_basis(gram, bound) for x in b) <= 8
