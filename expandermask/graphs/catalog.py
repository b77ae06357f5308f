"""ramanujan_graph() and feasible(): a proved graph of a shape, by whichever construction fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd

from expandermask.errors import (
    ExpanderMaskError,
    InfeasibleShapeError,
    InvalidInputError,
    NotProvedError,
    check_ramanujan_shape,
)
from expandermask.graphs.biregular import BiregularGraph
from expandermask.graphs.cover_shapes import cover_of
from expandermask.graphs.coverings import TOWER, covering, two_lift_tower
from expandermask.graphs.designs import design, design_source, is_quick
from expandermask.graphs.geometries import geometry, geometry_of
from expandermask.graphs.gribinski_marcus import gribinski_marcus, interlacing_obstacle
from expandermask.graphs.lps import lps, lps_obstacle, lps_parameters
from expandermask.graphs.named import complete_bipartite
from expandermask.graphs.quasi_cyclic import quasi_cyclic, usual_order
from expandermask.graphs.random import RandomState, derive_seed, draw_seed, random_biregular

MAX_TRIES = 200
_PROBE_DEGREES, _PROBE_TRIES = 4, 3


@dataclass(frozen=True)
class Option:
    """Whether one construction makes graphs of a shape."""

    method: str
    """The name `ramanujan_graph` knows it by."""
    works: bool
    reason: str
    """How it makes them, or why it cannot."""


@dataclass(frozen=True)
class Feasibility:
    """What every construction says of one shape: iterates over `Option`, prints as a table."""

    n1: int
    n2: int
    d1: int
    options: tuple[Option, ...]
    auto: str
    """The method that ``method="auto"`` takes."""

    def __iter__(self) -> Iterator[Option]:
        return iter(self.options)

    def __str__(self) -> str:
        width = max(len(option.method) for option in self.options)
        rows = [
            f"{option.method:<{width}}  {'yes' if option.works else 'no':<3}  {option.reason}"
            for option in self.options
        ]
        return "\n".join([f"{self.n1} x {self.n2}, d1 = {self.d1}; auto: {self.auto}", *rows])


@dataclass(frozen=True)
class _Construction:
    """How the catalog uses one family; every function takes n1, n2, d1 first."""

    check: Callable[[int, int, int], object]
    """Raises the library's error, with the nearest that works, if it cannot make the shape."""
    how: Callable[[int, int, int], str]
    """How it makes the shape."""
    draw: Callable[[int, int, int, int], BiregularGraph]
    """The graph for a seed, proved or not."""
    tries: int
    """How many seeds are worth trying: 1 where they make no difference."""


def ramanujan_graph(
    n1: int, n2: int, d1: int, *, method: str = "auto", rng: RandomState = None
) -> BiregularGraph:
    """A biregular graph *proved* to be Ramanujan; never anything less.

    Graphs are made by one construction until one is certified. The graph's ``recipe`` says which
    construction and holds its seed, so `rebuild` gives the graph back at once.

    Parameters
    ----------
    n1, n2 : int
        Numbers of left and right vertices; either may be larger.
    d1 : int
        Degree of the left vertices, 2 <= d1 <= n2, with d2 = n1 * d1 / n2 an integer >= 2.
    method : str
        The construction; `feasible` says which can make a shape, and how:

        * "design": sigma_2 at or near the least any graph of the shape can have (`design`);
        * "random": uniform simple graphs (`random_biregular`), until one is proved;
        * "covering": a covering of a complete bipartite graph, or of a smaller random one;
        * "quasi-cyclic": a cyclic lift of a random base, for sides too long for a dense proof;
        * "lps": the graph of Lubotzky, Phillips and Sarnak of this shape;
        * "interlacing": the deterministic construction of Gribinski and Marcus;
        * "geometry": a projective plane, generalised quadrangle or array code of this shape;
        * "auto": "design" where it is known or quick, else "random".

        No other construction is ever put in the place of the one asked for.
    rng : None, int or numpy.random.Generator
        The same int gives the same graph everywhere.

    Raises
    ------
    InvalidInputError, InfeasibleShapeError
        The construction cannot make the shape: why, and the nearest that works.
    TooLargeError
        The graph, or the proof, does not fit in memory.
    NotProvedError
        After up to 200 tries, with the smallest sigma_2 seen and what does work.

    Examples
    --------
    >>> import expandermask as xm
    >>> graph = xm.ramanujan_graph(768, 8, 2, rng=0)
    >>> xm.certify(graph).verdict, graph.recipe.algorithm
    ('PROVED', 'design')
    """
    n1, n2, d1, _ = check_ramanujan_shape(n1, n2, d1)
    if method not in METHODS:
        raise InvalidInputError(f"method must be one of {METHODS}, got {method!r}")
    chosen = _auto(n1, n2, d1) if method == "auto" else method
    construction = _CONSTRUCTIONS[chosen]
    if error := _obstacle(construction, n1, n2, d1):
        able = [option.method for option in feasible(n1, n2, d1) if option.works]
        raise type(error)(
            f"method {chosen!r} cannot make ({n1}, {n2}, {d1}): {error}; those that can: "
            f"{', '.join(able) or 'none'}"
        )
    return _first_proved(construction, chosen, (n1, n2, d1), draw_seed(rng))


