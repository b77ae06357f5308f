"""certify(): is this mask Ramanujan? PROVED, REFUTED or UNDECIDED, with the evidence.

Tier 1 is a rigorous floating-point Cholesky test (`cholesky`), taken block by block (`blocks`) for
a large graph with a cyclic symmetry; tier 2 is an exact polynomial test (`descartes`) for what the
first cannot decide, ties above all. A refutation carries an integer vector, or a root count, that
anyone can check.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from expandermask.certificates.blocks import Blocks, cyclic_order
from expandermask.certificates.bounds import Limits, RamanujanBound, limits
from expandermask.certificates.descartes import count_roots
from expandermask.certificates.spectrum import rayleigh_quotient
from expandermask.errors import (
    FileFormatError,
    InvalidInputError,
    TooLargeError,
    check_ramanujan_shape,
    require_memory,
)
from expandermask.files import read_document, require_fields, write_document
from expandermask.graphs import _kernels
from expandermask.graphs.biregular import BiregularGraph, as_graph

Verdict = Literal["PROVED", "REFUTED", "UNDECIDED"]
Method = Literal["cholesky", "blocks", "descartes", "rayleigh", "components", "none"]

FORMAT = "expandermask certificate"
FORMAT_VERSION = 1
DEFINITION = "one-sided"
EXACT_LIMIT = 512
"""Largest smaller side for which the exact tier is run (seconds at this size)."""

BLOCKS_ABOVE = 512
"""Smaller sides up to this are tested whole: it takes milliseconds, and ties can be decided."""

_OUTWARD = 2.0**-50


@dataclass(frozen=True)
class Certificate:
    """What is known, with proof, about the second singular value of one graph.

    Examples
    --------
    >>> import expandermask as xm
    >>> proof = xm.certify(xm.graphs.heawood())
    >>> proof.verdict, proof.method, round(proof.ratio, 9)
    ('PROVED', 'cholesky', 1.0)
    """

    verdict: Verdict
    """PROVED or REFUTED are theorems about this graph; UNDECIDED makes no claim."""
    method: Method
    """What settled the verdict: the tier, or "none"."""
    definition: str
    """"one-sided": connected, and sigma_2 <= sqrt(d1 - 1) + sqrt(d2 - 1)."""
    n1: int
    n2: int
    d1: int
    d2: int
    digest: str
    """SHA-256 of the graph the certificate is about (`BiregularGraph.digest`)."""
    sigma2: tuple[float, float]
    """Proved enclosure (lo, hi) of the second singular value."""
    bound: float
    """The Ramanujan bound rho, rounded to a float."""
    limit: float
    """Proved lower limit on sigma_2 over all graphs of this shape."""
    limits: dict[str, float]
    """Each limit by name (the fields of `Limits`), on sigma_2, rounded down."""
    components: int
    """Number of connected components."""
    simple: bool
    """No parallel edges: always true of a mask, whose entries are 0 or 1."""
    evidence: dict[str, Any]
    """What the method rests on: the c of the Cholesky test and, if it went by blocks, the order r
    of the symmetry; root counts; or an integer vector on one side with its exact Rayleigh quotient
    (numerator and denominator)."""
    reason: str
    """The verdict in a sentence."""

    @property
    def connected(self) -> bool:
        """Whether the graph is connected."""
        return self.components == 1

    @property
    def ratio(self) -> float:
        """sigma_2 (its upper end) over the limit: 1 is the best any graph of this shape can be."""
        if self.limit == 0:
            return 1.0 if self.sigma2[1] == 0 else math.inf
        return self.sigma2[1] / self.limit

    @property
    def gap(self) -> float:
        """Spectral gap sigma_1 - sigma_2, from the upper end of sigma_2 (so proved from below)."""
        return math.sqrt(self.d1 * self.d2) - self.sigma2[1]

    def is_about(self, graph: BiregularGraph) -> bool:
        """Whether this certificate was issued for exactly this graph."""
        return self.digest == graph.digest

    def to_json(self) -> str:
        """The certificate as JSON; `from_json` gives it back equal."""
        body = {f.name: getattr(self, f.name) for f in fields(self)}
        return write_document(FORMAT, FORMAT_VERSION, body)

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Read a certificate back; `FileFormatError` for anything `to_json` could not have written.

        Reading checks the form, not the mathematics: certify the graph again to check that.
        """
        data = read_document(text, FORMAT, FORMAT_VERSION)
        _check_fields(data)
        return cls(**{**data, "sigma2": tuple(data["sigma2"])})

    def __str__(self) -> str:
        lo, hi = self.sigma2
        return (
            f"{self.verdict} ({self.method}): {self.n1}x{self.n2} ({self.d1},{self.d2}), "
            f"sigma_2 in [{lo:.6f}, {hi:.6f}], bound {self.bound:.6f}, limit {self.limit:.6f}, "
            f"sigma_2/limit {self.ratio:.4f}"
        )


