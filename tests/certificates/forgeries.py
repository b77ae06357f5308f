"""Certificates passed off as others: true ones with changes, sealed again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from expandermask import BiregularGraph, certify
from expandermask.certificates import recheck as module
from expandermask.certificates.bounds import RamanujanBound
from expandermask.certificates.recheck import recheck
from expandermask.files import seal
from expandermask.graphs import (
    hypercube,
    random_biregular,
)
from tests import cases

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

TEXT = certify(ODD).to_json()
DATA = json.loads(TEXT)
