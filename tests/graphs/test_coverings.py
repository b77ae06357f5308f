"""Coverings: what a covering is, what it keeps of its base, and towers that are proved."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import psutil
import pytest
from flint import fmpz_mat
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from expandermask import certify, spectrum
from expandermask.certificates import ramanujan_bound
from expandermask.errors import (
    FileFormatError,
    InfeasibleShapeError,
    InvalidInputError,
    NotBiregularError,
    NotProvedError,
    TooLargeError,
)
from expandermask.graphs import (
    BiregularGraph,
    Recipe,
    _covering_kernels,
    complete_bipartite,
    coverings,
    heawood,
    random_biregular,
    rebuild,
)
from expandermask.graphs.coverings import (
    BUILDERS,
    covering,
    cyclic_covering,
    cyclic_spectrum,
    two_lift_tower,
    voltages,
)
from expandermask.graphs.rebuild import BUILDERS as EVERY_BUILDER
from tests import cases
from tests.oracles import coverings as oracle
from tests.strategies import seeds, shapes

LIFTS = [covering, cyclic_covering]
lifts, layers = st.sampled_from(LIFTS), st.integers(1, 6)


@pytest.fixture
def builders(monkeypatch):
    """The rebuilding of coverings, whether or not the library's own table has them."""
    for name, builder in BUILDERS.items():
        monkeypatch.setitem(EVERY_BUILDER, name, builder)


