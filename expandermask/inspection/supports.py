"""The support of a mask from anywhere: where an array, tensor, matrix or graph is not zero.

What is inspected is a set of positions. Ones, booleans and weights come to the same thing; a stored
zero is no entry, and NaN or an infinity is refused, since a mask that holds one is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import InvalidInputError, TooLargeError, check_size, require_memory
from expandermask.graphs.bipartite import BipartiteGraph, as_bipartite, from_ones
from expandermask.graphs.biregular import BiregularGraph, as_array, is_networkx

if TYPE_CHECKING:
    import torch

Kind = Literal["graph", "boolean", "0/1", "weights"]
Array = NDArray[Any]

_CHUNK = 2**22
"""Entries looked at together, so that a tensor in a file is never whole in memory."""
_BYTES_PER_VERTEX = 80
"""What the scans of `inspect_mask` hold at most for each row and column."""
_BYTES_PER_ENTRY = 32
"""The same for each entry, or each zero where they are fewer."""
_MOST_ENTRIES = 2**36
"""Entries of a dense matrix that take about a minute to look at."""


@dataclass(frozen=True, eq=False)
class Support:
    """Where a matrix is not zero, and what it was made of."""

    shape: tuple[int, int]
    """Rows and columns."""
    graph: BipartiteGraph | BiregularGraph | None
    """Its entries, rows on the left; None if it is given by its zeros."""
    zeros: BipartiteGraph | None
    """Where it is zero: of a matrix with more entries than zeros."""
    dtype: str | None
    """The type of the values, as numpy and torch name it; None for a graph."""
    kind: Kind
    """What the values are: a graph's edges, booleans, zeros and ones, or weights."""

    @property
    def ones(self) -> int:
        """Number of entries."""
        if self.graph is not None:
            return self.graph.num_edges
        assert self.zeros is not None
        return self.shape[0] * self.shape[1] - self.zeros.num_edges

    def edges(self) -> BipartiteGraph:
        """The entries as a bipartite graph, which is made where only the zeros are there."""
        if self.graph is not None:
            return as_bipartite(self.graph)
        assert self.zeros is not None
        return complement(self.zeros)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file, of which rows are read when they are asked for."""

    shape: tuple[int, ...]
    dtype: str
    read_rows: Callable[[int, int], Array]
    """The rows from one number up to another, of a 2-D tensor: shape (rows, columns), numeric."""


def support_of(x: Any, what: str = "x") -> Support:
    """The support of one matrix; errors call it ``what``.

    Takes what `as_bipartite` takes, and also weights, sparse tensors and a `StoredTensor`. Raises
    `InvalidInputError` for anything else, for NaN and infinities, and for what is empty or not 2-D.
    """
    if isinstance(x, BiregularGraph | BipartiteGraph) or is_networkx(x):
        graph = x if isinstance(x, BiregularGraph) else as_bipartite(x)
        return Support((graph.n1, graph.n2), graph, None, None, "graph")
    if isinstance(x, StoredTensor):
        shape = _checked_shape(x.shape, what)
        return _scan(_by_rows(x.read_rows, shape), shape, x.dtype, what)
    if hasattr(x, "detach"):
        return _tensor_support(x, what)
    from scipy.sparse import coo_array, issparse

    if issparse(x):
        shape = _checked_shape(x.shape, what)
        entries = coo_array(x)
        return _sparse_support(entries.coords, entries.data, shape, entries.dtype.name, what)
    array = as_array(what, x)
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(f"{what} must hold real numbers, got dtype {array.dtype}")
    shape = _checked_shape(array.shape, what)
    return _scan(_by_rows(lambda i, j: array[i:j], shape), shape, array.dtype.name, what)


def complement(graph: BipartiteGraph) -> BipartiteGraph:
    """The graph of all pairs that are no edges."""
    n2, degrees = graph.n2, graph.left_degrees
    others = graph.n1 * n2 - graph.num_edges
    require_memory(12 * others, f"the {others:,} pairs of vertices that are no edges")
    step = max(1, _CHUNK // n2)
    parts = []
    for first in range(0, graph.n1, step):
        counts = degrees[first : first + step]
        columns = graph.rights[graph.starts[first] : graph.starts[first + len(counts)]]
        parts.append(_others(columns, counts, n2))
    return BipartiteGraph(_starts(n2 - degrees), np.concatenate(parts), n2)


def _checked_shape(shape: Iterable[int], what: str) -> tuple[int, int]:
    sizes = tuple(shape)
    if len(sizes) != 2 or 0 in sizes:
        raise InvalidInputError(f"{what} must be 2-D and not empty, got shape {sizes}")
    rows, columns = check_size(f"rows of {what}", sizes[0]), check_size("columns", sizes[1])
    require_memory(_BYTES_PER_VERTEX * (rows + columns), f"inspecting {rows} x {columns} entries")
    return rows, columns


def _by_rows(read_rows: Callable[[int, int], Array], shape: tuple[int, int]) -> Iterator[Array]:
    """All rows of a matrix, a chunk of them at a time."""
    step = max(1, _CHUNK // shape[1])
    for first in range(0, shape[0], step):
        yield read_rows(first, min(first + step, shape[0]))


def _scan(chunks: Iterable[Array], shape: tuple[int, int], dtype: str, what: str) -> Support:
    """The support of a matrix whose rows come in chunks: its entries or zeros, the fewer of them.

    Each chunk is kept the same way, so that at no time more than half of a matrix is.
    """
    if shape[0] * shape[1] > _MOST_ENTRIES:
        raise TooLargeError(
            f"{what} has {shape[0]} x {shape[1]} entries to look at; give a mask of more than "
            f"{_MOST_ENTRIES} as a scipy.sparse matrix"
        )
    n2, row, binary, kept = shape[1], 0, True, 0
    parts: list[tuple[Array, Array, bool]] = []
    for chunk in chunks:
        ones = chunk != 0
        if chunk.dtype.kind == "f" and not (finite := np.isfinite(chunk)).all():
            i, j = (int(k) for k in np.argwhere(~finite)[0])
            _refuse_entry(chunk[i, j], row + i, j, what)
        binary = binary and np.array_equal(chunk, ones)
        counts = np.count_nonzero(ones, axis=1)
        dense = 2 * int(counts.sum()) > ones.size
        columns = np.nonzero(~ones if dense else ones)[1].astype(np.int32)
        parts.append((columns, n2 - counts if dense else counts, dense))
        kept += len(columns)
        require_memory(_BYTES_PER_ENTRY * kept, f"inspecting the entries of {what}")
        row += len(chunk)
    kind: Kind = "boolean" if dtype == "bool" else "0/1" if binary else "weights"
    entries = sum(c.sum() if not dense else n2 * len(c) - c.sum() for _, c, dense in parts)
    zeros = bool(2 * entries > shape[0] * n2)
    degrees = np.concatenate([c if dense == zeros else n2 - c for _, c, dense in parts])
    rights = [columns if dense == zeros else _others(columns, c, n2) for columns, c, dense in parts]
    graph = BipartiteGraph(_starts(degrees), np.concatenate(rights), n2)
    return Support(shape, None if zeros else graph, graph if zeros else None, dtype, kind)


def _others(columns: Array, counts: Array, n2: int) -> Array:
    """The columns that rows do not have, given those they have and how many each has."""
    missing = np.ones((len(counts), n2), dtype=bool)
    missing[np.repeat(np.arange(len(counts)), counts), columns] = False
    return np.nonzero(missing)[1].astype(np.int32)


def _starts(degrees: Array) -> NDArray[np.int64]:
    """Where the neighbours of each row start, for the given degrees."""
    return np.concatenate([[0], degrees]).cumsum(dtype=np.int64)


def _sparse_support(
    places: tuple[Array, ...], values: Array, shape: tuple[int, int], dtype: str, what: str
) -> Support:
    """The support of a matrix given by entries in any order, none of them twice."""
    if values.dtype.kind not in "biuf":
        raise InvalidInputError(f"{what} must hold real numbers, got dtype {dtype}")
    if (broken := np.flatnonzero(~np.isfinite(values))).size:
        first = broken[0]
        _refuse_entry(values[first], int(places[0][first]), int(places[1][first]), what)
    stored = values != 0
    rows, columns = (index[stored].astype(np.int64) for index in places)
    graph = from_ones(rows, columns, shape)
    if (again := np.flatnonzero((np.diff(graph.rights) == 0) & (np.diff(graph.lefts) == 0))).size:
        place = int(graph.lefts[again[0]]), int(graph.rights[again[0]])
        raise InvalidInputError(
            f"{what} stores the entry {list(place)} twice (parallel edges); add such entries up "
            "with its sum_duplicates() first"
        )
    binary = bool((values[stored] == 1).all())
    kind: Kind = "boolean" if dtype == "bool" else "0/1" if binary else "weights"
    return Support(shape, graph, None, dtype, kind)


def _refuse_entry(value: Any, row: int, column: int, what: str) -> None:
    raise InvalidInputError(f"{what} holds {value} at [{row}, {column}]; entries must be finite")


def _tensor_support(tensor: torch.Tensor, what: str) -> Support:
    """The support of a torch tensor of any real dtype, dense or sparse, on any device."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta or tensor.is_complex() or tensor.is_quantized or tensor.is_nested:
        nested = "nested, " if tensor.is_nested else ""
        raise InvalidInputError(
            f"{what} must be a tensor of real numbers that holds its data, got {nested}dtype "
            f"{dtype} on the device {tensor.device}"
        )
    shape = _checked_shape(tensor.shape, what)
    tensor = tensor.detach()
    if str(tensor.layout) == "torch.strided":
        chunks = _by_rows(lambda i, j: _to_numpy(tensor[i:j], what), shape)
        return _scan(chunks, shape, dtype, what)
    import torch

    try:
        entries = tensor.to_sparse(layout=torch.sparse_coo).coalesce()
        rows, columns = entries.indices().cpu().numpy()  # one index only if it is partly dense
    except (RuntimeError, ValueError) as error:
        raise InvalidInputError(
            f"{what} has the layout {tensor.layout}, which cannot be read entry by entry "
            f"({error}); use its to_dense()"
        ) from None
    values = _to_numpy(entries.values(), what)
    return _sparse_support((rows, columns), values, shape, dtype, what)


def _to_numpy(tensor: torch.Tensor, what: str) -> Array:
    """A tensor as an array; the float types numpy lacks as float32, which holds them exactly."""
    wide = tensor.cpu()
    try:
        if wide.is_floating_point() and (wide.itemsize == 1 or "bfloat16" in str(wide.dtype)):
            wide = wide.float()
        array: Array = wide.numpy()
    except (RuntimeError, TypeError) as error:
        raise InvalidInputError(
            f"{what} has dtype {tensor.dtype}, which cannot be read ({error}); convert it to "
            "another, such as float32"
        ) from None
    return array
