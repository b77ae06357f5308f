"""The limits against extremal graphs, turned, complemented and stacked, in exact arithmetic."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from expandermask.certificates import Limits, limits
from expandermask.graphs import pappus
from expandermask.graphs.geometries import projective_plane
from tests.oracles import spectra


def edges(adjacent):
    """One row for each edge of a graph: a mask with two ones in each row."""
    n = len(adjacent)
    pairs = [(i, j) for i, j in combinations(range(n), 2) if adjacent[i, j]]
    rows = np.zeros((len(pairs), n), dtype=int)
    for row, pair in zip(rows, pairs, strict=True):
        row[list(pair)] = 1
    return rows


def cycles(*lengths):
    """The adjacency matrix of a union of cycles."""
    n = sum(lengths)
    adjacent, start = np.zeros((n, n), dtype=int), 0
    for length in lengths:
        for i in range(length):
            a, b = start + i, start + (i + 1) % length
            adjacent[a, b] = adjacent[b, a] = 1
        start += length
    return adjacent


def off(n):
    return 1 - np.eye(n, dtype=int)


def parts(count, size):
    """The complete multipartite graph: with h + 1 = size, what has mu = 0."""
    return 1 - np.kron(np.eye(count, dtype=int), np.ones((size, size), dtype=int))


FAMILIES = {
    "plane of order 2": projective_plane(2).mask().astype(int),
    "plane of order 3": projective_plane(3).mask().astype(int),
    "Pappus": pappus().mask().astype(int),
    "a plane, blown up": np.kron(projective_plane(2).mask().astype(int), np.ones((2, 1), int)),
    "complete but a matching": off(6),
    "pairs": edges(off(7)),
    "parts": edges(parts(3, 3)),
    "pairs and parts": np.vstack([edges(off(8)), edges(parts(4, 2))]),
    "cycle": np.eye(9, dtype=int) + np.roll(np.eye(9, dtype=int), 1, axis=0),
    "pentagon": edges(cycles(5)),
    "pairs and pentagon": np.vstack([edges(off(5)), edges(cycles(5))]),
    "no triangle, no pentagon": edges(off(8) - cycles(3, 5)),
    "pairs, no triangle, no pentagon": np.vstack([edges(off(8)), edges(off(8) - cycles(3, 5))]),
    "triples": np.array([[x in t for x in range(6)] for t in combinations(range(6), 3)], int),
}


def attained(mask):
    """The names of the limits a mask attains to within their rounding; none may be above it."""
    n1, n2 = mask.shape
    side = mask if n2 <= n1 else mask.T
    gram = (side.T @ side).tolist()
    found, names = limits(n1, n2, int(mask[0].sum())), set()
    for field in fields(Limits):
        square = Fraction(getattr(found, field.name))
        assert sum(spectra.counts_against(gram, spectra.surd(square))) >= 1, field.name
        if sum(spectra.counts_against(gram, spectra.surd(square + Fraction(2, 2**32)))) == 0:
            names.add(field.name)
    return names


@pytest.mark.parametrize("name", FAMILIES)
def test_no_extremal_graph_is_below_a_limit(name):
    mask = FAMILIES[name]
    variants = [m for m in (mask, 1 - mask, mask.T) if min(m[0].sum(), m[:, 0].sum()) >= 2]
    assert any(attained(m) for m in variants)


def test_every_limit_is_attained_by_one_of_them():
    assert set().union(*map(attained, FAMILIES.values())) == {f.name for f in fields(Limits)}
