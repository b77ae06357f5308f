"""What we build: biregular graphs, one family of constructions per file."""

from expandermask.graphs.bipartite import BipartiteGraph, as_bipartite
from expandermask.graphs.biregular import BiregularGraph, Recipe
from expandermask.graphs.catalog import Feasibility, feasible, ramanujan_graph
from expandermask.graphs.cover_shapes import CoverOf, cover_of
from expandermask.graphs.coverings import (
    covering,
    cyclic_covering,
    cyclic_spectrum,
    two_lift_tower,
    voltages,
)
from expandermask.graphs.designs import design
from expandermask.graphs.distances import diameter, girth
from expandermask.graphs.geometries import (
    array_code,
    generalized_quadrangle,
    geometry,
    geometry_of,
    hermitian_quadrangle,
    projective_plane,
)
from expandermask.graphs.gribinski_marcus import gribinski_marcus
from expandermask.graphs.interlacing import (
    expected_characteristic_polynomial,
    largest_expected_root,
    rectangular_convolution,
)
from expandermask.graphs.lps import lps, lps_girth
from expandermask.graphs.named import (
    complete_bipartite,
    desargues,
    heawood,
    hypercube,
    pappus,
    tutte_coxeter,
)
from expandermask.graphs.projections import CoveringCheck, covering_projection
from expandermask.graphs.quasi_cyclic import quasi_cyclic
from expandermask.graphs.random import random_biregular
from expandermask.graphs.rebuild import rebuild

__all__ = [
    "BipartiteGraph",
    "BiregularGraph",
    "CoverOf",
    "CoveringCheck",
    "Feasibility",
    "Recipe",
    "array_code",
    "as_bipartite",
    "complete_bipartite",
    "cover_of",
    "covering",
    "covering_projection",
    "cyclic_covering",
    "cyclic_spectrum",
    "desargues",
    "design",
    "diameter",
    "expected_characteristic_polynomial",
    "feasible",
    "generalized_quadrangle",
    "geometry",
    "geometry_of",
    "girth",
    "gribinski_marcus",
    "heawood",
    "hermitian_quadrangle",
    "hypercube",
    "largest_expected_root",
    "lps",
    "lps_girth",
    "pappus",
    "projective_plane",
    "quasi_cyclic",
    "ramanujan_graph",
    "random_biregular",
    "rebuild",
    "rectangular_convolution",
    "tutte_coxeter",
    "two_lift_tower",
    "voltages",
]
