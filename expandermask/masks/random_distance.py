"""distance_to_random(): where a mask stands among random masks of its shape.

Three figures are compared: how much the degrees vary, how much the codegrees vary, and the norm of
the mask less its density, which bounds how unevenly it mixes and is sigma_2 of a biregular mask. A
good expander mask has less of each than chance gives; a tiled, banded or row mask has more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from expandermask.certificates import limits
from expandermask.errors import (
    InfeasibleShapeError,
    InvalidInputError,
    NotBiregularError,
    check_integer,
    require_memory,
)
from expandermask.files import write_document
from expandermask.graphs.bipartite import BipartiteGraph, as_bipartite, from_ones
from expandermask.graphs.random import RandomState, derive_seed, draw_seed, random_biregular
from expandermask.masks._support_kernels import random_cells
from expandermask.tables import Tabled
from expandermask.threads import one_blas_thread

FORMAT = "expandermask distance to random"
FORMAT_VERSION = 1

Null = Literal["biregular", "uniform"]
_DIGITS = 12
"""Decimals kept of a squared norm over its ceiling, so that equal ones tie for all rounding."""

_CELL_LIMIT = 2**32


@dataclass(frozen=True)
class Standing:
    """One figure of a mask among the same figure of random masks."""

    value: float
    """The mask's own."""
    mean: float
    """Mean over the random masks."""
    std: float
    """Standard deviation over the random masks (n - 1 in the denominator)."""
    below: float
    """Fraction of the random masks with a smaller figure, ties counted half."""

    @property
    def z_score(self) -> float | None:
        """(value - mean) / std; None where all random masks agree."""
        return (self.value - self.mean) / self.std if self.std > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "z_score": self.z_score}

    def __str__(self) -> str:
        z_score = "z undefined" if self.z_score is None else f"z {self.z_score:.2f}"
        return (
            f"{self.value:.4g}, random {self.mean:.4g} +- {self.std:.2g}: {z_score}, "
            f"above {100 * self.below:.4g} % of them"
        )


