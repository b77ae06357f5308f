"""rebuild(): a graph again from its recipe, whichever construction made it."""

from __future__ import annotations

from expandermask.errors import FileFormatError, InvalidInputError, NotProvedError
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
