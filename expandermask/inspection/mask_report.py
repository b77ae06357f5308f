"""MaskReport: what is true of one mask."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from expandermask.files import write_document
from expandermask.inspection.supports import Kind
from expandermask.inspection.symptoms import Symptom
from expandermask.tables import Tabled, text_table

if TYPE_CHECKING:
    from expandermask.certificates import Certificate

FORMAT = "expandermask mask report"
FORMAT_VERSION = 1

Verdict = Literal["PROVED", "REFUTED", "UNDECIDED", "NOT BIREGULAR", "EMPTY", "DENSE", "STAR"]


@dataclass(frozen=True)
class SideReport:
    """The rows of a mask, or its columns."""

    vertices: int
    """How many there are."""
    histogram: dict[int, int]
    """How many have each degree (entries), ascending."""
    dead: int
    """How many have no entry."""
    first_dead: tuple[int, ...]
    """The first ten of these."""
    duplicates: int
    """How many repeat an earlier one, the dead apart."""
    inevitable: int
    """How many must: of the given degrees there are only so many different ones."""

    @property
    def least(self) -> int:
        """The least degree."""
        return min(self.histogram)

    @property
    def most(self) -> int:
        """The largest degree."""
        return max(self.histogram)

    @property
    def mean(self) -> float:
        """The mean degree."""
        return sum(d * n for d, n in self.histogram.items()) / self.vertices

    @property
    def is_regular(self) -> bool:
        """Whether all degrees are equal."""
        return len(self.histogram) == 1

    def describe_degrees(self) -> str:
        """The degrees in a few words."""
        if self.is_regular:
            return f"{self.least} each"
        return f"{self.least} to {self.most}, mean {self.mean:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        histogram = {str(degree): count for degree, count in self.histogram.items()}
        extremes = {"least": self.least, "most": self.most, "mean": self.mean}
        first_dead = list(self.first_dead)
        return {**asdict(self), "histogram": histogram, "first_dead": first_dead, **extremes}


@dataclass(frozen=True)
class MaskReport(Tabled):
    """What is true of one mask; `inspect_mask` makes it.

    Examples
    --------
    >>> import expandermask as xm
    >>> report = xm.inspect_mask(xm.graphs.heawood())
    >>> report.verdict, report.bridges, report.gap  # 1 - sqrt(2) / 3
    ('PROVED', 0, 0.528595...)
    """

    verdict: Verdict
    """The certificate's verdict of a biregular mask; otherwise what kind of mask it is. DENSE has
    no zeros, EMPTY no entries, STAR has rows or columns of degree 1 and is biregular."""
    reason: str
    """The verdict in a sentence."""
    shape: tuple[int, int]
    """Rows and columns."""
    ones: int
    """Entries that are not zero: the edges."""
    dtype: str | None
    """Type of the values; None for a graph."""
    kind: Kind
    """What the values are: graph, boolean, 0/1 or weights."""
    left: SideReport
    """The rows: the left vertices."""
    right: SideReport
    """The columns: the right vertices."""
    components: int
    """Connected components with an edge; dead rows and columns are counted apart."""
    component_sizes: dict[int, int]
    """How many of these components have each number of vertices, ascending."""
    largest_component: tuple[int, int]
    """Rows and columns of a component with the most vertices."""
    bridges: int
    """Edges whose removal disconnects their component."""
    sigma2: float | None
    """Second singular value of the normalised biadjacency matrix D1^(-1/2) M D2^(-1/2), whose first
    is 1, without dead rows and columns. Of a mask with a verdict proved it is the upper end of the
    certificate's enclosure over sqrt(d1 d2), rounded up; of a disconnected one exactly 1, and else
    a measurement in floating point. None of an empty mask, and where the measurement failed."""
    symptoms: tuple[Symptom, ...]
    """Signs of tiling and cropping; they are facts about the mask and no verdict."""
    certificate: Certificate | None
    """From `certify`, if the mask is biregular with both degrees at least 2 and has zeros."""
    digest: str
    """SHA-256 of the mask: of a certified one its graph's, `BiregularGraph.digest`; else of the
    shape, degrees and columns of its entries or, where these are fewer, its zeros."""

    @property
    def density(self) -> float:
        """The share of entries that is not zero."""
        return self.ones / (self.shape[0] * self.shape[1])

    @property
    def is_biregular(self) -> bool:
        """Whether all rows have one degree, and all columns have one, neither of them 0."""
        return self.left.is_regular and self.right.is_regular and self.ones > 0

    @property
    def is_connected(self) -> bool:
        """Whether the mask is one component with every row and column in it."""
        return self.components == 1 and self.left.dead + self.right.dead == 0

    @property
    def gap(self) -> float | None:
        """The normalised spectral gap, 1 - ``sigma2``, where that is known."""
        return None if self.sigma2 is None else 1 - self.sigma2

    @property
    def ratio(self) -> float | None:
        """sigma_2 over the least any graph of the shape can have, of a certified mask."""
        return None if self.certificate is None else self.certificate.ratio

    def rows(self) -> list[tuple[str, str]]:
        """What a reader wants to know, as names and values."""
        rows, columns = self.shape
        largest = "{} rows and {} columns".format(*self.largest_component)
        found = [
            ("verdict", f"{self.verdict}: {self.reason}"),
            ("shape", f"{rows} x {columns}"),
            ("entries", f"{self.ones:,} of {rows * columns:,} ({self.density:.2%})"),
            ("values", self.kind if self.dtype is None else f"{self.kind} ({self.dtype})"),
            ("row degrees", self.left.describe_degrees()),
            ("column degrees", self.right.describe_degrees()),
            ("dead rows", _dead(self.left)),
            ("dead columns", _dead(self.right)),
            ("components", f"{self.components}, the largest of {largest}"),
            ("bridges", f"{self.bridges:,}"),
            ("duplicate rows", _duplicates(self.left)),
            ("duplicate columns", _duplicates(self.right)),
            ("gap", _gap(self)),
        ]
        if self.certificate is not None:
            lo, hi = self.certificate.sigma2
            found += [
                ("sigma_2", f"in [{lo:.9g}, {hi:.9g}]"),
                ("bound", f"{self.certificate.bound:.9g}  (Ramanujan)"),
                ("limit", f"{self.certificate.limit:.9g}  (no mask of this shape is below)"),
                ("sigma_2/limit", f"{self.certificate.ratio:.6f}"),
            ]
        found += [("symptom", str(symptom)) for symptom in self.symptoms]
        return [*found, ("sha256", self.digest)]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values, with the whole certificate."""
        proof = self.certificate
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "shape": list(self.shape),
            "ones": self.ones,
            "density": self.density,
            "dtype": self.dtype,
            "kind": self.kind,
            "biregular": self.is_biregular,
            "rows": self.left.to_dict(),
            "columns": self.right.to_dict(),
            "components": self.components,
            "component_sizes": {str(size): n for size, n in self.component_sizes.items()},
            "largest_component": list(self.largest_component),
            "bridges": self.bridges,
            "sigma2": self.sigma2,
            "gap": self.gap,
            "symptoms": [{**asdict(s), "sentence": str(s)} for s in self.symptoms],
            "certificate": None if proof is None else json.loads(proof.to_json()),
            "digest": self.digest,
        }

    def to_json(self) -> str:
        """The report as JSON."""
        return write_document(FORMAT, FORMAT_VERSION, self.to_dict())

    def __str__(self) -> str:
        return text_table(self.rows())


def _dead(side: SideReport) -> str:
    if not side.dead:
        return "none"
    shown = ", ".join(map(str, side.first_dead))
    return f"{side.dead:,}: {shown}{', ...' if side.dead > len(side.first_dead) else ''}"


def _duplicates(side: SideReport) -> str:
    if not side.inevitable:
        return f"{side.duplicates:,}"
    return f"{side.duplicates:,}, of which {side.inevitable:,} are inevitable for these degrees"


def _gap(report: MaskReport) -> str:
    if report.sigma2 is None:
        return "unknown"
    source, gap = "measured", f"{1 - report.sigma2:.6f}"
    if report.components > 1 or report.verdict == "DENSE":
        source = "exact"
    elif report.certificate is not None and report.certificate.verdict != "UNDECIDED":
        source, gap = "proved from below", _floored(1 - Fraction(report.sigma2))
    return f"{gap}  (1 - sigma_2 / sigma_1, normalised; {source})"


def _floored(share: Fraction) -> str:
    """A number in [0, 1] with six decimals, rounded down."""
    return f"{math.floor(share * 10**6) / 10**6:.6f}"