@dataclass(frozen=True)
class RandomDistance(Tabled):
    """Where a mask stands among random masks. Made by `distance_to_random`."""

    n1: int
    """Rows of the mask."""
    n2: int
    """Columns of the mask."""
    kept: int
    """Number of entries."""
    null: Null
    """What the random masks are: uniform over "biregular" masks, or over all of so many entries."""
    draws: int
    """How many were drawn."""
    seed: int
    """The seed they were drawn from."""
    left_degrees: Standing
    """Variance of the row degrees, over all rows."""
    right_degrees: Standing
    """Variance of the column degrees, over all columns."""
    codegrees: Standing
    """Variance, over all pairs of vertices of the smaller side, of their codegree: the number of
    vertices joined to both, an off-diagonal entry of the Gram matrix."""
    mixing: Standing
    """Spectral norm of M - p J, with p = kept / (n1 n2) the density: sigma_2 of a biregular mask.
    Every block of s rows and t columns has p s t entries, give or take ``mixing`` sqrt(s t)."""
    limit: float | None
    """The proved limit no biregular mask of this shape and number of entries has ``mixing`` below;
    None where the mask is not biregular, or has a degree 1."""

    def to_dict(self) -> dict[str, Any]:
        """Everything above, ready for JSON."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        standings = {k: v.to_dict() for k, v in data.items() if isinstance(v, Standing)}
        return {**data, **standings}

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return write_document(FORMAT, FORMAT_VERSION, self.to_dict())

    def rows(self) -> list[tuple[str, str]]:
        """The figures as a table: names and values, as text."""
        limit = [] if self.limit is None else [("limit on sigma_2", f"{self.limit:.4g}")]
        return [
            ("shape", f"{self.n1} x {self.n2}, {self.kept:,} entries"),
            ("random masks", f"{self.draws} {self.null}, seed {self.seed}"),
            ("row degree variance", str(self.left_degrees)),
            ("column degree variance", str(self.right_degrees)),
            ("codegree variance", str(self.codegrees)),
            ("mixing (sigma_2)", str(self.mixing)),
            *limit,
        ]

    def __str__(self) -> str:
        among = f"{self.draws} {self.null} masks"
        return f"{self.n1}x{self.n2} among {among}: mixing {self.mixing}"


def distance_to_random(
    graph_or_mask: Any,
    *,
    null: Null | None = None,
    draws: int = 100,
    rng: RandomState = None,
    progress: bool = False,
) -> RandomDistance:
    """Where a mask stands among random masks of its shape: degrees, codegrees, mixing.

    Parameters
    ----------
    graph_or_mask
        Whatever `as_bipartite` takes, shape (n1, n2), with at least one entry.
    null : {"biregular", "uniform"}, optional
        What to draw: "biregular" masks of the same degrees (`random_biregular`), or "uniform" ones
        with as many entries anywhere: Bernoulli masks, given their number of entries. Left out,
        "biregular" for a biregular mask and "uniform" for any other.
    draws : int
        How many random masks to draw, at least 2.
    rng : None, int or numpy.random.Generator
        The seed of the draws.
    progress : bool
        Show a progress bar.

    Raises
    ------
    InvalidInputError
        No mask, no entries, draws below 2, or an unknown null.
    NotBiregularError
        null="biregular" for a mask that is not.
    TooLargeError
        The dense codegree matrix does not fit in memory.

    Notes
    -----
    With n = min(n1, n2), each draw costs O(kept * degree + n**3), and for "uniform" O(n1 n2) more.
    The means, deviations and fractions are estimates from the draws: a fraction of 0 says that the
    chance of a random mask as low is at most about 3 / draws (with 95 % confidence). z-scores are
    no p-values: none of these figures is normally distributed on small masks. The variance of the
    codegrees is what balanced designs make least, see ``docs/theory/balance.md``. The bound that
    ``mixing`` gives is the expander mixing lemma, for biregular graphs in Haemers, "Interlacing
    eigenvalues and graphs", Linear Algebra and its Applications 226-228, 1995, section 5.

    Examples
    --------
    >>> import expandermask as xm
    >>> from expandermask.masks.random_distance import distance_to_random
    >>> print(distance_to_random(xm.ramanujan_graph(768, 8, 2, rng=0), rng=0).codegrees)
    0.2449, random 20.35 +- 6.2: z -3.25, above 0 % of them
    """
    graph = as_bipartite(graph_or_mask)
    if graph.num_edges == 0:
        raise InvalidInputError(f"the {graph.n1} x {graph.n2} mask has no entries; it needs one")
    null = _checked_null(graph, null)
    draws = check_integer("draws", draws, minimum=2)
    if null == "uniform" and graph.n1 * graph.n2 >= _CELL_LIMIT:
        raise InvalidInputError(
            f"null='uniform' draws from masks below 2**32 cells, got {graph.n1} x {graph.n2}"
        )
    size = min(graph.n1, graph.n2)
    require_memory(32 * size**2, f"codegrees of a smaller side of {size} vertices")
    seed = draw_seed(rng)
    seeds = (derive_seed(seed, "draw", k) for k in range(draws))
    bar = tqdm(seeds, total=draws, desc="random masks", disable=not progress, unit="mask")
    with one_blas_thread(size):
        own = _figures(graph)
        random = np.array([_figures(_draw(graph, null, each)) for each in bar])
    left, right, codegrees, mixing = (
        _standing(value, column) for value, column in zip(own, random.T, strict=True)
    )
    return RandomDistance(
        n1=graph.n1,
        n2=graph.n2,
        kept=graph.num_edges,
        null=null,
        draws=draws,
        seed=seed,
        left_degrees=left,
        right_degrees=right,
        codegrees=codegrees,
        mixing=mixing,
        limit=_limit(graph),
    )


def _checked_null(graph: BipartiteGraph, null: Null | None) -> Null:
    """``null`` itself, or the closest fitting one where it is None."""
    if null not in (None, "biregular", "uniform"):
        raise InvalidInputError(f"null must be 'biregular' or 'uniform', got {null!r}")
    if null == "biregular" and not _is_biregular(graph):
        try:
            graph.biregular()
        except NotBiregularError as error:
            raise NotBiregularError(f"{error}; null='uniform' takes any mask") from None
    return null or ("biregular" if _is_biregular(graph) else "uniform")


def _is_biregular(graph: BipartiteGraph) -> bool:
    """Whether all rows, and all columns, have equally many entries."""
    left, right = graph.left_degrees, graph.right_degrees
    return bool(left.min() == left.max() and right.min() == right.max())


def _draw(graph: BipartiteGraph, null: Null, seed: int) -> BipartiteGraph:
    n1, n2 = graph.n1, graph.n2
    if null == "biregular":
        return as_bipartite(random_biregular(n1, n2, graph.num_edges // n1, rng=seed))
    cells = random_cells(n1 * n2, graph.num_edges, np.uint64(seed))
    return from_ones(cells // n2, cells % n2, (n1, n2))


def _figures(graph: BipartiteGraph) -> tuple[float, float, float, float]:
    """The variances of row degrees, column degrees and codegrees, and the norm of M - p J."""
    rows, columns = graph.left_degrees, graph.right_degrees
    matrix = graph.biadjacency().astype(np.float64)
    long, short = rows, columns
    if graph.n1 < graph.n2:
        matrix, long, short = matrix.T.tocsr(), columns, rows
    gram = (matrix.T @ matrix).toarray()  # integers, exact in floats
    codegrees = gram[np.triu_indices_from(gram, 1)].astype(np.int64)
    norm = _norm_less_density(gram, short, graph.num_edges, long.size)
    return _variance(rows), _variance(columns), _variance(codegrees), norm


def _variance(values: NDArray[np.int64]) -> float:
    """Population variance, from exact integer sums; 0 of no values."""
    n, total = values.size, int(values.sum())
    return (n * int(values @ values) - total**2) / n**2 if n else 0.0


def _norm_less_density(
    gram: NDArray[np.float64], degrees: NDArray[np.int64], kept: int, n: int
) -> float:
    """The spectral norm of M - p J, from M'M, the column degrees of M and its n rows."""
    from scipy.linalg import eigvalsh

    size = degrees.size
    density = kept / (n * size)
    less = gram - density * np.add.outer(degrees, degrees) + density**2 * n
    square = float(eigvalsh(less, subset_by_index=[size - 1, size - 1])[0])
    return math.sqrt(kept * max(0.0, round(square / kept, _DIGITS)))


def _standing(value: float, random: NDArray[np.float64]) -> Standing:
    below = np.count_nonzero(random < value) + np.count_nonzero(random == value) / 2
    # Equal figures have no deviation; the mean of equal floats may round, and show one.
    std = float(random.std(ddof=1)) if random.min() < random.max() else 0.0
    return Standing(value, float(random.mean()), std, float(below / random.size))


def _limit(graph: BipartiteGraph) -> float | None:
    if not _is_biregular(graph):
        return None
    try:
        return math.sqrt(limits(graph.n1, graph.n2, graph.num_edges // graph.n1).best)
    except InfeasibleShapeError:
        return None
