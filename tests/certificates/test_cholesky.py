"""proves_at_most never proves too much: attacked from just below eigenvalues known exactly."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import sympy
from hypothesis import given, settings

from expandermask.certificates.cholesky import proves_at_most, rounding_margin
from expandermask.graphs import random_biregular
from tests import cases
from tests.oracles import graphs as oracle
from tests.oracles import spectra
from tests.strategies import seeds, shapes


def design(n: int, k: int, m: int) -> np.ndarray:
    """(k - m) I + m J: every nontrivial eigenvalue is k - m."""
    return np.full((n, n), m, dtype=np.int64) + (k - m) * np.eye(n, dtype=np.int64)


def signless(adjacency: np.ndarray) -> np.ndarray:
    """A + d I: the Gram matrix of the subdivision."""
    return adjacency + int(adjacency[0].sum()) * np.eye(len(adjacency), dtype=np.int64)


def grams() -> list[tuple[str, np.ndarray, sympy.Expr]]:
    """(name, Gram matrix, its exact largest nontrivial eigenvalue), sizes 2 to 200."""
    found = [
        (f"design_{n}_{k}_{m}", design(n, k, m), sympy.Integer(k - m))
        for n in (2, 3, 4, 7, 20, 64, 133, 200)
        for k, m in [(1, 0), (5, 2), (192, 28), (10**6, 3)]
    ]
    found += [
        (f"cycle_{n}", signless(cases.cycle(n)), 2 + 2 * sympy.cos(2 * sympy.pi / n))
        for n in (3, 5, 12, 33, 100, 200)
    ]
    found += [
        (f"torus_{n}", signless(cases.box(cases.cycle(n), cases.cycle(4))), 6 + 2 * c)
        for n in (5, 12, 50)
        for c in [sympy.cos(2 * sympy.pi / n)]
    ]
    for case in [c for c in cases.KNOWN + cases.TIES if c.square != 0]:
        mask = case.mask if case.mask.shape[1] <= case.mask.shape[0] else case.mask.T
        if mask.shape[1] <= 200 and not case.name.startswith("two_"):
            found.append((case.name, mask.T @ mask, case.square))
    return found


GRAMS = grams()


def below(c: float, exact: sympy.Expr) -> bool:
    """Whether the float c is less than the eigenvalue, in 60 digits."""
    return bool(sympy.Rational(Fraction(c)) < sympy.N(exact, 60))


@pytest.mark.parametrize(("name", "gram", "exact"), GRAMS, ids=[g[0] for g in GRAMS])
def test_never_below_the_eigenvalue_and_surely_a_little_above(name, gram, exact):
    n, trivial, value = len(gram), int(gram[0].sum()), float(exact)
    attacks = {value * (1 - 10.0**-k) for k in np.arange(13, 17, 0.25)}
    step = value
    for _ in range(40):
        attacks.add(step)
        step = math.nextafter(step, -math.inf)
    attacks |= {value - f * rounding_margin(n, n * value) for f in (0.1, 0.3, 1, 3)}
    proved = [c for c in attacks if below(c, exact) and proves_at_most(gram, trivial, c)]
    assert not proved
    assert sum(below(c, exact) for c in attacks) > 20
    slack = 1e-13 * n**2 * (value + trivial / n + 1)
    assert slack <= 1e-6 * value or n > 60 or trivial > 10**6
    assert proves_at_most(gram, trivial, value + slack)


@settings(max_examples=200)
@given(shapes(11, least_degree=1), seeds)
def test_true_means_at_most_in_exact_arithmetic(shape, seed):
    side = random_biregular(*shape, rng=seed)
    gram, trivial = side.gram(), side.d1 * side.d2
    top = float(np.linalg.eigvalsh(gram - trivial / side.n2)[-1])
    naive = oracle.gram(side.mask().tolist())
    for c in (top, math.nextafter(top, -1), top * (1 - 1e-15), top + 1e-9, top - 1e-9, 0.0, -1.0):
        if proves_at_most(gram, trivial, c):
            assert spectra.counts_against(naive, spectra.surd(Fraction(c)))[0] == 0
        else:
            assert c < top + 1e-10


def test_the_margin_covers_what_plain_cholesky_gets_wrong():
    """Without a margin the factorisation does run through below the eigenvalue: the control."""
    fooled = 0
    for seed in range(40):
        side = random_biregular(14, 14, 4, rng=seed)
        gram, alpha = side.gram(), 2
        top = float(np.linalg.eigvalsh(gram - 16 / 14)[-1])
        for k in range(-6, 7):
            c = top * (1 + k * 2.0**-52)
            try:
                np.linalg.cholesky(c * np.eye(14) - gram + alpha)
            except np.linalg.LinAlgError:
                continue
            if spectra.counts_against(gram.tolist(), spectra.surd(Fraction(c)))[0]:
                fooled += 1
                assert not proves_at_most(gram, 16, c)
    assert fooled > 0


@pytest.mark.parametrize("c", [math.nan, math.inf, -math.inf, 0.0, -5.0])
def test_useless_bounds_prove_nothing(c):
    assert not proves_at_most(design(5, 4, 1), 8, c)


@pytest.mark.parametrize("n", [1, 2, 10, 200, 2000])
def test_the_margin_is_at_least_the_published_one(n):
    """Demmel: gamma = (n + 1) u / (1 - (n + 1) u) times the trace, over 1 - gamma."""
    u = Fraction(1, 2**53)
    gamma = (n + 1) * u / (1 - (n + 1) * u)
    for trace in (1.0, 1e-3, 12345.678):
        margin = Fraction(rounding_margin(n, trace))
        assert margin >= 2 * gamma / (1 - gamma) * Fraction(trace)
        assert margin < 10 * (n + 2) * u * Fraction(trace) + Fraction(1, 2**500)
