"""Conversions of BiregularGraph from arrays, tensors, scipy.sparse and networkx, and back."""

from __future__ import annotations

import igraph
import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import certify, cheeger, inspect_mask, spectrum
from expandermask.errors import InfeasibleShapeError, InvalidInputError, NotBiregularError
from expandermask.expansion import conductance_bounds
from expandermask.graphs import (
    BiregularGraph,
    as_bipartite,
    covering,
    covering_projection,
    cyclic_spectrum,
    diameter,
    girth,
    heawood,
    random_biregular,
    voltages,
)
from expandermask.masks import compare
from tests.strategies import seeds, shapes

graphs = st.builds(lambda shape, seed: random_biregular(*shape, rng=seed), shapes(10), seeds)

# -- masks ---------------------------------------------------------------------------------------

NUMPY_TYPES = ["?", "b", "B", "h", "H", "i", "I", "q", "Q", "e", "f", "d", "g", ">i4", ">f8"]
TORCH_TYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_masks_of_every_numpy_type(dtype):
    graph = random_biregular(12, 6, 3, rng=2)
    assert BiregularGraph.from_mask(graph.mask().astype(dtype)) == graph


@pytest.mark.parametrize("dtype", TORCH_TYPES, ids=str)
def test_masks_of_every_torch_type(dtype):
    graph = random_biregular(12, 6, 3, rng=2)
    assert BiregularGraph.from_mask(graph.to_torch().to(dtype)) == graph


@settings(max_examples=100)
@given(graphs)
def test_masks_in_any_layout(graph):
    mask = graph.mask()
    padded = np.zeros((2 * graph.n1, 3 * graph.n2), dtype=np.int16)
    padded[::2, ::3] = mask
    assert BiregularGraph.from_mask(padded[::2, ::3]) == graph
    assert BiregularGraph.from_mask(np.asfortranarray(mask)) == graph
    assert BiregularGraph.from_mask(mask.T) == graph.transpose()
    assert BiregularGraph.from_mask(mask[::-1, ::-1][::-1, ::-1]) == graph
    assert BiregularGraph.from_mask(mask.tolist()) == graph
    assert BiregularGraph.from_mask(graph) == graph
    tensor = graph.to_torch()
    assert tensor.dtype == torch.uint8
    assert BiregularGraph.from_mask(tensor) == graph
    assert BiregularGraph.from_mask(tensor.T) == graph.transpose()
    assert BiregularGraph.from_mask(tensor.float().requires_grad_()) == graph


NAN = float("nan")


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        ([[1, NAN], [NAN, 1]], InvalidInputError, "nan"),
        ([[1, 2], [2, 1]], InvalidInputError, "got .*2"),
        ([[1, -1], [-1, 1]], InvalidInputError, "got .*-1"),
        ([[1.0, 0.5], [0.5, 1.0]], InvalidInputError, "0.5"),
        ([[1.0, float("inf")], [1.0, 1.0]], InvalidInputError, "inf"),
        ([[1.0, 1 + 1e-15], [1.0, 1.0]], InvalidInputError, "zeros and ones"),
        (np.zeros((0, 3)), InvalidInputError, "non-empty"),
        (np.zeros((3, 0)), InvalidInputError, "non-empty"),
        ([1, 1], InvalidInputError, "2-D"),
        (np.ones((2, 2, 2)), InvalidInputError, "2-D"),
        (np.float64(1), InvalidInputError, "2-D"),
        (np.ones((2, 2), dtype=object), InvalidInputError, "object"),
        (np.ones((2, 2), dtype=complex), InvalidInputError, "complex"),
        ([["1", "1"], ["1", "1"]], InvalidInputError, "numeric"),
        ([[1, 1], [1]], InvalidInputError, "mask"),
        (None, InvalidInputError, "mask"),
        ("a mask", InvalidInputError, "mask"),
        ([[0, 0], [0, 0]], NotBiregularError, "positive"),
        ([[1, 1], [1, 0]], NotBiregularError, "row degrees"),
        ([[1, 1, 0], [1, 0, 1], [1, 1, 0]], NotBiregularError, "right degrees"),
        ([[1, 0, 0], [1, 0, 0], [1, 0, 0]], NotBiregularError, "right degrees"),
        ([[1, 0, 0], [1, 0, 0]], InfeasibleShapeError, "not divisible"),
        (sp.eye_array(3), InvalidInputError, "mask"),
        (torch.ones(3, 2).to_sparse(), InvalidInputError, "mask"),
        (torch.ones(3, 2, device="meta"), InvalidInputError, "mask"),
    ],
)
def test_bad_masks(mask, error, words):
    with pytest.raises(error, match=words):
        BiregularGraph.from_mask(mask)