def certify(graph_or_mask: Any, *, definition: str = DEFINITION) -> Certificate:
    """Decide whether a graph or 0/1 mask is Ramanujan, and enclose its second singular value.

    Parameters
    ----------
    graph_or_mask : BiregularGraph or 2-D array or tensor of 0/1, shape (n1, n2)
        What to certify.
    definition : {"one-sided"}
        Connected, with sigma_2 <= sqrt(d1 - 1) + sqrt(d2 - 1); equality counts as Ramanujan.

    Returns
    -------
    Certificate
        PROVED and REFUTED are theorems. UNDECIDED is returned only where sigma_2 is closer to the
        bound than floating point can tell and the graph too large for the exact test.

    Raises
    ------
    InvalidInputError, NotBiregularError, InfeasibleShapeError
        Not a biregular 0/1 mask, or one with d1 = 1 or d2 = 1 (stars).
    TooLargeError
        The dense test, 24 bytes times the squared smaller side, does not fit in memory, and the
        graph has no cyclic symmetry to split it by.

    Notes
    -----
    With n = min(n1, n2): O(n1 d1**2 + n**3), a fraction of a millisecond at n = 64; and for n > 512
    O(n1 d1**2 + n**3 / r**2) if the shift within groups of r vertices is an automorphism, as in
    `quasi_cyclic` graphs. Source of the definition: Feng and Li, "Spectra of hypergraphs and
    applications", 1996.

    Examples
    --------
    >>> import numpy as np, expandermask as xm
    >>> tiled = np.tile(np.eye(4, dtype=int), (2, 2)) | np.tile(np.eye(4, dtype=int)[::-1], (2, 2))
    >>> xm.certify(tiled).verdict
    'REFUTED'
    """
    if definition != DEFINITION:
        raise InvalidInputError(f"definition must be {DEFINITION!r}, got {definition!r}")
    graph = as_graph(graph_or_mask)
    n1, n2, d1, d2 = check_ramanujan_shape(graph.n1, graph.n2, graph.d1)
    side = short_side_right(graph)
    blocks = split(side)
    bound, best = RamanujanBound(d1, d2), limits(n1, n2, d1)
    labels = _kernels.right_components(side.neighbors, side.n2)
    components = int(labels.max()) + 1
    if components > 1:  # constant on components and orthogonal to all-ones: sigma_2 = sigma_1
        inside = labels == labels[0]
        square = Fraction(d1 * d2)
        witness = np.where(inside, (~inside).sum(), -inside.sum())
    else:
        square, witness = rayleigh_quotient(side, blocks.top_nontrivial())
    named, limit = _named_limits(best)
    lower = _sqrt_below(max(square, best.best))
    upper = _proved_upper(blocks, square, best)
    verdict, method, evidence, reason = _judge(blocks, bound, components, square, witness)
    if verdict == "REFUTED" and "vector" in evidence:
        evidence["side"] = "right" if side is graph else "left"
    if verdict == "PROVED":
        upper = min(upper, bound.value * (1 + _OUTWARD))
    return Certificate(
        verdict=verdict,
        method=method,
        definition=definition,
        n1=n1,
        n2=n2,
        d1=d1,
        d2=d2,
        digest=graph.digest,
        sigma2=(lower, upper),
        bound=bound.value,
        limit=limit,
        limits=named,
        components=components,
        simple=True,
        evidence=evidence,
        reason=reason,
    )


