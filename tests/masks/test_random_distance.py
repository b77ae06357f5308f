"""distance_to_random(): its figures against naive ones, its draws against exact expectations."""

from __future__ import annotations

import json
import math
from collections import Counter
from statistics import pvariance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import ramanujan_graph, spectrum
from expandermask.certificates import limits
from expandermask.errors import InvalidInputError, NotBiregularError
from expandermask.graphs import complete_bipartite, random_biregular
from expandermask.masks._support_kernels import random_cells
from expandermask.masks.random_distance import distance_to_random
from tests.oracles import comparison as oracle
from tests.strategies import seeds
from tests.without_compiler import only_with_compiler, passed_without_compiler


def cells_of(total: int, kept: int, seed: int) -> list[int]:
    return random_cells(total, kept, np.uint64(seed)).tolist()


@given(st.integers(0, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), seeds)
def test_random_cells_agree_with_the_oracle(sizes, seed):
    assert cells_of(*sizes, seed) == oracle.random_cells(*sizes, seed)


def test_random_cells_are_uniform():
    times = Counter(tuple(cells_of(6, 3, seed)) for seed in range(4000))
    assert len(times) == math.comb(6, 3)
    chi_squared = sum((count - 200) ** 2 / 200 for count in times.values())
    assert chi_squared < 45  # 19 degrees of freedom: beyond 43.8 once in a thousand


@only_with_compiler
def test_random_cells_without_the_compiler():
    assert passed_without_compiler(__file__, "agree_with_the_oracle") == 1


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    n1, n2 = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    size = n1 * n2
    entries = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size).filter(any))
    return np.array(entries).reshape(n1, n2)


@settings(max_examples=60)
@given(masks())
def test_figures_are_the_naive_ones(mask):
    found = distance_to_random(mask, null="uniform", draws=2, rng=0)
    assert (found.n1, found.n2, found.kept) == (*mask.shape, mask.sum())
    assert found.left_degrees.value == pytest.approx(pvariance(mask.sum(axis=1).tolist()))
    assert found.right_degrees.value == pytest.approx(pvariance(mask.sum(axis=0).tolist()))
    codegrees = oracle.codegrees(mask)
    assert found.codegrees.value == pytest.approx(pvariance(codegrees) if codegrees else 0.0)
    assert found.mixing.value == pytest.approx(oracle.norm_less_density(mask), abs=1e-5)


@settings(max_examples=60)
@given(masks(), st.data())
def test_mixing_bounds_every_block(mask, data):
    found = distance_to_random(mask, null="uniform", draws=2, rng=0)
    rows, columns = (data.draw(st.sets(st.integers(0, n - 1), min_size=1)) for n in mask.shape)
    inside = mask[np.ix_(sorted(rows), sorted(columns))].sum()
    area = len(rows) * len(columns)
    assert abs(inside - mask.mean() * area) <= found.mixing.value * math.sqrt(area) + 1e-5


@pytest.mark.parametrize("shape", [(48, 12, 3), (12, 48, 12), (20, 20, 4)])
def test_mixing_of_a_biregular_mask_is_its_sigma2(shape):
    graph = random_biregular(*shape, rng=3)
    found = distance_to_random(graph, draws=3, rng=0)
    assert found.null == "biregular"
    assert found.mixing.value == pytest.approx(spectrum(graph)[1])
    assert found.limit == pytest.approx(math.sqrt(limits(*shape).best))
    assert found.limit <= found.mixing.value + 1e-9


def test_draws_have_the_expected_degree_variances():
    n1, n2, kept = 24, 16, 96
    mask = np.zeros((n1, n2), dtype=int)
    mask.flat[:kept] = 1
    found = distance_to_random(mask, draws=400, rng=0)
    assert found.null == "uniform"
    cells = n1 * n2
    spread = kept * (cells - kept) / (cells - 1)
    for standing, n in ((found.left_degrees, n1), (found.right_degrees, n2)):
        exact = spread * (1 - 1 / n) / n  # the variance of a hypergeometric degree
        assert abs(standing.mean - exact) < 4 * standing.std / math.sqrt(400)
    assert (found.left_degrees.below, found.right_degrees.below) == (1.0, 0.0)  # whole rows
    biregular = distance_to_random(random_biregular(n1, n2, 4, rng=0), draws=20, rng=0)
    for standing in (biregular.left_degrees, biregular.right_degrees):
        assert (standing.value, standing.mean, standing.std) == (0.0, 0.0, 0.0)
        assert (standing.z_score, standing.below) == (None, 0.5)


