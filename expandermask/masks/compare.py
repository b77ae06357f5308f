"""compare(): how much two masks, or two plans, have in common, and how much chance would give.

What comes back is in `comparison`: exact counts, and the exact laws they are held against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import InvalidInputError
from expandermask.graphs.bipartite import BipartiteGraph, as_aligned
from expandermask.masks.comparison import MaskComparison, Overlap, PlanComparison
from expandermask.masks.plan import MaskPair

Measure = Literal["jaccard", "overlap"]


@overload
def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> PlanComparison: ...
@overload
def compare(a: Any, b: Any) -> MaskComparison: ...
def compare(a: Any, b: Any) -> MaskComparison | PlanComparison:
    """What two masks of one shape, or two plans, have in common, beside what chance would give.

    Parameters
    ----------
    a, b
        Two masks of one shape (n1, n2), whatever `as_bipartite` takes: 0/1 arrays, tensors, sparse
        matrices or graphs, of any degrees. Two networkx graphs are compared by the labels of their
        nodes, which must be the same; anything else by rows and columns. Or two `MaskPlan`, or
        mappings from names to masks, with the same names and shapes.

    Returns
    -------
    MaskComparison, or PlanComparison for two plans.

    Raises
    ------
    InvalidInputError
        The shapes differ, one plan lacks a module of the other, only one of the two is a plan, or
        there is nothing in the plans.

    Notes
    -----
    With m the kept entries, O(m log m) time and memory. Let r and c be the degrees of rows and
    columns, R = sum r (r - 1), C = sum c (c - 1) and D = m (m - 1) - R - C: the ordered pairs of
    entries in one row, in one column, and in neither. With the rows and the columns of b in random
    order, the common entries X have E X = m_a m_b / (n1 n2) and

        E X (X - 1) = R_a R_b / (n1 n2 (n2-1)) + C_a C_b / (n1 n2 (n1-1))
                      + D_a D_b / (n1 n2 (n1-1) (n2-1)).

    A uniformly random biregular b has the same two moments, as all its orders are equally likely.
    Moments under relabelling after Mantel, "The detection of disease clustering and a generalized
    regression approach", Cancer Research 27, 1967. ``overlap`` is the coefficient of Szymkiewicz
    and Simpson, on whole rows for row masks (``left.overlap``) and so on.

    Examples
    --------
    >>> import expandermask as xm
    >>> from expandermask.masks.compare import compare
    >>> a, b = (xm.graphs.random_biregular(768, 8, 2, rng=seed) for seed in (0, 1))
    >>> print(compare(a, b))
    768x8: 391 of 2681 entries in common, Jaccard 0.1458, overlap 0.2546 (expected 384, z 0.45)
    """
    if _is_plan(a) != _is_plan(b):
        raise InvalidInputError(
            f"compare two masks or two plans, got {type(a).__name__} and {type(b).__name__}"
        )
    if not _is_plan(a):
        return _compare_masks(a, b, "a and b")
    _require_same_names(a, b)
    first, second = _named_masks(a), _named_masks(b)
    return PlanComparison(
        {name: _compare_masks(first[name], second[name], f"{name!r}") for name in first}
    )


class OverlapMatrix(NamedTuple):
    """Pairwise comparisons of many masks. Made by `overlap_matrix`."""

    names: tuple[str, ...]
    """The masks, in the order of rows and columns."""
    values: NDArray[np.float64]
    """The measure of each two: float64, symmetric, ones on the diagonal."""
    expected: NDArray[np.float64]
    """The measure of each two if they had exactly the expected number of entries in common."""
    measure: Measure
    """"jaccard" or "overlap"."""


def overlap_matrix(masks: Mapping[str, Any], *, measure: Measure = "jaccard") -> OverlapMatrix:
    """The Jaccard index, or the overlap of kept entries, of each two of some masks of one shape.

    Parameters
    ----------
    masks
        A mapping from names to masks of one shape (n1, n2), whatever `as_bipartite` takes; networkx
        graphs are compared by the labels of their nodes.
    measure : {"jaccard", "overlap"}
        common / union, or common / smaller.

    Raises
    ------
    InvalidInputError
        No masks, masks of different shapes, or an unknown measure.

    Notes
    -----
    One sparse product of the matrix whose rows are the masks with its transpose: with k masks it
    costs the sum over entries of the squared number of masks that keep it, and k**2 memory.

    Examples
    --------
    >>> import expandermask as xm
    >>> from expandermask.masks.compare import overlap_matrix
    >>> masks = {f"seed {s}": xm.graphs.random_biregular(96, 8, 2, rng=s) for s in range(3)}
    >>> overlap_matrix(masks).values.round(3)
    array([[1.   , 0.113, 0.129],
           [0.113, 1.   , 0.174],
           [0.129, 0.174, 1.   ]])
    """
    if measure not in ("jaccard", "overlap"):
        raise InvalidInputError(f"measure must be 'jaccard' or 'overlap', got {measure!r}")
    if not masks:
        raise InvalidInputError("masks is empty; give at least one")
    graphs = dict(zip(masks, as_aligned(list(masks.values())), strict=True))
    names, every = tuple(graphs), tuple(graphs.values())
    for name, graph in graphs.items():
        _require_same_shape(every[0], graph, f"{names[0]!r} and {name!r}")
    sizes = np.array([graph.num_edges for graph in every], dtype=np.float64)
    expected = np.outer(sizes, sizes) / (every[0].n1 * every[0].n2)
    np.fill_diagonal(expected, sizes)
    return OverlapMatrix(
        names,
        _measured(_common_entries(every), sizes, measure),
        _measured(expected, sizes, measure),
        measure,
    )


def _is_plan(x: Any) -> bool:
    """Whether this is a plan or mapping of masks. scipy's DOK matrices are mappings too."""
    return isinstance(x, Mapping) and not hasattr(x, "tocsr")


