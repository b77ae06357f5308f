"""The block tier: the right symmetry, the right blocks, and never a proof of what is not so."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from importlib import import_module

import mpmath
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import BiregularGraph, Certificate, certify
from expandermask.certificates import blocks as tier
from expandermask.certificates.blocks import Blocks, cyclic_order, entry_error, roots_of_unity
from expandermask.certificates.certify import is_proved_ramanujan
from expandermask.certificates.cholesky import rounding_margin
from expandermask.errors import FileFormatError, TooLargeError
from expandermask.graphs import complete_bipartite, random_biregular
from expandermask.graphs.quasi_cyclic import quasi_cyclic
from tests import cases
from tests.oracles import blocks as oracle
from tests.oracles import graphs, spectra
from tests.strategies import feasible_shapes, seeds

# -- graphs with a symmetry ---------------------------------------------------------------------


def circulant(n, *steps):
    """Row i joined to i + s mod n: one block per character, of order 1."""
    return BiregularGraph((np.arange(n)[:, None] + np.array(steps)) % n, n)


def scattered(base_rows, voltages, r, n2):
    """A lift whose base may have parallel edges, as long as their voltages differ."""
    return BiregularGraph(oracle.lift(base_rows, voltages, r), n2 * r)


@st.composite
def symmetric_graphs(draw, largest=4, order=6):
    """Lifts of small bases, some with parallel edges, with n2 <= n1 and both degrees >= 2."""
    r = draw(st.integers(3, order))
    if draw(st.booleans()):
        every = [s for s in feasible_shapes(largest, least_degree=2) if s[1] <= s[0]]
        m1, m2, d1 = draw(st.sampled_from(every))
        return quasi_cyclic(m1 * r, m2 * r, d1, r=r, rng=draw(seeds)), r
    m = draw(st.integers(1, 3))
    steps = draw(st.lists(st.integers(0, r - 1), min_size=2, max_size=r, unique=True))
    twisted = [[(v * (i + 1)) % r for v in steps] for i in range(m)]
    if any(len(set(row)) < len(steps) for row in twisted):
        twisted = [steps] * m
    return scattered([[i] * len(steps) for i in range(m)], twisted, r, m), r


def with_one_switch(graph, seed):
    """The graph after one switch of two edges that keeps it simple, if a random one is found."""
    random = np.random.default_rng(seed)
    rows = graph.neighbors.tolist()
    for _ in range(100):
        i, j = (int(v) for v in random.integers(graph.n1, size=2))
        a, b = (int(v) for v in random.integers(graph.d1, size=2))
        x, y = rows[i][a], rows[j][b]
        if i != j and x != y and y not in rows[i] and x not in rows[j]:
            rows[i][a], rows[j][b] = y, x
            break
    return BiregularGraph(rows, graph.n2)


def relabelled(graph, seed):
    random = np.random.default_rng(seed)
    rows = random.permutation(graph.n2)[graph.neighbors][random.permutation(graph.n1)]
    return BiregularGraph(rows, graph.n2)


def counted(graph, level):
    """(above, on): nontrivial eigenvalues against a float, in fractions."""
    return spectra.counts_against(graph.gram().tolist(), spectra.surd(Fraction(level)))


@pytest.fixture
def always_blocks(monkeypatch):
    monkeypatch.setattr(import_module("expandermask.certificates.certify"), "BLOCKS_ABOVE", 0)


# -- roots of unity -----------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1, 2, 3, 4, 5, 7, 8, 12, 80, 97, 360, 1000, 4099])
def test_roots_of_unity_are_as_near_as_they_promise(r):
    table = roots_of_unity(r)
    with mpmath.workdps(50):
        for t in range(r):
            exact = oracle.root(r, t)
            assert abs(mpmath.mpf(table[t].real) - exact.real) <= mpmath.mpf(2) ** -53
            assert abs(mpmath.mpf(table[t].imag) - exact.imag) <= mpmath.mpf(2) ** -53
    assert table[0] == 1
    if r % 4 == 0:
        assert table[r // 4] == 1j
        assert table[r // 2] == -1


def test_roots_of_unity_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        roots_of_unity(5)[0] = 2


def test_roots_that_cannot_be_enclosed_are_refused(monkeypatch):
    monkeypatch.setattr(tier, "_ROOT_BITS", 30)
    roots_of_unity.cache_clear()
    with pytest.raises(ArithmeticError, match="7-th roots"):
        roots_of_unity(7)


# -- finding the symmetry -----------------------------------------------------------------------


@settings(max_examples=80)
@given(symmetric_graphs(), seeds)
def test_the_order_is_the_largest_there_is(found, seed):
    graph, r = found
    for other in (graph, with_one_switch(graph, seed), relabelled(graph, seed)):
        order = cyclic_order(other)
        assert order == oracle.largest_order(other.neighbors.tolist(), other.n2)
        assert order >= r or other is not graph
        assert cyclic_order(other.transpose()) == order


@pytest.mark.parametrize("sides", [(3, 3), (12, 8), (30, 70), (2000, 600)])
def test_complete_bipartite_graphs_have_every_symmetry(sides):
    common = math.gcd(*sides)
    assert cyclic_order(complete_bipartite(*sides)) == (common if common >= 3 else 1)


def test_a_recipe_is_not_believed():
    honest = quasi_cyclic(2000, 1000, 3, rng=0)
    other = random_biregular(2000, 1000, 3, rng=0)
    liar = BiregularGraph(other.neighbors, 1000, recipe=honest.recipe)
    assert cyclic_order(honest) == 100
    assert cyclic_order(liar) == 1
    assert certify(liar).method != "blocks"


@pytest.mark.parametrize("seed", range(5))
def test_one_switched_edge_is_noticed_wherever_it_is(seed):
    """Also far beyond the first group, which is all that most candidates are tried on."""
    graph = quasi_cyclic(6000, 3000, 3, r=100, rng=3)
    assert cyclic_order(graph) == 100
    assert cyclic_order(with_one_switch(graph, seed)) == 1


def test_the_last_edge_is_looked_at():
    graph = quasi_cyclic(6000, 3000, 3, r=100, rng=3)
    rows = graph.neighbors.tolist()
    a = next(x for x in rows[-1] if x not in rows[-2])
    b = next(x for x in rows[-2] if x not in rows[-1])
    rows[-1][rows[-1].index(a)], rows[-2][rows[-2].index(b)] = b, a
    assert cyclic_order(BiregularGraph(rows, 3000)) == 1


# -- the blocks ---------------------------------------------------------------------------------


@settings(max_examples=50)
@given(symmetric_graphs())
def test_blocks_are_as_defined_to_within_their_error(found):
    graph, r = found
    ours = Blocks(graph, r).blocks(np.arange(r))
    for k in range(r):
        exact = oracle.block(graph.neighbors.tolist(), graph.n2, r, k)
        error = mpmath.matrix(graph.n2 // r)
        for x, row in enumerate(exact):
            for y, value in enumerate(row):
                error[x, y] = abs(mpmath.mpc(complex(ours[k][x][y])) - value)
        assert mpmath.mnorm(error, 1) <= entry_error(graph.d1 * graph.d2) / 2
        assert mpmath.mnorm(error, mpmath.inf) <= entry_error(graph.d1 * graph.d2) / 2


@settings(max_examples=80)
@given(symmetric_graphs(), st.data())
def test_together_they_have_the_eigenvalues_of_the_gram_matrix(found, data):
    graph, r = found
    whole = np.linalg.eigvalsh(graph.gram().astype(float))
    parts = np.linalg.eigvalsh(Blocks(graph, r).blocks(np.arange(r)))
    np.testing.assert_allclose(np.sort(parts.ravel()), whole, atol=1e-12 * whole[-1])
    half = np.linalg.eigvalsh(Blocks(graph, r).blocks(np.arange(1, r // 2 + 1)))
    np.testing.assert_allclose(half, parts[1 : r // 2 + 1], atol=1e-12 * whole[-1])
    np.testing.assert_allclose(
        parts[1:][::-1], parts[1:], atol=1e-12 * whole[-1]
    )  # characters k and r - k


@settings(max_examples=80)
@given(symmetric_graphs())
def test_the_top_vector_comes_close(found):
    graph, r = found
    gram = graph.gram()
    blocks = Blocks(graph, r)
    x = blocks.top_nontrivial()
    x = x - x.mean()
    top = np.linalg.eigvalsh(gram - graph.d1 * graph.d2 / graph.n2)[-1]
    if x.any():
        assert x @ gram @ x / (x @ x) == pytest.approx(top, abs=1e-9)
    else:
        assert top == pytest.approx(0, abs=1e-9)
    assert top <= blocks._proved <= top + 1e-9  # found on the way, without another pass


def test_a_search_whose_tests_fail_proves_nothing(monkeypatch):
    """The float eigenvalues met on the way are no proof."""
    graph = quasi_cyclic(60, 30, 3, r=5, rng=0)
    blocks = Blocks(graph, 5)
    monkeypatch.setattr(tier, "_proves_at_most", lambda *_: False)
    assert blocks.top_nontrivial().shape == (30,)
    assert blocks._proved == math.inf
    assert not blocks.proves_at_most(17.9)


# -- what is proved -----------------------------------------------------------------------------


@settings(max_examples=80)
@given(symmetric_graphs(largest=3, order=5))
def test_true_means_at_most_in_exact_arithmetic(found):
    graph, r = found
    top = float(np.linalg.eigvalsh(graph.gram() - graph.d1 * graph.d2 / graph.n2)[-1])
    for c in (top, math.nextafter(top, -1), top * (1 - 1e-15), top + 1e-9, top - 1e-9, 0.0, -1.0):
        if Blocks(graph, r).proves_at_most(c):
            assert counted(graph, c)[0] == 0
        else:
            assert c < top + 1e-10


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 30, 101, 128])
def test_never_below_an_eigenvalue_known_exactly_whichever_character_has_it(n):
    """The step s of a cycle moves its top eigenvalue 2 + 2 cos(2 pi / n) to the character 1/s."""
    with mpmath.workdps(60):
        exact = 2 + 2 * mpmath.cospi(mpmath.mpf(2) / n)
    below = [float(exact) * (1 - 10.0**-k) for k in np.arange(9, 17, 0.5)]
    below = [c for c in below if mpmath.mpf(c) < exact]
    assert len(below) >= 13
    tops = set()
    for step in [s for s in range(1, n) if math.gcd(s, n) == 1]:
        graph = circulant(n, 0, step)
        assert not [c for c in below if Blocks(graph, n).proves_at_most(c)]
        assert Blocks(graph, n).proves_at_most(float(exact) + 1e-12)
        tops.add(int(Blocks(graph, n).blocks(np.arange(1, n // 2 + 1)).argmax()) + 1)
    assert tops == {k for k in range(1, n // 2 + 1) if math.gcd(k, n) == 1}


@pytest.mark.parametrize(("r", "factor"), [(8, 2), (9, 3), (12, 6), (30, 2), (30, 15), (6, 6)])
def test_disconnected_lifts_are_never_proved(r, factor):
    """With all voltages multiples of a factor of r, the character r / factor is trivial too."""
    base = random_biregular(8, 4, 3, rng=1).neighbors.tolist()
    voltages = [[factor * (i * j) % r for j in range(1, 4)] for i in range(8)]
    graph = scattered(base, voltages, r, 4)
    assert graphs.components(graph.mask().tolist()) >= factor
    for c in (17.0, 18 - 1e-6, 18 - 1e-12):
        assert not Blocks(graph, r).proves_at_most(c)
    proof = certify(graph)
    assert (proof.verdict, proof.method) == ("REFUTED", "components")


def test_a_disconnected_base_is_never_proved():
    base = cases.two_copies(random_biregular(8, 4, 3, rng=1).mask())
    rows = [np.flatnonzero(row).tolist() for row in base]
    graph = scattered(rows, oracle.voltages(rows, 7, 5), 7, 8)
    assert not Blocks(graph, 7).proves_at_most(18 - 1e-9)


@pytest.mark.parametrize("c", [math.nan, math.inf, -math.inf, 0.0, -5.0])
def test_useless_bounds_prove_nothing(c):
    if c < math.inf:
        assert not Blocks(circulant(7, 0, 1, 3), 7).proves_at_most(c)
    assert not tier._proves_at_most(np.ones((2, 3, 3), dtype=complex), c, 0.0)


def test_the_margin_covers_what_plain_cholesky_gets_wrong():
    """Without a margin the factorisation does run through below the eigenvalue: the control."""
    fooled = 0
    for seed in range(12, 20):
        graph = quasi_cyclic(42, 42, 4, r=3, rng=seed)
        found = Blocks(graph, 3).blocks(np.array([1]))
        exact = oracle.block(graph.neighbors.tolist(), 42, 3, 1)
        for k in range(-4, 5):
            c = float(np.linalg.eigvalsh(found)[0, -1]) * (1 + k * 2.0**-52)
            try:
                np.linalg.cholesky(c * np.eye(14) - found)
            except np.linalg.LinAlgError:
                continue
            if oracle.gap_determinant(exact, c) < 0:
                fooled += 1
                assert not Blocks(graph, 3).proves_at_most(c)
    assert fooled > 0


@pytest.mark.parametrize("n", [1, 2, 10, 400, 5000])
def test_the_margin_is_at_least_twice_the_derived_one(n):
    """sqrt 2 gamma / (1 - gamma) times the trace, gamma over 2n + 2 roundings."""
    u = Fraction(1, 2**53)
    gamma = (2 * n + 2) * u / (1 - (2 * n + 2) * u)
    for trace in (1.0, 12345.678):
        assert (
            Fraction(rounding_margin(2 * n, trace)) ** 2
            >= 2 * (2 * gamma / (1 - gamma) * Fraction(trace)) ** 2
        )


@pytest.mark.parametrize("trivial", [4, 18, 384, 10**6])
def test_the_entry_error_is_at_least_twice_the_derived_one(trivial):
    u = Fraction(1, 2**53)
    gamma = trivial * u / (1 - trivial * u)
    one = u + (1 + u) * (u + gamma * (1 + u))
    assert Fraction(entry_error(trivial)) ** 2 >= 2 * (2 * trivial * one) ** 2 * Fraction(99, 100)


def test_wrong_roots_prove_wrong_things(monkeypatch):
    """The control: with a table that is one place off, a bound below sigma_2**2 is "proved"."""
    graph = circulant(40, 0, 1)
    c = 2 + 2 * math.cos(2 * math.pi / 40) - 1e-3
    assert not Blocks(graph, 40).proves_at_most(c)
    true = roots_of_unity(40)
    monkeypatch.setattr(tier, "roots_of_unity", lambda r: np.roll(true, -1))
    assert Blocks(graph, 40).proves_at_most(c)


def test_a_symmetry_that_is_none_proves_wrong_things():
    """The control: blocks of a graph that lacks the symmetry say nothing about it."""
    graph = with_one_switch(circulant(40, 0, 1, 3), 0)
    top = np.linalg.eigvalsh(graph.gram() - 9 / 40)[-1]
    assert Blocks(graph, 40).proves_at_most(top - 1e-3)
    assert cyclic_order(graph) == 1


# -- certificates -------------------------------------------------------------------------------


def check_against_dense(graph, proof, dense):
    """The same verdict, enclosures that meet, and evidence that holds."""
    assert proof.verdict == dense.verdict
    assert (proof.components, proof.limit, proof.digest) == (
        dense.components,
        dense.limit,
        dense.digest,
    )
    assert proof.sigma2 == pytest.approx(dense.sigma2, abs=1e-7)
    assert proof.sigma2[0] <= dense.sigma2[1]
    assert dense.sigma2[0] <= proof.sigma2[1]
    assert Certificate.from_json(proof.to_json()) == proof
    if "vector" in proof.evidence:
        side = graph if proof.evidence["side"] == "right" else graph.transpose()
        x = np.array(proof.evidence["vector"], dtype=object)
        image = x[side.neighbors].sum(axis=1)
        assert x.sum() == 0
        square = Fraction(int((image * image).sum()), int((x * x).sum()))
        assert [str(square.numerator), str(square.denominator)] == proof.evidence["square"]


@settings(max_examples=60)
@given(symmetric_graphs(), seeds)
def test_blocks_agree_with_dense_and_with_exact_arithmetic(found, seed):
    graph, r = found
    dense = certify(graph)
    module = import_module("expandermask.certificates.certify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCKS_ABOVE", 0)
        proof = certify(graph)
        turned = certify(graph.transpose())
        proved = is_proved_ramanujan(graph)
        other = certify(relabelled(graph, seed))
    check_against_dense(graph, proof, dense)
    check_against_dense(relabelled(graph, seed), other, certify(relabelled(graph, seed)))
    assert other.verdict == turned.verdict == proof.verdict
    assert spectra.encloses(graph.gram().tolist(), *proof.sigma2)
    if proof.verdict == "PROVED":
        assert proof.method in ("blocks", "descartes")
    if proof.method == "blocks":
        assert proof.evidence["r"] == cyclic_order(graph) >= r
        assert proved or graph.d1 * graph.d2 == 4
        assert counted(graph, proof.evidence["c"])[0] == 0
    elif proved:
        raise AssertionError("the fast path proved what certify did not")


@pytest.mark.parametrize("turn", [False, True], ids=["", "transposed"])
@pytest.mark.parametrize("seed", range(6))
def test_larger_graphs_agree_with_dense(seed, turn, monkeypatch):
    graph = quasi_cyclic(1200, 600, 3, r=30, rng=seed)
    graph = graph.transpose() if turn else graph
    proof = certify(graph)
    assert proof.method in ("blocks", "rayleigh")
    monkeypatch.setattr(import_module("expandermask.certificates.certify"), "BLOCKS_ABOVE", 600)
    dense = certify(graph)
    assert dense.method in ("cholesky", "rayleigh")
    check_against_dense(graph, proof, dense)
    assert proof.sigma2[1] - proof.sigma2[0] < 1e-8


def test_both_verdicts_occur_above():
    verdicts = {certify(quasi_cyclic(1200, 600, 3, r=30, rng=s)).verdict for s in range(6)}
    assert verdicts == {"PROVED", "REFUTED"}


@pytest.mark.parametrize("case", cases.KNOWN + cases.TIES, ids=repr)
def test_known_answers_with_whatever_symmetry_they_show(case, always_blocks):
    proof = certify(case.mask)
    assert proof.verdict == case.verdict
    exact = float(case.square) ** 0.5
    assert proof.sigma2[0] <= exact * (1 + 1e-15)
    assert proof.sigma2[1] >= exact * (1 - 1e-15)
    assert proof.sigma2[1] - proof.sigma2[0] < 1e-7


def test_many_known_answers_do_go_by_blocks():
    orders = [cyclic_order(BiregularGraph.from_mask(c.mask)) for c in cases.KNOWN + cases.TIES]
    assert sum(order > 1 for order in orders) >= 15


def test_a_tie_beyond_the_exact_tier_is_undecided(monkeypatch, always_blocks):
    monkeypatch.setattr(import_module("expandermask.certificates.judge"), "EXACT_LIMIT", 31)
    mask = cases.TIES[0].mask
    assert cyclic_order(BiregularGraph.from_mask(mask)) == 4
    proof = certify(mask)
    assert (proof.verdict, proof.method) == ("UNDECIDED", "none")
    assert proof.sigma2[1] >= 6 >= proof.sigma2[0]


def test_long_cycles_and_pairs_of_them():
    """Both degrees 2: the bound alone does not imply that the graph is connected."""
    one, two = circulant(1000, 0, 1), circulant(1000, 0, 2)
    proof = certify(one)
    assert (proof.verdict, proof.method, proof.evidence["r"]) == ("PROVED", "blocks", 1000)
    assert (certify(two).verdict, certify(two).components) == ("REFUTED", 2)
    assert not is_proved_ramanujan(one)
    assert not is_proved_ramanujan(two)


def test_large_complete_bipartite_graphs():
    proof = certify(complete_bipartite(1200, 600))
    assert (proof.verdict, proof.method, proof.evidence["r"]) == ("PROVED", "blocks", 600)
    assert proof.sigma2[0] == 0
    assert proof.sigma2[1] < 1e-3


def test_a_graph_no_dense_test_could_prove(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match=r"this graph has 20000.*quasi_cyclic"):
        is_proved_ramanujan(random_biregular(20_000, 20_000, 3, rng=0))
    by_seed = {s: quasi_cyclic(20_000, 20_000, 3, rng=s) for s in (0, PROVED_SEED)}
    assert [is_proved_ramanujan(g) for g in by_seed.values()] == [False, True]
    bad, good = (certify(graph) for graph in by_seed.values())
    assert (bad.verdict, bad.method, len(bad.evidence["vector"])) == ("REFUTED", "rayleigh", 20_000)
    assert (good.verdict, good.method) == ("PROVED", "blocks")
    for proof in (bad, good):
        assert proof.sigma2[1] - proof.sigma2[0] < 1e-8
        assert Certificate.from_json(proof.to_json()) == proof
    with pytest.raises(TooLargeError, match="blocks of 10000 vertices needs about"):
        is_proved_ramanujan(quasi_cyclic(30_000, 30_000, 3, r=3, rng=0))


PROVED_SEED = 2
"""A seed for which the 20000 x 20000 graph above is Ramanujan."""


def test_a_certificate_by_blocks_cannot_be_relabelled():
    data = json.loads(certify(circulant(1000, 0, 1)).to_json())
    for verdict in ("REFUTED", "UNDECIDED"):
        with pytest.raises(FileFormatError):
            Certificate.from_json(json.dumps({**data, "verdict": verdict}))


@pytest.mark.slow
def test_a_hundred_thousand_by_fifty_thousand():
    """Each seed is retried until proved, as a generator would."""
    for seed in range(3):
        tries = (quasi_cyclic(100_000, 50_000, 3, rng=seed + 1000 * k) for k in range(100))
        graph = next(g for g in tries if is_proved_ramanujan(g))
        proof = certify(graph)
        assert (proof.verdict, proof.method, proof.evidence["r"]) == ("PROVED", "blocks", 80)
        assert proof.sigma2[1] <= proof.bound
        assert proof.sigma2[1] - proof.sigma2[0] < 1e-8
