"""The stand-alone checker takes every real certificate, and none that says more than is shown."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import BiregularGraph, certify
from expandermask.certificates import recheck as module
from expandermask.certificates.bounds import RamanujanBound
from expandermask.certificates.certificate import seal
from expandermask.certificates.recheck import is_definite, proves, recheck
from expandermask.graphs import (
    complete_bipartite,
    heawood,
    hypercube,
    quasi_cyclic,
    random_biregular,
)
from expandermask.masks import save_mask
from tests import cases
from tests.families import FAMILIES
from tests.strategies import seeds, shapes

FILE = Path(module.__file__)


def check(certificate, graph):
    text = certificate if isinstance(certificate, (str, bytes)) else certificate.to_json()
    return recheck(text, graph.neighbors.tolist(), graph.n2)


def sealed(data):
    """The fields as a certificate again, under a seal that fits."""
    body = {name: value for name, value in data.items() if name != "seal"}
    return json.dumps({**body, "seal": seal(body)})


def forged(graph, changes, evidence=(), without=(), definition="one-sided", of=None, eps=None):
    """The outcome for ``graph`` of a true certificate (``of`` another) with changes, sealed."""
    real = certify(graph if of is None else of, definition=definition, eps=eps)
    data = json.loads(real.to_json())
    kept = {k: v for k, v in data["evidence"].items() if k not in without}
    return check(sealed({**data, "evidence": {**kept, **dict(evidence)}, **changes}), graph).outcome


# -- real certificates ------------------------------------------------------------------------


@pytest.mark.parametrize("definition", ["one-sided", "two-sided"])
@pytest.mark.parametrize("case", cases.KNOWN + cases.TIES, ids=repr)
def test_known_graphs_are_confirmed(case, definition):
    graph = BiregularGraph.from_mask(case.mask)
    assert check(certify(graph, definition=definition), graph).outcome == "CONFIRMED"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_confirmed_or_beyond(name):
    graph = FAMILIES[name](1)
    found = check(certify(graph), graph)
    assert found.outcome == ("CONFIRMED" if min(graph.n1, graph.n2) <= 512 else "BEYOND")


@settings(max_examples=100)
@given(
    shapes(12, least_degree=2),
    seeds,
    st.sampled_from([("one-sided", None), ("two-sided", None), ("within", 0.0), ("within", 0.25)]),
)
def test_random_graphs_are_confirmed(shape, seed, question):
    definition, eps = question
    graph = random_biregular(*shape, rng=seed)
    proof = certify(graph, definition=definition, eps=eps)
    found = check(proof, graph)
    assert found.outcome == ("BEYOND" if proof.verdict == "UNDECIDED" else "CONFIRMED")


def test_regular_and_within():
    assert check(certify(heawood(), definition="regular"), heawood()).outcome == "CONFIRMED"
    cube = hypercube(7)
    for eps in (0.1, 0.2, 5.0):
        assert check(certify(cube, definition="within", eps=eps), cube).outcome == "CONFIRMED"


def test_what_is_not_derived_again_is_said():
    shown = ("limit", "three_moment", "lattice", "schur", "walks", "reason")
    assert check(certify(heawood()), heawood()).unchecked == shown
    graph = random_biregular(600, 600, 4, rng=0)
    assert check(certify(graph), graph).unchecked[-4:] == ("sigma2", "sigma_min", "c", "c_least")


def test_ties_at_both_ends_are_confirmed():
    proof = certify(ENDS, definition="two-sided")
    assert (proof.evidence["ties"], proof.evidence["ties_below"]) == (6, 3)
    assert check(proof, ENDS).outcome == "CONFIRMED"


def test_blocks_are_beyond():
    graph = quasi_cyclic(1200, 600, 3, r=60, rng=0)
    found = check(certify(graph), graph)
    assert certify(graph).method == "blocks"
    assert (found.outcome, "r" in found.unchecked) == ("BEYOND", True)
    assert found.reason == "PROVED, over 512 vertices"


def test_a_proof_beyond_its_size_is_not_confirmed():
    graph = random_biregular(600, 600, 4, rng=0)
    found = check(certify(graph), graph)
    assert (found.outcome, "sigma2" in found.unchecked) == ("BEYOND", True)
    assert forged(graph, {"digest": "0" * 64}) == "REJECTED"
    pair = BiregularGraph.from_mask(cases.two_copies(random_biregular(300, 300, 4, rng=0).mask()))
    found = check(certify(pair), pair)
    assert (found.outcome, "sigma2" in found.unchecked) == ("CONFIRMED", True)


def test_where_beyond_begins():
    graph = random_biregular(24, 12, 3, rng=5)
    assert module.MOST_VERTICES == 512
    for most, outcome in ((12, "CONFIRMED"), (11, "BEYOND")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "MOST_VERTICES", most)
            assert check(certify(graph), graph).outcome == outcome


@pytest.mark.slow
def test_the_largest_proofs():
    graph = random_biregular(1024, 512, 3, rng=1)
    for definition in ("one-sided", "two-sided"):
        assert check(certify(graph, definition=definition), graph).outcome == "CONFIRMED"


def test_undecided_is_never_confirmed():
    data = json.loads(certify(heawood()).to_json())
    data |= {"verdict": "UNDECIDED", "method": "none"}
    assert check(sealed(data), heawood()).outcome == "BEYOND"


# -- attacks ----------------------------------------------------------------------------------

CUBE = hypercube(7)  # REFUTED: sigma_2 = 5, rho = 4.899
PRISM = BiregularGraph.from_mask(cases.prism(16))  # REFUTED by a little
TIE = BiregularGraph.from_mask(cases.TIES[0].mask)  # PROVED: three eigenvectors at rho**2 = 36
SURD = BiregularGraph.from_mask(cases.TIES[3].mask)  # the same with rho**2 = 4 + 2 sqrt 3
CYCLES = BiregularGraph.from_mask(cases.two_copies(np.ones((2, 2), dtype=np.int64)))
ODD = random_biregular(24, 12, 3, rng=5)  # PROVED, with sigma_2 well off the bound and its limits
TRUE = certify(ODD, definition="two-sided")
LIMITS, C = TRUE.limits, RamanujanBound(ODD.d1, ODD.d2).square_below()
BOTH = random_biregular(24, 6, 3, rng=1)  # PROVED two-sided, of unequal degrees
BOTH_TRUE = certify(BOTH, definition="two-sided")
LEAST = RamanujanBound(3, 12).least_square_above()
C_BOTH = RamanujanBound(3, 12).square_below()
BELOW, ABOVE = 1 - 1e-9, 1 + 1e-9
ENDS = BiregularGraph.from_mask(cases.tied_at_both_ends())  # 6 ties at 16, 3 at the lower end, 4
NEAR_TRACE = BiregularGraph(
    [[0, 1]] * 4 + [[2, 3]] * 4 + [[0, 2], [1, 3]], 4
)  # PROVED: sigma_2**2 = 8 of a nontrivial trace of 10
UNEQUAL = random_biregular(96, 4, 2, rng=0)  # PROVED, with degrees 2 and 48


def basis(graph):
    return json.loads(certify(graph).to_json())["evidence"]["tie_basis"]


def on_top(graph, square):
    """Integer eigenvectors of N for an eigenvalue with a basis of small integers."""
    from flint import fmpz_mat

    shifted = graph.gram() - square * np.eye(graph.n2, dtype=np.int64)
    vectors, nullity = fmpz_mat(shifted.tolist()).nullspace()
    return [[int(vectors[i, j]) for i in range(graph.n2)] for j in range(nullity)]


def proved(graph, changes=(), **evidence):
    """A refuted graph passed off as proved by elimination."""
    c = RamanujanBound(graph.d1, graph.d2).square_below()
    told = {"verdict": "PROVED", "method": "cholesky", "sigma2": certify(graph).sigma2}
    return forged(graph, {**told, **dict(changes)}, {"c": c, **evidence})


def certified(graph):
    return json.loads(certify(graph).to_json())


def images(graph, vectors):
    """(N - a) b for each vector b."""
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    shifted = side.gram() - (graph.d1 + graph.d2 - 2) * np.eye(side.n2, dtype=np.int64)
    return [(shifted @ np.array(b)).tolist() for b in vectors]


def counted(graph, vectors, changes=(), **evidence):
    """A graph passed off as proved by counting, with these vectors as all its ties."""
    told = {"verdict": "PROVED", "method": "descartes", **dict(changes)}
    found = {"tie_basis": vectors, "ties": len(vectors), "roots_above": 0, "bits": 64}
    return forged(graph, told, {**found, **evidence}, without=("c",))


def refuted(graph, vector, square, side="right"):
    """A graph passed off as refuted by this vector."""
    shown = {"vector": vector, "square": square, "side": side}
    told = {"verdict": "REFUTED", "method": "rayleigh"}
    return forged(graph, told, shown, without=("c", "bits", "tie_basis", "ties", "roots_above"))


def limits(graph, **changed):
    named = {**certify(graph).limits, **changed}
    named = {name: value for name, value in named.items() if value is not None}
    return forged(graph, {"limits": named, "limit": max(named.values())})


def lower(graph, vector, square, side, definition="two-sided"):
    """A graph passed off as refuted at its lower end."""
    told = {"verdict": "REFUTED", "method": "rayleigh", "sigma_min": [0.0, 9.0]}
    least = {"vector": vector, "square": square, "side": side}
    return forged(graph, {**told, "definition": definition}, {"least": least})


KERNEL = on_top(ODD.transpose(), 0)[0]
NEAR = [1, -1, *[0] * 10]
ATTACKS = {
    # a refuted graph proved
    "by elimination": lambda: proved(CUBE),
    "by elimination, near the bound": lambda: proved(PRISM),
    "with a c that holds, above the bound": lambda: proved(CUBE, c=25.5),
    "with a c that is no float": lambda: proved(CUBE, c=26),
    "with a c that is text": lambda: proved(CUBE, c="inf"),
    "with a negative c": lambda: proved(CUBE, c=-1.0),
    "with a c of zero": lambda: proved(CUBE, c=0.0),
    "with an eps": lambda: proved(CUBE, {"eps": 1.0}),
    "within less than it takes": lambda: proved(CUBE, {"definition": "within", "eps": 0.1}),
    "within a negative eps": lambda: proved(CUBE, {"definition": "within", "eps": -1.0}),
    "within an integer eps": lambda: proved(CUBE, {"definition": "within", "eps": 1}),
    "within, counting roots above rho": lambda: forged(
        CUBE, {}, {"ties": 0, "roots_above": 0}, definition="within", eps=0.2
    ),
    "within, by counting": lambda: forged(
        CUBE,
        {"method": "descartes"},
        {"tie_basis": [], "bits": 64, "ties": 0, "roots_above": 0},
        definition="within",
        eps=0.2,
    ),
    "with a limit that is no float": lambda: forged(heawood(), {"limit": 2}),
    "by counting, with its top as none": lambda: counted(CUBE, on_top(CUBE, 25), ties=0),
    "by counting, with a zero vector as a tie": lambda: counted(TIE, [*basis(TIE), [0] * 32]),
    "within a part of the trace": lambda: forged(NEAR_TRACE, {"sigma2": [2.5, 7.5**0.5]}),
    "refuted by nothing": lambda: forged(
        UNEQUAL, {"verdict": "REFUTED", "method": "rayleigh"}, without=("c",)
    ),
    "with irrational ties and their images": lambda: counted(
        SURD, basis(SURD) + images(SURD, basis(SURD))
    ),
    "with fewer ties below": lambda: forged(ENDS, {}, {"ties_below": 2}, definition="two-sided"),
    "with no ties below": lambda: forged(ENDS, {}, {"ties_below": 0}, definition="two-sided"),
    "with a root below": lambda: forged(ENDS, {}, {"roots_below": 1}, definition="two-sided"),
    **{
        f"with another {name}": lambda name=name: forged(ODD, {name: certified(ODD)[name] + 1})
        for name in ("n1", "n2", "d1", "d2", "components", "format_version")
    },
    "by blocks": lambda: proved(CUBE, {"method": "blocks"}),
    "by blocks of an order": lambda: proved(CUBE, {"method": "blocks"}, r=64),
    "by an oracle": lambda: proved(CUBE, {"method": "oracle"}),
    "by part of a method's name": lambda: proved(CUBE, {"method": "chol"}),
    "by no method": lambda: proved(CUBE, {"method": ""}),
    "with sigma_2 below the bound": lambda: proved(CUBE, {"sigma2": [4.0, 4.8]}),
    "by counting": lambda: counted(CUBE, []),
    "by counting, with any tie": lambda: counted(CUBE, [[1, -1, *[0] * 62]]),
    "by counting, with its top as ties": lambda: counted(CUBE, on_top(CUBE, 25)),
    "by counting, with zeros as ties": lambda: counted(CUBE, [[0] * 64] * 3),
    "by counting, with all-ones as a tie": lambda: counted(CUBE, [[1] * 64]),
    "by counting, with booleans": lambda: counted(CUBE, [[True] * 32 + [False] * 32]),
    "by counting, with text as a basis": lambda: counted(CUBE, "abc"),
    "by counting, in a million bits": lambda: counted(CUBE, [], bits=10**6),
    "disconnected cycles": lambda: forged(
        CYCLES, {"verdict": "PROVED", "method": "cholesky"}, {"c": 4.0}
    ),
    "disconnected cycles, called connected": lambda: proved(CYCLES, {"components": 1}),
    "disconnected cycles, by components": lambda: forged(CYCLES, {"verdict": "PROVED"}),
    # other verdicts
    "a verdict of its own": lambda: forged(CUBE, {"verdict": "ROVED"}),
    "an empty verdict": lambda: forged(CUBE, {"verdict": "", "method": ""}),
    "a list of verdicts": lambda: forged(CUBE, {"verdict": ["PROVED"]}),
    # ties
    "bits as a boolean": lambda: counted(TIE, basis(TIE), bits=True),
    "no bits": lambda: counted(TIE, basis(TIE), bits=0),
    "too few bits": lambda: counted(TIE, basis(TIE), bits=63),
    "too many bits": lambda: counted(TIE, basis(TIE), bits=1025),
    "negative bits": lambda: counted(TIE, basis(TIE), bits=-64),
    "a tie vector missing": lambda: counted(TIE, basis(TIE)[1:], ties=3),
    "a tie vector and its count missing": lambda: counted(TIE, basis(TIE)[1:]),
    "no tie vectors": lambda: counted(TIE, []),
    "a tie vector twice": lambda: counted(TIE, [*basis(TIE), basis(TIE)[0]]),
    "a tie vector three times": lambda: counted(TIE, [basis(TIE)[0]] * 3),
    "a tie vector too short": lambda: counted(TIE, [v[1:] for v in basis(TIE)]),
    "one tie fewer": lambda: counted(TIE, basis(TIE), ties=2),
    "no count of ties": lambda: counted(SURD, basis(SURD), ties=True),
    "a tie vector of another eigenvalue": lambda: counted(TIE, [*basis(TIE), on_top(TIE, 4)[0]]),
    "irrational ties twice": lambda: counted(SURD, basis(SURD) * 2),
    "an irrational tie missing": lambda: counted(SURD, basis(SURD)[1:]),
    "irrational ties that do not": lambda: counted(SURD, [[1, -1, *[0] * 34]]),
    "a root above": lambda: counted(TIE, basis(TIE), roots_above=1),
    "no root above, as a boolean": lambda: counted(TIE, basis(TIE), roots_above=False),
    "a count for the lower end": lambda: counted(SURD, basis(SURD), ties_below=2),
    "ties above sigma_2": lambda: counted(TIE, basis(TIE), {"sigma2": [5.0, 5.9]}),
    "ties above c": lambda: counted(TIE, basis(TIE), c=35.5),
    "ties by elimination": lambda: proved(TIE, {}, tie_basis=[]),
    # a proved graph refuted
    "by all-ones": lambda: refuted(ODD, [1] * 12, ["18", "1"]),
    "by zeros": lambda: refuted(ODD, [0] * 12, ["18", "1"]),
    "by a false quotient": lambda: refuted(ODD, NEAR, ["17", "1"]),
    "by a true one": lambda: refuted(ODD, NEAR, ["6", "1"]),
    "by floats": lambda: refuted(ODD, [1.0, -1.0, *[0.0] * 10], ["17", "1"]),
    "by booleans": lambda: refuted(ODD, [True, *[False] * 11], ["6", "1"]),
    "by a vector that goes on past the graph": lambda: refuted(
        complete_bipartite(40, 40), [1] * 40 + [-1] * 40, ["800", "1"]
    ),
    "by a short vector": lambda: refuted(ODD, [1, -1], ["17", "1"]),
    "by text": lambda: refuted(ODD, "x" * 12, ["17", "1"]),
    "by its own tie": lambda: refuted(TIE, basis(TIE)[0], ["36", "1"]),
    "by a vector on no side": lambda: refuted(ODD, NEAR, ["6", "1"], side="top"),
    "by a vector on the other side": lambda: refuted(ODD, NEAR, ["6", "1"], side="left"),
    "as disconnected": lambda: forged(
        ODD, {"verdict": "REFUTED", "method": "components", "components": 2}
    ),
    "by components, being connected": lambda: forged(
        CUBE, {"verdict": "REFUTED", "method": "components"}
    ),
    "by a kernel of the larger side": lambda: lower(ODD, KERNEL, ["0", "1"], "left"),
    "by a kernel, where no end lies above 0": lambda: lower(
        complete_bipartite(4, 4), [1, -1, 0, 0], ["0", "1"], "right"
    ),
    "at an end it is not held to": lambda: lower(ODD, NEAR, ["6", "1"], "right", "one-sided"),
    # the true quotient of the 7-cube, not as it has to be written
    "a quotient not in lowest terms": lambda: refuted(CUBE, on_top(CUBE, 25)[0], ["50", "2"]),
    "with booleans among its entries": lambda: refuted(
        CUBE, [x == 2 or x // 2 for x in on_top(CUBE, 25)[0]], ["25", "1"]
    ),
    "a quotient of numbers": lambda: refuted(CUBE, on_top(CUBE, 25)[0], [25, 1]),
    # levels and eps where all else is true
    "c a float above the bound": lambda: forged(ODD, {}, {"c": C * (1 + 2.0**-48)}),
    "c an integer": lambda: forged(ODD, {}, {"c": int(C)}),
    "c below sigma_2": lambda: forged(ODD, {}, {"c": TRUE.sigma2[0] ** 2 * BELOW}),
    "eps, one-sided": lambda: forged(ODD, {"eps": 0.5}),
    "eps an integer": lambda: forged(ODD, {"definition": "within", "eps": 0}),
    "eps negative": lambda: forged(CUBE, {"definition": "within", "eps": -0.5}),
    "eps text": lambda: forged(ODD, {"definition": "within", "eps": "0.5"}),
    # enclosures and limits
    "sigma_2 below its truth": lambda: forged(ODD, {"sigma2": [2.5, TRUE.sigma2[0] * BELOW]}),
    "sigma_2 above its truth": lambda: forged(ODD, {"sigma2": [TRUE.sigma2[1] * ABOVE, 4.0]}),
    "sigma_2 below its truth, refuted": lambda: forged(CUBE, {"sigma2": [4.9, 5.0 * BELOW]}),
    "sigma_2 of nothing": lambda: forged(ODD, {"sigma2": [0.0, 0.0]}),
    "sigma_2 of integers": lambda: forged(ODD, {"sigma2": [2, 4]}),
    "sigma_2 upside down": lambda: forged(ODD, {"sigma2": [4.0, 2.0]}),
    "sigma_2 negative": lambda: forged(ODD, {"sigma2": [-1.0, 4.0]}),
    "sigma_2 with three ends": lambda: forged(ODD, {"sigma2": [2.5, 3.0, 4.0]}),
    "sigma_2 of no list": lambda: forged(ODD, {"sigma2": 4.0}),
    "sigma_min of a one-sided certificate": lambda: forged(ODD, {"sigma_min": [0.0, 9.0]}),
    "no sigma_min of a two-sided one": lambda: forged(
        ODD, {"sigma_min": None}, definition="two-sided"
    ),
    "sigma_min below its truth": lambda: forged(
        ODD, {"sigma_min": [0.0, TRUE.sigma_min[0] * BELOW]}, definition="two-sided"
    ),
    "sigma_min above its truth": lambda: forged(
        ODD, {"sigma_min": [TRUE.sigma_min[1] * ABOVE, 4.0]}, definition="two-sided"
    ),
    "a least square above the truth": lambda: forged(
        heawood(), {}, {"c_least": 2.1}, definition="two-sided"
    ),
    "c_least above the truth": lambda: forged(
        BOTH, {}, {"c_least": BOTH_TRUE.sigma_min[1] ** 2 * ABOVE}, definition="two-sided"
    ),
    "c_least below the end": lambda: forged(
        BOTH, {}, {"c_least": LEAST * (1 - 2.0**-48)}, definition="two-sided"
    ),
    "c_least an integer": lambda: forged(BOTH, {}, {"c_least": 4}, definition="two-sided"),
    "two-sided, where the lower end fails": lambda: forged(
        ODD,
        {"verdict": "PROVED", "method": "cholesky"},
        {"c_least": RamanujanBound(3, 6).least_square_above()},
        definition="two-sided",
    ),
    "two-sided, where the lower end fails and nothing is said of it": lambda: forged(
        ODD, {"verdict": "PROVED", "method": "cholesky"}, definition="two-sided"
    ),
    "ties below where nothing is below": lambda: forged(
        TIE, {}, {"ties_below": 0}, definition="two-sided"
    ),
    "a limit above sigma_2": lambda: limits(ODD, walks=3.9),
    "the best limit above the others": lambda: forged(ODD, {"limit": 2.9}),
    "the trace limit raised": lambda: limits(ODD, trace=LIMITS["trace"] * (1 + 1e-12)),
    "the trace limit lowered": lambda: limits(ODD, trace=LIMITS["trace"] * (1 - 1e-12)),
    "the integrality limit raised": lambda: limits(ODD, integrality=LIMITS["trace"] * 1.01),
    "the integrality limit lowered": lambda: limits(ODD, integrality=1.0),
    "a negative limit": lambda: limits(ODD, schur=-1.0),
    "an integer limit": lambda: limits(ODD, schur=1),
    "a limit missing": lambda: limits(ODD, schur=None),
    "a limit too many": lambda: limits(ODD, oracle=0.1),
    # what needs no proof
    "a digest of another graph": lambda: forged(ODD, {}, of=random_biregular(24, 12, 3, rng=6)),
    "a digest in capitals": lambda: forged(ODD, {"digest": ODD.digest.upper()}),
    "regular, of unequal degrees": lambda: forged(ODD, {"definition": "regular"}),
    "an unknown definition": lambda: forged(ODD, {"definition": "any"}),
    "an unknown field of evidence": lambda: forged(ODD, {}, {"oracle": 1}),
    "a chance of failure": lambda: forged(ODD, {}, {"probability": {}}),
    "evidence of the lower end": lambda: forged(ODD, {}, {"c_least": 0.1}),
    "evidence of no kind": lambda: forged(ODD, {"evidence": ["c"]}),
    "no vector": lambda: forged(ODD, {}, without=("vector",)),
    "a reason that is no text": lambda: forged(ODD, {"reason": 7}),
    "simple, as a number": lambda: forged(ODD, {"simple": 1}),
    "not simple": lambda: forged(ODD, {"simple": False}),
    "components, as a boolean": lambda: forged(ODD, {"components": True}),
    "another format": lambda: forged(ODD, {"format": "certificate"}),
    "another version": lambda: forged(ODD, {"format_version": 3}),
    "another degree": lambda: forged(ODD, {"d2": 7}),
    "another size": lambda: forged(ODD, {"n1": 25}),
    "another bound": lambda: forged(ODD, {"bound": 3.7}),
    "one field more": lambda: forged(ODD, {"more": 1}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_rejected(name):
    assert ATTACKS[name]() == "REJECTED"


HARMLESS = {
    "a wider enclosure": lambda: forged(ODD, {"sigma2": [1.0, 4.0]}),
    "a wide enclosure of a refuted graph": lambda: forged(CUBE, {"sigma2": [0.0, 9.0]}),
    "another sentence": lambda: forged(ODD, {"reason": "because"}),
    "more bits": lambda: counted(TIE, basis(TIE), bits=128),
    "the most bits that are enough for it": lambda: counted(TIE, basis(TIE), bits=1000),
    "tie vectors in another order": lambda: counted(TIE, basis(TIE)[::-1]),
    "tie vectors negated": lambda: counted(TIE, [[-x for x in v] for v in basis(TIE)]),
    "within nothing, from one-sided": lambda: forged(ODD, {"definition": "within"}),
    "regular, from one-sided": lambda: forged(heawood(), {"definition": "regular"}),
    "a vector on the other side": lambda: refuted(
        CUBE, on_top(CUBE.transpose(), 25)[0], ["25", "1"], side="left"
    ),
    "a larger c_least that holds": lambda: forged(
        BOTH, {}, {"c_least": 4.0}, definition="two-sided"
    ),
    "a smaller c that holds": lambda: forged(ODD, {}, {"c": 12.0}),
}
"""Changes that leave a true statement with its evidence: these are confirmed, and rightly so."""


@pytest.mark.parametrize("name", HARMLESS)
def test_true_statements_are_confirmed(name):
    assert HARMLESS[name]() == "CONFIRMED"


def test_a_quotient_on_the_enclosure_of_the_bound_is_not_beyond_it(monkeypatch):
    """With 5 bits rho + 1/32 lies between 157/32 and 160/32, and sigma_2 = 5 is no more."""
    data = json.loads(certify(CUBE, definition="within", eps=1 / 32).to_json())
    data["evidence"] |= {"vector": on_top(CUBE, 25)[0], "square": ["25", "1"], "side": "right"}
    data |= {"sigma2": [0.0, 9.0]}
    assert check(sealed(data), CUBE).outcome == "CONFIRMED"
    monkeypatch.setattr(module, "MOST_BITS", 5)
    assert check(sealed(data), CUBE).outcome == "REJECTED"


def levels(graph, data, evidence):
    """What is left to show of the enclosures in a certificate with these changes."""
    fields = {**json.loads(certify(graph).to_json()), **data}
    fields["evidence"].update(evidence)
    found = module.Check(fields, module.Graph(graph.neighbors.tolist(), graph.n2))
    return found.check_enclosures(Fraction(0), Fraction(0))


def test_levels_on_the_enclosure_of_the_bound_do(monkeypatch):
    """They follow from the verdict, or are allowed, if they are at its outer end or beyond."""
    monkeypatch.setattr(module, "MOST_BITS", 5)
    told = {"verdict": "PROVED", "definition": "within", "eps": 1 / 32}
    found = levels(CUBE, {**told, "sigma2": [0.0, 5.0]}, {"c": 25.0})
    assert found == {1: [25], -1: []}
    found = levels(CUBE, {**told, "sigma2": [0.0, 4.99]}, {})
    assert found == {1: [Fraction(4.99) ** 2], -1: []}
    monkeypatch.setattr(module, "MOST_BITS", 1)  # the lower end lies between 3/2 and 5/2
    told = {"definition": "two-sided", "sigma_min": [0.0, 9.0]}
    assert levels(BOTH, {**told, "sigma2": [0.0, 9.0]}, {"c_least": 2.25}) == {
        1: [Fraction(C_BOTH)],
        -1: [Fraction(2.25)],
    }


# -- the text of a certificate ----------------------------------------------------------------

TEXT = certify(ODD).to_json()
DATA = json.loads(TEXT)


@pytest.mark.parametrize("name", sorted(DATA))
def test_any_field_altered_or_missing_under_the_old_seal(name):
    for value in (None, True, 0, 1, -1.5, "x", [], {}, [1.0, 9.0]):
        if value != DATA[name] or type(value) is not type(DATA[name]):
            assert check(json.dumps({**DATA, name: value}), ODD).outcome == "REJECTED"
    rest = {k: v for k, v in DATA.items() if k != name}
    if name != "seal":
        assert check(sealed(rest), ODD).outcome == "REJECTED"
    assert check(json.dumps(rest), ODD).outcome == "REJECTED"
    entry = json.dumps(DATA[name])
    assert "repeated" in check(f'{{"{name}": {entry}, {TEXT[1:]}', ODD).reason


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "3", "{}", "\x00", b"\xff", b"", "[" * 10**5, '{"a":NaN}']
)
def test_not_a_certificate(text):
    assert check(text, ODD).outcome == "REJECTED"


def test_pairs_in_a_list_are_no_object():
    """They could repeat a name, and be read either way."""
    assert check(json.dumps([*DATA.items()]), ODD).outcome == "REJECTED"


def test_numbers_that_are_not_finite_or_too_long():
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000):
        assert check(TEXT.replace('"eps": 0.0', f'"eps": {number}'), ODD).outcome == "REJECTED"


def test_a_certificate_that_is_too_long(monkeypatch):
    for most, outcome in ((len(TEXT), "CONFIRMED"), (len(TEXT) - 1, "REJECTED")):
        monkeypatch.setattr(module, "MOST_BYTES", most)
        assert check(TEXT, ODD).outcome == outcome


def test_tie_vectors_too_long_for_the_elimination():
    """Scaled tie vectors span the same space, and are taken as long as 1024 bits hold a pivot."""
    for bits, outcome in ((100, "CONFIRMED"), (200, "REJECTED")):
        assert counted(TIE, [[x << bits for x in v] for v in basis(TIE)], bits=900) == outcome


def test_numbers_too_long_for_the_elimination(monkeypatch):
    monkeypatch.setattr(module, "MOST_BITS", 65)  # the pivot is 2**128, and its root plus 1 counts
    assert proves([[0]], Fraction(1), 1, 0, [], 64)
    monkeypatch.setattr(module, "MOST_BITS", 64)
    with pytest.raises(ValueError, match="64 bits"):
        proves([[0]], Fraction(1), 1, 0, [], 64)


@settings(max_examples=150)
@given(st.data())
def test_random_damage_is_rejected(data):
    place = data.draw(st.integers(0, len(TEXT) - 1))
    character = data.draw(st.sampled_from('0123456789"{}[],:.eE-xnull \\\n'))
    damaged = TEXT[:place] + character + TEXT[place + 1 :]
    try:
        same = json.loads(damaged) == DATA
    except ValueError:
        same = False
    assert (check(damaged, ODD).outcome == "CONFIRMED") == same


# -- graphs that are none ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "neighbors",
    [
        [],
        [[]],
        [[0]],
        [[0, 1], [0, 1], [0, 0], [0, 1]],
        [[0, 1], [0, 2], [0, 1], [0, 1]],
        [[0, 1], [0, -1], [0, 1], [0, 1]],
        [[0, 1], [0, True], [0, 1], [0, 1]],
        [[0, 1], [0, 1.0], [0, 1], [0, 1]],
        [[0, 1], [0], [0, 1], [0, 1]],
        [[0, 1], "01", [0, 1], [0, 1]],
        7,
        None,
    ],
)
def test_no_graph_at_all(neighbors):
    text = certify(complete_bipartite(4, 2)).to_json()
    assert recheck(text, neighbors, 2).outcome == "REJECTED"


@pytest.mark.parametrize("n2", [0, -2, 3, True, 2.0, "2", None])
def test_no_number_of_right_vertices(n2):
    text = certify(complete_bipartite(4, 2)).to_json()
    assert recheck(text, [[0, 1]] * 4, n2).outcome == "REJECTED"
    assert recheck(text, [[0, 1]] * 4, 2).outcome == "CONFIRMED"


def test_stars_and_unequal_degrees_are_rejected_as_such():
    text = certify(complete_bipartite(4, 2)).to_json()
    for rows, n2 in (([[0], [1]], 2), ([[0, 1], [2, 3]], 4), ([[0, 1], [0, 2]], 3)):
        assert "degrees" in recheck(text, rows, n2).reason


@pytest.mark.parametrize("n2", [256, 257, 2**16, 2**16 + 1])
def test_the_digest_is_the_library_s(n2):
    rows = [[i, (i + 1) % n2] for i in range(n2)]
    assert module.Graph(rows, n2).statement()["digest"] == BiregularGraph(rows, n2).digest


@settings(max_examples=60)
@given(shapes(8, least_degree=2), seeds, st.integers(1, 3))
def test_components_and_gram_are_the_library_s(shape, seed, copies):
    mask = np.kron(np.eye(copies, dtype=np.int64), random_biregular(*shape, rng=seed).mask())
    graph = BiregularGraph.from_mask(mask)
    found = module.Graph(graph.neighbors.tolist(), graph.n2)
    assert found.statement()["components"] == certify(graph).components
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    assert found.gram() == [row[: j + 1] for j, row in enumerate(side.gram().tolist())]


# -- the elimination --------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.integers(1, 5), st.data())
def test_proves_against_exact_minors(n, data):
    """Definite if and only if all leading minors are positive; exactly singular is never shown."""
    from sympy import Matrix

    entries = st.integers(-4, 4)
    lower = [[data.draw(entries) for _ in range(j + 1)] for j in range(n)]
    shift, sign = data.draw(st.integers(0, 2)), data.draw(st.sampled_from((1, -1)))
    level = Fraction(data.draw(st.integers(-40, 40)), data.draw(st.sampled_from((1, 2, 8))))
    vectors = data.draw(st.lists(st.lists(entries, min_size=n, max_size=n), max_size=2))
    whole = Matrix(n, n, lambda i, j: lower[max(i, j)][min(i, j)])
    whole = level * Matrix.eye(n) - sign * whole + shift * Matrix.ones(n, n)
    for b in vectors:
        whole += Matrix(b) * Matrix(b).T
    definite = all(whole[:k, :k].det() > 0 for k in range(1, n + 1))
    assert proves(lower, level, sign, shift, vectors, 64) == definite


@pytest.mark.parametrize(
    ("rows", "slack", "shown"),
    [
        ([[1]], 0, True),
        ([[0]], 0, False),
        ([[0]], 9, False),
        ([[-1]], 9, False),
        ([[4], [4, 4]], 9, False),
        ([[4], [4, 5]], 0, True),
        ([[4], [5, 8]], 0, False),
        ([[4], [5, 8]], 1, True),
        ([[4], [5, 11]], 0, False),
        ([[6], [5, 8]], 0, False),
        ([[9], [4, 100], [5, 0, 400]], 2, False),
        ([[9], [4, 100], [5, 0, 400]], 3, True),
    ],
)
def test_is_definite_weighs_every_remainder(rows, slack, shown):
    """A = L L' + E with hand-made remainders: what is beside the diagonal needs slack or spare."""
    assert is_definite([list(row) for row in rows], slack) is shown


