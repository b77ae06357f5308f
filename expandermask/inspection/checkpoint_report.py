"""CheckpointReport: what is true of many masks, those of a plan, a state dict or a folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from expandermask.errors import ExpanderMaskError, InvalidInputError
from expandermask.files import write_document
from expandermask.graphs.bipartite import BipartiteGraph
from expandermask.inspection.mask_report import MaskReport, Verdict
from expandermask.inspection.measure import report_on
from expandermask.inspection.products import ProductReport, product
from expandermask.inspection.supports import Support, support_of
from expandermask.masks.plan import MaskPair
from expandermask.tables import Tabled, text_table

if TYPE_CHECKING:
    from expandermask.certificates import Certificate

FORMAT = "expandermask checkpoint report"
FORMAT_VERSION = 1
_SHOWN = 10
_BEST_LAST: tuple[Verdict, ...] = (
    "REFUTED",
    "EMPTY",
    "NOT BIREGULAR",
    "STAR",
    "UNDECIDED",
    "PROVED",
    "DENSE",
)
_FACTOR = re.compile(r"(.+)\.lora_(?:embedding_)?([AB])((?:\.\w+)??)(?:\.weight)?")
"""How PEFT names the factors of a module, with or without the name of the adapter."""


@dataclass(frozen=True, eq=False)
class CheckpointReport(Tabled, Mapping[str, MaskReport]):
    """A mapping from the names of masks to their reports; `inspect_mask` makes it.

    Examples
    --------
    >>> import expandermask as xm
    >>> plan = xm.MaskPlan.for_shapes({"query": (96, 96), "value": (96, 96)}, r=16, rng=0)
    >>> report = xm.inspect_mask(plan)
    >>> list(report), report.verdicts
    (['query.A', 'query.B', 'value.A', 'value.B'], {'PROVED': 4})
    >>> report.products["query"].is_sound
    True
    """

    source: str
    """Where the masks come from: a path, or the type of the collection."""
    masks: dict[str, MaskReport]
    """The reports by name, in the order of the source."""
    products: dict[str, ProductReport]
    """The product B A of each module that has both factors, by module."""
    damaged: dict[str, str]
    """What could not be inspected and should have been, by name: a sentence on why."""
    skipped: dict[str, tuple[int, ...]]
    """The shapes of what is no mask, being empty or not 2-D: biases, norms, kernels."""

    def __getitem__(self, name: str) -> MaskReport:
        return self.masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.masks)

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def verdicts(self) -> dict[str, int]:
        """How many masks have each verdict, the worst first."""
        counts = Counter(report.verdict for report in self.values())
        return {verdict: counts[verdict] for verdict in _BEST_LAST if verdict in counts}

    def worst(self, count: int = _SHOWN) -> list[str]:
        """The names of the worst masks: by verdict, dead rows and columns, sigma_2/limit, gap."""
        return sorted(self.masks, key=lambda name: _badness(self.masks[name]))[:count]

    def rows(self) -> list[tuple[str, str]]:
        """What a reader wants to know of the whole, as names and values."""
        reports = list(self.values())
        ratios = [r.ratio for r in reports if r.ratio is not None]
        unsound = [name for name, report in self.products.items() if not report.is_sound]
        found = [
            ("source", self.source),
            ("masks", f"{len(self)}"),
            ("verdicts", ", ".join(f"{n} {v}" for v, n in self.verdicts.items()) or "none"),
            ("entries", f"{sum(r.ones for r in reports):,}"),
            ("dead rows", f"{sum(r.left.dead for r in reports):,}"),
            ("dead columns", f"{sum(r.right.dead for r in reports):,}"),
            ("disconnected", f"{sum(r.components > 1 for r in reports)}"),
            ("with symptoms", f"{sum(bool(r.symptoms) for r in reports)}"),
        ]
        if ratios:
            found.append(("worst sigma_2/limit", f"{max(ratios):.6f}"))
        if self.products:
            least = min(report.fraction for report in self.products.values())
            found += [
                ("products B A", f"{len(self.products)}, of which {len(unsound)} not sound"),
                ("least joined pairs", f"{least:.2%}"),
            ]
        if self.skipped:
            found.append(("skipped", f"{len(self.skipped)}, empty or not 2-D"))
        return [*found, *((f"damaged {name}", why) for name, why in self.damaged.items())]

    def table(self) -> list[tuple[str, ...]]:
        """One line per mask under a line of headings, the worst first."""
        return [_HEADINGS, *(_cells(name, self.masks[name]) for name in self.worst(len(self)))]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {
            "source": self.source,
            "verdicts": self.verdicts,
            "masks": {name: report.to_dict() for name, report in self.items()},
            "products": {name: report.to_dict() for name, report in self.products.items()},
            "damaged": self.damaged,
            "skipped": {name: list(shape) for name, shape in self.skipped.items()},
        }

    def to_json(self) -> str:
        """The report as JSON."""
        return write_document(FORMAT, FORMAT_VERSION, self.to_dict())

    def __str__(self) -> str:
        lines = [text_table(self.rows()), ""] if self.masks else [text_table(self.rows())]
        table = self.table()[: _SHOWN + 1] if self.masks else []
        widths = [max(len(row[k]) for row in table) for k in range(len(_HEADINGS) * bool(table))]
        for row in table:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        if len(self) > _SHOWN:
            lines.append(f"and {len(self) - _SHOWN} more, no worse")
        return "\n".join(lines)


_HEADINGS = ("mask", "verdict", "shape", "density", "degrees", "dead", "components", "gap", "ratio")


def _cells(name: str, report: MaskReport) -> tuple[str, ...]:
    left, right = report.left, report.right
    return (
        name,
        report.verdict,
        "{}x{}".format(*report.shape),
        f"{report.density:.2%}",
        f"{_range(left.least, left.most)}, {_range(right.least, right.most)}",
        f"{left.dead}, {right.dead}",
        f"{report.components}",
        "-" if report.gap is None else f"{report.gap:.4f}",
        "-" if report.ratio is None else f"{report.ratio:.4f}",
    )


def _range(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least}-{most}"


def _badness(report: MaskReport) -> tuple[float, ...]:
    """Smaller for a worse mask."""
    return (
        _BEST_LAST.index(report.verdict),
        -(report.left.dead + report.right.dead),
        -(report.ratio or 0.0),
        report.gap or 0.0,
    )


def inspect_many(
    collection: Mapping[Any, Any], *, source: str, progress: bool = False
) -> CheckpointReport:
    """The report on every mask in a collection, and on the product of every pair of factors."""
    if not collection:
        raise InvalidInputError(f"{source} is empty: there is no mask to inspect")
    found = _Collector()
    for name in tqdm(collection, desc="masks", unit="mask", disable=not progress):
        found.add(str(name), collection[name])  # held by no variable, so never two at once
    found.close()
    return CheckpointReport(source, found.masks, found.products, found.damaged, found.skipped)


@dataclass
class _Collector:
    """Reports gathered so far, and the factors whose other one has not been met yet."""

    masks: dict[str, MaskReport] = field(default_factory=dict)
    products: dict[str, ProductReport] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, tuple[int, ...]] = field(default_factory=dict)
    proofs: dict[str, Certificate] = field(default_factory=dict)
    waiting: dict[tuple[str, str], Support] = field(default_factory=dict)

    def add(self, name: str, value: Any) -> None:
        """Inspect one entry of a collection: a mask, or the pair of a module."""
        if isinstance(value, MaskPair):
            a, b = self._inspect(f"{name}.A", value.a), self._inspect(f"{name}.B", value.b)
            if a is not None and b is not None:
                self._multiply(name, lambda: a.edges().transpose(), b.edges)  # a is k x r
        elif isinstance(value, tuple) and len(value) == 2:
            for side, factor in zip("AB", value, strict=True):
                self._pair(name, side, self._inspect(f"{name}.{side}", factor))
        else:
            support = self._inspect(name, value)
            if match := _FACTOR.fullmatch(name):
                self._pair(match[1] + match[3], match[2], support)

    def close(self) -> None:
        """Say of each factor whose other one never came that it has no product."""
        for module, side in self.waiting:
            self.damaged[f"B A of {module}"] = (
                f"only {side} of the two factors could be inspected, so there is no product"
            )

    def _inspect(self, name: str, mask: Any) -> Support | None:
        """Report on one mask; None if it is none or damaged."""
        nested = getattr(mask, "is_nested", False)  # a nested tensor's shape cannot even be asked
        shape = None if nested else getattr(mask, "shape", None)
        if isinstance(shape, tuple) and (len(shape) != 2 or 0 in shape):
            self.skipped[name] = tuple(shape)
            return None
        try:
            support = support_of(mask, name)
            self.masks[name] = report_on(support, self.proofs)
        except ExpanderMaskError as error:
            self.damaged[name] = str(error)
            return None
        return support

    def _pair(self, module: str, side: str, support: Support | None) -> None:
        """Keep one factor, ranks by inputs or outputs by ranks, until the other one is there."""
        if support is None:
            return
        other = self.waiting.pop((module, "BA"["AB".index(side)]), None)
        if other is None:
            self.waiting[module, side] = support
            return
        a, b = (support, other) if side == "A" else (other, support)
        self._multiply(module, a.edges, b.edges)

    def _multiply(
        self, module: str, a: Callable[[], BipartiteGraph], b: Callable[[], BipartiteGraph]
    ) -> None:
        """Report on a product; the factors are only made here, where they may be too large."""
        try:
            self.products[module] = product(a(), b())
        except ExpanderMaskError as error:
            self.damaged[f"B A of {module}"] = str(error)
