"""Biregular bipartite graphs: the one value everything else in the library takes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expandermask.errors import (
    FileFormatError,
    InvalidInputError,
    NotBiregularError,
    check_integer,
    check_shape,
    require_memory,
)
from expandermask.graphs import _kernels
from expandermask.tables import html_table

if TYPE_CHECKING:
    import networkx as nx
    import scipy.sparse
    import torch


@dataclass(frozen=True)
class Recipe:
    """How a graph was made: everything needed to make it again, bit for bit.

    ``algorithm`` and ``version`` name the generator, ``seed`` its 64-bit seed (0 for one that takes
    none). A covering also keeps the recipe of the graph it covers, ``base``.
    """

    algorithm: str
    version: int
    n1: int
    n2: int
    d1: int
    seed: int = 0
    base: Recipe | None = None

    def under(
        self, algorithm: str, version: int, n1: int, n2: int, d1: int, seed: int = 0
    ) -> Recipe | None:
        """A recipe that rests on this one; None where a file may hold no more bases in a row."""
        depth, below = 1, self.base
        while below is not None:
            depth, below = depth + 1, below.base
        if depth > _MAX_BASES:
            return None
        return Recipe(algorithm, version, n1, n2, d1, seed, base=self)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values; ``base`` is there only where it is not None."""
        numbers = {name: getattr(self, name) for name in _RECIPE_FIELDS}
        return numbers if self.base is None else {**numbers, "base": self.base.to_dict()}

    @classmethod
    def from_dict(cls, data: object) -> Recipe:
        """Read a recipe back; `FileFormatError` unless the fields are exactly the expected ones."""
        return cls._read(data, _MAX_BASES)

    @classmethod
    def _read(cls, data: object, bases: int) -> Recipe:
        if not isinstance(data, dict) or set(data) - {"base"} != set(_RECIPE_FIELDS):
            raise FileFormatError(
                f"a recipe must have exactly the fields {sorted(_RECIPE_FIELDS)}, and may have base"
            )
        if not isinstance(data["algorithm"], str):
            raise FileFormatError(f"recipe algorithm must be a string, got {data['algorithm']!r}")
        if "base" in data and bases == 0:
            raise FileFormatError(f"a recipe must rest on at most {_MAX_BASES} bases in a row")
        try:
            numbers = {k: check_integer(k, data[k], minimum=0) for k in _RECIPE_FIELDS[1:]}
            if max(numbers.values()) >= 2**64:
                raise InvalidInputError("every number must be below 2**64")
        except InvalidInputError as error:
            raise FileFormatError(f"recipe: {error}") from None
        base = cls._read(data["base"], bases - 1) if "base" in data else None
        return cls(data["algorithm"], **numbers, base=base)


TRANSPOSE = "transpose"
_RECIPE_FIELDS = ("algorithm", "version", "n1", "n2", "d1", "seed")
_MAX_BASES = 8


