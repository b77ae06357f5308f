"""mask_outcomes(): what random masks are expected to leave empty, and what they did leave.

A row of B that is empty is an output that never changes, an empty column of A an input that is not
read, and a module of which either mask is empty is not adapted at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from expandermask.errors import InvalidInputError
from expandermask.files import write_document
from expandermask.graphs.bipartite import as_bipartite
from expandermask.inspection.products import ProductReport, product
from expandermask.masks.plan import MaskPlan
from expandermask.masks.schedules import density_of
from expandermask.masks.targets import Shape
from expandermask.tables import Tabled, text_table

FORMAT = "expandermask mask outcomes"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Expected:
    """What independent draws leave empty on average, for one module."""

    empty_rows: float
    """Rows of B without an entry."""
    empty_columns: float
    """Columns of A without an entry."""
    nothing_kept: float
    """The probability that one of the two masks is empty."""


@dataclass(frozen=True)
class ModuleOutcome:
    """One module: what was expected, if densities were given, and what there is."""

    shape: Shape
    """(d, k)."""
    empty_rows: int
    """Rows of B without an entry; d where the module is not in the plan."""
    empty_columns: int
    """Columns of A without an entry; k where the module is not in the plan."""
    product: ProductReport | None
    """The graph inputs - ranks - outputs; None where the module is not in the plan."""
    expected: Expected | None

    @property
    def is_adapted(self) -> bool:
        """Whether the module is in the plan."""
        return self.product is not None

    @property
    def is_connected(self) -> bool:
        """Whether all entries are in one component of the product graph."""
        return self.product is not None and self.product.components == 1

    @property
    def carries_nothing(self) -> bool:
        """Whether no input reaches an output: no update can come of it."""
        return self.product is None or self.product.joined == 0


@dataclass(frozen=True)
class MaskOutcomes(Tabled):
    """`ModuleOutcome` of every module; ``print`` shows totals and what is worth a look."""

    modules: Mapping[str, ModuleOutcome]

    @property
    def not_adapted(self) -> tuple[str, ...]:
        """Modules that nothing was kept of."""
        return tuple(name for name, m in self.modules.items() if not m.is_adapted)

    @property
    def disconnected(self) -> tuple[str, ...]:
        """Adapted modules whose product graph falls apart."""
        return tuple(n for n, m in self.modules.items() if m.is_adapted and not m.is_connected)

    @property
    def carrying_nothing(self) -> tuple[str, ...]:
        """Adapted modules in which no input reaches an output."""
        return tuple(n for n, m in self.modules.items() if m.is_adapted and m.carries_nothing)

    def rows(self) -> list[tuple[str, str]]:
        """Totals, expected beside actual, and the names of modules that fall apart."""
        every = list(self.modules.values())
        expected = [m.expected for m in every if m.expected is not None]
        dead = sum(m.product.dead_ranks for m in every if m.product is not None)

        def count(actual: int, mean: float) -> str:
            return f"{actual:,}" + (f" ({mean:,.1f} expected)" if expected else "")

        return [
            ("modules", f"{len(every):,}"),
            (
                "of which nothing is kept",
                count(len(self.not_adapted), sum(e.nothing_kept for e in expected))
                + _names(self.not_adapted),
            ),
            (
                "empty rows of B",
                count(sum(m.empty_rows for m in every), sum(e.empty_rows for e in expected)),
            ),
            (
                "empty columns of A",
                count(sum(m.empty_columns for m in every), sum(e.empty_columns for e in expected)),
            ),
            ("ranks in neither mask", f"{dead:,}"),
            ("product graphs that fall apart", _count(self.disconnected)),
            ("in which no input reaches an output", _count(self.carrying_nothing)),
        ]

    def to_json(self) -> str:
        """The outcomes as JSON."""
        body = {"modules": {name: asdict(module) for name, module in self.modules.items()}}
        return write_document(FORMAT, FORMAT_VERSION, body)

    def __str__(self) -> str:
        return text_table(self.rows())


def mask_outcomes(
    plan: MaskPlan,
    *,
    shapes: Mapping[str, Shape] | None = None,
    densities: Mapping[str, tuple[float, float]] | None = None,
    kept: Literal["rows", "elements"] = "rows",
) -> MaskOutcomes:
    """What the masks of a plan leave empty or apart, beside what their densities lead to expect.

    Parameters
    ----------
    plan : MaskPlan
        Any plan, of Bernoulli masks or others.
    shapes : mapping from names to (d, k), optional
        All modules that were to be adapted; those not in the plan count as empty. Without it, the
        plan's.
    densities : mapping from names to (rows, columns), optional
        The probabilities that the masks were drawn with, for the expectations.
    kept : str
        What was drawn: whole "rows" (of B, and columns of A) or single "elements".

    Raises
    ------
    InvalidInputError
        A module of the plan that ``shapes`` lacks or has with another shape; a density that is
        missing or outside (0, 1].

    Examples
    --------
    >>> from expandermask.inspection import mask_outcomes
    >>> from expandermask.masks import balanced, partial_plan
    >>> shapes = {"query": (96, 96), "value": (96, 96)}
    >>> densities = balanced(shapes, 0.25)
    >>> plan = partial_plan(shapes, densities, r=8, rng=0)
    >>> print(mask_outcomes(plan, densities=densities))
    modules                             2
    of which nothing is kept            0 (0.0 expected)
    empty rows of B                     141 (144.0 expected)
    empty columns of A                  148 (144.0 expected)
    ranks in neither mask               0
    product graphs that fall apart      0
    in which no input reaches an output 0
    """
    if kept not in ("rows", "elements"):
        raise InvalidInputError(f"kept must be 'rows' or 'elements', got {kept!r}")
    own = {name: pair.shape for name, pair in plan.items()}
    asked = own if shapes is None else {name: (int(d), int(k)) for name, (d, k) in shapes.items()}
    if strange := [name for name in own if asked.get(name) != own[name]]:
        raise InvalidInputError(
            f"shapes has {asked.get(strange[0])} for {strange[0]!r}, and the plan {own[strange[0]]}"
        )
    return MaskOutcomes(
        {name: _outcome(plan, name, shape, densities, kept) for name, shape in asked.items()}
    )


def _outcome(
    plan: MaskPlan,
    name: str,
    shape: Shape,
    densities: Mapping[str, tuple[float, float]] | None,
    kept: str,
) -> ModuleOutcome:
    rank = plan[name].r if name in plan else plan.r
    draws = 1 if kept == "rows" else rank
    expected = None if densities is None else _expected(densities, name, shape, draws)
    if name not in plan:
        return ModuleOutcome(shape, *shape, None, expected)
    a, b = as_bipartite(plan[name].a), as_bipartite(plan[name].b)
    empty_rows, empty_columns = (int((g.left_degrees == 0).sum()) for g in (b, a))
    return ModuleOutcome(shape, empty_rows, empty_columns, product(a.transpose(), b), expected)


def _expected(
    densities: Mapping[str, tuple[float, float]], name: str, shape: Shape, draws: int
) -> Expected:
    """Means for ``draws`` independent draws in each row."""
    empty, some = [], []
    for size, p in zip(shape, density_of(densities, name), strict=True):
        empty.append(size * (1 - p) ** draws)
        some.append(1 - (1 - p) ** (draws * size))
    rows, columns = empty
    return Expected(rows, columns, nothing_kept=1 - math.prod(some))


def _count(names: tuple[str, ...]) -> str:
    return f"{len(names):,}{_names(names)}"


def _names(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    return f": {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
