"""Masks that are no certified graphs, as JSON.

Three forms. A Bernoulli mask: its density, seed and number of edges. Where every left vertex has
all right vertices or none (rows or columns kept whole): the numbers of those kept. Otherwise the
degrees of the left vertices and the right end of every edge. The integers are little-endian, in the
smallest type that holds them, one after another, in base64.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import ExpanderMaskError, FileFormatError, TooLargeError, check_size
from expandermask.files import require_fields
from expandermask.graphs.bipartite import BernoulliRecipe, BipartiteGraph, from_kept
from expandermask.graphs.rebuild import FILE_EDGES
from expandermask.masks.bernoulli import redraw

Numbers = NDArray[np.int64]

_FORMS: dict[str, dict[str, type]] = {
    "bernoulli": {"bernoulli": dict, "num_edges": int},
    "kept": {"kept": str},
    "rights": {"degrees": str, "rights": str},
}
"""The fields of each form, by the one that tells it."""


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
    if graph.recipe is not None:
        return sizes | {"num_edges": graph.num_edges, "bernoulli": asdict(graph.recipe)}
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
    n1, n2, edges = declared_edges(data, what)
    fields: Any = data
    if "bernoulli" in fields:
        graph = redraw(_recipe(fields["bernoulli"], what), n1, n2)
    elif "kept" in fields:
        kept = _decode(fields["kept"], n1, what)
        if (np.diff(kept) <= 0).any():
            raise FileFormatError(f"{what}: the numbers kept must ascend")
        graph = from_kept(kept, n1, n2)
    else:
        degrees = _decode(fields["degrees"], n2 + 1, what)
        graph = _from_degrees(degrees, _decode(fields["rights"], n2, what), n1, n2, what)
    if graph.num_edges != edges:
        raise FileFormatError(f"{what}: num_edges={edges}, and there are {graph.num_edges}")
    if graph.digest != fields["sha256"]:
        raise FileFormatError(f"{what} hashes to {graph.digest}, the file says {fields['sha256']}")
    return graph


def declared_edges(data: object, what: str) -> tuple[int, int, int]:
    """n1, n2 and the number of edges that `write_edges` said, before any are read.

    Raises `FileFormatError` for other fields, and `TooLargeError` for more vertices or edges than a
    mask from a file may have: a few bytes can name any number of whole rows, or of draws.
    """
    form = next((f for f in _FORMS if isinstance(data, dict) and f in data), "rights")
    fields = require_fields(data, {"n1": int, "n2": int, "sha256": str, **_FORMS[form]}, what)
    try:
        n1, n2 = check_size("n1", fields["n1"]), check_size("n2", fields["n2"])
    except ExpanderMaskError as error:
        raise FileFormatError(f"{what}: {error}") from None
    if form == "bernoulli":
        _recipe(fields["bernoulli"], what)
        if not 0 <= (edges := fields["num_edges"]) <= n1 * n2:
            raise FileFormatError(f"{what}: num_edges={edges!s:.40} of n1*n2={n1 * n2}")
        most = n1 * n2
    else:
        most = edges = (
            _length(fields["kept"], n1) * n2 if form == "kept" else _length(fields["rights"], n2)
        )
    if max(n1, n2, most) > FILE_EDGES:
        raise TooLargeError(
            f"{what}: n1={n1}, n2={n2} and {most} edges or draws; a mask read from a file has at "
            f"most {FILE_EDGES} of each"
        )
    return n1, n2, edges


def _recipe(data: object, what: str) -> BernoulliRecipe:
    what = f"{what}: bernoulli"
    fields = require_fields(data, {"density": (float, int), "seed": int, "version": int}, what)
    if fields["version"] != BernoulliRecipe.version:
        raise FileFormatError(
            f"{what}: version {fields['version']!s:.40}, and this library draws version "
            f"{BernoulliRecipe.version}"
        )
    if not 0 <= fields["seed"] < 2**64 or not 0 < fields["density"] <= 1:
        raise FileFormatError(f"{what}: seed or density is out of range: {fields!s:.200}")
    return BernoulliRecipe(float(fields["density"]), fields["seed"])


def _from_degrees(degrees: Numbers, rights: Numbers, n1: int, n2: int, what: str) -> BipartiteGraph:
    starts = np.concatenate([[0], degrees.cumsum()]).astype(np.int64)
    if len(degrees) != n1 or starts[-1] != len(rights):
        raise FileFormatError(
            f"{what}: {len(degrees)} degrees of {n1}, which add up to {starts[-1]}, for "
            f"{len(rights)} edges"
        )
    graph = BipartiteGraph(starts, rights.astype(np.int32), n2)
    if (np.diff(graph.lefts * n2 + rights) <= 0).any():
        raise FileFormatError(f"{what}: the neighbours of a vertex must ascend")
    return graph


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
