"""Every family of constructions as small proved graphs: the table theorem-shaped tests run over.

Each entry makes a graph from a seed; families that take none ignore it. All of them are claimed to
be biregular, simple and Ramanujan, and to be rebuilt by their recipes. Where a family only draws
(random graphs, coverings), the entry goes through `ramanujan_graph`, which retries.
"""

from __future__ import annotations

from collections.abc import Callable

from expandermask import graphs
from expandermask.graphs import BiregularGraph, ramanujan_graph

Maker = Callable[[int], BiregularGraph]


def by(method: str, n1: int, n2: int, d1: int) -> Maker:
    return lambda seed: ramanujan_graph(n1, n2, d1, method=method, rng=seed)


def fixed(make: Callable[..., BiregularGraph], *arguments: int) -> Maker:
    return lambda seed: make(*arguments)


FAMILIES: dict[str, Maker] = {
    "random": by("random", 30, 20, 4),
    "random, left side shorter": by("random", 12, 36, 6),
    "design, from the table": by("design", 768, 8, 2),
    "design, rank 64": by("design", 384, 64, 2),
    "design, searched": by("design", 60, 12, 3),
    "design, polished": by("design", 40, 24, 3),
    "design, left side shorter": by("design", 8, 96, 24),
    "covering of a complete graph": by("covering", 45, 45, 3),
    "tower over a complete graph": by("covering", 96, 48, 3),
    "covering of a random graph": by("covering", 28, 14, 6),
    "cyclic covering": lambda seed: graphs.cyclic_covering(graphs.heawood(), 2, rng=7),
    "quasi-cyclic": by("quasi-cyclic", 200, 100, 3),
    "lps, no residue": fixed(graphs.lps, 3, 5),
    "lps, residue": fixed(graphs.lps, 5, 11),
    "interlacing": by("interlacing", 12, 12, 3),
    "interlacing, left side shorter": by("interlacing", 6, 12, 6),
    "projective plane": fixed(graphs.projective_plane, 4),
    "array code": fixed(graphs.array_code, 5, 3),
    "array code, turned": lambda seed: graphs.array_code(4, 3).transpose(),
    "symplectic quadrangle": fixed(graphs.generalized_quadrangle, 3),
    "hermitian quadrangle": fixed(graphs.hermitian_quadrangle, 2),
    "complete": fixed(graphs.complete_bipartite, 6, 4),
    "heawood": fixed(graphs.heawood),
    "pappus": fixed(graphs.pappus),
    "desargues": fixed(graphs.desargues),
    "tutte-coxeter": fixed(graphs.tutte_coxeter),
    "hypercube": fixed(graphs.hypercube, 5),
}
