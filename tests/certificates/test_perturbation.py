"""One switch of two edges in a proved graph: the digest moves, the verdict follows the truth."""

from __future__ import annotations

from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import BiregularGraph, certify
from expandermask.graphs import heawood
from tests import cases
from tests.families import FAMILIES
from tests.oracles.roots import truth

LARGEST_EXACT = 64
SMALL_FAMILIES = sorted(
    name for name, make in FAMILIES.items() if max(make(1).n1, make(1).n2) <= LARGEST_EXACT
)
NOTHING_TO_SWITCH = {"complete"}


def switches(mask):
    """All pairs of edges (i, x), (j, y) whose ends can be exchanged in a simple graph."""
    edges = np.argwhere(mask).tolist()
    return [
        ((i, x), (j, y))
        for (i, x), (j, y) in combinations(edges, 2)
        if not mask[i, y] and not mask[j, x]
    ]


def switched(mask, switch):
    (i, x), (j, y) = switch
    other = mask.copy()
    other[[i, j], [x, y]] = 0
    other[[i, j], [y, x]] = 1
    return other


def check_against_truth(mask, proof):
    exact = truth(mask)
    assert proof.verdict == exact.verdict
    assert proof.components == exact.components
    assert exact.encloses(*proof.sigma2)


@pytest.mark.parametrize("name", sorted(set(SMALL_FAMILIES) - NOTHING_TO_SWITCH))
def test_switches_of_every_family(name):
    """The old certificate is not about the new graph; the new one says what is true of it."""
    graph = FAMILIES[name](1)
    proof, mask = certify(graph), graph.mask().astype(int)
    for switch in Random(0).sample(switches(mask), 12):
        other = switched(mask, switch)
        again = certify(other)
        assert again.digest != proof.digest
        assert not proof.is_about(BiregularGraph.from_mask(other))
        check_against_truth(other, again)


def test_all_switches_of_the_heawood_graph_raise_sigma_2():
    """It is the only graph of its shape that attains the limit, so every neighbour is worse."""
    mask = heawood().mask().astype(int)
    best, seen = certify(mask), set()
    for switch in switches(mask):
        other = switched(mask, switch)
        proof = certify(other)
        check_against_truth(other, proof)
        assert proof.sigma2[0] > best.sigma2[1]
        assert proof.ratio > best.ratio
        seen.add(proof.digest)
    assert len(seen) == len(switches(mask))  # all different graphs, and all different digests
    assert best.digest not in seen


@pytest.mark.parametrize("case", cases.TIES, ids=repr)
def test_switches_of_a_tie(case):
    mask = np.asarray(case.mask, dtype=int)
    tie = certify(mask)
    for switch in Random(1).sample(switches(mask), 20):
        other = switched(mask, switch)
        proof = certify(other)
        assert proof.digest != tie.digest
        check_against_truth(other, proof)


def test_a_switch_that_cuts_the_graph_refutes_it():
    """Two blocks joined by two edges, switched back into two blocks and out again."""
    blocks = cases.two_copies(cases.complete(6))
    assert certify(blocks).verdict == "REFUTED"
    joined = switched(blocks, ((0, 1), (6, 7)))
    proof = certify(joined)
    check_against_truth(joined, proof)
    assert proof.connected
    assert proof.verdict == "REFUTED"
    assert certify(switched(joined, ((0, 7), (6, 1)))).components == 2


@settings(max_examples=40)
@given(st.sampled_from(SMALL_FAMILIES), st.randoms(use_true_random=False), st.integers(1, 12))
def test_long_walks_of_switches(name, random, steps):
    """However far the walk leads, verdict and enclosure stay true; back home the digest is too."""
    graph = FAMILIES[name](1)
    mask = start = graph.mask().astype(int)
    walked = []
    for _ in range(steps):
        if not (possible := switches(mask)):
            break
        walked.append(random.choice(possible))
        mask = switched(mask, walked[-1])
    check_against_truth(mask, certify(mask))
    for (i, x), (j, y) in reversed(walked):
        mask = switched(mask, ((i, y), (j, x)))
    assert np.array_equal(mask, start)
    assert certify(mask).digest == graph.digest
