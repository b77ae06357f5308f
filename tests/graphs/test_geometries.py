"""Finite geometries: axioms by brute force, spectra in integers, fields against FLINT's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, product

import flint
import igraph
import numpy as np
import psutil
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from expandermask import certify, spectrum
from expandermask.certificates import limits
from expandermask.errors import (
    FileFormatError,
    InfeasibleShapeError,
    InvalidInputError,
    TooLargeError,
)
from expandermask.graphs import BiregularGraph, Recipe, geometries
from expandermask.graphs._fields import finite_field
from expandermask.graphs.geometries import (
    array_code,
    generalized_quadrangle,
    geometry_of,
    hermitian_quadrangle,
    projective_plane,
)
from expandermask.graphs.rebuild import BUILDERS, rebuild
from tests import cases
from tests.strategies import feasible_shapes

PRIME_POWERS = [q for q in range(2, 65) if len(sympy.factorint(q)) == 1]


@dataclass(frozen=True)
class Geometry:
    """A graph and the partial geometry pg(s, t, alpha) it must be."""

    call: str
    s: int
    t: int
    alpha: int
    squares: dict[int, int]
    """The squared singular values and their multiplicities, as the docstrings state them."""

    def graph(self) -> BiregularGraph:
        return eval(self.call, vars(geometries))  # a call printed by geometry_of

    def __repr__(self) -> str:
        return self.call


def plane(q):
    squares = {(q + 1) ** 2: 1, q: q * q + q}
    return Geometry(f"projective_plane({q})", q, q, q + 1, squares)


def net(q, m):
    zeros = min(q * q, m * q) - 1 - m * (q - 1)
    squares = {q * m: 1, q: m * (q - 1), 0: zeros}
    return Geometry(f"array_code({q}, {m})", q - 1, m - 1, m - 1, squares)


def symplectic(q):
    squares = {(q + 1) ** 2: 1, 2 * q: q * (q + 1) ** 2 // 2, 0: q * (q * q + 1) // 2}
    return Geometry(f"generalized_quadrangle({q})", q, q, 1, squares)


def hermitian(q):
    lines, many = (q + 1) * (q**3 + 1), q * q * (q * q + 1)
    squares = {(q + 1) * (q * q + 1): 1, q * q + q: many, 0: lines - 1 - many}
    return Geometry(f"hermitian_quadrangle({q})", q * q, q, 1, squares)


GEOMETRIES = [
    *(plane(q) for q in (2, 3, 4, 5, 7, 8, 9)),
    *(net(q, m) for q in (2, 3, 4, 5, 8, 9) for m in range(2, q + 2)),
    *(symplectic(q) for q in (2, 3, 4, 5)),
    hermitian(2),
    hermitian(3),
]
each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=repr)


def lines_of(graph):
    return [set(row) for row in graph.transpose().neighbors.tolist()]


@each_geometry
def test_axioms_of_a_partial_geometry(geometry):
    """Two points on at most one line; alpha lines from a point to the points of a line off it."""
    graph = geometry.graph()
    lines, through = lines_of(graph), [set(row) for row in graph.neighbors.tolist()]
    assert {len(line) for line in lines} == {geometry.s + 1}
    assert {len(lines_here) for lines_here in through} == {geometry.t + 1}
    near = []
    for x, lines_here in enumerate(through):
        others = [y for line in lines_here for y in lines[line] if y != x]
        assert len(set(others)) == len(others)
        near.append(set(others))
    for x, lines_here in enumerate(through):
        off = (line for j, line in enumerate(lines) if j not in lines_here)
        assert all(len(near[x] & line) == geometry.alpha for line in off)


@each_geometry
def test_spectrum_in_integers(geometry):
    """N (N - theta I) is a multiple of J, so only 0 and theta occur; the trace counts them."""
    graph = geometry.graph()
    dense = graph.mask().astype(np.int64)
    gram = dense.T @ dense
    theta = geometry.s + geometry.t + 1 - geometry.alpha
    assert len(set((gram @ gram - theta * gram).ravel().tolist())) == 1
    often, rest = divmod(int(np.trace(gram)) - graph.d1 * graph.d2, theta)
    assert rest == 0
    expected = {k: v for k, v in geometry.squares.items() if v}
    assert Counter({graph.d1 * graph.d2: 1, theta: often}) == Counter(
        {k: v for k, v in expected.items() if k}
    )
    seen = Counter(np.rint(spectrum(graph) ** 2).astype(int).tolist())
    assert seen == expected
    exact = sorted(Counter(expected).elements(), reverse=True)
    np.testing.assert_allclose(spectrum(graph) ** 2, exact, atol=1e-9)


@each_geometry
def test_proved_ramanujan_and_at_the_least_sigma_2_of_the_shape(geometry):
    graph = geometry.graph()
    theta = geometry.s + geometry.t + 1 - geometry.alpha
    certificate = certify(graph)
    assert certificate.verdict == "PROVED"
    assert certificate.sigma2 == pytest.approx((theta**0.5, theta**0.5))
    assert certificate.ratio == pytest.approx(1.0)
    assert theta == moment_limit(graph.n1, graph.n2, graph.d1)
    assert theta == limits(graph.n1, graph.n2, graph.d1).best


def moment_limit(n1, n2, d1):
    """The second-moment limit on sigma_2**2 of docs/theory/geometries.md, on the smaller side."""
    d2 = n1 * d1 // n2
    v, k, m = (n2, d2, d1) if n2 <= n1 else (n1, d1, d2)
    codegree, rest = divmod(k * (m - 1), v - 1)
    squares = v * (k**2 + (v - 1 - rest) * codegree**2 + rest * (codegree + 1) ** 2)
    return Fraction(squares - (k * m) ** 2, v * k - k * m)


def projective_points(q, dimension):
    vectors = product(range(q), repeat=dimension + 1)
    return [v for v in vectors if next((x for x in v if x), 0) == 1]


def symplectic_by_definition(q):
    """W(3, q), q prime: the lines of PG(3, q) on which x0 y1 - x1 y0 + x2 y3 - x3 y2 vanishes."""
    points = projective_points(q, 3)

    def form(u, v):
        return (u[0] * v[1] - u[1] * v[0] + u[2] * v[3] - u[3] * v[2]) % q

    def normal(u):
        lead = next(x for x in u if x)
        return tuple(x * pow(lead, -1, q) % q for x in u)

    lines = {
        frozenset(
            normal([(a * x + b * y) % q for x, y in zip(u, v, strict=True)])
            for a, b in projective_points(q, 1)
        )
        for u, v in combinations(points, 2)
        if form(u, v) == 0
    }
    return cases.incidence(points, sorted(lines, key=sorted))


def isomorphic_side_by_side(graph, mask):
    """Whether left can go to left and right to right (bliss; the sides are colours)."""
    sides = [0] * graph.n1 + [1] * graph.n2
    ours, theirs = (
        igraph.Graph.from_networkx(g.to_networkx()) for g in (graph, BiregularGraph.from_mask(mask))
    )
    return ours.isomorphic_bliss(theirs, color1=sides, color2=sides)


@pytest.mark.parametrize("p", [2, 3, 5, 7])
def test_projective_plane_is_the_definition(p):
    assert isomorphic_side_by_side(projective_plane(p), cases.projective_plane(p))


@pytest.mark.parametrize("q", [2, 3])
def test_quadrangle_is_the_definition(q):
    mask = symplectic_by_definition(q)
    assert isomorphic_side_by_side(generalized_quadrangle(q), mask)
    # W(3, 3) is not self-dual, so the comparison can tell points from lines.
    assert isomorphic_side_by_side(generalized_quadrangle(q), mask.T) == (q == 2)


@pytest.mark.parametrize("q", [2, 3, 4, 5])
def test_every_point_of_the_quadrangle_is_regular(q):
    """For points not on a line, q + 1 points are near all that is near both: this is W(3, q) only.

    Payne and Thas, 5.2.1 (Benson): a quadrangle of order q with all points regular is W(3, q).
    """
    dense = generalized_quadrangle(q).mask().astype(np.int64)
    near = dense @ dense.T > 0
    for x, y in combinations(range(len(dense)), 2):
        if not near[x, y]:
            both = near[x] & near[y]
            assert both.sum() == q + 1
            assert near[both].all(axis=0).sum() == q + 1


@pytest.mark.parametrize("q", PRIME_POWERS)
def test_field_tables_are_flints(q):
    field = finite_field(q)
    ((p, k),) = sympy.factorint(q).items()
    digits = [[n // p**i % p for i in range(k)] for n in range(q)]
    if k == 1:
        context = flint.fq_default_ctx(p, 1)
    else:
        x_to_k = digits[field.powers[k]]
        modulus = flint.fmpz_mod_poly_ctx(p)([*(-c for c in x_to_k), 1])
        context = flint.fq_default_ctx(modulus=modulus)  # refuses a reducible modulus
    elements = [context(d) for d in digits]
    number = {str(e): n for n, e in enumerate(elements)}
    assert len(number) == q
    assert [number[str(-e)] for e in elements] == field.neg.tolist()
    assert [number[str(e ** (p + 1))] for e in elements] == field.power(p + 1).tolist()
    for a, e in enumerate(elements):
        assert [number[str(e + f)] for f in elements] == field.add[a].tolist()
        assert [number[str(e * f)] for f in elements] == field.mul[a].tolist()


@given(st.integers(2, 5000))
def test_orders_that_are_no_prime_power_name_the_nearest(q):
    if len(sympy.factorint(q)) == 1:
        return
    below = next(n for n in range(q, 1, -1) if len(sympy.factorint(n)) == 1)
    above = next(n for n in range(q, 2 * q) if len(sympy.factorint(n)) == 1)
    message = f"q must be a prime power, got {q}; the nearest are {below} and {above}"
    for family in (projective_plane, generalized_quadrangle, hermitian_quadrangle):
        with pytest.raises(InvalidInputError, match=message):
            family(q)
    with pytest.raises(InvalidInputError, match=message):
        array_code(q, 2)


@pytest.mark.parametrize("bad", [1, 0, -2, True, 2.0, "3", None, 2**31])
def test_bad_orders(bad):
    for family in (projective_plane, generalized_quadrangle, hermitian_quadrangle):
        with pytest.raises(InvalidInputError, match="q must be"):
            family(bad)
    with pytest.raises(InvalidInputError, match="q must be"):
        array_code(bad, 2)


def test_bad_slopes():
    for bad in (1, 0, True, 2.0, None):
        with pytest.raises(InvalidInputError, match="slopes must be"):
            array_code(5, bad)
    with pytest.raises(InvalidInputError, match=r"at most q \+ 1 = 6.*got 7"):
        array_code(5, 7)
    assert array_code(np.int64(5), np.uint8(6)).n2 == 30


def test_more_memory_than_there_is(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(geometries, "finite_field", None)  # nothing may be allocated
    calls = [
        lambda: projective_plane(1009),
        lambda: generalized_quadrangle(101),
        lambda: hermitian_quadrangle(17),
        lambda: array_code(10007, 2),
    ]
    for call in calls:
        with pytest.raises(TooLargeError, match=r"needs about .* GiB"):
            call()
    with pytest.raises(InvalidInputError, match=r"n1 must be below 2\*\*31"):
        array_code(46349, 2)


GOLDEN = {
    "projective_plane(9)": "f3691aed2cdb9b89",
    "array_code(8, 3)": "7d16091e824052f4",
    "array_code(27, 28)": "64a8178209883de3",
    "generalized_quadrangle(4)": "790d38453e80e009",
    "hermitian_quadrangle(3)": "1142c6ca102a2661",
}


@pytest.mark.parametrize("call", GOLDEN)
def test_golden_hashes(call):
    assert eval(call, vars(geometries)).digest[:16] == GOLDEN[call]


@pytest.fixture
def _registered(monkeypatch):
    for name, builder in geometries.BUILDERS.items():
        monkeypatch.setitem(BUILDERS, name, builder)


@pytest.mark.usefixtures("_registered")
@each_geometry
def test_recipes_rebuild_the_identical_graph(geometry):
    graph = geometry.graph()
    name = geometry.call.split("(")[0]
    assert graph.recipe == Recipe(name, 1, graph.n1, graph.n2, graph.d1, 0)
    again = rebuild(Recipe.from_dict(graph.recipe.to_dict()))
    assert again == graph
    assert again.recipe == graph.recipe


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("name", geometries.BUILDERS)
@pytest.mark.parametrize(
    "change", [{"n1": 0}, {"n2": 0}, {"d1": 0}, {"n1": 22}, {"d1": 7}, {"seed": 1}, {"version": 2}]
)
def test_recipes_of_no_geometry_are_refused(name, change):
    right = {"n1": 64, "n2": 24, "d1": 3} if name == "array_code" else {"n1": 21, "n2": 21, "d1": 5}
    recipe = {"algorithm": name, "version": 1, **right, "seed": 0, **change}
    with pytest.raises(FileFormatError):
        rebuild(Recipe.from_dict(recipe))


@each_geometry
def test_geometry_of_finds_every_geometry_both_ways(geometry):
    graph = geometry.graph()
    assert geometry_of(graph.n1, graph.n2, graph.d1) == geometry.call
    turned = geometry.call if graph.n1 == graph.n2 else f"{geometry.call}.transpose()"
    assert geometry_of(graph.n2, graph.n1, graph.d2) == turned


def test_geometry_of_names_calls_that_have_the_shape():
    found = 0
    for n1, n2, d1 in feasible_shapes(40):
        call = geometry_of(n1, n2, d1)
        if call is not None:
            graph = eval(call, vars(geometries))
            assert (graph.n1, graph.n2, graph.d1) == (n1, n2, d1)
            found += 1
    assert found == 30


def test_geometry_of_refuses_what_is_no_shape():
    with pytest.raises(InfeasibleShapeError, match="not divisible"):
        geometry_of(10, 7, 2)
    with pytest.raises(InvalidInputError, match="n2"):
        geometry_of(10, True, 2)
    assert geometry_of(2**31 - 1, 2**31 - 1, 2) is None
    assert geometry_of(36, 12, 2) is None  # the order 6 is no prime power
