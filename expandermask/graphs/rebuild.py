"""rebuild(): a graph again from its recipe, whichever construction made it."""

from __future__ import annotations

from expandermask.errors import (
    FileFormatError,
    InvalidInputError,
    NotProvedError,
    TooLargeError,
)
from expandermask.graphs.biregular import TRANSPOSE, BiregularGraph, Builder, Recipe
from expandermask.graphs.coverings import BUILDERS as COVERINGS
from expandermask.graphs.designs import BUILDERS as DESIGNS
from expandermask.graphs.geometries import BUILDERS as GEOMETRIES
from expandermask.graphs.gribinski_marcus import BUILDERS as INTERLACING
from expandermask.graphs.lps import BUILDERS as LPS
from expandermask.graphs.named import BUILDERS as NAMED
from expandermask.graphs.quasi_cyclic import BUILDERS as QUASI_CYCLIC
from expandermask.graphs.random import BUILDERS as RANDOM


def _transposed(recipe: Recipe, base: BiregularGraph | None) -> BiregularGraph:
    if base is None:
        raise InvalidInputError("a transpose recipe needs the recipe of the graph it turns")
    return base.transpose()


BUILDERS: dict[str, tuple[int, Builder]] = {
    **RANDOM,
    **DESIGNS,
    **LPS,
    **COVERINGS,
    **QUASI_CYCLIC,
    **INTERLACING,
    **GEOMETRIES,
    **NAMED,
    TRANSPOSE: (1, _transposed),
}
"""For each algorithm its version and the function that follows a recipe of it."""

FILE_EDGES = 2**26
"""Most edges of a mask that is read from a file: 256 MiB, made in seconds. The largest weights in
use, of a vocabulary of 256,000, have 16 million at 64 entries a row."""

_ON_A_BASE = {*COVERINGS, *QUASI_CYCLIC, TRANSPOSE}


def rebuild(recipe: Recipe) -> BiregularGraph:
    """Make the graph of ``recipe`` again, bit for bit.

    Raises `FileFormatError` for a recipe of an unknown algorithm or another version of one, and for
    one that describes no graph; `TooLargeError` for one that does not fit in memory. What fits is
    made, however long its construction takes.

    >>> from expandermask.graphs import random_biregular
    >>> graph = random_biregular(12, 6, 3, rng=7)
    >>> rebuild(graph.recipe) == graph
    True
    """
    version, build = BUILDERS.get(recipe.algorithm, (None, None))
    if build is None:
        raise FileFormatError(
            f"cannot rebuild a graph of algorithm {recipe.algorithm!r}; "
            f"this library knows {sorted(BUILDERS)}"
        )
    if version != recipe.version:
        raise FileFormatError(
            f"cannot rebuild a graph of algorithm {recipe.algorithm!r} version {recipe.version}; "
            f"this library knows version {version}"
        )
    if recipe.base is not None and recipe.algorithm not in _ON_A_BASE:
        raise FileFormatError(f"a recipe of {recipe.algorithm!r} rests on no base")
    base = None if recipe.base is None else rebuild(recipe.base)
    try:
        graph = build(recipe, base)
    except (InvalidInputError, NotProvedError) as error:
        raise FileFormatError(f"the recipe is not buildable: {error}") from None
    if graph.recipe != recipe:
        raise FileFormatError(f"the recipe {recipe} describes {graph.recipe} instead")
    return graph


def require_modest(recipe: Recipe, what: str) -> None:
    """Refuse a recipe out of a file that makes no graph, or a huge one on the way; costs nothing.

    A base has at most the edges of what rests on it, so the limit holds for the whole chain. Raises
    `FileFormatError` or, above `FILE_EDGES`, `TooLargeError`.
    """
    limit, below = FILE_EDGES, recipe
    while True:
        n1, n2, d1 = below.n1, below.n2, below.d1
        if min(n1, n2, d1) < 1 or d1 > n2 or n1 * d1 % n2:
            raise FileFormatError(f"{what}: no biregular graph has n1={n1}, n2={n2} and d1={d1}")
        if n1 * d1 > limit:
            if limit < FILE_EDGES:
                raise FileFormatError(
                    f"{what}: its recipe rests on a graph of {n1 * d1} edges, more than its {limit}"
                )
            raise TooLargeError(
                f"{what}: {n1 * d1} edges; a mask read from a file has at most {FILE_EDGES}"
            )
        if below.base is None:
            return
        limit, below = n1 * d1, below.base