def assert_covers(graph, base, r, algorithm, seed):
    """Simple, biregular, over the base by v -> v // r, with a recipe that says how."""
    assert (graph.n1, graph.n2, graph.d1) == (r * base.n1, r * base.n2, base.d1)
    rows = graph.neighbors.tolist()
    assert graph == BiregularGraph(rows, graph.n2)
    assert graph.neighbors.dtype == np.int32
    assert rows == [sorted(row) for row in rows]
    left, right = ([v // r for v in range(n)] for n in (graph.n1, graph.n2))
    assert oracle.is_covering_map(rows, graph.n2, base.neighbors.tolist(), base.n2, left, right)
    expected = Recipe(algorithm, 1, graph.n1, graph.n2, graph.d1, seed, base=base.recipe)
    assert graph.recipe == expected


def characteristic(graph):
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    return fmpz_mat(side.gram().tolist()).charpoly()


@settings(max_examples=150)
@given(lifts, shapes(6), layers, seeds)
def test_random_and_cyclic_coverings(lift, shape, r, seed):
    base = random_biregular(*shape, rng=4)
    graph = lift(base, r, rng=seed)
    name = "random_covering" if lift is covering else "cyclic_covering"
    assert_covers(graph, base, r, name, seed)
    assert lift(base.mask(), r, rng=seed) == graph
    assert (characteristic(graph) % characteristic(base)) == 0
    if lift is covering:
        expected = oracle.random_rows(base.neighbors.tolist(), r, seed)
    else:
        drawn = oracle.random_voltages(base.neighbors.tolist(), r, seed)
        expected = oracle.cyclic_rows(base.neighbors.tolist(), drawn, r)
        assert voltages(graph, base).tolist() == drawn
    assert graph.neighbors.tolist() == expected


@settings(max_examples=60)
@given(shapes(6, least_degree=2), st.integers(0, 3), seeds)
def test_towers(shape, levels, seed):
    base = random_biregular(*shape, rng=4)
    graph = two_lift_tower(base, levels, rng=seed)
    assert_covers(graph, base, 2**levels, "two_lift_tower", graph.recipe.seed)
    old, new = characteristic(base), characteristic(graph)
    assert new % old == 0
    verdict = certify(base).verdict
    assert certify(graph).verdict == verdict  # the new part never spoils it
    roots = np.sort(spectrum(graph))[::-1]
    for value in spectrum(base):
        roots = np.delete(roots, np.argmin(abs(roots - value)))
    assert not roots.size or roots[0] < ramanujan_bound(base.d1, base.d2) + 1e-9


@pytest.mark.parametrize(
    ("n1", "n2", "levels"),
    [(6, 3, 4), (192, 2, 2), (2, 192, 2), (128, 2, 5), (64, 4, 4), (4, 4, 4), (2, 2, 6), (3, 3, 6)],
)
def test_towers_over_complete_graphs_are_ramanujan(n1, n2, levels):
    for seed in range(3):
        tower = two_lift_tower(complete_bipartite(n1, n2), levels, rng=seed)
        assert tower.recipe.seed == seed
        assert certify(tower).verdict == "PROVED"


def test_a_tower_over_a_base_that_is_not_ramanujan():
    """Its new singular values are below the bound all the same; the old ones stay what they are."""
    base = BiregularGraph.from_mask(cases.prism(40))
    tower = two_lift_tower(base, 2, rng=0)
    values = spectrum(tower)
    above = values[values > ramanujan_bound(3, 3)]
    assert np.allclose(above, spectrum(base)[: above.size])
    assert above.size == (spectrum(base) > ramanujan_bound(3, 3)).sum() > 1


@settings(max_examples=80)
@given(shapes(8, least_degree=2), st.sampled_from([covering, cyclic_covering]), layers, seeds)
def test_no_covering_is_below_the_larger_degree(shape, lift, r, seed):
    """The new eigenvalues of the Gram matrix have the mean max(d1, d2)."""
    if r == 1:
        return
    base = random_biregular(*shape, rng=4)
    proof = certify(lift(base, r, rng=seed))
    assert proof.sigma2[1] ** 2 >= max(base.d1, base.d2) * (1 - 1e-12)


@pytest.mark.parametrize(("d2", "d1", "levels"), [(192, 2, 2), (128, 2, 5), (4, 4, 1)])
def test_towers_that_attain_it(d2, d1, levels):
    proof = certify(two_lift_tower(complete_bipartite(d2, d1), levels, rng=0))
    assert proof.sigma2[0] == pytest.approx(np.sqrt(d2), abs=1e-9)


@settings(max_examples=80)
@given(shapes(6), layers, seeds)
def test_the_spectrum_of_each_character(shape, r, seed):
    base = random_biregular(*shape, rng=4)
    graph = cyclic_covering(base, r, rng=seed)
    values = cyclic_spectrum(graph, base)
    assert values.shape == (r, min(base.n1, base.n2))
    assert np.allclose(values[0], spectrum(base))
    assert np.allclose(np.sort(values.ravel())[::-1], spectrum(graph), atol=1e-6)
    assert np.allclose(values[1:], values[:0:-1])


def test_layers_and_the_shift():
    """Raising every layer by one is an automorphism of a cyclic covering."""
    graph, r = cyclic_covering(heawood(), 5, rng=3), 5

    def up(v):
        return v // r * r + (v + 1) % r

    shifted = up(graph.neighbors)[np.argsort(up(np.arange(graph.n1)))]
    assert BiregularGraph(shifted, graph.n2) == graph
    with pytest.raises(InvalidInputError, match=r"not a cyclic covering .* left vertex"):
        voltages(covering(heawood(), 5, rng=3), heawood())
    with pytest.raises(InvalidInputError, match="cannot cover"):
        cyclic_spectrum(heawood(), complete_bipartite(3, 3))


def test_permutations_and_voltages_are_uniform():
    """The permutations of two edges together, over all 36 pairs; two voltages over all 25."""
    star = BiregularGraph([[0, 1]], 2)
    draws = 9_000
    seen = Counter(covering(star, 3, rng=s).neighbors.tobytes() for s in range(draws))
    assert chi_square(seen, 36) > 1e-4
    seen = Counter(voltages(cyclic_covering(star, 5, rng=s), star).tobytes() for s in range(draws))
    assert chi_square(seen, 25) > 1e-4


def chi_square(seen, cells):
    expected = seen.total() / cells
    assert len(seen) == cells
    return chi2.sf(sum((k - expected) ** 2 for k in seen.values()) / expected, cells - 1)


def test_one_layer_and_disconnected_coverings():
    for lift in LIFTS:
        assert lift(heawood(), 1, rng=5) == heawood()
        split = lift(complete_bipartite(2, 2), 2, rng=next(
            s for s in range(20) if certify(lift(complete_bipartite(2, 2), 2, rng=s)).components > 1
        ))  # fmt: skip
        assert certify(split).verdict == "REFUTED"
    assert two_lift_tower(heawood(), 0, rng=5) == heawood()


@pytest.mark.parametrize("lift", LIFTS)
def test_bad_layers(lift):
    for bad in (0, -2, True, 2.0, "3", None):
        with pytest.raises(InvalidInputError, match=r"r must be (at least 1|an integer)"):
            lift(heawood(), bad)
    with pytest.raises(InvalidInputError, match=r"r \* n1 must be below"):
        lift(heawood(), 2**29)
    with pytest.raises(InvalidInputError, match="rng"):
        lift(heawood(), 2, rng=-1)


@pytest.mark.parametrize("lift", [*LIFTS, two_lift_tower])
def test_bad_bases(lift):
    with pytest.raises(NotBiregularError, match="left degrees must be equal"):
        lift(np.array([[1, 1, 0], [1, 0, 0]]), 2)
    with pytest.raises(InvalidInputError, match="only zeros and ones"):
        lift(np.array([[2, 1], [1, 2]]), 2)


def test_bad_levels():
    for bad in (-1, True, 1.0, "2"):
        with pytest.raises(InvalidInputError, match="levels must be"):
            two_lift_tower(heawood(), bad)
    for levels in (29, 1000):
        with pytest.raises(InvalidInputError, match=r"2\*\*levels \* n1 must be below"):
            two_lift_tower(heawood(), levels)
    with pytest.raises(InfeasibleShapeError, match="union of stars"):
        two_lift_tower(BiregularGraph([[0, 1]], 2), 1)


def test_more_memory_than_there_is(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    for kernel in ("permuted_rows", "random_voltages", "greedy_signs"):
        monkeypatch.setattr(_covering_kernels, kernel, None)  # nothing may be allocated
    for lift in LIFTS:
        with pytest.raises(TooLargeError, match="a covering of 21000000 edges needs about"):
            lift(heawood(), 10**6)
    with pytest.raises(TooLargeError, match="whose smaller side has 3584 vertices"):
        two_lift_tower(heawood(), 10)
    with pytest.raises(TooLargeError, match="a covering of 6000000 edges"):
        two_lift_tower(complete_bipartite(750_000, 2), 2)


def test_towers_that_fail_try_other_seeds_and_then_say_so(monkeypatch):
    real, tried = _covering_kernels.greedy_signs, []

    def failing(rows, n2, x, seed):
        tried.append(seed)
        return real(rows, n2, x, seed)[0], len(tried) > wanted

    monkeypatch.setattr(_covering_kernels, "greedy_signs", failing)
    wanted = 2
    tower = two_lift_tower(heawood(), 1, rng=0)
    assert len(tried) == len(set(tried)) == 3
    assert tower.recipe.seed != 0
    assert two_lift_tower(heawood(), 1, rng=tower.recipe.seed) == tower
    wanted, tried[:] = 10**9, []
    with pytest.raises(NotProvedError, match=r"none of 20 towers of 1 2-coverings over the 7x7"):
        two_lift_tower(heawood(), 1, rng=0)
    assert len(set(tried)) == coverings.MAX_TRIES


def test_signs_that_are_not_proved_are_not_used(monkeypatch):
    """All signs +1 repeat the base, trivial singular value and all: no proof, no tower."""

    def plain(rows, n2, x, seed):
        return np.ones(rows.shape, dtype=np.int8), True

    monkeypatch.setattr(_covering_kernels, "greedy_signs", plain)
    with pytest.raises(NotProvedError):
        two_lift_tower(heawood(), 1, rng=0)
    with pytest.raises(NotProvedError):
        two_lift_tower(complete_bipartite(2, 2), 1, rng=0)  # rho = sigma_1: two squares


GOLDEN = [
    (covering, (6, 3), 5, 0, "f3b79ed287d456d2"),
    (covering, (192, 2), 4, 2**64 - 1, "9df62223bc9c99ab"),
    (covering, (3, 4), 300, 7, "31e221dd7f4697a8"),
    (cyclic_covering, (6, 3), 5, 0, "74aac5ddbda94871"),
    (cyclic_covering, (8, 8), 64, 1, "919a60b5d7ce2550"),
    (two_lift_tower, (6, 3), 5, 0, "3e1e312249a51066"),
    (two_lift_tower, (4, 64), 4, 1, "885a29b7e4ef5997"),
    (two_lift_tower, (8, 8), 5, 2, "489fedefb74f59d0"),
]


@pytest.mark.usefixtures("builders")
@pytest.mark.parametrize(("lift", "base", "size", "seed", "digest"), GOLDEN)
def test_golden_hashes_and_rebuilding(lift, base, size, seed, digest):
    graph = lift(complete_bipartite(*base), size, rng=seed)
    assert graph.digest.startswith(digest)
    below = random_biregular(8, 6, 3, rng=1)
    for again in (lift(below, 2, rng=seed), lift(lift(below, 2, rng=seed), 3, rng=5)):
        assert rebuild(Recipe.from_dict(again.recipe.to_dict())) == again
    assert lift(BiregularGraph(below.neighbors, below.n2), 2, rng=seed).recipe is None


def test_a_chain_of_coverings_longer_than_a_file_may_hold_has_no_recipe():
    graph = random_biregular(2, 2, 2, rng=0)
    for _ in range(8):
        graph = covering(graph, 1, rng=0)
        assert Recipe.from_dict(graph.recipe.to_dict()) == graph.recipe
    assert covering(graph, 1, rng=0).recipe is None


@pytest.mark.usefixtures("builders")
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(
    "change",
    [{"n1": 17}, {"n1": 10**30}, {"n2": 3}, {"n1": 0}, {"d1": 2}, {"seed": 2**64}, {"base": None}],
)
def test_recipes_of_no_covering(name, change):
    graph = random_biregular(8, 6, 3, rng=1)
    body = {**Recipe(name, 1, 16, 12, 3, 0).to_dict(), "base": graph.recipe.to_dict()}
    assert rebuild(Recipe.from_dict(body)).n1 == 16
    changed = {k: v for k, v in {**body, **change}.items() if v is not None}
    with pytest.raises(FileFormatError):
        rebuild(Recipe.from_dict(changed))


@pytest.mark.usefixtures("builders")
def test_a_tower_recipe_whose_signs_fail(monkeypatch):
    recipe = two_lift_tower(random_biregular(8, 6, 3, rng=1), 1, rng=0).recipe
    monkeypatch.setattr(_covering_kernels, "greedy_signs", lambda *_: (None, False))
    with pytest.raises(FileFormatError, match=re.escape("makes no tower of 2 layers")):
        rebuild(recipe)