def test_statistics_of_the_draws_are_the_plain_ones():
    graph = random_biregular(24, 12, 3, rng=5)
    few, many = (distance_to_random(graph, draws=k, rng=7) for k in (2, 3))
    first_two = 2 * few.mixing.mean
    last = 3 * many.mixing.mean - first_two  # the first draws are the same, whatever their number
    half = few.mixing.std / math.sqrt(2)
    drawn = [few.mixing.mean - half, few.mixing.mean + half, last]
    assert many.mixing.std == pytest.approx(np.std(drawn, ddof=1))
    assert many.mixing.below == sum(d < spectrum(graph)[1] for d in drawn) / 3
    z_score = (many.mixing.value - np.mean(drawn)) / np.std(drawn, ddof=1)
    assert many.mixing.z_score == pytest.approx(z_score)


def test_designs_stand_below_and_tiled_masks_above():
    design = distance_to_random(ramanujan_graph(96, 8, 2, rng=0), draws=60, rng=0)
    assert design.codegrees.below == 0.0
    assert design.mixing.below == 0.0
    tiled = np.tile(random_biregular(8, 8, 2, rng=0).mask(), (12, 1))
    found = distance_to_random(tiled, draws=60, rng=0)
    assert found.codegrees.below == found.mixing.below == 1.0
    assert found.codegrees.z_score > 10


def test_biregular_masks_stand_out_among_uniform_ones():
    found = distance_to_random(random_biregular(96, 48, 3, rng=0), null="uniform", draws=60, rng=0)
    assert found.left_degrees.below == found.right_degrees.below == 0.0
    assert found.left_degrees.z_score < -5
    assert found.mixing.below < 0.1


def test_figures_do_not_depend_on_the_order_of_rows_and_columns():
    graph = random_biregular(30, 20, 4, rng=0)
    order = np.random.default_rng(0)
    shuffled = graph.mask()[order.permutation(30)][:, order.permutation(20)]
    assert distance_to_random(shuffled, draws=5, rng=0) == distance_to_random(graph, draws=5, rng=0)


def test_ties_count_half_and_have_no_z_score():
    found = distance_to_random(complete_bipartite(4, 3), draws=5, rng=0)
    for standing in (found.codegrees, found.mixing):
        assert (standing.below, standing.std, standing.z_score) == (0.5, 0.0, None)
    assert found.mixing.value == 0.0


@pytest.mark.parametrize("draws", [3, 5, 6, 7, 11])
def test_isomorphic_masks_tie_whatever_the_rounding(draws):
    crown = 1 - np.eye(7, dtype=int)  # every mask of these degrees is this one relabelled
    found = distance_to_random(crown, draws=draws, rng=0)
    assert found.mixing.value == pytest.approx(1.0)
    assert (found.mixing.below, found.mixing.std, found.mixing.z_score) == (0.5, 0.0, None)


def test_one_seed_one_answer_and_fresh_seeds_are_kept():
    graph = random_biregular(24, 12, 3, rng=0)
    fresh = distance_to_random(graph, draws=4)
    assert distance_to_random(graph, draws=4, rng=fresh.seed) == fresh
    assert distance_to_random(graph, draws=4, rng=fresh.seed ^ 1) != fresh


def test_stars_and_irregular_masks_have_no_limit():
    assert distance_to_random(np.eye(4, dtype=int), draws=2, rng=0).limit is None
    assert distance_to_random(np.eye(4, 5, dtype=int), draws=2, rng=0).limit is None


def test_bad_arguments_are_refused():
    graph = random_biregular(12, 6, 3, rng=0)
    with pytest.raises(InvalidInputError, match="the 3 x 4 mask has no entries"):
        distance_to_random(np.zeros((3, 4)))
    with pytest.raises(InvalidInputError, match="draws must be at least 2, got 1"):
        distance_to_random(graph, draws=1)
    with pytest.raises(InvalidInputError, match="null must be 'biregular' or 'uniform', got 'er'"):
        distance_to_random(graph, null="er")
    with pytest.raises(NotBiregularError, match="1 to 2; null='uniform' takes any mask"):
        distance_to_random(np.array([[1, 1], [0, 1]]), null="biregular")


def test_table_and_json_carry_the_numbers():
    found = distance_to_random(random_biregular(24, 12, 3, rng=0), draws=4, rng=1)
    data = json.loads(found.to_json())
    assert data["mixing"] == found.mixing.to_dict()
    assert data["mixing"]["z_score"] == found.mixing.z_score
    assert (data["n1"], data["n2"], data["seed"], data["null"]) == (24, 12, 1, "biregular")
    table = dict(found.rows())
    assert table["mixing (sigma_2)"] == str(found.mixing)
    assert table["random masks"] == "4 biregular, seed 1"
    assert table["limit on sigma_2"] == f"{found.limit:.4g}"
    assert "z undefined" in table["row degree variance"]
    assert str(found.mixing) in str(found)
