"""The Kesten-McKay law: closed walks on the infinite tree, and real spectra, must agree with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import kstest

from expandermask import spectrum
from expandermask.certificates.density import kesten_mckay
from expandermask.errors import InvalidInputError
from expandermask.graphs import random_biregular

DEGREES = [(2, 2), (2, 3), (3, 3), (3, 6), (6, 3), (2, 5), (4, 10), (8, 8), (2, 192), (24, 5)]


def moment(d1, d2, power):
    """The integral of s**power under the law, with s = middle - half cos(x) to tame both ends."""
    low = abs(math.sqrt(d1 - 1) - math.sqrt(d2 - 1))
    high = math.sqrt(d1 - 1) + math.sqrt(d2 - 1)

    def integrand(x):
        s = (low + high) / 2 - (high - low) / 2 * math.cos(x)
        return float(kesten_mckay(d1, d2, s)) * s**power * (high - low) / 2 * math.sin(x)

    return quad(integrand, 0, math.pi, limit=400)[0]


def closed_walks(degree, other, length):
    """Closed walks of a length from a vertex of ``degree`` in the biregular tree, by its depth."""
    counts = {0: 1}
    for _ in range(length):
        after: dict[int, int] = {}
        for depth, ways in counts.items():
            here = degree if depth % 2 == 0 else other
            down = here if depth == 0 else here - 1
            after[depth + 1] = after.get(depth + 1, 0) + ways * down
            if depth:
                after[depth - 1] = after.get(depth - 1, 0) + ways
        counts = after
    return counts.get(0, 0)


@pytest.mark.parametrize(("d1", "d2"), DEGREES)
def test_it_has_area_one_and_the_moments_of_the_tree(d1, d2):
    """From the smaller side, that of the larger degree: no mass is left for a point."""
    for half in range(6):
        walks = closed_walks(max(d1, d2), min(d1, d2), 2 * half)
        assert moment(d1, d2, 2 * half) == pytest.approx(walks, rel=1e-6)


@pytest.mark.parametrize(("d1", "d2"), DEGREES)
def test_the_point_mass_of_the_larger_side_is_what_its_walks_miss(d1, d2):
    """A root of the smaller degree has the same law times min/max, and the rest is at 0."""
    share = min(d1, d2) / max(d1, d2)
    for half in range(1, 6):
        walks = closed_walks(min(d1, d2), max(d1, d2), 2 * half)
        assert share * moment(d1, d2, 2 * half) == pytest.approx(walks, rel=1e-6)


@pytest.mark.parametrize("shape", [(1200, 1200, 3), (1600, 800, 3), (400, 1000, 5)])
def test_random_graphs_follow_it(shape):
    graph = random_biregular(*shape, rng=0)
    grid = np.linspace(0, math.sqrt(graph.d1 - 1) + math.sqrt(graph.d2 - 1), 20_001)
    heights = kesten_mckay(graph.d1, graph.d2, grid)
    area = np.concatenate([[0], np.cumsum((heights[1:] + heights[:-1]) / 2 * np.diff(grid))])
    values = spectrum(graph)[1:]
    assert kstest(values, lambda s: np.interp(s, grid, area)).statistic < 0.01
    assert kstest(values * 1.05, lambda s: np.interp(s, grid, area)).statistic > 0.03


def test_shape_support_and_symmetry():
    grid = np.linspace(-1, 6, 70).reshape(7, 10, 1)
    values = kesten_mckay(3, 6, grid)
    assert values.shape == grid.shape
    low, high = math.sqrt(5) - math.sqrt(2), math.sqrt(5) + math.sqrt(2)
    assert ((values > 0) == ((grid > low) & (grid < high))).all()
    np.testing.assert_array_equal(values, kesten_mckay(6, 3, grid))
    assert kesten_mckay(4, 4, 0.0) == pytest.approx(2 * math.sqrt(3) / (4 * math.pi))


@pytest.mark.parametrize("bad", [1, 0, True, 2.0, "3"])
def test_bad_degrees(bad):
    with pytest.raises(InvalidInputError, match="d1 must be"):
        kesten_mckay(bad, 3, 1.0)
    with pytest.raises(InvalidInputError, match="d2 must be"):
        kesten_mckay(3, bad, 1.0)
