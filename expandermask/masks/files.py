"""Mask files: JSON (recipe or edges, hash-checked), NumPy .npz (dense, hash-checked) and .npy.

A JSON mask holds its recipe where it has one, its neighbour lists where it has none, and the
SHA-256 of the graph in either case. A .npz or .npy from elsewhere is read as a dense 0/1 array.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expandermask.errors import ExpanderMaskError, FileFormatError, InvalidInputError
from expandermask.files import read_bytes, read_document, replacing, write_document, write_text
from expandermask.graphs.bipartite import as_graph
from expandermask.graphs.biregular import BiregularGraph, Recipe
from expandermask.graphs.rebuild import rebuild, require_modest

FORMAT = "expandermask mask"
FORMAT_VERSION = 1
SUFFIXES = (".npz", ".npy", ".json")
_MAGIC = (b"PK", b"\x93NUMPY")


def save_mask(path: str | os.PathLike[str], graph: Any) -> None:
    """Write a mask, whole or not at all; the ending of ``path`` chooses .npz, .npy or .json.

    ``graph`` is a `BiregularGraph` or a biregular mask as `certify` takes it.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from expandermask.graphs import heawood
    >>> from expandermask.masks import load_mask, save_mask
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_mask(pathlib.Path(folder) / "heawood.json", heawood())
    ...     load_mask(pathlib.Path(folder) / "heawood.json") == heawood()
    True
    """
    suffix, graph = _suffix(path), as_graph(graph)
    if suffix == ".json":
        write_text(path, _to_json(graph))
        return
    dense = graph.mask()
    with replacing(path) as temporary, temporary.open("wb") as stream:
        if suffix == ".npy":
            np.save(stream, dense)
        else:
            np.savez_compressed(
                stream,
                mask=dense,
                sha256=np.array(graph.digest),
                format_version=np.array(FORMAT_VERSION),
            )


def load_mask(path: str | os.PathLike[str]) -> BiregularGraph:
    """Read a mask file and check it against its hash, if it carries one.

    Files of `numpy.save`, `numpy.savez` of one array, and `scipy.sparse.save_npz` are read as well.

    Raises `FileFormatError` for a file that is truncated, altered, foreign or of a newer version,
    and `NotBiregularError` or `InvalidInputError` for an array that is no biregular 0/1 mask.
    """
    suffix, name = _suffix(path), os.fspath(path)
    content = read_bytes(path)
    if suffix != ".json" and not content.startswith(_MAGIC):
        raise FileFormatError(f"{name!r} is no {suffix} file: it does not start as one")
    try:
        if suffix == ".json":
            return _from_json(content)
        return _from_arrays(io.BytesIO(content))
    except ExpanderMaskError as error:
        raise type(error)(f"{name!r}: {error}") from None
    except Exception as error:  # on damaged bytes numpy, zipfile and zlib raise many kinds
        raise FileFormatError(f"cannot read {name!r} as {suffix}: {error}") from None


def _to_json(graph: BiregularGraph) -> str:
    body: dict[str, Any] = {"n2": graph.n2, "sha256": graph.digest}
    if graph.recipe is not None:
        body["recipe"] = graph.recipe.to_dict()
    else:
        body["neighbors"] = graph.neighbors.tolist()
    return write_document(FORMAT, FORMAT_VERSION, body)


def _from_json(text: bytes) -> BiregularGraph:
    data = read_document(text, FORMAT, FORMAT_VERSION)
    if set(data) not in ({"n2", "sha256", "recipe"}, {"n2", "sha256", "neighbors"}):
        raise FileFormatError(
            f"a mask file holds n2, sha256 and either recipe or neighbors, got {sorted(data)}"
        )
    if "recipe" in data:
        recipe = Recipe.from_dict(data["recipe"])
        require_modest(recipe, "the mask")
        graph = rebuild(recipe)
    else:
        try:
            graph = BiregularGraph(data["neighbors"], data["n2"])
        except (ValueError, TypeError) as error:
            raise FileFormatError(f"the mask's neighbors are no graph: {error}") from None
    return _checked(graph, data["sha256"])


def _from_arrays(stream: io.BytesIO) -> BiregularGraph:
    """The graph in a .npy array, our .npz, scipy's of a matrix, or a foreign .npz of one array."""
    from scipy.sparse import load_npz

    loaded = np.load(stream, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        return BiregularGraph.from_mask(loaded)
    assert loaded.zip is not None
    require_distinct(loaded.zip.namelist())
    if {"format", "shape", "data"} <= {*loaded.files}:
        return as_graph(load_npz(stream))
    if "sha256" not in loaded.files:
        if len(loaded.files) != 1:
            raise FileFormatError(f"an .npz with one array is a mask; this has {loaded.files}")
        return BiregularGraph.from_mask(loaded[loaded.files[0]])
    if (version := int(loaded["format_version"])) != FORMAT_VERSION:
        raise FileFormatError(
            f"{FORMAT}: format version {version}, and this library reads {FORMAT_VERSION}"
        )
    return _checked(BiregularGraph.from_mask(loaded["mask"]), str(loaded["sha256"]))


def require_distinct(members: Sequence[str]) -> None:
    """Refuse a .npz with two members of one name, or whose names differ by a last ".npy" only.

    Which of them is read as the array depends on the reader.
    """
    arrays = Counter(name.removesuffix(".npy") for name in members)
    repeated = [name for name, count in arrays.items() if count > 1]
    if repeated:
        raise FileFormatError(
            f"the archive holds {arrays[repeated[0]]} members for the array {repeated[0]!r}; "
            "each array must have one"
        )


def _checked(graph: BiregularGraph, digest: object) -> BiregularGraph:
    if graph.digest != digest:
        raise FileFormatError(f"the mask hashes to {graph.digest}, the file says {digest!r}")
    return graph


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidInputError(
            f"{os.fspath(path)!r}: a mask file ends in {', '.join(SUFFIXES)}, got {suffix!r}"
        )
    return suffix
