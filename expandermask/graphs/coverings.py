"""Coverings (lifts) of a base graph: Hall, Puder and Sawin's theorem, and how to find one.

An r-covering replaces every vertex by r layers and every edge by a matching of the layers at its
two ends. Every connected bipartite Ramanujan graph has a Ramanujan r-covering for every r (Hall,
Puder and Sawin, "Ramanujan coverings of graphs", Advances in Mathematics 323, 2018; r = 2: Marcus,
Spielman and Srivastava, "Interlacing families I", 2015). Those proofs do not say which matchings:
here they are drawn at random, or chosen greedily, and what comes out is certified.

Layer g of base vertex v is vertex v * r + g, on both sides. ``docs/theory/coverings.md``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import (
    InvalidInputError,
    NotProvedError,
    check_integer,
    check_ramanujan_shape,
    check_size,
    require_memory,
)
from expandermask.graphs import _covering_kernels
from expandermask.graphs.bipartite import as_graph
from expandermask.graphs.biregular import BiregularGraph, Builder, Recipe
from expandermask.graphs.random import RandomState, derive_seed, draw_seed

RANDOM, CYCLIC, TOWER, VERSION = "random_covering", "cyclic_covering", "two_lift_tower", 1
MAX_TRIES = 20


def covering(base: Any, r: int, *, rng: RandomState = None) -> BiregularGraph:
    """A random r-covering: an independent uniform permutation of the r layers on each base edge.

    Parameters
    ----------
    base : BiregularGraph or 2-D array or tensor of 0/1
        The graph to cover.
    r : int
        Number of layers, at least 1; r = 1 gives the base itself.
    rng : None, int or numpy.random.Generator
        The same int gives the same covering everywhere.

    Returns
    -------
    BiregularGraph
        Sizes (r n1, r n2), the degrees of the base; simple. It need not be connected, nor
        Ramanujan: `certify` says. Its ``recipe`` rests on the base's, and is None if that is.

    Raises
    ------
    InvalidInputError, NotBiregularError
        r < 1, more than 2**31 - 1 vertices on a side, or a base that is no biregular graph.
    TooLargeError
        More memory would be needed than is free.

    Notes
    -----
    O(r n1 d1). Over K_{128,2} and K_{8,8} about 85 % of 32- and 64-coverings are Ramanujan.

    Examples
    --------
    >>> from expandermask.graphs import heawood
    >>> from expandermask.graphs.coverings import covering
    >>> covering(heawood(), 5, rng=0)
    BiregularGraph(n1=35, n2=35, d1=3, d2=3)
    """
    base = as_graph(base)
    r = _check_layers(base, r)
    seed = draw_seed(rng)
    rows = _covering_kernels.permuted_rows(base.neighbors, r, np.uint64(seed))
    return BiregularGraph._trusted(rows, base.n2 * r, _recipe(RANDOM, base, r, seed))


def cyclic_covering(base: Any, r: int, *, rng: RandomState = None) -> BiregularGraph:
    """A random cyclic r-covering: layer g of i is joined to layer g + V_ij mod r of j.

    The voltages V_ij are independent and uniform on [0, r). Raising every layer by one is an
    automorphism, so the spectrum splits into r small ones: `cyclic_spectrum`. Parameters, returned
    graph and errors as for `covering`.

    Notes
    -----
    O(r n1 d1). Half to nearly all are Ramanujan for r up to 64, fewer as r grows: a single bad
    character spoils the covering.

    Examples
    --------
    >>> from expandermask.graphs import heawood
    >>> from expandermask.graphs.coverings import cyclic_covering
    >>> cyclic_covering(heawood(), 5, rng=0)
    BiregularGraph(n1=35, n2=35, d1=3, d2=3)
    """
    base = as_graph(base)
    r = _check_layers(base, r)
    seed = draw_seed(rng)
    chosen = _covering_kernels.random_voltages(base.n1, base.d1, r, np.uint64(seed))
    rows = _shifted_rows(base.neighbors, chosen, r)
    return BiregularGraph._trusted(rows, base.n2 * r, _recipe(CYCLIC, base, r, seed))


def two_lift_tower(base: Any, levels: int, *, rng: RandomState = None) -> BiregularGraph:
    """A 2**levels-covering built of derandomised 2-coverings, each *proved* Ramanujan.

    A 2-covering is a sign for each edge: its new singular values are those of the signed
    biadjacency matrix S. Signs are chosen vertex by vertex so that rho**2 I - S'S stays positive
    definite in conditional expectation, and the new singular values of each level are then proved
    to be below rho. Over a Ramanujan base the tower is Ramanujan.

    Parameters
    ----------
    base : BiregularGraph or 2-D array or tensor of 0/1
        The graph to cover, both degrees at least 2.
    levels : int
        Number of doublings, at least 0; 0 gives the base itself.
    rng : None, int or numpy.random.Generator
        Seeds the signs each row starts from.

    Returns
    -------
    BiregularGraph
        Sizes (2**levels n1, 2**levels n2). Connected if the base is.

    Raises
    ------
    InvalidInputError, NotBiregularError, InfeasibleShapeError
        levels < 0, more than 2**31 - 1 vertices on a side, a base with a degree of 1 or none.
    TooLargeError
        24 bytes times the squared smaller side of the last level but one do not fit in memory.
    NotProvedError
        20 seeds failed; none has been seen to.

    Notes
    -----
    O(n1 d1 n2**2) for sizes of the last level but one, n2 <= n1: about 0.03 s to 512x512, d = 8.
    The greedy choice stands in for the expected characteristic polynomials of Marcus, Spielman and
    Srivastava; that it always succeeds is not proved.

    Examples
    --------
    >>> import expandermask as xm
    >>> from expandermask.graphs.coverings import two_lift_tower
    >>> tower = two_lift_tower(xm.graphs.complete_bipartite(6, 3), 4, rng=0)
    >>> tower, xm.certify(tower).verdict
    (BiregularGraph(n1=96, n2=48, d1=3, d2=6), 'PROVED')
    """
    base = as_graph(base)
    levels = _check_levels(base, levels)
    seed = draw_seed(rng)
    for attempt in range(MAX_TRIES):
        tried = seed if attempt == 0 else derive_seed(seed, "try", attempt)
        tower = _tower(base, levels, tried, proved=True)
        if tower is not None:
            return tower
    raise NotProvedError(
        f"none of {MAX_TRIES} towers of {levels} 2-coverings over the {base.n1}x{base.n2} "
        f"({base.d1}, {base.d2}) base could be proved; try another rng, or covering(base, "
        f"r={2**levels})"
    )


def voltages(graph: Any, base: Any) -> NDArray[np.int64]:
    """The voltages of a cyclic covering in this library's labelling: int64, shape (n1, d1) of base.

    Entry (i, a) is V in: layer g of left vertex i is joined to layer g + V mod r of its a-th
    neighbour, ``base.neighbors[i, a]``. Raises `InvalidInputError` for graphs of another form.

    >>> from expandermask.graphs import complete_bipartite
    >>> base = complete_bipartite(2, 3)
    >>> voltages(cyclic_covering(base, 5, rng=1), base)
    array([[2, 3, 4],
           [2, 2, 3]])
    """
    graph, base = as_graph(graph), as_graph(base)
    r = graph.n1 // base.n1
    if (graph.n1, graph.n2, graph.d1) != (r * base.n1, r * base.n2, base.d1):
        raise InvalidInputError(
            f"{graph} cannot cover {base}: the degrees must agree and the sizes be one multiple"
        )
    below, layers = np.divmod(graph.neighbors.reshape(base.n1, r, base.d1).astype(np.int64), r)
    shifts = (layers - np.arange(r)[None, :, None]) % r
    wrong = (below != base.neighbors[:, None, :]) | (shifts != shifts[:, :1])
    if wrong.any():
        i, g, _ = np.argwhere(wrong)[0]
        raise InvalidInputError(
            f"not a cyclic covering of this base with layer g of v numbered v*r + g: left vertex "
            f"{i * r + g} has the neighbours {graph.neighbors[i * r + g].tolist()}"
        )
    return np.ascontiguousarray(shifts[:, 0])


def cyclic_spectrum(graph: Any, base: Any) -> NDArray[np.float64]:
    """Singular values of a cyclic covering, one row for each character of Z_r, each descending.

    Row k holds the singular values of the base's matrix with entries exp(2 pi i k V_ij / r); row 0
    is the spectrum of the base, and all rows together that of the covering. Floats, not proofs.

    Returns a float64 array of shape (r, min(n1, n2) of the base); O(r) small decompositions. Raises
    as `voltages`.

    >>> from expandermask.graphs import complete_bipartite
    >>> base = complete_bipartite(2, 2)
    >>> cyclic_spectrum(cyclic_covering(base, 3, rng=1), base).round(3)
    array([[2.   , 0.   ],
           [1.732, 1.   ],
           [1.732, 1.   ]])
    """
    graph, base = as_graph(graph), as_graph(base)
    shifts, r = voltages(graph, base), graph.n1 // base.n1
    require_memory(32 * base.n1 * base.n2, f"a complex {base.n1} x {base.n2} matrix")
    values = np.empty((r, min(base.n1, base.n2)))
    matrix = np.zeros((base.n1, base.n2), dtype=np.complex128)
    lefts = np.arange(base.n1)[:, None]
    for k in range(r // 2 + 1):
        matrix[lefts, base.neighbors] = np.exp(2j * np.pi / r * (k * shifts % r))
        values[k] = values[-k] = np.linalg.svd(matrix, compute_uv=False)
    return values


def _check_layers(base: BiregularGraph, r: object) -> int:
    """``r`` as a number of layers for which the covering has a legal size and fits in memory."""
    layers = check_integer("r", r)
    check_size("r * n1", layers * base.n1)
    check_size("r * n2", layers * base.n2)
    _require_edges(layers * base.num_edges)
    return layers


def _check_levels(base: BiregularGraph, levels: object) -> int:
    """``levels`` as a number of doublings for which the tower is legal and fits in memory."""
    check_ramanujan_shape(base.n1, base.n2, base.d1)
    count = check_integer("levels", levels, minimum=0)
    check_size("2**levels * n1", base.n1 << min(count, 31))
    check_size("2**levels * n2", base.n2 << min(count, 31))
    _require_edges(base.num_edges << count)
    half = min(base.n1, base.n2) << max(count - 1, 0)
    require_memory(24 * half * half, f"signs for a level whose smaller side has {half} vertices")
    return count


def _require_edges(edges: int) -> None:
    require_memory(24 * edges, f"a covering of {edges} edges")


def _shifted_rows(
    neighbors: NDArray[np.int32], shifts: NDArray[np.int64], r: int
) -> NDArray[np.int32]:
    """Rows of the covering that joins layer g of i to layer g + ``shifts`` mod r of its neighbour.

    Sorted, since those of the base are: other neighbours have other multiples of r.
    """
    layers = (shifts[:, None, :] + np.arange(r)[None, :, None]) % r
    layers += neighbors[:, None, :].astype(np.int64) * r
    return layers.reshape(-1, neighbors.shape[1]).astype(np.int32)


def _tower(base: BiregularGraph, levels: int, seed: int, *, proved: bool) -> BiregularGraph | None:
    """The tower of one seed, or None if the signs, or the proof if it is wanted, fail."""
    from expandermask.certificates.bounds import RamanujanBound
    from expandermask.certificates.cholesky import proves_at_most

    turned = base.n1 < base.n2
    side = base.transpose() if turned else base
    rows, n2 = side.neighbors, side.n2
    square = RamanujanBound(base.d1, base.d2).square_below()
    for level in range(levels):
        word = np.uint64(derive_seed(seed, "level", level))
        signs, held = _covering_kernels.greedy_signs(rows, n2, square, word)
        if not held:
            return None
        if proved:
            new = _covering_kernels.signed_codegrees(rows, signs, n2)
            # S'S has no trivial eigenvalue to set aside: with 0 in its place, all are bounded.
            if not proves_at_most(new, 0, square):
                return None
        rows, n2 = _shifted_rows(rows, (signs < 0).astype(np.int64), 2), 2 * n2
    tower = BiregularGraph._trusted(rows, n2)
    tower = tower.transpose() if turned else tower
    recipe = _recipe(TOWER, base, 2**levels, seed)
    return BiregularGraph._trusted(tower.neighbors, tower.n2, recipe)


def _recipe(algorithm: str, base: BiregularGraph, r: int, seed: int) -> Recipe | None:
    """The recipe of a covering, if the base has one that a file may hold one more on top of."""
    if base.recipe is None:
        return None
    return base.recipe.under(algorithm, VERSION, base.n1 * r, base.n2 * r, base.d1, seed)


def _from_recipe(recipe: Recipe, base: BiregularGraph | None) -> BiregularGraph:
    if base is None:
        raise InvalidInputError(f"a recipe of {recipe.algorithm!r} needs the recipe of its base")
    r = max(recipe.n1 // base.n1, 1)
    if recipe.algorithm == RANDOM:
        return covering(base, r, rng=recipe.seed)
    if recipe.algorithm == CYCLIC:
        return cyclic_covering(base, r, rng=recipe.seed)
    levels = _check_levels(base, r.bit_length() - 1)
    tower = _tower(base, levels, draw_seed(recipe.seed), proved=False)
    if tower is None:
        raise InvalidInputError(f"seed {recipe.seed} makes no tower of {r} layers over this base")
    return tower


BUILDERS: dict[str, tuple[int, Builder]] = {
    name: (VERSION, _from_recipe) for name in (RANDOM, CYCLIC, TOWER)
}
