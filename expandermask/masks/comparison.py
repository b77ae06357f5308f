"""What two masks, or two plans, have in common, beside what chance would give: the results.

The counts are exact, and so are the laws they are held against: the hypergeometric law of subsets
drawn uniformly, and the moments of the common entries when rows and columns are relabelled at
random. `compare` makes them; derivations are in ``docs/tutorials/compare.md``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from expandermask.files import write_document
from expandermask.tables import Tabled

FORMAT = "expandermask comparison"
PLAN_FORMAT = "expandermask plan comparison"
FORMAT_VERSION = 1
_MOST_ROWS = 24
_LAYER = re.compile(r".*?(?<![^.])\d+(?=\.)")


@dataclass(frozen=True)
class Counts:
    """How many things each of two sets keeps, and how many both keep."""

    kept_a: int
    """Size of the first set."""
    kept_b: int
    """Size of the second set."""
    common: int
    """Size of their intersection."""

    @property
    def union(self) -> int:
        """How many are in either set."""
        return self.kept_a + self.kept_b - self.common

    @property
    def differing(self) -> int:
        """The Hamming distance: how many are in exactly one of the sets."""
        return self.kept_a + self.kept_b - 2 * self.common

    @property
    def jaccard(self) -> float:
        """Jaccard index, common / union; 1 for equal sets, two empty ones among them."""
        return self.common / self.union if self.union else 1.0

    @property
    def overlap(self) -> float:
        """Overlap of kept indices, common / smaller set; 1 where one set contains the other."""
        smaller = min(self.kept_a, self.kept_b)
        return self.common / smaller if smaller else 1.0

    def to_dict(self) -> dict[str, Any]:
        """The counts and what follows from them, ready for JSON."""
        names = ("kept_a", "kept_b", "common", "union", "differing", "jaccard", "overlap")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Overlap(Counts):
    """`Counts` of two subsets of one set of ``size`` things, against subsets drawn uniformly.

    The null model: one subset is given, the other uniform among those of its size. The common part
    then has the hypergeometric law with ``size`` things, ``kept_a`` marked and ``kept_b`` drawn.

    Examples
    --------
    >>> from expandermask.masks.compare import Overlap
    >>> four = Overlap(kept_a=2, kept_b=2, common=2, size=4)
    >>> four.expected, round(four.p_more, 6)  # 1 of the 6 pairs out of 4
    (1.0, 0.166667)
    """

    size: int
    """How many things there are to keep."""

    @property
    def expected(self) -> float:
        """Mean of ``common`` under the null model, kept_a * kept_b / size."""
        return self.kept_a * self.kept_b / self.size

    @property
    def std(self) -> float:
        """Standard deviation of ``common`` under the null model."""
        if self.size == 1:
            return 0.0
        missing = (self.size - self.kept_a) * (self.size - self.kept_b)
        return math.sqrt(self.kept_a * self.kept_b * missing / (self.size - 1)) / self.size

    @property
    def z_score(self) -> float | None:
        """(common - expected) / std; None where chance leaves no choice."""
        return _z_score(self.common, self.expected, self.std)

    @property
    def p_more(self) -> float:
        """Chance of at least as many in common under the null model: the exact upper tail."""
        from scipy.stats import hypergeom  # slow to load

        return float(hypergeom.sf(self.common - 1, self.size, self.kept_a, self.kept_b))

    @property
    def p_less(self) -> float:
        """Chance of at most as many in common under the null model: the exact lower tail."""
        from scipy.stats import hypergeom

        return float(hypergeom.cdf(self.common, self.size, self.kept_a, self.kept_b))

    def to_dict(self) -> dict[str, Any]:
        """The counts, what follows from them, and the null model's figures, ready for JSON."""
        names = ("size", "expected", "std", "z_score", "p_more", "p_less")
        return {**super().to_dict(), **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class MaskComparison(Tabled):
    """What two masks of one shape have in common. Made by `compare`."""

    n1: int
    """Rows of both masks."""
    n2: int
    """Columns of both masks."""
    entries: Overlap
    """The kept entries, out of n1 * n2."""
    left: Overlap
    """The rows with at least one entry, out of n1."""
    right: Overlap
    """The columns with at least one entry, out of n2."""
    relabelled_std: float
    """Standard deviation of the common entries when the rows and the columns of one mask are put in
    uniformly random order; the mean is ``entries.expected``."""

    @property
    def jaccard(self) -> float:
        """Jaccard index of the kept entries."""
        return self.entries.jaccard

    @property
    def overlap(self) -> float:
        """Overlap of the kept entries, common / smaller mask."""
        return self.entries.overlap

    @property
    def z_score(self) -> float | None:
        """(common - expected) / ``relabelled_std``; None where every order gives the same."""
        return _z_score(self.entries.common, self.entries.expected, self.relabelled_std)

    def to_dict(self) -> dict[str, Any]:
        """Everything above, ready for JSON."""
        return {
            "n1": self.n1,
            "n2": self.n2,
            "entries": self.entries.to_dict(),
            "rows": self.left.to_dict(),
            "columns": self.right.to_dict(),
            "relabelled_std": self.relabelled_std,
            "z_score": self.z_score,
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return write_document(FORMAT, FORMAT_VERSION, self.to_dict())

    def rows(self) -> list[tuple[str, str]]:
        """The comparison as a table: names and values, as text."""
        e = self.entries
        return [
            ("shape", f"{self.n1} x {self.n2}"),
            *_count_rows(e),
            ("expected", f"{e.expected:,.6g} in common, if independent"),
            ("standard deviation", f"{self.relabelled_std:.4g} relabelled, {e.std:.4g} uniform"),
            ("z-score", f"{_shown(self.z_score)} relabelled, {_shown(e.z_score)} uniform"),
            ("chance of as many", f"{e.p_more:.3g} (uniform supports)"),
            ("chance of as few", f"{e.p_less:.3g} (uniform supports)"),
            ("rows kept", _kept_row(self.left)),
            ("columns kept", _kept_row(self.right)),
        ]

    def __str__(self) -> str:
        return (
            f"{self.n1}x{self.n2}: {_sentence(self.entries, self.entries.expected, self.z_score)}"
        )


@dataclass(frozen=True)
class PlanComparison(Tabled):
    """What two plans have in common, mask by mask and over all. Made by `compare`."""

    masks: dict[str, MaskComparison]
    """Each pair of masks, by ``module.A`` and ``module.B``, in the first plan's order."""

    @property
    def total(self) -> Counts:
        """The counts of all entries together."""
        every = [comparison.entries for comparison in self.masks.values()]
        kept_a, kept_b = sum(e.kept_a for e in every), sum(e.kept_b for e in every)
        return Counts(kept_a, kept_b, sum(e.common for e in every))

    @property
    def expected(self) -> float:
        """Expected number of common entries if the masks are independent."""
        return math.fsum(comparison.entries.expected for comparison in self.masks.values())

    @property
    def relabelled_std(self) -> float:
        """Its standard deviation, each mask relabelled at random independently of the others."""
        return math.sqrt(math.fsum(c.relabelled_std**2 for c in self.masks.values()))

    @property
    def z_score(self) -> float | None:
        """(common - expected) / ``relabelled_std`` over all entries; None if that is 0."""
        return _z_score(self.total.common, self.expected, self.relabelled_std)

    def to_dict(self) -> dict[str, Any]:
        """The total and every mask, ready for JSON."""
        return {
            "total": self.total.to_dict(),
            "expected": self.expected,
            "relabelled_std": self.relabelled_std,
            "z_score": self.z_score,
            "masks": {name: comparison.to_dict() for name, comparison in self.masks.items()},
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return write_document(PLAN_FORMAT, FORMAT_VERSION, self.to_dict())

    def by_layer(self) -> dict[str, PlanComparison]:
        """The comparison of each layer: of the masks whose names agree up to their first number.

        ``model.layers.3.query.A`` belongs to ``model.layers.3``; a module without a number in its
        name is a layer of its own.
        """
        layers: dict[str, dict[str, MaskComparison]] = {}
        for name, comparison in self.masks.items():
            found = _LAYER.match(name)
            layer = found[0] if found else name.removesuffix(".A").removesuffix(".B")
            layers.setdefault(layer, {})[name] = comparison
        return {layer: PlanComparison(masks) for layer, masks in layers.items()}

    def rows(self) -> list[tuple[str, str]]:
        """The comparison as a table: the total first, then a line for each mask, or each layer.

        Layers are summed up where there are more than 24 masks.
        """
        parts: dict[str, Any] = self.masks if len(self.masks) <= _MOST_ROWS else self.by_layer()
        return [
            ("masks", f"{len(self.masks)}"),
            *_count_rows(self.total),
            ("expected", f"{self.expected:,.6g} in common, if independent"),
            ("standard deviation", f"{self.relabelled_std:.4g} relabelled"),
            ("z-score", f"{_shown(self.z_score)} relabelled"),
            *((name, str(comparison)) for name, comparison in parts.items()),
        ]

    def __str__(self) -> str:
        return f"{len(self.masks)} masks: {_sentence(self.total, self.expected, self.z_score)}"


def _z_score(value: float, mean: float, std: float) -> float | None:
    return (value - mean) / std if std > 0 else None


def _count_rows(counts: Counts) -> list[tuple[str, str]]:
    return [
        ("kept", f"{counts.kept_a:,} and {counts.kept_b:,}"),
        ("common", f"{counts.common:,} of {counts.union:,} kept by either"),
        ("Jaccard index", f"{counts.jaccard:.4f}"),
        ("overlap", f"{counts.overlap:.4f} of the smaller"),
        ("Hamming distance", f"{counts.differing:,}"),
    ]


def _kept_row(side: Overlap) -> str:
    return (
        f"{side.kept_a:,} and {side.kept_b:,} of {side.size:,}, {side.common:,} in common, "
        f"expected {side.expected:,.6g}, z {_shown(side.z_score)}"
    )


def _sentence(counts: Counts, expected: float, z_score: float | None) -> str:
    return (
        f"{counts.common} of {counts.union} entries in common, Jaccard {counts.jaccard:.4f}, "
        f"overlap {counts.overlap:.4f} (expected {expected:.6g}, z {_shown(z_score)})"
    )


def _shown(z_score: float | None) -> str:
    return "undefined" if z_score is None else f"{z_score:.2f}"
