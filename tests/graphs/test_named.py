"""Named graphs against constructions from their geometric definitions."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from expandermask.errors import InvalidInputError, TooLargeError
from expandermask.graphs import (
    BiregularGraph,
    complete_bipartite,
    desargues,
    heawood,
    hypercube,
    pappus,
    tutte_coxeter,
)
from tests import cases

PAIRS = [
    (heawood, cases.projective_plane(2)),
    (pappus, cases.pappus()),
    (desargues, cases.desargues()),
    (tutte_coxeter, cases.tutte_coxeter()),
    *((lambda d=d: hypercube(d), cases.hypercube(d)) for d in range(1, 7)),
]


@pytest.mark.parametrize(("named", "mask"), PAIRS)
def test_isomorphic_to_the_definition(named, mask):
    definition = BiregularGraph.from_mask(mask)
    assert nx.is_isomorphic(named().to_networkx(), definition.to_networkx())


def test_complete_bipartite():
    assert np.array_equal(complete_bipartite(4, 7).mask(), np.ones((4, 7)))


@pytest.mark.parametrize("bad", [0, -1, True, 2.0, "3"])
def test_bad_sizes(bad):
    with pytest.raises(InvalidInputError, match="n2"):
        complete_bipartite(3, bad)
    with pytest.raises(InvalidInputError, match="dimension"):
        hypercube(bad)


@pytest.mark.parametrize("build", [lambda: hypercube(40), lambda: complete_bipartite(10**6, 10**6)])
def test_graphs_larger_than_memory_are_refused(build):
    with pytest.raises(TooLargeError, match="GiB"):
        build()