class BiregularGraph:
    """A simple bipartite graph with d1 edges at each left and d2 at each right vertex.

    Immutable; equality and hash go by content (sizes and edges), never by recipe.

    Parameters
    ----------
    neighbors : integer array, shape (n1, d1)
        Row i holds the right neighbours, in [0, n2), of left vertex i; the order within a row does
        not matter (rows are stored sorted).
    n2 : int
        Number of right vertices; ``n1 * d1`` must be a multiple of it.
    recipe : Recipe, optional
        How the graph was made, if it can be made again from a seed.

    Raises
    ------
    InvalidInputError
        Not a 2-D integer array, a label outside [0, n2), or a repeated label (parallel edges).
    InfeasibleShapeError, NotBiregularError
        The right degrees cannot be, or are not, all equal.

    Examples
    --------
    >>> from expandermask import BiregularGraph
    >>> square = BiregularGraph([[0, 1], [0, 1]], 2)
    >>> square
    BiregularGraph(n1=2, n2=2, d1=2, d2=2)
    >>> square.mask()
    array([[1, 1],
           [1, 1]], dtype=uint8)
    """

    __slots__ = ("__dict__", "__weakref__")

    neighbors: NDArray[np.int32]
    """Right neighbours of each left vertex: int32, shape (n1, d1), rows ascending, read-only."""
    n2: int
    """Number of right vertices."""
    recipe: Recipe | None
    """How to make the graph again, or None for a graph that was given edge by edge."""

    def __init__(self, neighbors: ArrayLike, n2: int, *, recipe: Recipe | None = None) -> None:
        rows = _label_array(neighbors)
        n1, n2, d1, d2 = check_shape(rows.shape[0], n2, rows.shape[1])
        if rows.min() < 0 or rows.max() >= n2:
            raise InvalidInputError(
                f"neighbors must lie in [0, n2) = [0, {n2}), got {rows.min()} to {rows.max()}"
            )
        rows = np.sort(rows, axis=1)
        if d1 > 1 and (repeated := np.flatnonzero((rows[:, 1:] == rows[:, :-1]).any(axis=1))).size:
            raise InvalidInputError(
                f"neighbors of left vertex {repeated[0]} repeat a label (parallel edges): "
                f"{rows[repeated[0]].tolist()}"
            )
        degrees = np.bincount(rows.ravel(), minlength=n2)
        if degrees.min() != degrees.max():
            raise NotBiregularError(
                f"right degrees must all be d2 = n1*d1/n2 = {d2}, "
                f"got {degrees.min()} to {degrees.max()}"
            )
        self._set(rows.astype(np.int32), n2, recipe)

    @classmethod
    def _trusted(
        cls, neighbors: NDArray[np.int32], n2: int, recipe: Recipe | None = None
    ) -> BiregularGraph:
        """Wrap an array that is already valid and row-sorted, without checking it again."""
        graph = object.__new__(cls)
        graph._set(neighbors, n2, recipe)
        return graph

    def _set(self, neighbors: NDArray[np.int32], n2: int, recipe: Recipe | None) -> None:
        neighbors.flags.writeable = False
        self.__dict__.update(neighbors=neighbors, n2=n2, recipe=recipe)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"BiregularGraph is immutable; cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"BiregularGraph is immutable; cannot delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return BiregularGraph._trusted, (self.neighbors, self.n2, self.recipe)

    # -- sizes -------------------------------------------------------------------------------

    @property
    def n1(self) -> int:
        """Number of left vertices."""
        return int(self.neighbors.shape[0])

    @property
    def d1(self) -> int:
        """Degree of every left vertex."""
        return int(self.neighbors.shape[1])

    @property
    def d2(self) -> int:
        """Degree of every right vertex, n1 * d1 / n2."""
        return self.n1 * self.d1 // self.n2

    @property
    def num_edges(self) -> int:
        """Number of edges, n1 * d1."""
        return self.n1 * self.d1

    # -- identity ----------------------------------------------------------------------------

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the sizes and the sorted edges; the same on every platform.

        Hashed are the ASCII line ``expandermask graph n1 n2 d1`` with a newline, then the sorted
        neighbour rows as little-endian unsigned integers of 1, 2 or 4 bytes, the least that holds
        n2 - 1.
        """
        header = f"expandermask graph {self.n1} {self.n2} {self.d1}\n".encode()
        label = np.min_scalar_type(self.n2 - 1).newbyteorder("<")
        return hashlib.sha256(header + self.neighbors.astype(label).tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BiregularGraph):
            return NotImplemented
        return self.n2 == other.n2 and np.array_equal(self.neighbors, other.neighbors)

    def __hash__(self) -> int:
        return int(self.digest[:15], 16)

    def __repr__(self) -> str:
        return f"BiregularGraph(n1={self.n1}, n2={self.n2}, d1={self.d1}, d2={self.d2})"

    def _repr_html_(self) -> str:
        made = "edge by edge" if self.recipe is None else self.recipe.algorithm
        return html_table(
            [
                ("shape", f"{self.n1} x {self.n2}"),
                ("degrees", f"d1 = {self.d1}, d2 = {self.d2}"),
                ("edges", f"{self.num_edges}"),
                ("made by", made),
                ("sha256", self.digest),
            ]
        )

    # -- what it becomes ---------------------------------------------------------------------

    def mask(self) -> NDArray[np.uint8]:
        """The biadjacency matrix as a dense 0/1 array: uint8, shape (n1, n2), C order."""
        require_memory(self.n1 * self.n2, f"a dense {self.n1} x {self.n2} uint8 mask")
        dense = np.zeros((self.n1, self.n2), dtype=np.uint8)
        dense[np.arange(self.n1)[:, None], self.neighbors] = 1
        return dense

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a BiregularGraph has no dense array to share; copy=False is refused")
        dense = self.mask()
        return dense if dtype is None else dense.astype(dtype)

    def biadjacency(self) -> scipy.sparse.csr_array:
        """The biadjacency matrix as a scipy.sparse CSR array: int32 ones, shape (n1, n2)."""
        from scipy.sparse import csr_array

        starts = np.arange(0, self.num_edges + 1, self.d1)
        ones = np.ones(self.num_edges, dtype=np.int32)
        return csr_array((ones, self.neighbors.ravel(), starts), shape=(self.n1, self.n2))

    def gram(self) -> NDArray[np.int64]:
        """The Gram (codegree) matrix M'M: int64, shape (n2, n2). Costs n1 * d1**2 / 2 additions."""
        require_memory(8 * self.n2**2, f"the {self.n2} x {self.n2} Gram matrix")
        gram: NDArray[np.int64] = _kernels.codegrees(self.neighbors, self.n2)
        return gram

    def transpose(self) -> BiregularGraph:
        """The same graph with the sides exchanged: n2 left vertices of degree d2.

        Its recipe rests on this graph's, if there is one; transposing twice gives that back.
        """
        recipe = self.recipe
        if recipe is not None and recipe.algorithm == TRANSPOSE:
            recipe = recipe.base
        elif recipe is not None:
            recipe = recipe.under(TRANSPOSE, 1, self.n2, self.n1, self.d2)
        rows = _kernels.transpose_rows(self.neighbors, self.n2)
        return BiregularGraph._trusted(rows, self.n1, recipe)

    def to_networkx(self) -> nx.Graph:
        """A networkx Graph: left vertices 0..n1-1 with ``bipartite=0``, right n1.. with ``=1``."""
        import networkx as nx

        graph = nx.Graph()
        graph.add_nodes_from(range(self.n1), bipartite=0)
        graph.add_nodes_from(range(self.n1, self.n1 + self.n2), bipartite=1)
        lefts = np.repeat(np.arange(self.n1), self.d1)
        rights = self.neighbors.ravel().astype(np.int64) + self.n1
        graph.add_edges_from(zip(lefts.tolist(), rights.tolist(), strict=True))
        return graph

    def to_torch(self) -> torch.Tensor:
        """The mask as a torch tensor: uint8, shape (n1, n2)."""
        import torch

        return torch.from_numpy(self.mask())

    # -- where it comes from -----------------------------------------------------------------

    @classmethod
    def from_mask(cls, mask: Any) -> BiregularGraph:
        """Read a dense 0/1 mask: any 2-D array or tensor of exact zeros and ones.

        Raises `InvalidInputError` for an empty array, NaN or any entry other than 0 and 1, and
        `NotBiregularError` if rows or columns differ in degree.
        """
        ones = dense_ones(mask)
        degrees = ones.sum(axis=1)
        _require_equal("row", degrees)
        return cls(np.nonzero(ones)[1].reshape(ones.shape[0], degrees[0]), ones.shape[1])

    @classmethod
    def from_biadjacency(cls, matrix: Any) -> BiregularGraph:
        """Read a scipy.sparse biadjacency matrix of ones (repeated entries add up and are refused).

        Explicitly stored zeros are no edges. Raises as `from_mask` does.
        """
        from scipy.sparse import issparse

        if not issparse(matrix):
            raise InvalidInputError(
                f"expected a scipy.sparse matrix, got {type(matrix).__name__}; "
                "for a dense array use from_mask"
            )
        rows, columns = sparse_ones(matrix)
        n1, n2 = matrix.shape
        degrees = np.bincount(rows, minlength=n1)
        _require_equal("row", degrees)
        return cls(columns.reshape(n1, degrees[0]), n2)

    @classmethod
    def from_networkx(cls, graph: nx.Graph) -> BiregularGraph:
        """Read a networkx graph whose nodes carry ``bipartite=0`` (left) or ``1`` (right).

        Vertices are numbered in the graph's own node order, side by side. Raises
        `InvalidInputError` for directed graphs, self-loops, parallel edges, missing ``bipartite``
        attributes and edges inside one side.
        """
        lefts, rights = sides_of(graph)
        column = {node: j for j, node in enumerate(rights)}
        lists = [[column[v] for v in graph.neighbors(u)] for u in lefts]
        _require_equal("left vertex", np.array([len(row) for row in lists]))
        return cls(np.array(lists, dtype=np.int64), len(rights))