def test_equality_is_not_definite():
    """At an eigenvalue itself, and any grid step above it is enough."""
    gram = [[2], [1, 2]]
    assert not proves(gram, Fraction(3), 1, 0, [], 64)
    assert proves(gram, Fraction(3) + Fraction(1, 2**50), 1, 0, [], 64)
    assert not proves(gram, Fraction(3) - Fraction(1, 2**50), 1, 0, [], 64)
    assert not proves(gram, Fraction(-1), -1, 0, [], 64)
    assert proves(gram, Fraction(-1) + Fraction(1, 2**50), -1, 0, [], 64)


# -- alone ------------------------------------------------------------------------------------


def test_it_is_short_and_stands_alone():
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names)


def run(*arguments, program=(str(FILE),)):
    command = [sys.executable, "-I", *program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def proof(tmp_path):
    path = tmp_path / "proof.json"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".json"])
def test_the_command(tmp_path, proof, suffix):
    mask, copy = tmp_path / f"mask{suffix}", tmp_path / "alone.py"
    save_mask(mask, BiregularGraph(ODD.neighbors, ODD.n2))
    copy.write_bytes(FILE.read_bytes())
    done = run(proof, mask, program=(str(copy),))
    assert (done.returncode, done.stdout.split(":")[0], done.stderr) == (0, "CONFIRMED", "")


