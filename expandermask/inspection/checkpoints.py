"""Masks out of files and folders, for `inspect_mask`: what is there, and nothing executed.

A folder may hold an adapter of this library, a PEFT adapter (LoRA's matrices, or values whose masks
a `XoraConfig` describes), or a transformers checkpoint, whole or in shards. Weights are read from
safetensors only: a ``.bin`` or ``.pt`` file is a pickle, and to read one is to run what is in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expandermask.errors import FileFormatError, InvalidInputError
from expandermask.files import parse_json, read_bytes, reading
from expandermask.inspection.array_files import open_array, open_arrays
from expandermask.inspection.supports import StoredTensor
from expandermask.inspection.tensor_files import open_header, read_header, stored_tensors
from expandermask.inspection.xora_folder import is_xora, xora_plan
from expandermask.masks.adapter_file import WEIGHTS_NAME, is_adapter, read_document
from expandermask.masks.declared import FORMAT as PLAN
from expandermask.masks.files import FORMAT as MASK
from expandermask.masks.files import load_mask
from expandermask.masks.plan import MaskPlan

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_WEIGHTS = (WEIGHTS_NAME, "model.safetensors")
_INDEX = "model.safetensors.index.json"
_READABLE = ".npy, .npz, .json (a mask or a plan), .safetensors, or a folder of these"


def open_masks(path: str | os.PathLike[str]) -> Any:
    """What a file or folder holds: one mask, or a mapping from names to masks.

    One mask is a graph, an array or a scipy.sparse matrix; a mapping is a `MaskPlan` or has for
    each name an array, loaded when asked for, or a `StoredTensor`, some rows of which are.

    Raises
    ------
    InvalidInputError
        The ending is not one that can be read.
    FileFormatError
        What is there is missing, truncated, altered or foreign.
    TooLargeError
        An array of a .npz does not fit in memory.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "irregular.npy"
    ...     np.save(file, np.triu(np.ones((2, 2))))
    ...     open_masks(file).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    place = Path(path)
    if place.is_dir():
        return _open_folder(place)
    suffix = place.suffix.lower()
    if suffix in PICKLES:
        raise InvalidInputError(_no_pickles(place))
    if suffix == ".safetensors":
        return _open_tensors(place)
    if suffix == ".json":
        return _open_json(place)
    if suffix == ".npy":
        return open_array(place)
    if suffix == ".npz":
        return open_arrays(place)
    raise InvalidInputError(
        f"{os.fspath(path)!r}: masks are read from {_READABLE}, got {suffix or 'no ending'!r}"
    )


def _open_json(path: Path) -> Any:
    content = read_bytes(path)
    found = parse_json(content)
    kind = found.get("format") if isinstance(found, dict) else None
    if kind == PLAN:
        return MaskPlan.from_json(content)
    if kind == MASK:
        return load_mask(path)
    raise FileFormatError(
        f"{os.fspath(path)!r} is neither an {MASK} nor an {PLAN}: its field 'format' is {kind!r}"
    )


def _open_folder(folder: Path) -> Mapping[str, Any]:
    """The masks of an adapter's folder, or the tensors of a checkpoint's."""
    for name in _WEIGHTS:
        if (folder / name).exists():
            return _open_tensors(folder / name, within=folder)
    if (folder / _INDEX).exists():
        return _open_shards(folder)
    pickles = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICKLES)
    if pickles:
        raise FileFormatError(_no_pickles(pickles[0]))
    raise FileFormatError(f"{os.fspath(folder)!r} holds none of {', '.join((*_WEIGHTS, _INDEX))}")


def _open_tensors(path: Path, *, within: Path | None = None) -> Mapping[str, Any]:
    """The masks of an adapter's plan, or the tensors of any other safetensors file."""
    header, start = open_header(path, within=within)
    if is_adapter(header):
        return read_document(header, repr(os.fspath(path))).build_plan()
    if is_xora(header):
        return xora_plan(path, header, start)
    return stored_tensors(path, header, start)


def _open_shards(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint in shards, shard by shard, as its index lists them."""
    with reading(folder / _INDEX, within=folder) as (stream, _):
        index = parse_json(stream.read())
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(type(shard) is str for shard in places.values()):
        raise FileFormatError(f"{_INDEX}: weight_map must map names of tensors to names of files")
    shards = {shard: _read_shard(folder, shard) for shard in sorted(set(places.values()))}
    for name, shard in places.items():
        if name not in shards[shard]:
            raise FileFormatError(f"{_INDEX} puts tensor {name!r} in {shard!r}, which has none")
    order = sorted(places, key=lambda name: places[name])
    return {name: shards[places[name]][name] for name in order}


def _read_shard(folder: Path, shard: str) -> dict[str, StoredTensor]:
    """The tensors of one shard, whose name may not lead out of the folder."""
    if shard != Path(shard).name or "\\" in shard or not shard.endswith(".safetensors"):
        raise FileFormatError(
            f"{_INDEX}: a shard must be a .safetensors file in the same folder, got {shard!r}"
        )
    if not (folder / shard).exists():
        raise FileFormatError(f"{_INDEX} names the shard {shard!r}, which is missing")
    return read_header(folder / shard, within=folder)


def _no_pickles(path: Path) -> str:
    return (
        f"{path.name!r} is a pickle: to read it is to run what is in it, so it is not read; save "
        "the model as safetensors, as save_pretrained does"
    )
