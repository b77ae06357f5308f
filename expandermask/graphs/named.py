"""Named biregular graphs with known spectra: small, exact, and good to test against."""

from __future__ import annotations

import numpy as np

from expandermask.errors import InvalidInputError, check_size, require_memory
from expandermask.graphs.biregular import BiregularGraph, Builder, Recipe

VERSION = 1
_MAX_DIMENSION = 31


def complete_bipartite(n1: int, n2: int) -> BiregularGraph:
    """K_{n1,n2}: every left vertex joined to every right vertex; sigma_2 = 0.

    >>> complete_bipartite(3, 2)
    BiregularGraph(n1=3, n2=2, d1=2, d2=3)
    """
    n1, n2 = check_size("n1", n1), check_size("n2", n2)
    require_memory(32 * n1 * n2, f"K_{{{n1},{n2}}}")
    recipe = Recipe("complete_bipartite", VERSION, n1, n2, n2)
    return BiregularGraph(np.tile(np.arange(n2), (n1, 1)), n2, recipe=recipe)


def heawood() -> BiregularGraph:
    """The Heawood graph, points and lines of the Fano plane: 7 + 7, cubic, sigma_2 = sqrt 2.

    >>> heawood()
    BiregularGraph(n1=7, n2=7, d1=3, d2=3)
    """
    return _from_lcf("heawood", 14, [5, -5], 7)


def pappus() -> BiregularGraph:
    """The Pappus graph, points and lines of the Pappus configuration: 9 + 9, sigma_2 = sqrt 3.

    >>> pappus()
    BiregularGraph(n1=9, n2=9, d1=3, d2=3)
    """
    return _from_lcf("pappus", 18, [5, 7, -7, 7, -7, -5], 3)


def desargues() -> BiregularGraph:
    """The Desargues graph: 10 + 10, cubic, sigma_2 = 2.

    >>> desargues()
    BiregularGraph(n1=10, n2=10, d1=3, d2=3)
    """
    return _from_lcf("desargues", 20, [5, -5, 9, -9], 5)


def tutte_coxeter() -> BiregularGraph:
    """The Tutte-Coxeter graph, the generalised quadrangle GQ(2, 2): 15 + 15, cubic, sigma_2 = 2.

    >>> tutte_coxeter()
    BiregularGraph(n1=15, n2=15, d1=3, d2=3)
    """
    return _from_lcf("tutte_coxeter", 30, [-13, -9, 7, -7, 9, 13], 5)


def hypercube(dimension: int) -> BiregularGraph:
    """The hypercube Q_d, even against odd vertices: sigma_2 = d - 2, Ramanujan for 2 <= d <= 6.

    >>> hypercube(3)
    BiregularGraph(n1=4, n2=4, d1=3, d2=3)
    """
    d = check_size("dimension", dimension)
    if d > _MAX_DIMENSION:
        raise InvalidInputError(
            f"dimension must be at most {_MAX_DIMENSION}, where each side has 2**30 vertices, "
            f"got {d}"
        )
    require_memory(32 * d * 2**d, f"the hypercube of dimension {d}")
    vertices = np.arange(2**d)
    even = vertices[np.bitwise_count(vertices) % 2 == 0]
    n = 2 ** (d - 1)
    recipe = Recipe("hypercube", VERSION, n, n, d)
    return BiregularGraph((even[:, None] ^ (1 << np.arange(d))) >> 1, n, recipe=recipe)


def _from_lcf(name: str, n: int, shifts: list[int], repeats: int) -> BiregularGraph:
    """The cubic graph of an LCF code with odd shifts: even vertices left, odd vertices right."""
    import networkx as nx

    graph = nx.LCF_graph(n, shifts, repeats)
    nx.set_node_attributes(graph, {v: v % 2 for v in graph}, "bipartite")
    rows = BiregularGraph.from_networkx(graph).neighbors
    return BiregularGraph(rows, n // 2, recipe=Recipe(name, VERSION, n // 2, n // 2, 3))


def _complete_from(recipe: Recipe, base: BiregularGraph | None) -> BiregularGraph:
    if recipe.d1 != recipe.n2:
        raise InvalidInputError(f"d1 = n2 in a complete graph, got {recipe.d1} and {recipe.n2}")
    return complete_bipartite(recipe.n1, recipe.n2)


def _hypercube_from(recipe: Recipe, base: BiregularGraph | None) -> BiregularGraph:
    if recipe.n1.bit_length() != recipe.d1:
        raise InvalidInputError(f"no hypercube has n1 = {recipe.n1} and d1 = {recipe.d1}")
    return hypercube(recipe.d1)


BUILDERS: dict[str, tuple[int, Builder]] = {
    "complete_bipartite": (VERSION, _complete_from),
    "heawood": (VERSION, lambda recipe, base: heawood()),
    "pappus": (VERSION, lambda recipe, base: pappus()),
    "desargues": (VERSION, lambda recipe, base: desargues()),
    "tutte_coxeter": (VERSION, lambda recipe, base: tutte_coxeter()),
    "hypercube": (VERSION, _hypercube_from),
}
