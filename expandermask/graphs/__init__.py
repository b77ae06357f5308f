"""What we build: biregular graphs, one family of constructions per file."""

from expandermask.graphs.biregular import BiregularGraph, Recipe
from expandermask.graphs.catalog import ramanujan_graph
from expandermask.graphs.named import (
    complete_bipartite,
    desargues,
    heawood,
    hypercube,
    pappus,
    tutte_coxeter,
)
from expandermask.graphs.random import random_biregular
from expandermask.graphs.rebuild import rebuild

__all__ = [
    "BiregularGraph",
    "Recipe",
    "complete_bipartite",
    "desargues",
    "heawood",
    "hypercube",
    "pappus",
    "ramanujan_graph",
    "random_biregular",
    "rebuild",
    "tutte_coxeter",
]