def test_masked_arrays_are_refused():
    """What is masked out would otherwise be read as the number under the mask."""
    holes = np.ma.masked_array(np.ones((3, 3)), mask=np.eye(3))
    with pytest.raises(InvalidInputError, match="filled"):
        BiregularGraph.from_mask(holes)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_compressed_torch_tensors_are_refused():
    with pytest.raises(InvalidInputError, match="sparse_csr"):
        BiregularGraph.from_mask(torch.ones(3, 2).to_sparse_csr())


# -- scipy.sparse --------------------------------------------------------------------------------


@settings(max_examples=60)
@given(graphs, st.sampled_from(["csr", "csc", "coo", "lil", "dok", "bsr", "dia"]))
def test_sparse_matrices_of_every_format(graph, form):
    matrix = graph.biadjacency()
    assert BiregularGraph.from_biadjacency(matrix.asformat(form)) == graph
    assert BiregularGraph.from_biadjacency(matrix.T.asformat(form)) == graph.transpose()
    assert BiregularGraph.from_biadjacency(sp.csr_matrix(matrix).astype(bool)) == graph


def test_stored_zeros_are_no_edges():
    data, rows, columns = [1, 1, 0, 1, 1], [0, 0, 0, 1, 1], [0, 1, 2, 2, 3]
    matrix = sp.csr_array((data, (rows, columns)), shape=(2, 4))
    before = matrix.copy()
    assert BiregularGraph.from_biadjacency(matrix).neighbors.tolist() == [[0, 1], [2, 3]]
    assert matrix.nnz == before.nnz == 5


def repeated(dtype, times=2):
    """K_{2,2} with one entry stored ``times`` times."""
    rows, columns = [0, 0, 1, 1] + [0] * (times - 1), [0, 1, 0, 1] + [0] * (times - 1)
    return sp.coo_array((np.ones(len(rows), dtype), (rows, columns)), shape=(2, 2))


@pytest.mark.parametrize(
    ("matrix", "error", "words"),
    [
        (np.ones((2, 2)), InvalidInputError, "from_mask"),
        (repeated(np.int64), InvalidInputError, "got 2"),
        (repeated(np.float32), InvalidInputError, "got 2"),
        (repeated(bool), InvalidInputError, "got"),
        (repeated(np.uint8, times=257), InvalidInputError, "got"),
        (sp.csr_array([[1.0, NAN], [NAN, 1.0]]), InvalidInputError, "nan"),
        (sp.csr_array([[1, 2], [2, 1]]), InvalidInputError, "got 2"),
        (sp.csr_array((0, 3)), InvalidInputError, "empty"),
        (sp.csr_array((3, 3)), NotBiregularError, "positive"),
        (sp.csr_array([[1, 1], [1, 0]]), NotBiregularError, "row degrees"),
        (sp.coo_array(np.array([1, 0, 1])), InvalidInputError, "2-D"),
    ],
)
def test_bad_sparse_matrices(matrix, error, words):
    with pytest.raises(error, match=words):
        BiregularGraph.from_biadjacency(matrix)


# -- networkx -----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(graphs, st.randoms(use_true_random=False))
def test_networkx_there_and_back(graph, random):
    drawn = graph.to_networkx()
    assert nx.is_bipartite(drawn)
    assert drawn.number_of_edges() == graph.num_edges
    assert BiregularGraph.from_networkx(drawn) == graph
    assert BiregularGraph.from_networkx(nx.MultiGraph(drawn)) == graph
    edges = list(drawn.edges)
    random.shuffle(edges)
    other = nx.Graph()
    other.add_nodes_from((f"v{v}", data) for v, data in drawn.nodes(data=True))
    other.add_edges_from((f"v{v}", f"v{u}") for u, v in edges)
    assert BiregularGraph.from_networkx(other) == graph


