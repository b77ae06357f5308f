"""A set of vertices and what leaves it: the value that every upper bound on a Cheeger constant is.

Anyone can check a cut: count what crosses it. Definitions and proofs:
``docs/theory/expansion_bounds.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import InvalidInputError
from expandermask.graphs.bipartite import BipartiteGraph

Kind = Literal["edge", "vertex"]
"""Which boundary is counted: the edges that leave the set, or the vertices they lead to."""


def check_kind(kind: object) -> Kind:
    """Return ``kind`` if it is one of the two, else raise `InvalidInputError`."""
    for known in get_args(Kind):
        if kind == known:
            return known  # type: ignore[no-any-return]  # get_args forgets the literals' type
    raise InvalidInputError(f"kind must be 'edge' or 'vertex', got {kind!r}")


@dataclass(frozen=True, eq=False)
class Cut:
    """A set X of at most half of the vertices, with its edge or its outer vertex boundary.

    Parameters
    ----------
    graph : BipartiteGraph
        The graph, of N = n1 + n2 vertices.
    kind : {"edge", "vertex"}
        Whether ``boundary`` counts the edges with one end in X, or the vertices outside X that have
        a neighbour in X.
    left, right : bool arrays, shapes (n1,) and (n2,)
        Which left and right vertices are in X; ``0 < |X| <= N / 2``.

    Raises
    ------
    InvalidInputError
        Another kind, another shape or dtype, an empty set, or one of more than half the vertices.

    Examples
    --------
    >>> import numpy as np
    >>> from expandermask.graphs.bipartite import as_bipartite
    >>> square = as_bipartite(np.ones((2, 2), dtype=int))
    >>> one_edge = Cut(square, "edge", np.array([True, False]), np.array([True, False]))
    >>> one_edge.size, one_edge.boundary, one_edge.ratio
    (2, 2, Fraction(1, 1))
    >>> print(one_edge)
    2 of 4 vertices, 2 crossing edges: 1
    """

    graph: BipartiteGraph
    kind: Kind
    left: NDArray[np.bool_]
    right: NDArray[np.bool_]

    def __post_init__(self) -> None:
        check_kind(self.kind)
        for name, side, n in (
            ("left", self.left, self.graph.n1),
            ("right", self.right, self.graph.n2),
        ):
            if not isinstance(side, np.ndarray) or side.dtype != bool or side.shape != (n,):
                raise InvalidInputError(
                    f"{name} must be a bool array of shape ({n},), got {_described(side)}"
                )
        half = (self.graph.n1 + self.graph.n2) // 2
        if not 0 < self.size <= half:
            raise InvalidInputError(
                f"a cut must hold from 1 to N // 2 = {half} of the N = {self.graph.n1} + "
                f"{self.graph.n2} vertices, got {self.size}; the complement of a larger edge cut "
                "has the same boundary"
            )

    def __eq__(self, other: object) -> bool:
        """The same set and kind of boundary, in graphs of the same edges."""
        if not isinstance(other, Cut):
            return NotImplemented
        mine, theirs = self.graph, other.graph
        return (
            self.kind == other.kind
            and np.array_equal(self.left, other.left)
            and np.array_equal(self.right, other.right)
            and np.array_equal(mine.starts, theirs.starts)
            and np.array_equal(mine.rights, theirs.rights)
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.left.tobytes(), self.right.tobytes(), self.graph.num_edges))

    @property
    def size(self) -> int:
        """The size of X, the number of vertices in the set."""
        return int(self.left.sum()) + int(self.right.sum())

    @property
    def crossing(self) -> NDArray[np.bool_]:
        """Which edges have exactly one end in X, in the order of ``graph.rights``."""
        return np.asarray(self.left[self.graph.lefts] != self.right[self.graph.rights])

    @property
    def boundary(self) -> int:
        """How many edges cross; or, for the kind "vertex", at how many outer vertices they end."""
        crossing = self.crossing
        if self.kind == "edge":
            return int(crossing.sum())
        lefts, rights = self.graph.lefts[crossing], self.graph.rights[crossing]
        reached_left = np.unique(lefts[~self.left[lefts]])
        reached_right = np.unique(rights[~self.right[rights]])
        return len(reached_left) + len(reached_right)

    @property
    def ratio(self) -> Fraction:
        """boundary / size, exactly: an upper bound on the Cheeger constant of this kind."""
        return Fraction(self.boundary, self.size)

    def __str__(self) -> str:
        what = "crossing edges" if self.kind == "edge" else "vertices around them"
        n = self.graph.n1 + self.graph.n2
        return f"{self.size} of {n} vertices, {self.boundary} {what}: {float(self.ratio):.6g}"


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__
