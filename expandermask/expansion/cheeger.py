"""cheeger(): the edge or vertex Cheeger constant of any mask, exact where that can be had.

Small graphs are settled by looking at every subset of the smaller side, or at those that could be
better than the best cut known (`_exact_search`); larger ones get proved lower bounds
(`lower_bounds`) and the best cut found. Definitions, algorithms and proofs:
``docs/theory/cheeger.md``.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from expandermask.errors import InvalidInputError
from expandermask.expansion._exact_milp import better_cut
from expandermask.expansion._exact_search import exact_cut, proved_best
from expandermask.expansion.adjacency import smallest_component
from expandermask.expansion.cut_search import best_cut
from expandermask.expansion.cuts import Cut, Kind, check_kind
from expandermask.expansion.lower_bounds import lower_bounds
from expandermask.files import write_document
from expandermask.graphs.bipartite import as_bipartite
from expandermask.graphs.random import RandomState, draw_seed
from expandermask.tables import Tabled

Method = Literal[
    "disconnected", "enumeration", "zeta table", "branch and bound", "interval", "milp"
]

FORMAT = "expandermask cheeger constant"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class CheegerResult(Tabled):
    """What is known, with proof, about one Cheeger constant h of one graph.

    Examples
    --------
    >>> import expandermask as xm
    >>> from expandermask import cheeger
    >>> found = cheeger(xm.graphs.heawood())
    >>> print(found)
    edge Cheeger constant of 7x7, 21 edges: 1 (exact, enumeration)
    >>> print(found.cut)
    6 of 14 vertices, 6 crossing edges: 1
    """

    kind: Kind
    n1: int
    n2: int
    num_edges: int
    lower: Fraction
    """Proved: no cut has a smaller ratio. The largest of ``bounds``."""
    upper: Fraction
    """The ratio of ``cut``."""
    cut: Cut
    """The best set found: its boundary over its size is ``upper``, which anyone can count."""
    method: Method
    """How the ends were found: a component without boundary ("disconnected"); a search of all
    subsets of the smaller side ("enumeration" for edges, "zeta table" for vertices) or of those
    that matter ("branch and bound"), which are proofs; lower bounds and local search ("interval");
    or these with a cut by a MILP solver ("milp")."""
    bounds: dict[str, Fraction] = field(hash=False)
    """Proved lower bounds on h by name, an exact search among them."""
    seed: int = field(compare=False)
    """What the search for a cut was seeded with, whether or not there was one: ``rng=seed`` gives
    the same result again, unless a solver was given seconds. No part of what is known about h, so
    results that differ only in it are equal."""
    claimed: Fraction | None = None
    """The lower bound HiGHS states, if it was asked: no proof, since it computes in floats."""

    @property
    def exact(self) -> bool:
        """Whether h is known: ``lower == upper``."""
        return self.lower == self.upper

    def rows(self) -> list[tuple[str, str]]:
        """The result as (name, value) pairs, for tables."""
        bounds = [(f"lower bound: {name}", _shown(value)) for name, value in self.bounds.items()]
        claimed = "" if self.claimed is None else f"{_shown(self.claimed)} (HiGHS, not proved)"
        return [
            ("constant", f"{self.kind} Cheeger constant"),
            ("graph", f"{self.n1}x{self.n2}, {self.num_edges} edges"),
            ("value", self._value()),
            ("method", self.method),
            ("best cut", str(self.cut)),
            *(bounds if not self.exact else []),
            *([("claimed lower bound", claimed)] if claimed else []),
            *([("seed", str(self.seed))] if self.method in ("interval", "milp") else []),
        ]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready values: fractions as text "p/q", and the ends as floats too.

        The cut is given by the labels of its left and right vertices. The floats are the nearest
        ones, so for proofs take the fractions.
        """
        return {
            "kind": self.kind,
            "n1": self.n1,
            "n2": self.n2,
            "num_edges": self.num_edges,
            "lower": str(self.lower),
            "upper": str(self.upper),
            "lower_float": float(self.lower),
            "upper_float": float(self.upper),
            "exact": self.exact,
            "method": self.method,
            "bounds": {name: str(value) for name, value in self.bounds.items()},
            "claimed": None if self.claimed is None else str(self.claimed),
            "seed": self.seed,
            "cut": {
                "left": np.flatnonzero(self.cut.left).tolist(),
                "right": np.flatnonzero(self.cut.right).tolist(),
                "boundary": self.cut.boundary,
                "size": self.cut.size,
            },
        }

    def to_json(self) -> str:
        """`to_dict` as a JSON document."""
        return write_document(FORMAT, FORMAT_VERSION, self.to_dict())

    def __str__(self) -> str:
        return (
            f"{self.kind} Cheeger constant of {self.n1}x{self.n2}, {self.num_edges} edges: "
            f"{self._value()} ({'exact, ' if self.exact else ''}{self.method})"
        )

    def _value(self) -> str:
        if self.exact:
            return _shown(self.upper)
        return f"in [{float(self.lower):.6g}, {float(self.upper):.6g}]"


