"""Masks that no recipe makes, as JSON: their indices in the smallest integers that hold them.

Two forms. Where every left vertex has all right vertices or none (rows or columns kept whole), the
numbers of those kept; otherwise the degrees of the left vertices and the right end of every edge.
The integers are little-endian, one after another, in base64.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import ExpanderMaskError, FileFormatError, TooLargeError, check_size
from expandermask.files import require_fields
from expandermask.graphs.bipartite import BipartiteGraph
from expandermask.graphs.rebuild import FILE_EDGES

Numbers = NDArray[np.int64]


def write_edges(graph: BipartiteGraph) -> dict[str, Any]:
    """The mask as JSON-ready values, with its SHA-256.

    Examples
    --------
    >>> import numpy as np
    >>> from expandermask.graphs.bipartite import as_bipartite
    >>> written = write_edges(as_bipartite(np.array([[1, 1], [0, 0], [1, 1]])))
    >>> written["n1"], written["n2"], written["kept"]
    (3, 2, 'AAI=')
    >>> read_edges(written, "mask").mask().tolist()
    [[1, 1], [0, 0], [1, 1]]
    """
    sizes = {"n1": graph.n1, "n2": graph.n2, "sha256": graph.digest}
    degrees = graph.left_degrees
    if np.isin(degrees, (0, graph.n2)).all():
        return sizes | {"kept": _encode(np.flatnonzero(degrees), graph.n1)}
    return sizes | {
        "degrees": _encode(degrees, graph.n2 + 1),
        "rights": _encode(graph.rights, graph.n2),
    }


def read_edges(data: object, what: str) -> BipartiteGraph:
    """Read `write_edges` back; `FileFormatError` unless it is such a mask and its hash fits.

    Raises `TooLargeError` as `declared_edges` does.
    """
    n1, n2, _ = declared_edges(data, what)
    fields: Any = data
    if "kept" in fields:
        graph = _from_kept(_decode(fields["kept"], n1, what), n1, n2, what)
    else:
        degrees = _decode(fields["degrees"], n2 + 1, what)
        graph = _from_degrees(degrees, _decode(fields["rights"], n2, what), n1, n2, what)
    if graph.digest != fields["sha256"]:
        raise FileFormatError(f"{what} hashes to {graph.digest}, the file says {fields['sha256']}")
    return graph


def declared_edges(data: object, what: str) -> tuple[int, int, int]:
    """n1, n2 and the number of edges that `write_edges` said, before any are read.

    Raises `FileFormatError` for other fields, and `TooLargeError` for more vertices or edges than a
    mask from a file may have: a few bytes can name any number of whole rows.
    """
    lines = isinstance(data, dict) and "kept" in data
    arrays: dict[str, type] = {"kept": str} if lines else {"degrees": str, "rights": str}
    fields = require_fields(data, {"n1": int, "n2": int, "sha256": str, **arrays}, what)
    try:
        n1, n2 = check_size("n1", fields["n1"]), check_size("n2", fields["n2"])
    except ExpanderMaskError as error:
        raise FileFormatError(f"{what}: {error}") from None
    edges = _length(fields["kept"], n1) * n2 if lines else _length(fields["rights"], n2)
    if max(n1, n2, edges) > FILE_EDGES:
        raise TooLargeError(
            f"{what}: n1={n1}, n2={n2} and {edges} edges; a mask read from a file has at most "
            f"{FILE_EDGES} of each"
        )
    return n1, n2, edges


def _from_kept(kept: Numbers, n1: int, n2: int, what: str) -> BipartiteGraph:
    if (np.diff(kept) <= 0).any():
        raise FileFormatError(f"{what}: the numbers kept must ascend")
    degrees = np.zeros(n1, dtype=np.int64)
    degrees[kept] = n2
    return BipartiteGraph(_starts(degrees), np.tile(np.arange(n2, dtype=np.int32), len(kept)), n2)


def _from_degrees(degrees: Numbers, rights: Numbers, n1: int, n2: int, what: str) -> BipartiteGraph:
    starts = _starts(degrees)
    if len(degrees) != n1 or starts[-1] != len(rights):
        raise FileFormatError(
            f"{what}: {len(degrees)} degrees of {n1}, which add up to {starts[-1]}, for "
            f"{len(rights)} edges"
        )
    graph = BipartiteGraph(starts, rights.astype(np.int32), n2)
    if (np.diff(graph.lefts * n2 + rights) <= 0).any():
        raise FileFormatError(f"{what}: the neighbours of a vertex must ascend")
    return graph


def _starts(degrees: Numbers) -> Numbers:
    return np.concatenate([[0], degrees.cumsum()]).astype(np.int64)


def _encode(numbers: NDArray[Any], limit: int) -> str:
    """Integers below ``limit`` as base64."""
    return base64.b64encode(numbers.astype(_dtype(limit)).tobytes()).decode("ascii")


def _decode(text: str, limit: int, what: str) -> Numbers:
    """`_encode` undone; `FileFormatError` for other text, or numbers from ``limit`` on."""
    try:
        data = base64.b64decode(text, validate=True)
        numbers = np.frombuffer(data, _dtype(limit)).astype(np.int64)
    except (binascii.Error, ValueError) as error:
        raise FileFormatError(f"{what}: its indices are no base64 integers: {error}") from None
    if numbers.size and numbers.max() >= limit:
        raise FileFormatError(f"{what}: index {numbers.max()} is not below {limit}")
    return numbers


def _length(text: str, limit: int) -> int:
    """How many integers below ``limit`` a base64 text holds."""
    return (len(text) * 3 // 4 - text[-2:].count("=")) // _dtype(limit).itemsize


def _dtype(limit: int) -> np.dtype[Any]:
    """The smallest unsigned integers that hold limit - 1."""
    return np.min_scalar_type(max(limit - 1, 0)).newbyteorder("<")
