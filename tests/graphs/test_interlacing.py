"""Expected characteristic polynomials against brute force, and the graphs found through them."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from flint import fmpq, fmpq_poly
from hypothesis import given, settings
from hypothesis import strategies as st

import expandermask as xm
from expandermask.certificates import ramanujan_bound
from expandermask.errors import InfeasibleShapeError, InvalidInputError, NotProvedError
from expandermask.graphs import Recipe, _interlacing_kernels
from expandermask.graphs._interlacing_completion import Completion
from expandermask.graphs._interlacing_quadrature import children
from expandermask.graphs.interlacing import (
    expected_characteristic_polynomial,
    largest_expected_root,
    matching_power,
    rectangular_convolution,
)
from tests.oracles import interlacing as oracle
from tests.strategies import seeds
from tests.without_compiler import only_with_compiler, passed_without_compiler

gm = importlib.import_module("expandermask.graphs.gribinski_marcus")  # the package has it shadowed
gribinski_marcus, interlacing_obstacle = gm.gribinski_marcus, gm.interlacing_obstacle

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests/vectors/golden_interlacing.json").read_text())["graphs"]

SMALL = [(n * k, n, d) for n in range(2, 8) for k in range(1, 4) for d in range(2, n + 1)]
BRUTE = [(2, 2, 2), (3, 3, 2), (3, 3, 3), (4, 4, 2), (4, 4, 3), (4, 2, 2), (6, 2, 2), (6, 3, 2)]
small_shapes = st.sampled_from(SMALL)
integers = st.integers(-3, 3)


def fractions(poly: fmpq_poly) -> list[Fraction]:
    return [Fraction(int(c.p), int(c.q)) for c in poly.coeffs()]


def random_integers(m: int, n: int, seed: int) -> list[list[Fraction]]:
    drawn = np.random.default_rng(seed).integers(-3, 4, size=(m, n))
    return [[Fraction(int(x)) for x in row] for row in drawn]


# -- the convolution -----------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("seed", range(2))
def test_the_convolution_is_the_average_over_signed_permutations(m, n, seed):
    a, b = random_integers(m, n, seed), random_integers(m, n, seed + 10)
    p, q = (
        fmpq_poly([fmpq(c.numerator, c.denominator) for c in oracle.characteristic(oracle.gram(x))])
        for x in (a, b)
    )
    average = oracle.signed_permutation_convolution(a, b)
    assert fractions(rectangular_convolution(p, q, n, m)) == average


@given(st.integers(0, 6), st.integers(0, 5), st.data())
def test_the_convolution_is_a_commutative_algebra(n, extra, data):
    p, q, r = (
        fmpq_poly(data.draw(st.lists(integers, min_size=n + 1, max_size=n + 1))) for _ in range(3)
    )

    def with_(a: fmpq_poly, b: fmpq_poly) -> fmpq_poly:
        return rectangular_convolution(a, b, n, n + extra)

    assert with_(p, q) == with_(q, p)
    assert with_(with_(p, q), r) == with_(p, with_(q, r))
    assert with_(2 * p + q, r) == 2 * with_(p, r) + with_(q, r)
    assert with_(p, fmpq_poly([0, 1]) ** n) == p


def test_the_convolution_refuses():
    with pytest.raises(InvalidInputError, match="n must be at most m = 2, got 3"):
        rectangular_convolution([1], [1], 3, 2)
    with pytest.raises(InvalidInputError, match="q must have degree at most n = 1, got 2"):
        rectangular_convolution([0, 1], [0, 0, 1], 1, 2)


# -- the expected polynomial ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", BRUTE)
def test_the_expected_polynomial_is_the_average_over_all_permutations(shape):
    assert fractions(expected_characteristic_polynomial(*shape)) == oracle.expected_characteristic(
        *shape
    )


@pytest.mark.parametrize("shape", [(6, 3, 2), (4, 2, 2), (12, 4, 3)])
def test_exchanging_the_sides_adds_zero_roots(shape):
    n1, n2, d1 = shape
    long, short = (expected_characteristic_polynomial(*s) for s in (shape, (n2, n1, n1 * d1 // n2)))
    assert short == long * fmpq_poly([0, 1]) ** (n1 - n2)
    assert largest_expected_root(*shape) == largest_expected_root(n2, n1, n1 * d1 // n2)


@settings(max_examples=40)
@given(small_shapes)
def test_real_roots_below_the_bound(shape):
    """The theorem of Gribinski and Marcus, and that the enclosure holds the largest root."""
    n1, n2, d1 = shape
    d2 = n1 * d1 // n2
    roots = matching_power(n2 - 1, n1 - 1, n1 // n2, d1).numer().complex_roots()
    assert all(root.imag == 0 for root, _ in roots)
    lo, hi = largest_expected_root(*shape)
    top = max(float(root.real.mid()) for root, _ in roots)
    assert lo * (1 - 1e-9) <= top <= hi * (1 + 1e-9)
    assert 0 <= hi - lo <= 2.0**-49 * hi
    assert hi < ramanujan_bound(d1, d2) ** 2


@pytest.mark.parametrize(
    ("shape", "root"),
    [((60, 60, 3), 7.742), ((60, 60, 5), 15.097), ((120, 60, 3), 12.797), ((768, 8, 2), 210.376)],
)
def test_known_largest_roots(shape, root):
    assert largest_expected_root(*shape)[0] == pytest.approx(root, abs=5e-4)


# -- conditional expectations --------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 4, 2), (4, 4, 3), (6, 3, 2), (6, 2, 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_childs_expectation_is_the_average_over_all_completions(shape, seed, monkeypatch):
    """At each step of a run, against every permutation of the open rows and later matchings."""
    n1, n2, degree = shape
    run, compared, chosen = gm._Run(*shape, seed), [], []

    def compare(node, contour, starts):
        found = children(node, contour, starts)
        done = int(run.multiplicity.sum()) // n1
        row = n1 - round(node.counts.sum())
        earlier = [[Fraction(int(x)) for x in line] for line in run.multiplicity]
        for column in np.flatnonzero(node.counts):
            before = chosen if row else []
            poly = oracle.conditional(earlier, [*before, int(column)], n1 // n2, degree - done - 1)
            exact = oracle.value(oracle.without_root(poly, degree**2 * (n1 // n2)), Fraction(run.x))
            assert math.exp(found[0]) * found[1][column] == pytest.approx(float(exact), rel=1e-9)
            compared.append((row, column))
        return found

    choose = gm._Run._choose

    def remember(self, values, completion, index, row):
        if row == 0:
            chosen.clear()
        chosen.append(choose(self, values, completion, index, row))
        return chosen[-1]

    monkeypatch.setattr(gm, "children", compare)
    monkeypatch.setattr(gm._Run, "_choose", remember)
    run.matchings()
    assert len(compared) > (degree - 1) * (n1 - 1)


@settings(max_examples=30)
@given(small_shapes, seeds)
def test_expectations_never_fall_and_end_at_the_graphs_own_value(shape, seed):
    n1, n2, d1 = shape
    run = gm._Run(n1, n2, d1, seed)
    run.matchings()
    steps = np.diff(run.values)
    assert run.worst < 1e-4
    gram = run.multiplicity.T @ run.multiplicity
    eigenvalues = np.linalg.eigvalsh(gram)[:-1]
    assert run.values[-1] == pytest.approx(np.log(run.x - eigenvalues).sum(), abs=1e-4)
    if d1 <= n2 // 2:
        assert steps.min() > -2e-3


def test_a_child_is_the_oracles():
    random = np.random.default_rng(3)
    counts, n = [2, 1, 0, 1], 4
    matrices = [a @ a.T for a in random.normal(size=(3, n, n))]
    step = random.normal(size=n)
    w, sigma, y = (random.normal(size=5) + 1j * random.normal(size=5) for _ in range(3))
    log_det, ratios = _interlacing_kernels.child_factors(
        w + 30, sigma, y, *matrices, np.array(counts, dtype=float), step
    )
    for b in range(5):
        det, expected = oracle.factors(w[b] + 30, sigma[b], y[b], matrices, counts, step.tolist())
        assert np.exp(log_det[b]) == pytest.approx(det, rel=1e-9)
        assert ratios[b] == pytest.approx(expected, rel=1e-9)


@only_with_compiler
def test_the_kernel_passes_with_the_compiler_off():
    assert passed_without_compiler(__file__, "oracles") > 0


# -- completions ---------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(2, 6), st.integers(1, 3), st.data())
def test_a_completion_is_never_lost(n, k, data):
    """Whatever columns are asked for, those granted can be finished, and all of them are."""
    taken = data.draw(st.integers(0, n - 1))
    base = np.repeat(np.arange(n), k)
    multiplicity = np.zeros((n * k, n), dtype=np.int64)
    for shift in range(taken):
        multiplicity[np.arange(n * k), (base + shift) % n] = 1
    completion = Completion(multiplicity, k)
    for row in range(n * k):
        wanted = data.draw(st.permutations(range(n)))
        multiplicity[row, next(c for c in wanted if completion.fix(row, c))] += 1
    assert multiplicity.max() == 1
    assert (multiplicity.sum(axis=0) == (taken + 1) * k).all()


# -- the graphs ----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(small_shapes, st.booleans(), seeds)
def test_proved_simple_and_rebuilt_by_the_recipe(shape, turned, seed):
    n1, n2, d1 = shape
    if turned:
        n1, n2, d1 = n2, n1, n1 * d1 // n2
    graph = gribinski_marcus(n1, n2, d1, rng=seed)
    assert (graph.n1, graph.n2, graph.d1) == (n1, n2, d1)
    assert xm.certify(graph).verdict == "PROVED"
    assert graph.recipe == Recipe("gribinski_marcus", 1, n1, n2, d1, seed)
    version, build = gm.BUILDERS["gribinski_marcus"]
    assert version == 1
    assert build(graph.recipe, None) == graph
    assert interlacing_obstacle(n1, n2, d1) is None


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda e: "{n1}x{n2}-{d1}-{seed}".format(**e))
def test_golden_hashes(entry):
    graph = gribinski_marcus(entry["n1"], entry["n2"], entry["d1"], rng=entry["seed"])
    assert graph.digest == entry["digest"]


def test_another_process_makes_the_same_graph():
    entry = GOLDEN[0]
    code = (
        "from expandermask.graphs import gribinski_marcus as g\n"
        f"print(g({entry['n1']}, {entry['n2']}, {entry['d1']}, rng={entry['seed']}).digest)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PATH": ""}
    )
    assert result.stdout.split() == [entry["digest"]]


def test_the_two_sides_are_exchanged():
    assert gribinski_marcus(4, 8, 4, rng=3).transpose() == gribinski_marcus(8, 4, 2, rng=3)


def test_last_bits_do_not_change_the_choice(monkeypatch):
    """Errors far larger than rounding, in every expectation, and the same graph."""
    graph = gribinski_marcus(12, 6, 3, rng=5)
    noise = np.random.default_rng(0)

    def noisy(node, contour, starts):
        scale, values, saddle = children(node, contour, starts)
        return scale, values * (1 + 1e-9 * noise.uniform(-1, 1, values.size)), saddle

    monkeypatch.setattr(gm, "children", noisy)
    assert gribinski_marcus(12, 6, 3, rng=5) == graph


def test_a_wrong_expectation_is_noticed(monkeypatch):
    def wrong(node, contour, starts):
        scale, values, saddle = children(node, contour, starts)
        return scale, values * 1.02, saddle

    monkeypatch.setattr(gm, "children", wrong)
    with pytest.raises(NotProvedError, match=r"do not average to the parent's.*2.0e-02"):
        gribinski_marcus(6, 6, 3, rng=0)


def test_a_matching_must_begin_where_the_last_one_ended():
    run = gm._Run(6, 6, 3, 0)
    for shift in (0, 1):
        run.multiplicity[np.arange(6), (np.arange(6) + shift) % 6] += 1
    cycle = fmpq_poly(
        [fmpq(round(c)) for c in np.poly(2 + 2 * np.cos(np.pi * np.arange(1, 6) / 3))][::-1]
    )
    exact = rectangular_convolution(cycle, matching_power(5, 5, 1, 1), 5, 5)(fmpq(8))
    run.log_value = math.log(float(exact.p) / float(exact.q))
    run._begin(2)
    run.log_value += 2e-3
    with pytest.raises(NotProvedError, match=r"do not average to the parent's.*2.0e-03"):
        run._begin(2)


def test_a_repeated_edge_is_refused_not_repaired(monkeypatch):
    """Values that are positive only where an edge is repeated."""

    def repeating(node, contour, starts):
        scale, values, saddle = children(node, contour, starts)
        return scale, np.where(node.step == node.step.max(), values, -1.0), saddle

    monkeypatch.setattr(gm, "children", repeating)
    monkeypatch.setattr(gm._Run, "_check", lambda *args: None)
    with pytest.raises(NotProvedError, match=r"matching 2 cannot go on at row 0.*repeated edge"):
        gribinski_marcus(8, 8, 3, rng=0)


def test_what_is_not_proved_is_not_returned(monkeypatch):
    """Expectations replaced by ones make some graph or other; a refuted one must not come back."""
    worst = np.repeat(np.arange(4), 2)
    rows = np.stack([worst * 2 % 8, (worst * 2 + 1) % 8], axis=1).astype(np.int32)
    monkeypatch.setattr(gm._Run, "matchings", lambda self, progress: rows)  # four squares
    with pytest.raises(NotProvedError, match="REFUTED: disconnected"):
        gribinski_marcus(8, 8, 2, rng=0)


def test_the_progress_bar_is_off_unless_asked_for(capsys):
    gribinski_marcus(4, 4, 2, rng=0)
    assert capsys.readouterr().err == ""
    gribinski_marcus(4, 4, 2, rng=0, progress=True)
    assert "4/4" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(12, 8, 2), (8, 12, 3), (9, 6, 4)])
def test_sides_that_do_not_divide(shape):
    with pytest.raises(
        InvalidInputError, match=r"multiple of the other.*nearest that work"
    ) as info:
        gribinski_marcus(*shape, rng=0)
    assert interlacing_obstacle(*shape) == str(info.value)
    with pytest.raises(InvalidInputError, match="multiple of the other"):
        expected_characteristic_polynomial(*shape)


def test_infeasible_shapes():
    with pytest.raises(InfeasibleShapeError, match="d1 = 6 exceeds n2 = 5"):
        gribinski_marcus(5, 5, 6)
    with pytest.raises(InfeasibleShapeError, match="stars"):
        gribinski_marcus(6, 3, 1)
    assert "exceeds" in str(interlacing_obstacle(5, 5, 6))


@given(st.integers(1, 400), st.integers(2, 400), st.data())
def test_beyond_the_known_sizes_the_nearest_is_named(k, n, data):
    shape = (k * n, n, data.draw(st.integers(2, n)))
    if data.draw(st.booleans()):
        shape = (n, k * n, k * shape[2])
    reason = interlacing_obstacle(*shape)
    if min(shape[:2]) <= 80 and max(shape[:2]) <= 16384:
        assert reason is None
    if reason is not None:
        assert "self-check" in reason
        near = tuple(int(x) for x in reason.split("works: (")[1].rstrip(")").split(","))
        assert interlacing_obstacle(*near) is None
        assert near != shape
        with pytest.raises(InvalidInputError, match="beyond the sizes"):
            gribinski_marcus(*shape, rng=0)


def test_a_long_side_beyond_the_known_sizes():
    assert "nearest that works: (16384, 2, 2)" in str(interlacing_obstacle(40000, 2, 2))
    assert interlacing_obstacle(14336, 4, 2) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(24, 24, 3), (48, 24, 3), (80, 40, 3), (60, 60, 3), (768, 8, 2), (8, 768, 192)]
)
def test_larger_shapes_are_proved(shape):
    assert xm.certify(gribinski_marcus(*shape, rng=0)).verdict == "PROVED"
