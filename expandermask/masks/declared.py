"""What the JSON of a plan says its masks are, read without making one of them.

A recipe of a hundred bytes can ask for gigabytes and hours. So the sizes in a file are compared
with each other, with a limit, and by whoever reads an adapter with the tensors and the model, and
only then is a graph made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from expandermask.errors import FileFormatError, TooLargeError, require_memory
from expandermask.files import document_body, require_fields
from expandermask.graphs.biregular import Recipe
from expandermask.graphs.rebuild import require_modest
from expandermask.masks.edges import declared_edges
from expandermask.masks.targets import Shape

FORMAT = "expandermask plan"
FORMAT_VERSION = 2

_EDGE_BYTES = 8

FILE_DRAWS = 2**32
"""Most draws of all Bernoulli masks of a plan that is read from a file: a minute's work. A model of
70 billion weights has 3.6 thousand million at rank 256."""


@dataclass(frozen=True)
class DeclaredMask:
    """One mask as a file describes it."""

    n1: int
    n2: int
    num_edges: int
    sha256: str
    recipe: Recipe | None
    """How to make it, or None where the file holds its indices, or how they were drawn."""
    num_draws: int = 0
    """Of a Bernoulli mask, one for each of its entries, kept or not."""


@dataclass(frozen=True)
class DeclaredPair:
    """The masks of one module, as `MaskPair` has them once they are made."""

    a: DeclaredMask
    b: DeclaredMask

    @property
    def r(self) -> int:
        """The rank of the module."""
        return self.a.n2

    @property
    def shape(self) -> Shape:
        """(d, k), the shape of the module's weight update."""
        return self.b.n1, self.a.n1


def plan_fields(data: object) -> dict[str, Any]:
    """The fields r, left_degree, seed and modules of a plan's JSON, each of its type."""
    return require_fields(
        document_body(data, FORMAT, FORMAT_VERSION),
        {"r": int, "left_degree": (int, type(None)), "seed": int, "modules": dict},
        "a plan",
    )


def declared_masks(data: object) -> dict[str, DeclaredPair]:
    """The masks that a plan's JSON describes, by module.

    Parameters
    ----------
    data : object
        What `parse_json` gave.

    Raises
    ------
    FileFormatError
        A field is missing, unknown or of a wrong type, sizes that no graph has, or masks that are
        not of the plan's r and left_degree.
    TooLargeError
        Masks that are larger than any that is read from a file, or than the memory.

    Notes
    -----
    O(length of the JSON), whatever sizes it names.

    Examples
    --------
    >>> from expandermask import MaskPlan
    >>> plan = MaskPlan.for_shapes({"query": (64, 32)}, r=8, rng=0)
    >>> masks = declared_masks(plan.to_dict())
    >>> masks["query"].shape, masks["query"].a.num_edges
    ((64, 32), 64)
    """
    fields = plan_fields(data)
    pairs = {}
    for name, entry in fields["modules"].items():
        what = f"plan module {name!r:.200}"
        entry = require_fields(entry, {"A": dict, "B": dict}, what)
        pairs[name] = DeclaredPair(*_masks(entry, name))
        _require_alike(pairs[name], fields["left_degree"], what)
    largest = max((pair.r for pair in pairs.values()), default=fields["r"])
    if fields["r"] != largest:
        raise FileFormatError(
            f"r must be the largest rank of a plan's masks, {largest}, got {fields['r']!s:.40}"
        )
    every = [mask for pair in pairs.values() for mask in (pair.a, pair.b)]
    draws = sum(mask.num_draws for mask in every)
    if draws > FILE_DRAWS:
        raise TooLargeError(
            f"a plan with Bernoulli masks of {draws} draws; one read from a file has at most "
            f"{FILE_DRAWS}"
        )
    total = sum(mask.num_edges for mask in every)
    require_memory(_EDGE_BYTES * total, f"a plan with masks of {total} edges")
    return pairs


def _masks(entry: dict[str, Any], name: str) -> Iterator[DeclaredMask]:
    for side in "AB":
        found, what = entry[side], f"mask {name:.200}.{side}"
        if "recipe" not in found:
            n1, n2, edges = declared_edges(found, what)
            if edges == 0:
                raise FileFormatError(f"{what} keeps nothing; a plan leaves such modules out")
            draws = n1 * n2 if "bernoulli" in found else 0
            yield DeclaredMask(n1, n2, edges, found["sha256"], None, draws)
            continue
        require_fields(found, {"recipe": dict, "sha256": str}, what)
        recipe = Recipe.from_dict(found["recipe"])
        require_modest(recipe, what)
        edges = recipe.n1 * recipe.d1
        yield DeclaredMask(recipe.n1, recipe.n2, edges, found["sha256"], recipe)


def _require_alike(pair: DeclaredPair, left_degree: int | None, what: str) -> None:
    """Both masks of a module have one rank, and the plan's degree if the plan has one."""
    if pair.a.n2 != pair.b.n2:
        raise FileFormatError(
            f"{what}: its masks must have one rank n2, got {pair.a.n2} and {pair.b.n2}"
        )
    for mask in (pair.a, pair.b):
        has_degree = mask.recipe is not None or mask.n1 == 1
        degree = mask.num_edges // mask.n1 if has_degree else None
        if left_degree not in (degree, None):
            raise FileFormatError(
                f"{what}: a mask of d1={degree} is not of left_degree={left_degree!s:.40}"
            )
