"""inspect_mask: every figure against its definition, for masks of every kind and make."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from math import sqrt

import networkx as nx
import numpy as np
import psutil
import pytest
import scipy.sparse
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import expandermask as xm
from expandermask.errors import InvalidInputError, TooLargeError
from expandermask.graphs import complete_bipartite, heawood, random_biregular
from expandermask.graphs.bipartite import as_bipartite
from expandermask.inspection.inspect_mask import inspect_mask
from expandermask.inspection.mask_report import MaskReport
from expandermask.inspection.measure import _at_most
from tests import cases
from tests.inspection.matrices import matrices
from tests.oracles import inspection as oracle
from tests.strategies import seeds, shapes


def measured(report: MaskReport) -> dict[str, object]:
    """Everything but what depends on how the mask was given."""
    data = report.to_dict()
    return {name: data[name] for name in data.keys() - {"dtype", "kind"}}


def mostly_ones() -> st.SearchStrategy[np.ndarray]:
    """Matrices of few zeros, and perhaps a row or column of nothing else."""
    zeros = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=7)
    sides = st.integers(2, 8)
    return st.tuples(sides, sides, zeros, st.integers(0, 20), st.integers(0, 20)).map(_few_zeros)


def _few_zeros(drawn: tuple) -> np.ndarray:
    n1, n2, zeros, row, column = drawn
    matrix = np.ones((n1, n2), dtype=np.int64)
    for i, j in zeros:
        matrix[i % n1, j % n2] = 0
    matrix[row : row + 1] = 0
    matrix[:, column : column + 1] = 0
    return matrix


@settings(max_examples=300)
@given(st.one_of(matrices(), mostly_ones()))
def test_every_figure_is_its_definition(matrix):
    report = inspect_mask(matrix)
    assert measured(report) == measured(inspect_mask(scipy.sparse.csr_array(matrix)))
    assert report.shape == matrix.shape
    assert report.ones == matrix.sum()
    assert report.density == matrix.mean()
    for side, lines in ((report.left, matrix), (report.right, matrix.T)):
        degrees = lines.sum(axis=1)
        assert side.vertices == len(lines)
        assert (side.least, side.most) == (degrees.min(), degrees.max())
        assert side.mean == pytest.approx(degrees.mean())
        assert side.histogram == {d: (degrees == d).sum() for d in sorted(set(degrees.tolist()))}
        assert side.dead == (degrees == 0).sum()
        assert list(side.first_dead) == np.flatnonzero(degrees == 0).tolist()
        assert (side.duplicates, side.inevitable) == oracle.duplicates(lines)
    sizes = [len(c) for c in oracle.live_components(matrix)]
    assert report.components == len(sizes)
    assert report.component_sizes == {n: sizes.count(n) for n in sorted(set(sizes))}
    assert sum(report.largest_component) == max(sizes, default=0)
    assert report.bridges == oracle.bridges(matrix)
    assert report.is_connected == nx.is_connected(oracle.graph(matrix))
    if not matrix.any():
        assert (report.verdict, report.sigma2, report.gap) == ("EMPTY", None, None)
        return
    values = [*oracle.normalised_values(matrix), 0.0]
    assert report.sigma2 == pytest.approx(values[1], abs=1e-7)
    assert report.gap == pytest.approx(1 - values[1], abs=1e-7)


@settings(max_examples=100)
@given(matrices(4))
def test_verdicts_go_by_the_degrees(matrix):
    report = inspect_mask(matrix)
    rows, columns = set(matrix.sum(axis=1).tolist()), set(matrix.sum(axis=0).tolist())
    if matrix.all():
        expected = {"DENSE"}
    elif not matrix.any():
        expected = {"EMPTY"}
    elif len(rows) > 1 or len(columns) > 1:
        expected = {"NOT BIREGULAR"}
    elif 1 in rows | columns:
        expected = {"STAR"}
    else:
        expected = {"PROVED", "REFUTED", "UNDECIDED"}
    assert report.verdict in expected
    assert report.is_biregular == (len(rows) == len(columns) == 1 and matrix.any())
    assert (report.certificate is None) == (report.verdict not in {"PROVED", "REFUTED"})


def test_stars_of_either_side():
    star = np.kron(np.eye(3), np.ones((1, 2)))
    for mask, degrees in ((star, (2, 1)), (star.T, (1, 2)), (np.eye(4), (1, 1))):
        report = inspect_mask(mask)
        assert report.verdict == "STAR"
        assert "d1 = {}, d2 = {}".format(*degrees) in report.reason
        assert (report.bridges, report.gap) == (report.ones, 0.0)


@pytest.mark.parametrize("case", [c for c in cases.KNOWN if not c.mask.all()], ids=repr)
def test_a_biregular_mask_gets_its_certificate(case):
    report = inspect_mask(case.mask)
    proof = xm.certify(case.mask)
    assert report.certificate == proof
    assert (report.verdict, report.reason) == (proof.verdict, proof.reason)
    assert report.verdict == case.verdict
    assert report.ratio == proof.ratio
    top = sqrt(proof.d1 * proof.d2)
    assert report.sigma2 * top == pytest.approx(sqrt(float(case.square)), abs=1e-6)
    assert report.digest == proof.digest
    assert report.components == proof.components


@settings(max_examples=60)
@given(shapes(24), seeds)
def test_what_is_proved_of_the_gap_is_rounded_the_safe_way(shape, seed):
    report = inspect_mask(random_biregular(*shape, rng=seed))
    assume(report.components == 1 and report.certificate is not None)
    proof, found = report.certificate, Fraction(report.sigma2)
    assert found == 1 or found**2 * proof.d1 * proof.d2 >= Fraction(proof.sigma2[1]) ** 2
    text = dict(report.rows())["gap"]
    assert "proved from below" in text
    assert 0 <= 1 - found - Fraction(text.split()[0]) < Fraction(1, 10**6)


def forms(dense: np.ndarray) -> dict[str, object]:
    """One 0/1 matrix in every form a mask can have."""
    tensor = torch.from_numpy(dense.astype(np.float32))
    weights = dense * np.linspace(-1.0, 2.0, dense.size).reshape(dense.shape)
    graph = as_bipartite(dense)
    found: dict[str, object] = {
        dtype: dense.astype(dtype)
        for dtype in ("bool", "int8", "uint64", "float16", "float64", ">i4")
    }
    found |= {
        f"torch {dtype}": tensor.to(dtype)
        for dtype in (
            torch.bool,
            torch.uint8,
            torch.int64,
            torch.float16,
            torch.bfloat16,
            torch.float8_e4m3fn,
            torch.float8_e5m2,
        )
    }
    found |= {f"scipy {name}": scipy.sparse.coo_array(dense).asformat(name) for name in FORMATS}
    found |= {
        "matrix": scipy.sparse.csr_matrix(dense),
        "list": dense.tolist(),
        "transposed": np.asfortranarray(dense),
        "negative": -dense.astype(np.int16),
        "weights": np.where(dense == 1, weights + 5, 0),
        "gradient": tensor.clone().requires_grad_(),
        "torch sparse": tensor.to_sparse(),
        "torch csr": tensor.to_sparse_csr(),
        "torch csc": tensor.to_sparse_csc(),
        "torch bsr": tensor.to_sparse_bsr((1, 1)),
        "graph": graph,
        "networkx": graph_of(dense),
    }
    return found


FORMATS = ("coo", "csr", "csc", "lil", "dok", "bsr", "dia")


def graph_of(dense: np.ndarray) -> nx.Graph:
    found = oracle.graph(dense)
    nx.set_node_attributes(found, {v: int(v >= len(dense)) for v in found}, "bipartite")
    return found


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("regular", [True, False])
def test_the_same_is_said_of_every_form(regular):
    dense = random_biregular(12, 8, 2, rng=3).mask()
    if not regular:
        dense[0] = 0
    expected = measured(inspect_mask(dense))
    for name, form in forms(dense).items():
        assert measured(inspect_mask(form)) == expected, name
    if regular:
        assert measured(inspect_mask(xm.BiregularGraph.from_mask(dense))) == expected


@pytest.mark.filterwarnings("ignore:Sparse")
def test_values_and_types_are_named():
    dense = heawood().mask()
    seen = {name: (r.kind, r.dtype) for name, f in forms(dense).items() if (r := inspect_mask(f))}
    assert seen["bool"] == seen["torch torch.bool"] == ("boolean", "bool")
    assert seen["float16"] == seen["torch torch.float16"] == ("0/1", "float16")
    assert seen["torch torch.bfloat16"] == ("0/1", "bfloat16")
    assert seen["torch torch.float8_e4m3fn"] == ("0/1", "float8_e4m3fn")
    assert seen["scipy csr"] == ("0/1", "uint8")
    assert seen["torch sparse"] == ("0/1", "float32")
    assert seen["weights"] == ("weights", "float64")
    assert seen["negative"] == ("weights", "int16")
    assert seen["networkx"] == seen["graph"] == ("graph", None)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_stored_zeros_are_no_entries():
    dense = heawood().mask().astype(float)
    stored = scipy.sparse.csr_array(np.ones((7, 7)))
    stored.data[:] = dense.ravel()
    assert stored.nnz == 49
    for form in (stored, stored.tocoo(), torch.tensor(dense).to_sparse() * 1.0):
        assert inspect_mask(form).ones == 21
    zeros = torch.sparse_coo_tensor([[0, 1], [0, 1]], [0.0, 1.0], (2, 2))
    assert inspect_mask(zeros).ones == 1
    assert (
        inspect_mask(scipy.sparse.coo_array(([0.0], ([0], [0])), shape=(3, 2))).verdict == "EMPTY"
    )


def ragged() -> torch.Tensor:
    """A tensor whose rows have different lengths."""
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((0, 3)), r"x must be 2-D and not empty, got shape \(0, 3\)"),
        (np.zeros(3), r"2-D and not empty, got shape \(3,\)"),
        (np.zeros((2, 2, 2)), r"2-D and not empty, got shape \(2, 2, 2\)"),
        (np.float64(1.0), r"got shape \(\)"),
        ([[1, 0], [1]], "x cannot be read as an array"),
        (np.array([[1, "a"]], dtype=object), "real numbers, got dtype object"),
        (np.array([["1"]]), "real numbers, got dtype <U1"),
        (np.ones((2, 2), dtype=complex), "real numbers, got dtype complex128"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), "real numbers"),
        (np.ma.masked_array(np.ones((2, 2)), [[1, 0], [0, 0]]), "masked array"),
        (torch.ones(2, 2, device="meta"), "on the device meta"),
        (torch.ones(2, 2, dtype=torch.complex64), "real numbers that holds its data, got dtype"),
        (torch.zeros(4), r"got shape \(4,\)"),
        (ragged(), "got nested, dtype"),
        (torch.zeros(2, 2, dtype=torch.float4_e2m1fn_x2), "float4_e2m1fn_x2, which cannot be read"),
        (torch.eye(4, 3).to_sparse(1), "use its to_dense"),
        (torch.nn.Linear(2, 2), "a mask is a 2-D array"),
        (scipy.sparse.coo_array(np.ones(3)), r"got shape \(3,\)"),
        (scipy.sparse.coo_array(np.ones((2, 2), dtype=complex)), "real numbers"),
        (scipy.sparse.coo_array(([1, 1], ([1, 1], [0, 0])), shape=(2, 2)), r"entry \[1, 0\] twice"),
        (nx.cycle_graph(5), "odd cycle"),
        (None, "a mask is a 2-D array"),
        ({}, "dict is empty"),
    ],
)
def test_what_is_no_mask_is_refused(mask, message):
    with pytest.raises(InvalidInputError, match=message):
        inspect_mask(mask)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_where_they_are(value):
    dense = np.ones((5, 4), dtype=np.float32)
    dense[3, 2] = value
    sparse = scipy.sparse.coo_array(dense)
    for form in (dense, torch.tensor(dense).bfloat16(), sparse, torch.tensor(dense).to_sparse()):
        with pytest.raises(InvalidInputError, match=rf"x holds {value} at \[3, 2\]"):
            inspect_mask(form)


def test_a_bad_value_in_a_later_chunk_is_named_by_its_own_row(monkeypatch):
    from expandermask.inspection import supports

    monkeypatch.setattr(supports, "_CHUNK", 10)
    dense = random_biregular(40, 5, 2, rng=0).mask().astype(float)
    expected = inspect_mask(random_biregular(40, 5, 2, rng=0))
    assert measured(inspect_mask(dense)) == measured(expected)
    dense[:6] = 1.0  # the first chunks without zeros
    assert measured(inspect_mask(dense)) == measured(inspect_mask(as_bipartite(dense)))
    dense[37, 4] = np.nan
    with pytest.raises(InvalidInputError, match=r"nan at \[37, 4\]"):
        inspect_mask(dense)


def test_a_huge_sparse_mask_is_never_made_dense():
    places = np.arange(50) * 20_000
    wide = scipy.sparse.coo_array((np.ones(50), (places, places[::-1])), shape=(10**6, 10**6))
    report = inspect_mask(wide)
    assert (report.verdict, report.components, report.left.dead) == ("NOT BIREGULAR", 50, 999_950)
    assert report.left.first_dead == tuple(range(1, 11))
    path = scipy.sparse.eye_array(20_000) + scipy.sparse.eye_array(20_000, k=1)
    report = inspect_mask(path)
    assert (report.components, report.bridges) == (1, 39_999)
    assert report.sigma2 is None  # a gap of 1e-9 is beyond what is waited for
    assert ("gap", "unknown") in report.rows()


def test_what_does_not_fit_is_said_before_it_is_tried(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match="inspecting 10000000 x 5"):
        inspect_mask(scipy.sparse.coo_array((10**7, 5)))
    with pytest.raises(InvalidInputError, match="below 2\\*\\*31"):
        inspect_mask(scipy.sparse.coo_array((2, 2**40)))


def test_a_graph_too_large_to_certify_is_undecided(monkeypatch):
    from expandermask.inspection import measure

    def refuse(graph):
        raise TooLargeError("certifying needs 1,000 GiB")

    monkeypatch.setattr(measure, "certify", refuse)
    graph = random_biregular(600, 300, 3, rng=0)
    report = inspect_mask(graph)
    assert (report.verdict, report.certificate) == ("UNDECIDED", None)
    assert "1,000 GiB" in report.reason
    expected = xm.spectrum(graph)[1] / sqrt(18)
    assert report.sigma2 == pytest.approx(expected, abs=1e-6)
    assert report.digest == inspect_mask(graph.mask()).digest


def test_the_gap_of_larger_masks_by_lanczos():
    random = np.random.default_rng(0)
    for shape, density in (((400, 300), 0.03), ((150, 900), 0.1), ((200, 130), 0.5)):
        matrix = (random.random(shape) < density).astype(int)
        report = inspect_mask(matrix)
        values = oracle.normalised_values(matrix)
        assert report.sigma2 == pytest.approx(values[1], abs=1e-6)
        assert values[0] == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(300, 170), (170, 300), (500, 90)])
def test_masks_of_few_zeros_are_measured_by_these(shape, monkeypatch):
    from expandermask.inspection import measure

    random = np.random.default_rng(1)
    matrix = (random.random(shape) < 0.9).astype(int)
    matrix[7] = 0
    matrix[:, 3] = 0
    matrix[9, 3] = 1  # the only entry of its column: a bridge
    expected = inspect_mask(scipy.sparse.csr_array(matrix))
    monkeypatch.setattr(measure, "_components", lambda *graphs: pytest.fail("entries were listed"))
    report = inspect_mask(matrix)
    assert (report.bridges, report.components, report.left.dead) == (1, 1, 1)
    assert report.sigma2 == pytest.approx(oracle.normalised_values(matrix)[1], abs=1e-6)
    assert report.digest == expected.digest
    assert report.right == expected.right


def test_dense_masks_need_no_measuring():
    report = inspect_mask(np.full((3, 5), 0.5))
    assert (report.verdict, report.kind, report.ones) == ("DENSE", "weights", 15)
    assert (report.sigma2, report.components, report.largest_component) == (0.0, 1, (3, 5))
    assert report.left.duplicates == report.left.inevitable == 2
    assert inspect_mask(np.ones((1, 4))).bridges == 4
    assert measured(inspect_mask(complete_bipartite(3, 5))) == measured(report)


def test_inevitable_duplicates():
    report = inspect_mask(xm.ramanujan_graph(768, 8, 2, rng=0))
    assert report.left.inevitable == 768 - 28
    assert report.left.duplicates >= 740
    assert "of which 740 are inevitable" in str(report)
    assert [_at_most(1000, 12, k) for k in range(13)] == [
        *(1, 12, 66, 220, 495, 792, 924, 792, 495, 220, 66, 12, 1)
    ]
    assert _at_most(100, 12, 6) == 100
    assert _at_most(10**6, 11008, 5504) == 10**6


def test_rows_json_and_text():
    for mask in (heawood(), np.triu(np.ones((4, 4))), np.zeros((2, 3)), np.eye(3), np.ones((2, 2))):
        report = inspect_mask(mask)
        assert all(isinstance(text, str) for row in report.rows() for text in row)
        assert report.verdict in str(report)
        data = json.loads(report.to_json())
        assert data.pop("format") == "expandermask mask report"
        assert data.pop("format_version") == 1
        assert data == report.to_dict()
    data = inspect_mask(heawood()).to_dict()
    assert data["certificate"]["verdict"] == "PROVED"
    assert data["rows"]["histogram"] == {"3": 7}


def test_one_changed_edge_changes_verdict_and_digest():
    mask = random_biregular(48, 12, 3, rng=0).mask()
    before = inspect_mask(mask)
    i, j = np.argwhere(mask)[0]
    mask[i, j] = 0
    after = inspect_mask(mask)
    assert (before.verdict, after.verdict) == ("PROVED", "NOT BIREGULAR")
    mask[i, (j + 1) % 12] = 1
    assert len({before.digest, after.digest, inspect_mask(mask).digest}) == 3


def test_numpy_input_loads_neither_torch_nor_safetensors():
    code = (
        "import sys, numpy as np\n"
        "from expandermask.inspection.inspect_mask import inspect_mask\n"
        "inspect_mask({'a': np.triu(np.ones((4, 4))), 'b': np.eye(3)})\n"
        "print([m for m in ('torch', 'safetensors', 'matplotlib') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_takes_too_long_or_too_much_is_refused(monkeypatch):
    with pytest.raises(TooLargeError, match="1000000 x 1000000 entries to look at"):
        inspect_mask(np.broadcast_to(np.int8(1), (10**6, 10**6)))
    memory = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match="inspecting the entries of x needs about"):
        inspect_mask(np.tile(np.eye(2, dtype=bool), (1500, 1500)))
