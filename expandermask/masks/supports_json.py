"""The masks of a plan as JSON, and made again from it: by recipe, or edge by edge."""

from __future__ import annotations

from typing import Any

from expandermask.errors import FileFormatError
from expandermask.graphs.bipartite import BipartiteGraph
from expandermask.graphs.biregular import BiregularGraph, Recipe
from expandermask.graphs.rebuild import rebuild
from expandermask.masks.declared import DeclaredMask, declared_masks, plan_fields
from expandermask.masks.edges import read_edges, write_edges

Support = BiregularGraph | BipartiteGraph
"""The mask of one factor: a certified biregular graph with its recipe, or any other, as edges."""


def write_support(graph: Support) -> dict[str, Any]:
    """A mask as JSON-ready values: its recipe, or its indices, and its hash."""
    if isinstance(graph, BipartiteGraph):
        return write_edges(graph)
    assert graph.recipe is not None
    return {"recipe": graph.recipe.to_dict(), "sha256": graph.digest}


def read_supports(data: object) -> dict[str, tuple[Support, Support]]:
    """The masks (A, B) of every module in a plan's JSON, each made and compared with its hash.

    A recipe that occurs many times is followed once: a file may repeat one that takes long. Raises
    `FileFormatError` and `TooLargeError` as `MaskPlan.from_json` does, for sizes before any mask is
    made.
    """
    declared, modules = declared_masks(data), plan_fields(data)["modules"]
    made: dict[Recipe, BiregularGraph] = {}
    return {
        name: (
            _read(pair.a, modules[name]["A"], f"{name}.A", made),
            _read(pair.b, modules[name]["B"], f"{name}.B", made),
        )
        for name, pair in declared.items()
    }


def _read(
    mask: DeclaredMask, entry: dict[str, Any], what: str, made: dict[Recipe, BiregularGraph]
) -> Support:
    if mask.recipe is None:
        return read_edges(entry, f"mask {what}")
    graph = made.get(mask.recipe) or rebuild(mask.recipe)
    made[mask.recipe] = graph
    if graph.digest != mask.sha256:
        raise FileFormatError(
            f"mask {what}: the rebuilt graph hashes to {graph.digest}, the file says "
            f"{mask.sha256:.80}"
        )
    return graph
