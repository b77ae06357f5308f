"""The Ramanujan graphs X^{p,q} of Lubotzky, Phillips and Sarnak, as biregular graphs.

For distinct odd primes p and q, the p + 1 integer quaternions of norm p (up to units) become 2 x 2
matrices modulo q, and their Cayley graph is Ramanujan: a theorem that rests on the Ramanujan
conjecture for forms of weight 2, proved by Eichler and Igusa. Lubotzky, Phillips and Sarnak,
"Ramanujan graphs", Combinatorica 8 (1988); Davidoff, Sarnak and Valette, "Elementary number
theory, group theory, and Ramanujan graphs" (2003), chapter 4. More in docs/theory/lps.md.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import (
    ExpanderMaskError,
    InvalidInputError,
    TooLargeError,
    check_size,
    require_memory,
)
from expandermask.graphs import _distance_kernels, _kernels, _lps_kernels, _lps_pairs
from expandermask.graphs.biregular import BiregularGraph, Builder, Recipe

ALGORITHM, VERSION = "lps", 1
_SHORT_ROW = 32


def lps(p: int, q: int) -> BiregularGraph:
    """The graph X^{p,q}, (p+1)-regular with q (q**2 - 1) / 2 vertices on each side, or its cover.

    If p is no square modulo q, X^{p,q} is a bipartite Cayley graph of PGL_2(q): the left vertices
    are PSL_2(q), the right ones its other coset. If p is a square, X^{p,q} is a Cayley graph of
    PSL_2(q), connected and not bipartite (a bipartition would be a subgroup of index 2, and
    PSL_2(q) has none), and this is its bipartite double cover: both sides are PSL_2(q). Either way
    left g and right h are joined where h = g s for a generator s, and the graph is connected.

    Theorem: all singular values but the first are at most 2 sqrt(p), the Ramanujan bound. Stated by
    Lubotzky, Phillips and Sarnak (1988) for p and q = 1 mod 4, and by Davidoff, Sarnak and Valette
    (2003, theorem 4.2.2) for all distinct odd primes with q > 2 sqrt(p). `certify` takes nothing
    from it: what it proves, it proves of the graph itself, up to several thousand vertices a side.

    Parameters
    ----------
    p, q : int
        Distinct odd primes whose graph has no parallel edges, as none has with q > sqrt(p).

    Returns
    -------
    BiregularGraph
        Left and right vertices are numbered alike. A matrix up to scalars has one multiple whose
        first row is (1, b), or else (0, 1); its second row is (c, d), its determinant D. The
        vertex is ``((b * q + c) * h + rank)``, or else ``((q * q + d) * h + rank)``, where h is
        (q - 1) / 2 and rank the place of D among the squares modulo q, ascending, if D is one,
        and else among the nonsquares.

    Raises
    ------
    InvalidInputError
        p or q is not an odd prime, p = q, or some edges would be parallel; with the nearest p and
        q that work.
    TooLargeError
        2**31 edges or more, or not enough memory; with the largest q that works.

    Notes
    -----
    O(p q**3) time and 4 (p + 3) bytes per left vertex. Order, degrees, simplicity and connectivity
    are checked on the finished graph. The girth is known, see `lps_girth`.

    Examples
    --------
    >>> from expandermask import certify
    >>> from expandermask.graphs.lps import lps
    >>> lps(5, 13)
    BiregularGraph(n1=1092, n2=1092, d1=6, d2=6)
    >>> certify(lps(13, 5)).verdict
    'PROVED'
    """
    p, q = check_size("p", p), check_size("q", q)
    if reason := _lps_pairs.problem(p, q):
        raise InvalidInputError(f"lps({p}, {q}): {reason}; {_lps_pairs.mends(p, q)}")
    _require_room(p, q)
    n = _lps_pairs.side(q)
    rows = _lps_kernels.cayley_rows(_generators(p, q), p, q, *_tables(q))
    if p < _SHORT_ROW:
        _kernels.sort_rows(rows)
    else:
        rows.sort(axis=1)
    if (
        rows.shape != (n, p + 1)
        or not _lps_kernels.is_simple_biregular(rows, n)
        or _distance_kernels.components(rows, n) != 1
    ):
        raise ExpanderMaskError(
            f"lps({p}, {q}) did not come out simple, regular and connected: a bug, please report it"
        )
    return BiregularGraph._trusted(rows, n, Recipe(ALGORITHM, VERSION, n, n, p + 1))


def lps_girth(p: int, q: int) -> int:
    """The girth of ``lps(p, q)``, from number theory: no graph is built.

    A closed walk of length 2 t without backtracking is a quaternion of norm p**(2 t) that is an
    integer a modulo 2 q, and not an integer itself: p**(2 t) = a**2 + 4 q**2 (x**2 + y**2 + z**2)
    with x, y, z not all 0. Then a = +-(p**t - 2 m q**2) for some m > 0 with m q**2 < p**t, and
    m (p**t - m q**2) = x**2 + y**2 + z**2. The girth is 2 t for the least t with such an m; in
    particular it is at least 4 log_p(q). 2 stands for parallel edges, which `lps` refuses. Source:
    Biggs and Boshier, "Note on the girth of Ramanujan graphs", 1990; proof in docs/theory/lps.md.

    Examples
    --------
    >>> from expandermask.graphs.lps import lps_girth
    >>> lps_girth(5, 13), lps_girth(5, 101), lps_girth(13, 3)
    (8, 12, 2)
    """
    p, q = check_size("p", p), check_size("q", q)
    if reason := _lps_pairs.not_odd_primes(p, q):
        raise InvalidInputError(f"lps_girth({p}, {q}): {reason}; {_lps_pairs.mends(p, q)}")
    t = 1
    while not _lps_pairs.closes(p, q, t):
        t += 1
    return 2 * t


def lps_parameters(n1: int, n2: int, d1: int) -> tuple[int, int] | None:
    """The (p, q) for which ``lps(p, q)`` has this shape, or None; `lps_obstacle` says why None.

    Examples
    --------
    >>> from expandermask.graphs.lps import lps_parameters
    >>> lps_parameters(1092, 1092, 6)
    (5, 13)
    """
    n1, n2, d1 = check_size("n1", n1), check_size("n2", n2), check_size("d1", d1)
    q = _lps_pairs.largest_q(n1)
    fits = n1 == n2 == _lps_pairs.side(q) and _lps_pairs.works(d1 - 1, q)
    return (d1 - 1, q) if fits else None


def lps_obstacle(n1: int, n2: int, d1: int) -> str | None:
    """Why no ``lps(p, q)`` has this shape, with the nearest shapes that one has; None if one has.

    Examples
    --------
    >>> from expandermask.graphs.lps import lps_obstacle
    >>> lps_obstacle(1000, 1000, 6)
    'n1 = 1000 is not q(q^2-1)/2 for an odd prime q; the nearest: (1092, 1092, 6), (660, 660, 6)'
    """
    if lps_parameters(n1, n2, d1):
        return None
    p, q = d1 - 1, _lps_pairs.largest_q(n1)
    if n1 != n2:
        reason = f"the sides of an LPS graph are equal, and {n1} and {n2} are not"
    elif _lps_pairs.side(q) != n1 or not _lps_pairs.is_odd_prime(q):
        reason = f"n1 = {n1} is not q(q^2-1)/2 for an odd prime q"
    elif not _lps_pairs.is_odd_prime(p):
        reason = f"d1 - 1 = {p} is not an odd prime p"
    else:
        too_many = f"{_lps_pairs.edges(p, q)} edges; the limit is 2**31 - 1"
        reason = f"lps({p}, {q}): {_lps_pairs.problem(p, q) or too_many}"
    return f"{reason}; {_lps_pairs.nearest_shapes(isqrt(n1 * n2), d1)}"


def _generators(p: int, q: int) -> NDArray[np.int64]:
    """The p + 1 quaternions of norm p as 2 x 2 matrices modulo q: int64, shape (p + 1, 4).

    With x**2 + y**2 = -1 modulo q the units go to i = (x, -y; -y, -x), j = (0, 1; -1, 0) and
    k = i j = (y, x; x, -y), which multiply as they should: Davidoff, Sarnak and Valette, chapter
    2. Where -1 is a square, y = 0.
    """
    a, b, c, d = _quaternions(p)
    x, y = _sum_of_squares_is_minus_one(q)
    entries = [a + b * x + d * y, -b * y + c + d * x, -b * y - c + d * x, a - b * x - d * y]
    return np.stack(entries, axis=1) % q


def _quaternions(p: int) -> NDArray[np.int64]:
    """One of each pair +-(a, b, c, d) of norm p whose a alone is odd, or alone even: (4, p + 1).

    The sum of four squares is p, so one of them has the other parity than the rest: it is odd for
    p = 1 mod 4, even for p = 3 mod 4. By Jacobi's theorem there are p + 1 pairs with it in front.
    """
    odd = p % 4 == 1
    root = isqrt(p)
    rest = np.array([n for n in range(-root, root + 1) if n % 2 != odd], dtype=np.int64)
    found = []
    for a in range(int(odd), root + 1, 2):
        b, c = (grid.ravel() for grid in np.meshgrid(rest if a else rest[rest > 0], rest))
        left = p - a * a - b * b - c * c
        d = np.sqrt(np.maximum(left, 0)).astype(np.int64)  # exact where left is a square
        b, c, d = (part[d * d == left] for part in (b, c, d))
        for sign, kept in ((1, d >= 0), (-1, d > 0)):
            found.append([np.full(kept.sum(), a), b[kept], c[kept], sign * d[kept]])
    return np.concatenate(found, axis=1)


def _sum_of_squares_is_minus_one(q: int) -> tuple[int, int]:
    """The (x, y) with x**2 + y**2 = -1 modulo q that has the least y >= 0, then the least x."""
    roots = {x * x % q: x for x in range(q // 2, -1, -1)}
    return next((roots[r], y) for y in range(q) if (r := (-1 - y * y) % q) in roots)


def _tables(q: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The squares modulo q, the rank of each residue in its class, and the inverses."""
    squares = sorted({x * x % q for x in range(1, q)})
    others = sorted(set(range(1, q)) - set(squares))
    ranks, inverses = np.zeros(q, dtype=np.int64), np.zeros(q, dtype=np.int64)
    ranks[squares] = ranks[others] = np.arange(q // 2)
    inverses[1:] = [pow(x, -1, q) for x in range(1, q)]
    return np.array(squares, dtype=np.int64), ranks, inverses


def _require_room(p: int, q: int) -> None:
    """Raise `TooLargeError`, with the largest q that fits, unless the graph can be built here."""
    try:
        _check_room(p, q)
    except TooLargeError as error:
        fits = next((other for other in _lps_pairs.smaller(p, q) if _has_room(p, other)), None)
        mend = f"the largest q that fits is {fits}" if fits else "no q fits; take a smaller p"
        raise TooLargeError(f"{error}; {mend}") from None


def _check_room(p: int, q: int) -> None:
    if (edges := _lps_pairs.edges(p, q)) >= _lps_pairs.EDGE_LIMIT:
        raise TooLargeError(f"lps({p}, {q}) has {edges} edges; the limit is 2**31 - 1")
    require_memory(4 * (edges + 2 * _lps_pairs.side(q)), f"lps({p}, {q})")


def _has_room(p: int, q: int) -> bool:
    try:
        _check_room(p, q)
    except TooLargeError:
        return False
    return True


def _from_recipe(recipe: Recipe, base: BiregularGraph | None) -> BiregularGraph:
    shape = recipe.n1, recipe.n2, recipe.d1
    if (pair := lps_parameters(*shape)) is None:
        raise InvalidInputError(f"no LPS graph has the shape {shape}: {lps_obstacle(*shape)}")
    return lps(*pair)


BUILDERS: dict[str, tuple[int, Builder]] = {ALGORITHM: (VERSION, _from_recipe)}
