"""No certificate that says more than is shown is taken by the stand-alone checker."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from expandermask import certify
from expandermask.certificates import recheck as module
from expandermask.certificates.bounds import RamanujanBound
from expandermask.graphs import (
    complete_bipartite,
    heawood,
    random_biregular,
)
from tests.certificates.forgeries import (
    ABOVE,
    BELOW,
    BOTH,
    BOTH_TRUE,
    C_BOTH,
    CUBE,
    CYCLES,
    ENDS,
    KERNEL,
    LEAST,
    LIMITS,
    NEAR,
    NEAR_TRACE,
    ODD,
    PRISM,
    SURD,
    TIE,
    TRUE,
    UNEQUAL,
    C,
    basis,
    certified,
    check,
    counted,
    forged,
    images,
    limits,
    lower,
    on_top,
    proved,
    refuted,
    sealed,
)

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
    "within, a tie by counting without it": lambda: counted(
        TIE, [], {"definition": "within", "eps": 1e-9}
    ),
    "within, a tie left out": lambda: counted(
        TIE, basis(TIE)[1:], {"definition": "within", "eps": 1e-9}
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