def feasible(n1: int, n2: int, d1: int) -> Feasibility:
    """Every construction's answer for a shape: yes and how, or the reason it cannot.

    Nothing is built, so "yes" is a promise of `ramanujan_graph` to try, not yet a proof.

    Parameters
    ----------
    n1, n2, d1 : int
        As for `ramanujan_graph`.

    Raises
    ------
    InvalidInputError, InfeasibleShapeError
        No biregular graph of the shape exists, or only unions of stars.

    Examples
    --------
    >>> import expandermask as xm
    >>> print(xm.feasible(60, 60, 4))
    60 x 60, d1 = 4; auto: design
    design        yes  near the limit, by a greedy choice of rows, then switches
    random        yes  uniform simple graphs, until one is proved
    covering      yes  60x60 (4, 4) is a 15-covering of K_{4,4} (larger bases: 7)
    quasi-cyclic  yes  a Z_15 lift of a random base
    lps           yes  lps(3, 5)
    interlacing   yes  gribinski_marcus, by conditional expectations
    geometry      no   no projective plane, generalised quadrangle or array code has this shape
    """
    n1, n2, d1, _ = check_ramanujan_shape(n1, n2, d1)
    options = []
    for method, construction in _CONSTRUCTIONS.items():
        error = _obstacle(construction, n1, n2, d1)
        reason = str(error) if error else construction.how(n1, n2, d1)
        options.append(Option(method, error is None, reason))
    return Feasibility(n1, n2, d1, tuple(options), _auto(n1, n2, d1))


def _obstacle(construction: _Construction, n1: int, n2: int, d1: int) -> ExpanderMaskError | None:
    """Why a construction cannot make the shape, as the error that says so; None if it can."""
    try:
        construction.check(n1, n2, d1)
    except ExpanderMaskError as error:
        return error
    return None


def _auto(n1: int, n2: int, d1: int) -> str:
    return "design" if is_quick(n1, n2, d1) else "random"


def _first_proved(
    construction: _Construction, method: str, shape: tuple[int, int, int], seed: int
) -> BiregularGraph:
    """The first graph that is proved, over as many seeds as the construction is worth."""
    from expandermask.certificates.certify import certify, is_proved_ramanujan

    least, bound = float("inf"), 0.0
    for attempt in range(construction.tries):
        graph = construction.draw(*shape, _try_seed(seed, attempt))
        if is_proved_ramanujan(graph):
            return graph
        certificate = certify(graph)
        if certificate.verdict == "PROVED":
            return graph
        least, bound = min(least, certificate.sigma2[0]), certificate.bound
    tries = f"none of {construction.tries} graphs" if construction.tries > 1 else "the graph"
    raise NotProvedError(
        f"{tries} of shape {shape} by method {method!r} could be proved Ramanujan: the smallest "
        f"sigma_2 seen is {least:.6f}, the bound {bound:.6f}; {_what_works(*shape)}"
    )


def _try_seed(seed: int, attempt: int) -> int:
    """The first try uses the seed itself, so a lucky graph is the construction's own."""
    return seed if attempt == 0 else derive_seed(seed, "try", attempt)