def is_proved_ramanujan(graph: BiregularGraph) -> bool:
    """Whether tier 1 alone proves ``graph`` Ramanujan: the fast path of the generators.

    False says nothing. It is also returned where both degrees are 2, since the bound does not
    imply connectivity there.
    """
    bound = RamanujanBound(graph.d1, graph.d2)
    if bound.D <= 1:
        return False
    return split(short_side_right(graph)).proves_at_most(bound.square_below())


def split(side: BiregularGraph) -> Blocks:
    """The Gram matrix as tier 1 tests it: whole, or by blocks if the graph is large and symmetric.

    Raises `TooLargeError` if neither the whole matrix nor one of its blocks fits in memory.
    """
    r = cyclic_order(side) if side.n2 > BLOCKS_ABOVE else 1
    if r == 1:
        require_dense_memory(side.n2)
    else:
        size, pairs = side.n2 // r, side.n1 // r * side.d1**2
        require_memory(
            64 * size**2 + 48 * pairs, f"certifying a graph by blocks of {size} vertices"
        )
    return Blocks(side, r)


def require_dense_memory(n: int) -> None:
    """Raise `TooLargeError` if the dense tests on a smaller side of ``n`` do not fit in memory."""
    try:
        require_memory(24 * n * n, f"certifying a graph whose smaller side has {n} vertices")
    except TooLargeError as error:
        raise TooLargeError(
            f"{error}; expandermask.graphs.quasi_cyclic makes graphs of about this size whose "
            "symmetry allows a proof block by block"
        ) from None


def short_side_right(graph: BiregularGraph) -> BiregularGraph:
    """The graph turned so that n2 <= n1."""
    return graph if graph.n2 <= graph.n1 else graph.transpose()


def _judge(
    blocks: Blocks,
    bound: RamanujanBound,
    components: int,
    square: Fraction,
    witness: NDArray[np.int64],
) -> tuple[Verdict, Method, dict[str, Any], str]:
    """The verdict, what settled it, the evidence, and a sentence."""
    side = blocks.side
    shown = {
        "vector": witness.tolist(),
        "square": [str(square.numerator), str(square.denominator)],
    }
    if components > 1:
        reason = f"disconnected: {components} components, so sigma_2 = sigma_1"
        return "REFUTED", "components", {"components": components, **shown}, reason
    if bound.exceeded_by(square):
        reason = "a vector orthogonal to the trivial one has a Rayleigh quotient above rho^2"
        return "REFUTED", "rayleigh", shown, reason
    c = bound.square_below()
    if blocks.proves_at_most(c):
        reason = "c I - M'M is positive definite off the trivial vector for a c <= rho^2"
        if blocks.r == 1:
            return "PROVED", "cholesky", {"c": c}, reason
        reason += f", shown on the blocks of its symmetry of order {blocks.r}"
        return "PROVED", "blocks", {"r": blocks.r, "c": c}, reason
    if side.n2 > EXACT_LIMIT:
        reason = (
            "sigma_2 is within rounding of the bound, and the exact test is run only up to "
            f"{EXACT_LIMIT} vertices on the smaller side"
        )
        return "UNDECIDED", "none", {}, reason
    roots = count_roots(side.gram(), side.d1 * side.d2, bound)
    evidence = {"roots_above": roots.above, "ties": roots.ties}
    if roots.above:
        reason = f"{roots.above} nontrivial eigenvalues of M'M lie above rho^2 (exact count)"
        return "REFUTED", "descartes", evidence, reason
    reason = f"no nontrivial eigenvalue of M'M lies above rho^2 (exact), {roots.ties} equal it"
    return "PROVED", "descartes", evidence, reason