Builder = Callable[[Recipe, BiregularGraph | None], BiregularGraph]
"""Follows a recipe; the graph of the recipe's own base, if it has one, comes second."""


def is_networkx(x: Any) -> bool:
    """Whether this is a networkx graph, of any kind."""
    return hasattr(x, "is_directed") and hasattr(x, "nodes")


WHAT_IS_TAKEN = (
    "a 2-D array or tensor of zeros and ones, a scipy.sparse matrix of ones, a networkx graph, or "
    "a BipartiteGraph or BiregularGraph"
)


def dense_ones(mask: Any) -> NDArray[np.bool_]:
    """Where a dense mask, an array or tensor of exact zeros and ones, holds ones."""
    dense = _dense(mask)
    ones: NDArray[np.bool_] = dense != 0
    if not np.array_equal(dense, ones):
        row, column = np.argwhere(dense != ones)[0].tolist()
        raise InvalidInputError(
            f"a mask holds only zeros and ones, got {dense[row, column].item()!r} at row {row}, "
            f"column {column}; for the support of weights take weights != 0"
        )
    return ones


def sparse_ones(matrix: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows and columns, row by row, of the ones in a scipy.sparse matrix of zeros and ones."""
    from scipy.sparse import coo_array

    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InvalidInputError(
            f"a biadjacency matrix is 2-D and not empty, got shape {matrix.shape}"
        )
    entries = coo_array(matrix)
    stored = entries.data != 0
    if (bad := entries.data[stored & (entries.data != 1)]).size:
        raise InvalidInputError(f"a biadjacency matrix holds only zeros and ones, got {bad[0]}")
    rows, columns = (index[stored].astype(np.int64) for index in entries.coords)
    cells, times = np.unique(rows * matrix.shape[1] + columns, return_counts=True)
    if times.size and times.max() > 1:
        raise InvalidInputError(f"entries repeat (parallel edges): got {times.max()} of one")
    return cells // matrix.shape[1], cells % matrix.shape[1]


def _label_array(neighbors: ArrayLike) -> NDArray[np.int64]:
    """``neighbors`` as a non-empty 2-D int64 array, refusing floats, bools and objects."""
    rows = as_array("neighbors", neighbors)
    if rows.ndim != 2 or rows.size == 0:
        raise InvalidInputError(
            f"neighbors must be a non-empty 2-D array (n1, d1), got shape {rows.shape}"
        )
    if rows.dtype.kind not in "iu":
        raise InvalidInputError(f"neighbors must be integers, got dtype {rows.dtype}")
    return rows.astype(np.int64)


def as_array(name: str, value: Any) -> NDArray[Any]:
    """``value`` as an array, or an error that names the argument."""
    if hasattr(value, "to_networkx") and not hasattr(value, "__array__"):
        raise InvalidInputError(
            f"a mask is {WHAT_IS_TAKEN}; got {type(value).__name__} of {type(value).__module__}, "
            "which has to_networkx()"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidInputError(f"{name} is a masked array; say what its holes are: .filled(0)")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{name} cannot be read as an array: {error}") from None
    if array.dtype.kind == "O" and array.ndim == 0:
        raise InvalidInputError(f"a mask is {WHAT_IS_TAKEN}; got {type(value).__name__}")
    return array


def _dense(mask: Any) -> NDArray[Any]:
    """``mask`` as a non-empty 2-D numeric array; torch tensors come to the CPU first."""
    if hasattr(mask, "detach"):
        mask = _from_tensor(mask)
    if isinstance(mask, str | os.PathLike):
        raise InvalidInputError(
            f"a mask is an array, tensor or graph, got the path {os.fspath(mask)!r}; read it with "
            "expandermask.masks.load_mask"
        )
    dense = as_array("mask", mask)
    if dense.ndim != 2 or dense.size == 0:
        raise InvalidInputError(f"a mask must be a non-empty 2-D array, got shape {dense.shape}")
    if dense.dtype.kind not in "biuf":
        raise InvalidInputError(f"a mask must be numeric, got dtype {dense.dtype}")
    return dense


def _from_tensor(mask: torch.Tensor) -> NDArray[Any]:
    """A torch tensor as an array; half precisions, which numpy may lack, as float64."""
    layout = str(mask.layout)
    if mask.is_meta or layout != "torch.strided":
        kind = "on the meta device" if mask.is_meta else f"of layout {layout}"
        raise InvalidInputError(
            f"a mask tensor must be dense and hold data, this one is {kind}; use its to_dense()"
        )
    mask = mask.detach().cpu()
    array: NDArray[Any] = (mask.double() if mask.is_floating_point() else mask).numpy()
    return array


def _require_equal(what: str, degrees: NDArray[Any]) -> None:
    if degrees.min() != degrees.max() or degrees.min() == 0:
        raise NotBiregularError(
            f"{what} degrees must be equal and positive, got {degrees.min()} to {degrees.max()}"
        )


def sides_of(graph: nx.Graph) -> tuple[list[Any], list[Any]]:
    """The left and right nodes by their ``bipartite`` attribute, refusing what is not simple."""
    if not is_networkx(graph):
        raise InvalidInputError(f"expected a networkx graph, got {type(graph).__name__}")
    if graph.is_directed():
        raise InvalidInputError("expected an undirected graph, got a directed one")
    sides: dict[int, list[Any]] = {0: [], 1: []}
    for node, side in graph.nodes(data="bipartite"):
        if side not in (0, 1):
            raise InvalidInputError(
                f"node {node!r} has bipartite={side!r}; every node needs bipartite=0 (left) or 1 "
                "(right), for example from networkx.bipartite.color"
            )
        sides[side].append(node)
    if not sides[0] or not sides[1]:
        raise InvalidInputError(
            f"both sides need vertices, got {len(sides[0])} left and {len(sides[1])} right"
        )
    _require_simple_across(graph)
    return sides[0], sides[1]


def _require_simple_across(graph: nx.Graph) -> None:
    """Every edge joins the two sides, and no two edges join the same pair."""
    seen = set()
    for u, v in graph.edges():
        if u == v:
            raise InvalidInputError(f"node {u!r} has a self-loop")
        if graph.nodes[u]["bipartite"] == graph.nodes[v]["bipartite"]:
            raise InvalidInputError(f"edge {u!r} - {v!r} joins two vertices of one side")
        if (pair := frozenset((u, v))) in seen:
            raise InvalidInputError(f"parallel edges {u!r} - {v!r}; a mask entry is 0 or 1")
        seen.add(pair)