def _compare_masks(mask_a: Any, mask_b: Any, what: str) -> MaskComparison:
    try:
        a, b = as_aligned([mask_a, mask_b])
    except InvalidInputError as error:
        raise type(error)(f"masks {what}: {error}") from None
    _require_same_shape(a, b, what)
    return MaskComparison(
        n1=a.n1,
        n2=a.n2,
        entries=_overlap(_cells(a), _cells(b), a.n1 * a.n2),
        left=_overlap(np.flatnonzero(a.left_degrees), np.flatnonzero(b.left_degrees), a.n1),
        right=_overlap(np.flatnonzero(a.right_degrees), np.flatnonzero(b.right_degrees), a.n2),
        relabelled_std=math.sqrt(relabelled_variance(a, b)),
    )


def relabelled_variance(a: BipartiteGraph, b: BipartiteGraph) -> Fraction:
    """Variance of the common entries with b's rows and columns in uniformly random order."""
    n1, n2 = a.n1, a.n2
    cells = n1 * n2
    mean = Fraction(a.num_edges * b.num_edges, cells)
    pairs = [x * y for x, y in zip(_pairs(a), _pairs(b), strict=True)]
    # A side of one vertex has no two entries apart on it, so what max guards is 0 / 1.
    ways = (cells * max(1, n2 - 1), cells * max(1, n1 - 1), cells * max(1, (n1 - 1) * (n2 - 1)))
    return mean - mean**2 + sum(Fraction(x, way) for x, way in zip(pairs, ways, strict=True))


def _pairs(graph: BipartiteGraph) -> tuple[int, int, int]:
    """Ordered pairs of entries in one row, in one column, in different rows and columns."""
    rows, columns = (
        int(degrees @ (degrees - 1)) for degrees in (graph.left_degrees, graph.right_degrees)
    )
    return rows, columns, graph.num_edges * (graph.num_edges - 1) - rows - columns


def _cells(graph: BipartiteGraph) -> NDArray[np.int64]:
    """The kept entries as numbers row * n2 + column, ascending."""
    return graph.lefts * graph.n2 + graph.rights


def _overlap(a: NDArray[np.int64], b: NDArray[np.int64], size: int) -> Overlap:
    common = np.intersect1d(a, b, assume_unique=True).size
    return Overlap(kept_a=a.size, kept_b=b.size, common=common, size=size)


def _common_entries(graphs: Sequence[BipartiteGraph]) -> NDArray[np.float64]:
    """How many entries each two masks share: float64, integers below 2**53."""
    from scipy.sparse import csr_array

    cells = np.concatenate([_cells(graph) for graph in graphs])
    width = graphs[0].n1 * graphs[0].n2
    if width > 4 * cells.size:  # number only the entries that some mask keeps
        used, cells = np.unique(cells, return_inverse=True)
        width = max(1, used.size)
    starts = np.cumsum([0, *(graph.num_edges for graph in graphs)])
    kept = csr_array((np.ones(cells.size), cells, starts), shape=(len(graphs), width))
    return np.asarray((kept @ kept.T).toarray())


def _measured(
    common: NDArray[np.float64], sizes: NDArray[np.float64], measure: Measure
) -> NDArray[np.float64]:
    """The measure of each two masks of these sizes with so many entries in common."""
    if measure == "jaccard":
        whole = np.add.outer(sizes, sizes) - common
    else:
        whole = np.minimum.outer(sizes, sizes)
    ratio: NDArray[np.float64] = np.divide(common, whole, out=np.ones_like(common), where=whole > 0)
    return ratio


def _named_masks(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The masks of a plan or mapping, by ``module.A`` and ``module.B`` where they come in pairs."""
    named: dict[str, Any] = {}
    for name, value in plan.items():
        named |= {f"{name}.A": value.a, f"{name}.B": value.b} if _is_pair(value) else {name: value}
    return named


def _is_pair(value: Any) -> bool:
    return isinstance(value, MaskPair)


def _require_same_names(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    if not a and not b:
        raise InvalidInputError("both plans are empty; there is nothing to compare")
    lacks = [
        f"{who} lacks {', '.join(repr(name) for name in missing[:4])}"
        + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        for who, missing in (
            ("a", [name for name in b if name not in a]),
            ("b", [name for name in a if name not in b]),
        )
        if missing
    ]
    if lacks:
        raise InvalidInputError(f"the plans must have the same modules: {'; '.join(lacks)}")
    for name in a:
        if _is_pair(a[name]) != _is_pair(b[name]):
            raise InvalidInputError(
                f"module {name!r} is a pair of masks in one plan and a single mask in the other"
            )


def _require_same_shape(a: BipartiteGraph, b: BipartiteGraph, what: str) -> None:
    if (a.n1, a.n2) != (b.n1, b.n2):
        turned = (a.n1, a.n2) == (b.n2, b.n1)
        raise InvalidInputError(
            f"masks {what} must have one shape, got {a.n1} x {a.n2} and {b.n1} x {b.n2}"
            + ("; transpose one of them" if turned else "")
        )