def _what_works(n1: int, n2: int, d1: int) -> str:
    """Name the nearest degree that a few random tries prove, found by trying."""
    from expandermask.certificates.certify import is_proved_ramanujan

    step = n2 // gcd(n1, n2)
    degrees = [d for d in range(step, n2 + 1, step) if min(d, n1 * d // n2) >= 2 and d != d1]
    for degree in sorted(degrees, key=lambda d: abs(d - d1))[:_PROBE_DEGREES]:
        for seed in range(_PROBE_TRIES):
            if is_proved_ramanujan(random_biregular(n1, n2, degree, rng=seed)):
                return (
                    f"d1={degree} works at this shape (method='random', rng={seed}), "
                    "or try another rng or method (see feasible)"
                )
    return f"d1={n2} (the complete bipartite graph) always works, or try another rng or method"


def _check_dense(n1: int, n2: int, d1: int) -> None:
    """The dense proof must fit in memory."""
    from expandermask.certificates.certify import require_dense

    require_dense(min(n1, n2))


def _check_covering(n1: int, n2: int, d1: int) -> None:
    found = cover_of(n1, n2, d1)
    if not found.bases:
        raise InfeasibleShapeError(found.reason)
    _check_dense(n1, n2, d1)


def _check_lps(n1: int, n2: int, d1: int) -> None:
    if reason := lps_obstacle(n1, n2, d1):
        raise InfeasibleShapeError(reason)
    _check_dense(n1, n2, d1)


def _check_interlacing(n1: int, n2: int, d1: int) -> None:
    if reason := interlacing_obstacle(n1, n2, d1):
        raise InfeasibleShapeError(reason)


def _check_geometry(n1: int, n2: int, d1: int) -> None:
    if geometry_of(n1, n2, d1) is None:
        raise InfeasibleShapeError(
            "no projective plane, generalised quadrangle or array code has this shape"
        )
    _check_dense(n1, n2, d1)


def _draw_covering(n1: int, n2: int, d1: int, seed: int) -> BiregularGraph:
    """A covering of the smallest base; one that is not complete is itself drawn and proved."""
    found = cover_of(n1, n2, d1)
    a, b, r = found.bases[0]
    if found.complete:
        base = complete_bipartite(a, b)
    else:
        base = ramanujan_graph(a, b, d1, method="random", rng=derive_seed(seed, "base"))
    if found.algorithm == TOWER:
        return two_lift_tower(base, r.bit_length() - 1, rng=seed)
    return covering(base, r, rng=seed)


def _lps_call(n1: int, n2: int, d1: int) -> str:
    return "lps({}, {})".format(*_lps_pair(n1, n2, d1))


def _lps_pair(n1: int, n2: int, d1: int) -> tuple[int, int]:
    pair = lps_parameters(n1, n2, d1)
    assert pair is not None, "checked before"
    return pair


_DESIGN_SOURCES = {
    "table": "from the shipped table of base blocks",
    "search": "by a quick search over orbits",
    "polish": "by a greedy choice of rows, then switches",
}
_CONSTRUCTIONS: dict[str, _Construction] = {
    "design": _Construction(
        _check_dense,
        lambda n1, n2, d1: f"near the limit, {_DESIGN_SOURCES[design_source(n1, n2, d1)]}",
        lambda n1, n2, d1, seed: design(n1, n2, d1, rng=seed),
        tries=MAX_TRIES,
    ),
    "random": _Construction(
        _check_dense,
        lambda n1, n2, d1: "uniform simple graphs, until one is proved",
        lambda n1, n2, d1, seed: random_biregular(n1, n2, d1, rng=seed),
        tries=MAX_TRIES,
    ),
    "covering": _Construction(
        _check_covering,
        lambda n1, n2, d1: cover_of(n1, n2, d1).reason,
        _draw_covering,
        tries=MAX_TRIES,
    ),
    "quasi-cyclic": _Construction(
        usual_order,
        lambda n1, n2, d1: f"a Z_{usual_order(n1, n2, d1)} lift of a random base",
        lambda n1, n2, d1, seed: quasi_cyclic(n1, n2, d1, rng=seed),
        tries=MAX_TRIES,
    ),
    "lps": _Construction(
        _check_lps,
        _lps_call,
        lambda n1, n2, d1, seed: lps(*_lps_pair(n1, n2, d1)),
        tries=1,
    ),
    "interlacing": _Construction(
        _check_interlacing,
        lambda n1, n2, d1: "gribinski_marcus, by conditional expectations",
        lambda n1, n2, d1, seed: gribinski_marcus(n1, n2, d1, rng=seed),
        tries=1,
    ),
    "geometry": _Construction(
        _check_geometry,
        lambda n1, n2, d1: str(geometry_of(n1, n2, d1)),
        lambda n1, n2, d1, seed: geometry(n1, n2, d1),
        tries=1,
    ),
}
METHODS = ("auto", *_CONSTRUCTIONS)