def test_exit_codes(tmp_path, proof, capsys):
    mask, large = tmp_path / "mask.npy", random_biregular(600, 600, 4, rng=0)
    save_mask(mask, ODD)
    assert module.main([str(proof), str(mask)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("CONFIRMED: PROVED, one-sided; not derived again: limit, three_moment")
    save_mask(tmp_path / "edges.json", BiregularGraph(ODD.neighbors, ODD.n2))
    assert module.main([str(proof), str(tmp_path / "edges.json")]) == 0
    save_mask(mask, random_biregular(24, 12, 3, rng=6))
    assert module.main([str(proof), str(mask)]) == 1
    save_mask(mask, large)
    proof.write_text(certify(large).to_json(), encoding="utf-8")
    assert module.main([str(proof), str(mask)]) == 3
    save_mask(tmp_path / "recipe.json", large)
    for arguments in ([], [proof], [proof, "none.npy"], [proof, tmp_path / "recipe.json"], [1, 2]):
        assert module.main([str(a) for a in arguments]) == 2
    module.main([str(proof), str(tmp_path / "recipe.json")])
    assert "save the mask as .npz" in capsys.readouterr().err


def test_as_a_module(proof, tmp_path):
    save_mask(tmp_path / "mask.npz", ODD)
    done = run(proof, tmp_path / "mask.npz", program=("-m", "expandermask.certificates.recheck"))
    assert done.returncode == 0


KINDS = ["u1", "b1", "i1", "<i2", ">i2", "<i4", "<i8", ">i8", "<f4", ">f4", "<f8"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_every_kind(tmp_path, kind, order):
    path = tmp_path / "mask.npy"
    np.save(path, np.asarray(ODD.mask().astype(kind), order=order))
    assert module.read_mask(str(path)) == (ODD.neighbors.tolist(), ODD.n2)
    np.savez(tmp_path / "one.npz", anything=ODD.mask())
    assert module.read_mask(str(tmp_path / "one.npz")) == (ODD.neighbors.tolist(), ODD.n2)


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 2), 2),
        np.full((2, 2), np.nan),
        np.full((2, 2), 0.5),
        np.ones((2, 2, 2)),
        np.ones(4),
        np.ones((2, 2), dtype=complex),
        np.array([["1", "1"]]),
    ],
)
def test_arrays_that_are_no_masks(tmp_path, array):
    np.save(tmp_path / "mask.npy", array)
    with pytest.raises((ValueError, KeyError)):
        module.read_mask(str(tmp_path / "mask.npy"))


def test_damaged_masks(tmp_path, monkeypatch):
    path = tmp_path / "mask.npy"
    np.save(path, ODD.mask())
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"\0", b"\x94" + content[1:], content[:60], b""):
        path.write_bytes(damaged)
        assert module.main([str(path), str(path)]) == 2
    path.write_bytes(content)
    np.savez(tmp_path / "two.npz", a=ODD.mask(), b=ODD.mask())
    with pytest.raises(ValueError, match="unpack"):
        module.read_mask(str(tmp_path / "two.npz"))
    for most, fits in ((len(content), True), (len(content) - 1, False)):
        monkeypatch.setattr(module, "MOST_BYTES", most)
        assert (module.main([str(path), str(path)]) == 1) is fits
