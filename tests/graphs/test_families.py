"""What every construction promises, over the table of all of them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import certify
from expandermask.certificates import blocks, limits
from expandermask.certificates.certify import split
from expandermask.graphs import BiregularGraph, Recipe, quasi_cyclic, rebuild
from expandermask.graphs.rebuild import BUILDERS
from tests.families import FAMILIES
from tests.oracles import graphs as oracle

every_family = pytest.mark.parametrize("name", FAMILIES)


@every_family
def test_biregular_simple_connected_and_proved(name):
    graph = FAMILIES[name](1)
    mask = graph.mask()
    assert mask.shape == (graph.n1, graph.n2)
    assert set(np.unique(mask)) <= {0, 1}
    assert set(mask.sum(axis=1).tolist()) == {graph.d1}
    assert set(mask.sum(axis=0).tolist()) == {graph.d2}
    assert mask.sum() == graph.num_edges  # no edge twice: the mask counts each pair once
    assert oracle.components(mask.tolist()) == 1
    certificate = certify(graph)
    assert certificate.verdict == "PROVED"
    assert certificate.is_about(graph)


@every_family
def test_sigma_2_agrees_with_numpy_and_respects_bound_and_limit(name):
    graph = FAMILIES[name](1)
    certificate = certify(graph)
    sigma = np.linalg.svd(graph.mask().astype(float), compute_uv=False)
    lo, hi = certificate.sigma2
    assert lo - 1e-7 <= sigma[1] <= hi + 1e-7
    assert sigma[1] <= np.sqrt(graph.d1 - 1) + np.sqrt(graph.d2 - 1) + 1e-9
    assert sigma[1] ** 2 >= float(limits(graph.n1, graph.n2, graph.d1).best) - 1e-7


@every_family
def test_recipes_survive_json_and_rebuild_the_identical_graph(name):
    graph = FAMILIES[name](1)
    assert graph.recipe is not None
    read = Recipe.from_dict(json.loads(json.dumps(graph.recipe.to_dict())))
    again = rebuild(read)
    assert again == graph
    assert again.digest == graph.digest
    assert again.recipe == graph.recipe == read
    assert FAMILIES[name](1) == graph


def test_the_table_has_every_algorithm():
    def algorithms(recipe: Recipe | None) -> set[str]:
        return set() if recipe is None else {recipe.algorithm} | algorithms(recipe.base)

    seen = {a for make in FAMILIES.values() for a in algorithms(make(1).recipe)}
    assert seen == set(BUILDERS)


@every_family
def test_transposes_keep_verdict_and_recipe(name):
    graph = FAMILIES[name](1)
    turned = graph.transpose()
    assert (turned.mask() == graph.mask().T).all()
    assert rebuild(turned.recipe) == turned
    assert turned.transpose() == graph
    assert turned.transpose().recipe == graph.recipe
    ours, theirs = certify(graph), certify(turned)
    assert ours.verdict == theirs.verdict
    assert np.allclose(ours.sigma2, theirs.sigma2)


@every_family
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_relabelling_changes_nothing(name, seed):
    graph = FAMILIES[name](1)
    shuffle = np.random.default_rng(seed)
    mask = graph.mask()[shuffle.permutation(graph.n1)][:, shuffle.permutation(graph.n2)]
    ours, theirs = certify(graph), certify(mask)
    assert (ours.verdict, ours.components) == (theirs.verdict, theirs.components)
    assert np.allclose(ours.sigma2, theirs.sigma2)


@pytest.mark.parametrize("seed", range(6))
def test_block_certificate_agrees_with_dense(seed, monkeypatch):
    """The same graph by blocks as it comes, and whole once its labels are shuffled."""
    monkeypatch.setattr(sys.modules[split.__module__], "BLOCKS_ABOVE", 16)
    graph = quasi_cyclic(240, 120, 3, r=20, rng=seed)
    shuffle = np.random.default_rng(seed)
    hidden = BiregularGraph.from_mask(
        graph.mask()[shuffle.permutation(240)][:, shuffle.permutation(120)]
    )
    assert split(graph).r >= 20
    assert split(hidden).r == 1
    assert blocks.cyclic_order(hidden) == 1
    by_blocks, whole = certify(graph), certify(hidden)
    assert by_blocks.verdict == whole.verdict
    assert np.allclose(by_blocks.sigma2, whole.sigma2)
    assert (by_blocks.method == "blocks") == (by_blocks.verdict == "PROVED")
