"""The certificate: what is known of one graph's second singular value, and the evidence for it.

As JSON it is what the stand-alone checker `recheck` reads; every field of the evidence is described
in ``docs/theory/certificates.md``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, Literal

from expandermask.certificates.bounds import Limits, RamanujanBound, limits
from expandermask.errors import FileFormatError, InvalidInputError, check_ramanujan_shape
from expandermask.files import read_document, require_fields, seal, write_sealed
from expandermask.graphs.biregular import BiregularGraph
from expandermask.tables import Tabled

Verdict = Literal["PROVED", "REFUTED", "UNDECIDED"]
Method = Literal["cholesky", "blocks", "descartes", "rayleigh", "components", "lanczos", "none"]
Definition = Literal["one-sided", "two-sided", "regular", "within"]

FORMAT = "expandermask certificate"
FORMAT_VERSION = 2
DEFINITIONS: tuple[Definition, ...] = ("one-sided", "two-sided", "regular", "within")
_ENCLOSURES = ("sigma2", "sigma_min")
OUTWARD = 2.0**-50
"""Relative room given to a float that is rounded outward."""


@dataclass(frozen=True)
class Certificate(Tabled):
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
    definition: Definition
    """What was to be shown; see `certify`."""
    eps: float
    """How far above rho the definition "within" lets sigma_2 lie; 0 for the others."""
    n1: int
    n2: int
    d1: int
    d2: int
    digest: str
    """SHA-256 of the graph the certificate is about (`BiregularGraph.digest`)."""
    sigma2: tuple[float, float]
    """Proved enclosure (lo, hi) of the second singular value."""
    sigma_min: tuple[float, float] | None
    """Proved enclosure of the least singular value, if the definition asks for it ("two-sided")."""
    bound: float
    """The Ramanujan bound rho, rounded to a float."""
    limit: float
    """Proved lower limit on sigma_2 over all graphs of this shape."""
    limits: dict[str, float] = field(repr=False)
    """Each limit by name (the fields of `Limits`), on sigma_2, rounded down."""
    components: int
    """Number of connected components."""
    simple: bool
    """No parallel edges: always true of a mask, whose entries are 0 or 1."""
    evidence: dict[str, Any] = field(repr=False)
    """What the verdict and the enclosures rest on, for `recheck` to go through again: the c of a
    Cholesky test, the order r of the symmetry it went by, root counts, a basis of the eigenvectors
    that meet the bound, integer vectors with their exact Rayleigh quotients; and, for a graph too
    large for a proof, the level that sigma_2 is below up to a stated probability of failure."""
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
        """Spectral gap sigma_1 - sigma_2, by the upper end of sigma_2: from below, up to an ulp."""
        return math.sqrt(self.d1 * self.d2) - self.sigma2[1]

    def is_about(self, graph: BiregularGraph) -> bool:
        """Whether this certificate was issued for exactly this graph."""
        return self.digest == graph.digest

    def to_dict(self) -> dict[str, Any]:
        """The certificate as JSON-ready values; enclosures are lists."""
        body = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**body, **{name: body[name] and list(body[name]) for name in _ENCLOSURES}}

    def to_json(self) -> str:
        """The certificate as JSON, sealed by a checksum; `from_json` gives it back equal."""
        return write_sealed(FORMAT, FORMAT_VERSION, self.to_dict())

    @classmethod
    def from_json(cls, text: str | bytes) -> Certificate:
        """Read a certificate back; `FileFormatError` for anything `to_json` could not have written.

        Reading checks the form, not the mathematics: certify the graph again, or run `recheck`, to
        check that.
        """
        data = read_document(text, FORMAT, FORMAT_VERSION)
        found = data.pop("seal", None)
        _check_fields(data)
        if found != seal({"format": FORMAT, "format_version": FORMAT_VERSION, **data}):
            raise FileFormatError("a certificate: its fields were altered, the seal does not fit")
        ends = {name: data[name] and tuple(data[name]) for name in _ENCLOSURES}
        return cls(**{**data, **ends})

    def rows(self) -> list[tuple[str, str]]:
        """What a reader wants to know, as names and values."""
        lo, hi = self.sigma2
        rows = [
            ("verdict", f"{self.verdict} by {self.method}: {self.reason}"),
            ("definition", self.definition + (f", eps = {self.eps:.9g}" if self.eps else "")),
            ("shape", f"{self.n1} x {self.n2}"),
            ("degrees", f"d1 = {self.d1}, d2 = {self.d2}"),
            ("components", f"{self.components}"),
            ("sigma_2", f"in [{lo:.9g}, {hi:.9g}]"),
            ("bound", f"{self.bound:.9g}  (Ramanujan)"),
            ("limit", f"{self.limit:.9g}  (no mask of this shape is below)"),
            ("sigma_2/limit", f"{self.ratio:.6f}"),
            ("spectral gap", f"{self.gap:.9g}  (sigma_1 - sigma_2)"),
            ("sha256", self.digest),
        ]
        if self.sigma_min is not None:
            low, high = self.sigma_min
            rows.insert(6, ("sigma_min", f"in [{low:.9g}, {high:.9g}]"))
        return rows

    def __str__(self) -> str:
        lo, hi = self.sigma2
        return (
            f"{self.verdict} ({self.method}): {self.n1}x{self.n2} ({self.d1},{self.d2}), "
            f"sigma_2 in [{lo:.6f}, {hi:.6f}], bound {self.bound:.6f}, limit {self.limit:.6f}, "
            f"sigma_2/limit {self.ratio:.4f}"
        )


def sqrt_below(square: Fraction) -> float:
    """A float at most sqrt(square), exact for squares of floats such as integers' roots."""
    root = math.sqrt(square.numerator / square.denominator)
    return root if Fraction(root) ** 2 <= square else root * (1 - OUTWARD)


