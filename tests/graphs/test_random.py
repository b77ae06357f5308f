"""random_biregular: uniform, reproducible everywhere, and strict about what it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from expandermask.errors import InfeasibleShapeError, InvalidInputError, TooLargeError
from expandermask.graphs import BiregularGraph, Recipe, _kernels, random_biregular
from expandermask.graphs.random import derive_seed, draw_seed
from tests.oracles import graphs as oracle
from tests.strategies import seeds, shapes

VECTORS = Path(__file__).parents[1] / "vectors"
GOLDEN = json.loads((VECTORS / "golden_graphs.json").read_text())["graphs"]
COUNTS = json.loads((VECTORS / "counts.json").read_text())["counts"]

UNIFORM = [
    (4, 4, 2, 20_000),
    (6, 3, 1, 10_000),
    (6, 3, 2, 10_000),  # the complement of the row above
    (3, 6, 2, 10_000),  # n1 < n2
    (6, 4, 2, 40_000),
    (4, 6, 3, 40_000),  # n1 < n2, half full
    (5, 5, 2, 40_000),
    (5, 5, 3, 40_000),  # a complement that needs mixing
    (4, 4, 3, 5_000),
    (2, 2, 1, 1_000),
    (2, 4, 2, 2_000),
]


def p_value(seen: Counter[tuple], cells: int) -> float:  # type: ignore[type-arg]  # rows of ints
    """Chi-square against uniform over ``cells`` outcomes, the unseen ones included."""
    expected = seen.total() / cells
    unseen = (cells - len(seen)) * expected
    statistic = unseen + sum((count - expected) ** 2 / expected for count in seen.values())
    return float(chi2.sf(statistic, cells - 1))


def key(rows: np.ndarray) -> tuple:  # type: ignore[type-arg]  # rows of ints
    return tuple(map(tuple, rows.tolist()))


@pytest.mark.parametrize(("n1", "n2", "d1", "draws"), UNIFORM)
def test_uniform_over_all_simple_graphs(n1, n2, d1, draws):
    every = set(oracle.all_simple(n1, n2, d1))
    assert len(every) == COUNTS[f"{n1},{n2},{d1}"]
    seen = Counter(key(random_biregular(n1, n2, d1, rng=s).neighbors) for s in range(draws))
    assert set(seen) <= every
    assert p_value(seen, len(every)) > 1e-4


def test_the_uniformity_test_rejects_repair_without_mixing():
    seen = Counter(
        key(np.sort(_kernels.random_neighbors(4, 4, 2, np.uint64(s), 0), axis=1))
        for s in range(20_000)
    )
    assert len(seen) == 90
    assert p_value(seen, 90) < 1e-12


@settings(max_examples=200)
@given(shapes(10), seeds)
def test_the_graph_is_the_oracles(shape, seed):
    graph = random_biregular(*shape, rng=seed)
    rows = oracle.random_rows(*shape, seed)
    assert graph.neighbors.tolist() == rows
    assert graph.digest == oracle.digest(rows, shape[1])


@settings(max_examples=300)
@given(shapes(24), seeds)
def test_simple_and_biregular(shape, seed):
    n1, n2, d1 = shape
    graph = random_biregular(n1, n2, d1, rng=seed)
    rows = graph.neighbors.tolist()
    assert graph.neighbors.dtype == np.int32
    assert not graph.neighbors.flags.writeable
    assert len(rows) == n1
    assert all(len(row) == d1 and row == sorted(set(row)) for row in rows)
    assert Counter(x for row in rows for x in row) == {x: n1 * d1 // n2 for x in range(n2)}
    assert graph == BiregularGraph(rows, n2)
    assert graph.recipe == Recipe("random_biregular", 1, n1, n2, d1, seed)
    assert random_biregular(n1, n2, d1, rng=seed) == graph


@settings(max_examples=100)
@given(shapes(16), seeds)
def test_exchanging_the_sides_transposes_the_graph(shape, seed):
    n1, n2, d1 = shape
    if n1 == n2:
        return
    other = random_biregular(n2, n1, n1 * d1 // n2, rng=seed)
    assert random_biregular(n1, n2, d1, rng=seed).transpose() == other


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda e: "{n1}x{n2}-{d1}-{seed}".format(**e))
def test_golden_hashes(entry):
    graph = random_biregular(entry["n1"], entry["n2"], entry["d1"], rng=entry["seed"])
    assert graph.digest == entry["digest"]


def test_another_process_makes_the_same_graphs():
    code = (
        "import json, sys\n"
        "from expandermask.graphs import random_biregular as r\n"
        "for e in json.load(sys.stdin):\n"
        "    print(r(e['n1'], e['n2'], e['d1'], rng=e['seed']).digest)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(GOLDEN),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PATH": ""},
    )
    assert result.stdout.split() == [entry["digest"] for entry in GOLDEN]


@pytest.mark.parametrize(
    "shape", [(2, 2, 1), (3, 3, 3), (2, 4, 2), (1, 5, 5), (5, 1, 1), (1, 1, 1), (7, 7, 1)]
)
def test_tiny_shapes(shape):
    every = set(oracle.all_simple(*shape))
    assert {key(random_biregular(*shape, rng=s).neighbors) for s in range(30)} <= every


def test_seeds():
    assert random_biregular(12, 6, 3, rng=np.uint64(9)) == random_biregular(12, 6, 3, rng=9)
    graph = random_biregular(12, 6, 3, rng=np.random.default_rng(3))
    assert graph == random_biregular(12, 6, 3, rng=np.random.default_rng(3))
    assert graph.recipe is not None
    assert random_biregular(12, 6, 3, rng=graph.recipe.seed) == graph
    fresh = {random_biregular(40, 40, 3).recipe.seed for _ in range(5)}
    assert len(fresh) == 5
    generator = np.random.default_rng(0)
    assert draw_seed(generator) != draw_seed(generator)


def test_derived_seeds_differ_by_label_and_by_seed():
    drawn = [derive_seed(s, *label) for s in (0, 1) for label in [(), ("a",), ("b",), ("a", 0)]]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= seed < 2**64 for seed in drawn)
    assert derive_seed(5, "x", 1) == derive_seed(5, "x", 1)


@pytest.mark.parametrize("rng", [True, np.True_, -1, 2**64, 1.0, "1", [1], np.float64(2)])
def test_bad_rng(rng):
    with pytest.raises(InvalidInputError, match="rng"):
        random_biregular(4, 4, 2, rng=rng)


@pytest.mark.parametrize("bad", [True, 0, -3, 2.0, "4", None, np.float64(4), [4]])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_bad_sizes(bad, position):
    sizes = [4, 4, 2]
    sizes[position] = bad
    with pytest.raises(InvalidInputError, match=["n1", "n2", "d1"][position]):
        random_biregular(*sizes, rng=0)


def test_numpy_integers_are_sizes():
    assert random_biregular(np.int32(4), np.uint8(4), np.int64(2), rng=0) == random_biregular(
        4, 4, 2, rng=0
    )


def test_infeasible_shapes():
    with pytest.raises(InfeasibleShapeError, match="d1 = 6 exceeds n2 = 5"):
        random_biregular(5, 5, 6, rng=0)
    with pytest.raises(InfeasibleShapeError, match="not divisible by n2 = 7"):
        random_biregular(10, 7, 2, rng=0)


def test_more_memory_than_there_is(monkeypatch):
    with pytest.raises(InvalidInputError, match=r"n1 must be below 2\*\*31"):
        random_biregular(2**31, 2**31, 1, rng=0)
    with pytest.raises(InvalidInputError, match="2147483648 edges; the limit"):
        random_biregular(2**16, 2**16, 2**15, rng=0)
    memory = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(_kernels, "random_neighbors", None)  # nothing may be allocated
    monkeypatch.setattr(np, "tile", None)
    for shape in [(10**7, 10**7, 2), (4 * 10**6, 4, 4), (4, 4 * 10**6, 4 * 10**6)]:
        with pytest.raises(TooLargeError, match=r"needs about .* GiB"):
            random_biregular(*shape, rng=0)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60))
def test_the_shapes_an_error_names_do_work(n1, n2, d1):
    """ "The nearest that work" must work: change one argument as the message says, and draw."""
    try:
        random_biregular(n1, n2, d1, rng=0)
    except InfeasibleShapeError as error:
        for change in suggested(str(error)):
            mended = {"n1": n1, "n2": n2, "d1": d1, **change}
            assert random_biregular(**mended, rng=0).n2 == mended["n2"]


def suggested(message: str) -> list[dict[str, int]]:
    """The changes a message offers, as in "d1 = 2 or 4; n1 = 10"."""
    if "nothing near works" in message:
        return []
    pairs = [option.split("=") for option in message.split("that work:")[1].split(";")]
    return [{name.strip(): int(v)} for name, values in pairs for v in values.split("or")]