def square(kind=nx.Graph, extra=(), sides=(0, 0, 1, 1)):
    graph = kind()
    graph.add_nodes_from((v, {} if s is None else {"bipartite": s}) for v, s in enumerate(sides))
    graph.add_edges_from([(0, 2), (0, 3), (1, 2), (1, 3), *extra])
    return graph


@pytest.mark.parametrize(
    ("graph", "error", "words"),
    [
        (square(nx.DiGraph), InvalidInputError, "directed"),
        (square(nx.MultiDiGraph), InvalidInputError, "directed"),
        (square(extra=[(0, 0)]), InvalidInputError, "self-loop"),
        (square(extra=[(3, 3)]), InvalidInputError, "self-loop"),
        (square(nx.MultiGraph, extra=[(0, 2)]), InvalidInputError, "parallel"),
        (square(nx.MultiGraph, extra=[(2, 0)]), InvalidInputError, "parallel"),
        (square(extra=[(0, 1)]), InvalidInputError, "0 - 1 joins two vertices of one side"),
        (square(extra=[(2, 3)]), InvalidInputError, "2 - 3 joins two vertices of one side"),
        (square(sides=(0, 0, 1, None)), InvalidInputError, "node 3 has bipartite=None"),
        (square(sides=(0, 0, 1, "right")), InvalidInputError, "'right'"),
        (square(sides=(0, 0, 0, 0)), InvalidInputError, "both sides"),
        (nx.Graph(), InvalidInputError, "both sides"),
        (square(sides=(0, 0, 1, 1, 0)), NotBiregularError, "left vertex degrees"),
        (square(sides=(0, 0, 1, 1, 1)), InfeasibleShapeError, "not divisible"),
        ([(0, 2)], InvalidInputError, "networkx"),
    ],
)
def test_bad_networkx_graphs(graph, error, words):
    with pytest.raises(error, match=words):
        BiregularGraph.from_networkx(graph)


# -- whatever is taken, everywhere ----------------------------------------------------------------

PLANE = heawood()
FORMS = {
    "biregular": PLANE,
    "bipartite": as_bipartite(PLANE),
    "array": PLANE.mask(),
    "list": PLANE.mask().tolist(),
    "csr": PLANE.biadjacency(),
    "dok": PLANE.biadjacency().todok(),
    "networkx": PLANE.to_networkx(),
    "tensor": PLANE.to_torch(),
}
TAKERS = {
    "certify": lambda g: certify(g).sigma2[0],
    "spectrum": lambda g: spectrum(g)[1],
    "girth": girth,
    "diameter": diameter,
    "covering": lambda g: covering(g, 2, rng=0).n1,
    "covering_projection": lambda g: covering_projection(g, g).verdict == "PROVED",
    "voltages": lambda g: voltages(g, g).shape,
    "cyclic_spectrum": lambda g: cyclic_spectrum(g, g)[0, 0],
    "cheeger": lambda g: float(cheeger(g).upper),
    "conductance_bounds": lambda g: conductance_bounds(g),
    "compare": lambda g: compare(g, g).jaccard,
    "inspect_mask": lambda g: inspect_mask(g).sigma2,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("taker", TAKERS)
def test_every_form_of_a_graph_is_taken(taker, form):
    assert TAKERS[taker](FORMS[form]) == pytest.approx(TAKERS[taker](PLANE))


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("given", [igraph.Graph.Famous("Heawood"), object(), None, "mask.npz"])
def test_what_is_not_taken_is_refused_by_what_is(taker, given):
    if taker == "inspect_mask" and given == "mask.npz":
        return  # it reads files
    with pytest.raises(InvalidInputError, match="a mask is") as refused:
        TAKERS[taker](given)
    if isinstance(given, igraph.Graph):
        assert "to_networkx()" in str(refused.value)


@pytest.mark.parametrize("taker", ["certify", "girth", "diameter", "covering", "spectrum"])
def test_irregular_graphs_are_refused_where_degrees_must_agree(taker):
    with pytest.raises(NotBiregularError, match="degrees must be equal"):
        TAKERS[taker](as_bipartite(np.triu(np.ones((3, 3), dtype=int))))