def sqrt_above(square: Fraction) -> float:
    """A float at least sqrt(square), exact for squares of floats such as integers' roots."""
    root = math.sqrt(square.numerator / square.denominator)
    return root if Fraction(root) ** 2 >= square else root * (1 + OUTWARD)


def named_limits(found: Limits) -> tuple[dict[str, float], float]:
    """The limits on sigma_2 as floats by name, and the best of them, rounded down."""
    named = {f.name: sqrt_below(Fraction(getattr(found, f.name))) for f in fields(found)}
    return named, max(named.values())


_FIELDS: dict[str, type] = {
    "verdict": str,
    "method": str,
    "definition": str,
    "eps": float,
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
_METHODS: dict[str, tuple[str, ...]] = {
    "PROVED": ("cholesky", "blocks", "descartes"),
    "REFUTED": ("rayleigh", "descartes", "components"),
    "UNDECIDED": ("lanczos", "none"),
}


def _check_fields(data: dict[str, Any]) -> None:
    """Refuse a certificate that `to_json` could not have written: types, then what must agree."""
    least = data.get("sigma_min")
    require_fields(data, {**_FIELDS, "sigma_min": type(least)}, "a certificate")
    try:
        shape = check_ramanujan_shape(data["n1"], data["n2"], data["d1"])
    except InvalidInputError as error:
        raise FileFormatError(f"a certificate: {error}") from None
    n1, n2, d1, d2 = shape
    named, best = named_limits(limits(n1, n2, d1))
    top = math.sqrt(d1 * d2) * (1 + 2 * OUTWARD)
    rho = RamanujanBound(d1, d2).value
    one_end = data["definition"] != "two-sided"
    ordered = _is_interval(data["sigma2"], top)
    agreeing = {
        "definition": data["definition"] in DEFINITIONS
        and (data["definition"] != "regular" or n1 == n2),
        "eps": data["eps"] >= 0 and (data["eps"] == 0 or data["definition"] == "within"),
        "d2": data["d2"] == d2,
        "digest": re.fullmatch("[0-9a-f]{64}", data["digest"]) is not None,
        "sigma2": ordered and best <= data["sigma2"][1],
        "sigma_min": least is None if one_end else _is_interval(least, top),
        "bound": data["bound"] == rho,
        "limit": data["limit"] == best,
        "limits": data["limits"] == named,
        "components": 1 <= data["components"] <= n2 // d1
        and (data["components"] > 1) == (data["method"] == "components"),
        "simple": data["simple"],
        "method": data["method"] in _METHODS.get(data["verdict"], ()),
        "evidence": (data["method"] == "lanczos") == ("probability" in data["evidence"]),
        "verdict": ordered and _fits(data, rho + data["eps"]),
    }
    if wrong := [name for name, agrees in agreeing.items() if not agrees]:
        raise FileFormatError(
            f"a certificate: {wrong[0]}={data[wrong[0]]!r:.80} does not fit the other fields"
        )


def _fits(data: dict[str, Any], bound: float) -> bool:
    """Whether sigma_2 is enclosed where the verdict says, up to rounding."""
    upper = data["sigma2"][1]
    if data["verdict"] == "PROVED":
        return bool(upper <= bound * (1 + 2 * OUTWARD))
    if data["verdict"] == "REFUTED" and data["components"] == 1:
        return data["definition"] == "two-sided" or bool(upper >= bound * (1 - 2 * OUTWARD))
    return True


def _is_interval(ends: object, top: float) -> bool:
    """Whether ``ends`` is a list of two ordered floats in [0, top]."""
    return (
        isinstance(ends, list)
        and [type(end) for end in ends] == [float, float]
        and 0 <= ends[0] <= ends[1] <= top
    )