def _proved_upper(blocks: Blocks, square: Fraction, best: Limits) -> float:
    """A proved upper end for sigma_2, a hair above the exact lower bound ``square``."""
    side = blocks.side
    trivial = side.d1 * side.d2
    total = best.trace * (side.n2 - 1)
    if total == 0:
        return 0.0
    ceiling = math.sqrt(min(float(total), trivial)) * (1 + _OUTWARD)
    slack = 4 * blocks.margin(float(square))
    for _ in range(6):
        c = float(square) * (1 + _OUTWARD) + slack
        if c >= trivial:
            break
        if blocks.proves_at_most(c):
            return min(ceiling, math.sqrt(c) * (1 + _OUTWARD))
        slack *= 16
    return ceiling


def _sqrt_below(square: Fraction) -> float:
    """A float at most sqrt(square), exact for squares of floats such as integers' roots."""
    root = math.sqrt(square.numerator / square.denominator)
    return root if Fraction(root) ** 2 <= square else root * (1 - _OUTWARD)


def _named_limits(found: Limits) -> tuple[dict[str, float], float]:
    """The limits on sigma_2 as floats by name, and the best of them, rounded down."""
    named = {f.name: _sqrt_below(Fraction(getattr(found, f.name))) for f in fields(found)}
    return named, max(named.values())


_FIELDS: dict[str, type] = {
    "verdict": str,
    "method": str,
    "definition": str,
    **dict.fromkeys(("n1", "n2", "d1", "d2"), int),
    "digest": str,
    "sigma2": list,
    "bound": float,
    "limit": float,
    "limits": dict,
    "components": int,
    "simple": bool,
    "evidence": dict,
    "reason": str,
}
_FIRST_LIMITS = {"trace", "integrality"}
"""Certificates written before there were more limits hold these two, and can still be read."""
_METHODS: dict[str, tuple[str, ...]] = {
    "PROVED": ("cholesky", "blocks", "descartes"),
    "REFUTED": ("rayleigh", "descartes", "components"),
    "UNDECIDED": ("none",),
}


def _check_fields(data: dict[str, Any]) -> None:
    """Refuse a certificate that `to_json` could not have written: types, then what must agree."""
    require_fields(data, _FIELDS, "a certificate")
    try:
        shape = check_ramanujan_shape(data["n1"], data["n2"], data["d1"])
    except InvalidInputError as error:
        raise FileFormatError(f"a certificate: {error}") from None
    n1, n2, d1, d2 = shape
    named, _ = _named_limits(limits(n1, n2, d1))
    known = {name: value for name, value in named.items() if name in data["limits"]}
    ends = data["sigma2"]
    ordered = [type(e) is float for e in ends] == [True, True] and (
        data["limit"] <= ends[0] <= ends[1] <= math.sqrt(d1 * d2) * (1 + 2 * _OUTWARD)
    )
    agreeing = {
        "definition": data["definition"] == DEFINITION,
        "d2": data["d2"] == d2,
        "digest": re.fullmatch("[0-9a-f]{64}", data["digest"]) is not None,
        "sigma2": ordered,
        "bound": data["bound"] == RamanujanBound(d1, d2).value,
        "limit": data["limit"] == max(known.values(), default=None),
        "limits": data["limits"] == known and set(known) >= _FIRST_LIMITS,
        "components": data["components"] >= 1
        and (data["components"] > 1) == (data["method"] == "components"),
        "simple": data["simple"],
        "method": data["method"] in _METHODS.get(data["verdict"], ()),
    }
    if wrong := [name for name, agrees in agreeing.items() if not agrees]:
        raise FileFormatError(
            f"a certificate: {wrong[0]}={data[wrong[0]]!r:.80} does not fit the other fields"
        )
