"""cover_of: which bases a shape has, against trying every number of layers."""

from __future__ import annotations

import re
from math import isqrt

import pytest

from expandermask import certify
from expandermask.errors import InfeasibleShapeError, InvalidInputError
from expandermask.graphs import complete_bipartite, coverings
from expandermask.graphs.cover_shapes import cover_of
from tests.oracles import coverings as oracle
from tests.strategies import feasible_shapes


def test_every_shape_up_to_30():
    """The bases are those found by trying; where there are none, the sizes named do have some."""
    for n1, n2, d1 in feasible_shapes(30, least_degree=2):
        found = cover_of(n1, n2, d1)
        assert (found.n1, found.n2, found.d1, found.d2) == (n1, n2, d1, n1 * d1 // n2)
        assert list(found.bases) == oracle.bases_of(n1, n2, d1)
        assert found.complete == ((found.d2, d1) in [base[:2] for base in found.bases])
        if found.bases:
            assert f" is a {found.bases[0][2]}-covering of " in found.reason
            continue
        assert (n1 == found.d2) == ("complete bipartite" in found.reason)
        near = [tuple(map(int, s)) for s in re.findall(r"(\d+)x(\d+)(?= or|$)", found.reason)]
        assert near
        for a, b in near:
            assert a * n2 == b * n1
            assert oracle.bases_of(a, b, d1)


def test_shapes_of_the_papers():
    known = {
        (768, 8, 2): (192, 2, 4),
        (4096, 64, 2): (128, 2, 32),
        (12, 6, 3): (6, 3, 2),
        (1024, 64, 4): (64, 4, 16),
        (8, 768, 192): (2, 192, 4),
    }
    for shape, base in known.items():
        assert cover_of(*shape).bases[0] == base
        assert cover_of(*shape).complete
    assert cover_of(14, 7, 3).reason == (
        "14x7 (3, 6) covers nothing smaller: a base of the same degrees has sizes 2T x T with T a "
        "proper divisor of 7 and at least 3; the nearest that do: 12x6 or 16x8"
    )
    assert cover_of(28, 14, 3).bases == ((14, 7, 2),)
    assert not cover_of(28, 14, 3).complete


def test_what_to_try_first():
    assert cover_of(512, 512, 8).algorithm == "two_lift_tower"
    assert cover_of(49, 49, 7).algorithm == "random_covering"
    assert cover_of(2**14, 2**14, 4).algorithm == "random_covering"
    assert cover_of(14, 7, 3).algorithm == ""


@pytest.mark.parametrize("shape", [s for s in feasible_shapes(24, 2) if s[0] >= s[1]][::7])
def test_what_to_try_first_does_work(shape):
    found = cover_of(*shape)
    if not found.complete:
        return
    a, b, r = found.bases[0]
    base, lift = complete_bipartite(a, b), coverings.covering
    if found.algorithm == "two_lift_tower":
        lift, r = coverings.two_lift_tower, r.bit_length() - 1
    assert any(certify(lift(base, r, rng=seed)).verdict == "PROVED" for seed in range(5))


def test_large_and_bad_shapes():
    prime = next(p for p in range(2**31 - 1, 0, -2) if all(p % q for q in range(3, isqrt(p) + 1)))
    assert cover_of(prime, prime, 3).bases == ()
    with pytest.raises(InfeasibleShapeError, match="union of stars"):
        cover_of(6, 3, 1)
    with pytest.raises(InfeasibleShapeError, match="not divisible"):
        cover_of(10, 7, 2)
    with pytest.raises(InvalidInputError, match="n1 must be an integer"):
        cover_of(2.0, 2, 2)