def cheeger(
    graph_or_mask: Any,
    kind: Kind = "edge",
    *,
    milp_seconds: float | None = None,
    rng: RandomState = None,
) -> CheegerResult:
    """The Cheeger constant of a bipartite graph: how little the best cut costs per vertex.

    The least size of the boundary of X over the size of X, for all sets X of at most half of the
    vertices, left and right together, and not empty. The boundary is the edges that leave X (h_E)
    or the vertices outside X that have a neighbour in it (h_V).

    Parameters
    ----------
    graph_or_mask : graph or mask
        Any bipartite graph of any degrees, or 0/1 array, tensor or sparse matrix of n1 rows and n2
        columns, that `as_bipartite` takes. One that is not connected has the constant 0.
    kind : {"edge", "vertex"}
        Which boundary.
    milp_seconds : float, optional
        Where the constant is not found exactly, how long to let a mixed-integer solver look for a
        better cut (HiGHS, through scipy). What it finds depends on the clock. It improves only the
        upper end: its own bound is returned as ``claimed``, without proof.
    rng : None, int or numpy.random.Generator
        For the search for a cut where there are too many subsets to look at; the rest takes no
        chances. The result has the ``seed`` that repeats it.

    Returns
    -------
    CheegerResult
        With proved ends ``lower`` <= h <= ``upper``, as fractions, and the cut that has the ratio
        ``upper``. ``exact`` says that they meet.

    Raises
    ------
    InvalidInputError
        Not a bipartite graph or 0/1 mask, another kind, a ``milp_seconds`` not above 0, or
        an ``rng`` that is no seed.

    Notes
    -----
    With n = min(n1, n2), exact search takes 3**n steps for vertices and 2**(n - 1) (m + 2 D) for
    edges, whatever the larger side: a vertex of the smaller side is in m *different* neighbour sets
    on average, and D is the largest degree on the larger. It is run up to 4e9 steps, about ten
    seconds: n = 20 for vertices, and for edges 29 in cubic graphs, 26 to 28 in most others. Beyond,
    up to n = 62, branch and bound for edges is given as long again; it settles sparse graphs, cubic
    ones up to about n = 48. Sources of the other bounds: `lower_bounds`.

    Examples
    --------
    >>> import numpy as np
    >>> path = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]])
    >>> cheeger(path).upper, cheeger(path, "vertex").upper
    (Fraction(1, 3), Fraction(1, 3))
    >>> import expandermask as xm
    >>> print(cheeger(xm.generate_ramanujan_mask(768, 8, 2, rng=0)))
    edge Cheeger constant of 768x8, 1536 edges: 164/179 (exact, enumeration)
    """
    kind, graph = check_kind(kind), as_bipartite(graph_or_mask)
    seconds = None if milp_seconds is None else _check_seconds(milp_seconds)
    seed = draw_seed(rng)
    bounds: dict[str, Fraction] = {}
    claimed: Fraction | None = None
    method: Method
    if (component := smallest_component(graph)) is not None:
        cut = Cut(graph, kind, component[: graph.n1], component[graph.n1 :])
        method = "disconnected"
    elif (exact := exact_cut(graph, kind)) is not None:
        cut, method = exact, "enumeration" if kind == "edge" else "zeta table"
    else:
        bounds, method = lower_bounds(graph, kind), "interval"
        cut = best_cut(graph, kind, seed=seed)
        if kind == "edge" and cut.ratio > max(bounds.values()):
            proved = proved_best(cut)
            if proved is not None:
                cut, method = proved, "branch and bound"
                bounds[method] = cut.ratio
        if seconds is not None and cut.ratio > max(bounds.values()):
            better, claimed = better_cut(cut, seconds)
            if better is not cut:
                cut, method = better, "milp"
    if not bounds:
        bounds = {method: cut.ratio}
    return CheegerResult(
        kind=kind,
        n1=graph.n1,
        n2=graph.n2,
        num_edges=graph.num_edges,
        lower=max(bounds.values()),
        upper=cut.ratio,
        cut=cut,
        method=method,
        bounds=bounds,
        seed=seed,
        claimed=claimed,
    )


def _shown(value: Fraction) -> str:
    """A fraction as it is if short, else as a decimal number."""
    return str(value) if value.denominator < 10**6 else f"{float(value):.6g}"


def _check_seconds(value: object) -> float:
    """``milp_seconds`` as a float, a real number above 0."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    seconds = float(value) if real else 0.0  # type: ignore[arg-type]  # numbers.Real has no typing
    if not 0 < seconds < math.inf:
        raise InvalidInputError(
            f"milp_seconds must be a number of seconds above 0, or None, got {value!r}"
        )
    return seconds
