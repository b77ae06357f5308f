"""Partial geometries (Bose): points against lines, with spectra known exactly, all at the limit.

In a partial geometry pg(s, t, alpha) every line has s + 1 points and every point t + 1 lines, two
points lie on at most one line, and a point off a line is joined by lines to exactly alpha of its
points. The incidence matrix has the singular values sqrt((s + 1)(t + 1)), once, and else only
sqrt(s + t + 1 - alpha) and 0. So the graph is always Ramanujan, and no graph of the same shape has
a smaller sigma_2. Proofs: ``docs/theory/geometries.md``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import (
    InfeasibleShapeError,
    InvalidInputError,
    check_integer,
    check_shape,
    require_memory,
)
from expandermask.graphs._fields import FiniteField, check_prime_power, finite_field, prime_power
from expandermask.graphs.biregular import BiregularGraph, Builder, Recipe

VERSION = 1
_EDGE_BYTES = _TABLE_BYTES = 40


def projective_plane(q: int) -> BiregularGraph:
    """The points against the lines of the projective plane PG(2, q): sigma_2 = sqrt q.

    Points and lines are the 1- and 2-dimensional subspaces of F_q**3, q**2 + q + 1 of each; the
    degrees are (q + 1, q + 1). Singular values: q + 1 once, sqrt q q**2 + q times. Ramanujan for
    every q, with the trace limit attained. ``projective_plane(2)`` is the Heawood graph.

    Parameters
    ----------
    q : int
        A prime power. Left vertex x q + y is the affine point (x, y), and q**2 + m the point at
        infinity of slope m, where m = q is the vertical.

    Raises
    ------
    InvalidInputError
        ``q`` is not a prime power; the nearest are named.
    TooLargeError
        About q**3 edges do not fit in memory.

    Notes
    -----
    O(q**3) time. Source: Hirschfeld, "Projective Geometries over Finite Fields", 2nd edition,
    1998, chapter 7.

    Examples
    --------
    >>> from expandermask.graphs.geometries import projective_plane
    >>> projective_plane(4)
    BiregularGraph(n1=21, n2=21, d1=5, d2=5)
    """
    q = check_prime_power("q", q)
    shape = _plane_shape(q)
    affine = _parallel_classes(_field(q, shape), q + 1)
    slopes = np.arange(q * (q + 1)).reshape(q + 1, q)  # the lines of one slope meet at infinity
    infinity = np.full((q + 1, 1), q * (q + 1))
    return _graph("projective_plane", np.vstack([affine, np.hstack([slopes, infinity])]), shape)


def array_code(q: int, slopes: int) -> BiregularGraph:
    """The q**2 points of the affine plane AG(2, q) against its lines of some slopes.

    Point (x, y) is on the line [m, b] where y = m x + b, for the slopes m = 0, 1, ..., slopes - 1;
    slope q is the vertical. Two points are on at most one line. Shape q**2 x slopes q, degrees
    (slopes, q). Singular values: sqrt(slopes q) once, sqrt q slopes (q - 1) times, and 0. Ramanujan
    for every q, with the integrality limit attained. For prime q and slopes <= q the transposed
    mask is the parity-check matrix of an array code; ``array_code(q, q + 1)`` is all of AG(2, q).

    Parameters
    ----------
    q : int
        A prime power. Left vertex x q + y is the point (x, y), right vertex m q + b the line.
    slopes : int
        How many of the q + 1 parallel classes to take, in [2, q + 1]: the left degree.

    Raises
    ------
    InvalidInputError
        ``q`` is not a prime power (the nearest are named), or ``slopes`` out of range.
    TooLargeError
        The slopes q**2 edges do not fit in memory.

    Notes
    -----
    O(slopes q**2) time. Sources: Bruck, "Finite nets I", Canad. J. Math. 3 (1951); Fan, "Array
    codes as low-density parity-check codes", 2000; Burnwal, Sinha and Vidyasagar, "New and
    explicit constructions of unbalanced Ramanujan bipartite graphs", 2020, section 3.

    Examples
    --------
    >>> from expandermask.graphs.geometries import array_code
    >>> array_code(8, 3)
    BiregularGraph(n1=64, n2=24, d1=3, d2=8)
    """
    q = check_prime_power("q", q)
    slopes = check_integer("slopes", slopes, minimum=2)
    if slopes > q + 1:
        raise InvalidInputError(
            f"slopes must be at most q + 1 = {q + 1}, the number of slopes there are, got {slopes}"
        )
    shape = (q * q, slopes * q, slopes)
    return _graph("array_code", _parallel_classes(_field(q, shape), slopes), shape)


def generalized_quadrangle(q: int) -> BiregularGraph:
    """The points against the lines of the symplectic quadrangle W(3, q): sigma_2 = sqrt(2 q).

    Points are those of PG(3, q), lines its lines on which an alternating form vanishes:
    (q + 1)(q**2 + 1) of each, degrees (q + 1, q + 1). There is no triangle: a point off a line is
    joined to exactly one of its points. Singular values: q + 1 once, sqrt(2 q) q (q + 1)**2 / 2
    times, and 0 q (q**2 + 1) / 2 times. Ramanujan for every q, and no graph of this shape has a
    smaller sigma_2. ``generalized_quadrangle(2)`` is the Tutte-Coxeter graph.

    Parameters
    ----------
    q : int
        A prime power.

    Raises
    ------
    InvalidInputError
        ``q`` is not a prime power; the nearest are named.
    TooLargeError
        About q**4 edges do not fit in memory.

    Notes
    -----
    O(q**4) time. Source: Payne and Thas, "Finite Generalized Quadrangles", 2nd edition, 2009,
    section 3.1.

    Examples
    --------
    >>> from expandermask.graphs.geometries import generalized_quadrangle
    >>> generalized_quadrangle(3)
    BiregularGraph(n1=40, n2=40, d1=4, d2=4)
    """
    q = check_prime_power("q", q)
    shape = _symplectic_shape(q)
    field = _field(q, shape)
    everything = np.arange(q)
    return _graph("generalized_quadrangle", _quadrangle(field, everything, everything), shape)


def hermitian_quadrangle(q: int) -> BiregularGraph:
    """The points against the lines of the Hermitian surface H(3, q**2): sigma_2 = sqrt(q**2 + q).

    Points are those of PG(3, q**2) on which a Hermitian form over F_{q**2} vanishes,
    (q**2 + 1)(q**3 + 1) of them with degree q + 1; lines those wholly of such points,
    (q + 1)(q**3 + 1) with degree q**2 + 1. There is no triangle. Singular values:
    sqrt((q + 1)(q**2 + 1)) once, sqrt(q**2 + q) q**2 (q**2 + 1) times, and 0. Ramanujan for every
    q, and no graph of this shape has a smaller sigma_2. The transpose is the quadrangle of the
    elliptic quadric Q-(5, q).

    Parameters
    ----------
    q : int
        A prime power; the coordinates are in F_{q**2}.

    Raises
    ------
    InvalidInputError
        ``q`` is not a prime power; the nearest are named.
    TooLargeError
        About q**6 edges do not fit in memory.

    Notes
    -----
    O(q**6) time. Source: Payne and Thas, "Finite Generalized Quadrangles", 2nd edition, 2009,
    sections 3.1.1 and 3.2.3.

    Examples
    --------
    >>> from expandermask.graphs.geometries import hermitian_quadrangle
    >>> hermitian_quadrangle(2)  # the 45 tritangent planes and 27 lines of a cubic surface
    BiregularGraph(n1=45, n2=27, d1=3, d2=5)
    """
    q = check_prime_power("q", q)
    shape = _hermitian_shape(q)
    field = _field(q * q, shape)
    bar = field.power(q)
    fixed = np.flatnonzero(bar == np.arange(q * q))  # the subfield F_q
    return _graph("hermitian_quadrangle", _quadrangle(field, bar, fixed), shape)


def geometry_of(n1: int, n2: int, d1: int) -> str | None:
    """The call that makes a geometry of the shape (n1, n2, d1), or None where there is none here.

    Looks in both orientations: a geometry with the sides exchanged is named with
    ``.transpose()`` behind it. Raises as every function of a shape does. O(sqrt n2) time.

    Examples
    --------
    >>> from expandermask.graphs.geometries import geometry_of
    >>> geometry_of(64, 24, 3), geometry_of(24, 64, 8), geometry_of(768, 8, 2)
    ('array_code(8, 3)', 'array_code(8, 3).transpose()', None)
    """
    found = _find(n1, n2, d1)
    if found is None:
        return None
    name, parameters, turned = found
    return f"{name}({', '.join(map(str, parameters))}){'.transpose()' if turned else ''}"


def geometry(n1: int, n2: int, d1: int) -> BiregularGraph:
    """The geometry that `geometry_of` names, built; `InfeasibleShapeError` where there is none.

    Examples
    --------
    >>> from expandermask.graphs.geometries import geometry
    >>> geometry(24, 64, 8)
    BiregularGraph(n1=24, n2=64, d1=8, d2=3)
    """
    found = _find(n1, n2, d1)
    if found is None:
        raise InfeasibleShapeError(
            "no projective plane, generalised quadrangle or array code has the shape "
            f"({n1}, {n2}, {d1})"
        )
    name, parameters, turned = found
    graph = _FAMILIES[name](*parameters)
    return graph.transpose() if turned else graph


def _find(n1: int, n2: int, d1: int) -> tuple[str, tuple[int, ...], bool] | None:
    """The family, its parameters, and whether the sides are exchanged."""
    n1, n2, d1, d2 = check_shape(n1, n2, d1)
    for shape, turned in (((n1, n2, d1), False), ((n2, n1, d2), True)):
        if found := _family(shape):
            return *found, turned
    return None


Labels = NDArray[np.int64]
Shape = tuple[int, int, int]


def _plane_shape(q: int) -> Shape:
    return q * q + q + 1, q * q + q + 1, q + 1


def _symplectic_shape(q: int) -> Shape:
    return (q + 1) * (q * q + 1), (q + 1) * (q * q + 1), q + 1


def _hermitian_shape(q: int) -> Shape:
    return (q * q + 1) * (q**3 + 1), (q + 1) * (q**3 + 1), q + 1


_SHAPES: dict[str, Callable[[int], Shape]] = {
    "projective_plane": _plane_shape,
    "generalized_quadrangle": _symplectic_shape,
    "hermitian_quadrangle": _hermitian_shape,
}
"""The families with one parameter, in all of which the left degree is q + 1."""


def _family(shape: Shape) -> tuple[str, tuple[int, ...]] | None:
    """The family with a member of exactly this shape, in this orientation, and its parameters."""
    n1, n2, d1 = shape
    for name, shape_of in _SHAPES.items():
        if d1 >= 3 and shape_of(d1 - 1) == shape and prime_power(d1 - 1):
            return name, (d1 - 1,)
    d2 = n1 * d1 // n2
    if 2 <= d1 <= d2 + 1 and shape == (d2 * d2, d1 * d2, d1) and prime_power(d2):
        return "array_code", (d2, d1)
    return None


def _field(order: int, shape: Shape) -> FiniteField:
    """The field of ``order``, after checking that a graph of ``shape`` over it fits in memory."""
    n1, n2, d1, _ = check_shape(*shape)
    require_memory(
        _EDGE_BYTES * n1 * d1 + _TABLE_BYTES * order**2,
        f"a geometry of {n1} x {n2} vertices and {n1 * d1} edges",
    )
    return finite_field(order)


def _graph(name: str, lines: Labels, shape: Shape) -> BiregularGraph:
    return BiregularGraph(lines, shape[1], recipe=Recipe(name, VERSION, *shape))


def _parallel_classes(field: FiniteField, slopes: int) -> Labels:
    """The lines of the first slopes through each point of AG(2, q): shape (q**2, slopes)."""
    q = field.q
    x, y = np.divmod(np.arange(q * q)[:, None], q)
    m = np.arange(min(slopes, q))
    lines = m * q + field.add[y, field.neg[field.mul[m, x]]]
    return lines if slopes <= q else np.hstack([lines, q * q + x])


def _quadrangle(field: FiniteField, bar: Labels, fixed: Labels) -> Labels:
    """The lines through each point of the quadrangle of a skew-Hermitian form, in coordinates.

    ``field`` has order s, ``bar`` is an automorphism of it that is its own inverse, ``fixed`` its t
    fixed elements: the result has shape ((s + 1)(s t + 1), t + 1). Points are (a, l, a'), (k, b),
    (a) and (oo), lines [k, b, k'], [a, l], [k] and [oo], numbered in this order; a, a', b are in
    the field and k, k', l fixed. The incidences are derived in ``docs/theory/geometries.md``.
    """
    s, t = field.q, len(fixed)
    add, mul, neg = field.add, field.mul, field.neg
    place = np.zeros(s, dtype=np.int64)  # of a fixed element among the fixed ones
    place[fixed] = np.arange(t)
    first_al = t * s * t
    first_k = first_al + s * t
    infinity = first_k + t

    k = np.arange(t)
    a, el, a2 = (c[:, None] for c in np.unravel_index(np.arange(s * t * s), (s, t, s)))
    b = add[a2, neg[mul[a, fixed]]]
    k2 = place[add[fixed[el], mul[mul[a, bar[a]], fixed]]]
    trace = add[mul[a, bar[a2]], mul[bar[a], a2]]
    al = first_al + a * t + place[add[fixed[el], trace]]
    on_ala = np.hstack([(k * s + b) * t + k2, al])  # (a, l, a') is on [k, b, k2] and [a, l + trace]

    kb = np.arange(t * s)[:, None]
    on_kb = np.hstack([kb * t + np.arange(t), first_k + kb // s])  # on [k, b, k'] and [k]
    a = np.arange(s)[:, None]
    on_a = np.hstack([first_al + a * t + np.arange(t), np.full((s, 1), infinity)])
    on_infinity = np.append(first_k + k, infinity)
    return np.vstack([on_ala, on_kb, on_a, on_infinity])


def _from_recipe(recipe: Recipe, base: BiregularGraph | None) -> BiregularGraph:
    n1, n2, d1, _ = check_shape(recipe.n1, recipe.n2, recipe.d1)
    found = _family((n1, n2, d1))
    if found is None or found[0] != recipe.algorithm:
        raise InvalidInputError(f"no {recipe.algorithm} has the shape ({n1}, {n2}, {d1})")
    return _FAMILIES[recipe.algorithm](*found[1])


_FAMILIES: dict[str, Callable[..., BiregularGraph]] = {
    "projective_plane": projective_plane,
    "array_code": array_code,
    "generalized_quadrangle": generalized_quadrangle,
    "hermitian_quadrangle": hermitian_quadrangle,
}

BUILDERS: dict[str, tuple[int, Builder]] = {name: (VERSION, _from_recipe) for name in _FAMILIES}
