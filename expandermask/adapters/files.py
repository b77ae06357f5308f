"""save_adapter() and load_adapter(): a trained adapter as a folder of two small files.

``adapter_model.safetensors`` holds the values and the modules to save; ``adapter_config.json`` the
config, the plan (recipes and hashes, no indices) and the SHA-256 of every tensor. Each file is
replaced whole, the values first; if that is interrupted between the two, the hashes of the old
config do not fit the new values and loading says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expandermask.adapters.adapter import MaskedAdapter, value_dtype
from expandermask.adapters.attach import attach, require_free
from expandermask.adapters.attachment import (
    NamedAdapter,
    attachment,
    is_attached,
    masked_layers,
    saved_tensors,
)
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.distributed import like
from expandermask.adapters.factors import value_shape
from expandermask.adapters.fit import bare_module, check_fit
from expandermask.adapters.layer import weight_of
from expandermask.adapters.tensors import TensorShape, describe, read_tensors, write_tensors
from expandermask.errors import AdapterError, FileFormatError
from expandermask.files import (
    parse_json,
    read_bytes,
    read_document,
    require_fields,
    write_document,
    write_text,
)
from expandermask.masks.plan import MaskPlan

FORMAT = "expandermask adapter"
FORMAT_VERSION = 1
WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"


@dataclass(frozen=True)
class _Stored:
    """A folder's content, already checked against itself."""

    config: AdapterConfig
    plan: MaskPlan
    tensors: Mapping[str, Tensor]


def save_adapter(
    model: nn.Module, folder: str | os.PathLike[str], *, name: str | None = None
) -> None:
    """Write an adapter on ``model`` to ``folder``: its values, config and plan.

    ``name`` says which, if several are active.

    Raises
    ------
    AdapterError
        No adapters are attached, or the folder's place is taken: by a file, or by a checkpoint of
        another kind under the same names (PEFT's).

    Examples
    --------
    >>> import tempfile, torch
    >>> from expandermask.adapters import AdapterConfig, attach, load_adapter, save_adapter
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> _ = attach(model, AdapterConfig(r=8), rng=0)
    >>> fresh = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_adapter(model, folder)
    ...     load_adapter(fresh, folder)
    MaskPlan(1 modules, r=8, left_degree=2, 192 values)
    >>> torch.equal(fresh[0].adapters["default"].values_a, model[0].adapters["default"].values_a)
    True
    """
    name, adapter = attachment(model).adapter(name)
    target = Path(folder)
    require_folder(target, own=True)
    body = {"config": adapter.config.to_dict(), "plan": json.loads(adapter.plan.to_json())}
    write_tensors(target / WEIGHTS_NAME, adapter_tensors(model, name))
    body["tensors"] = describe(read_bytes(target / WEIGHTS_NAME))
    write_text(target / CONFIG_NAME, write_document(FORMAT, FORMAT_VERSION, body))


def load_adapter(
    model: nn.Module, folder: str | os.PathLike[str], *, name: str = "default"
) -> MaskPlan:
    """Put a saved adapter on ``model`` under ``name``; returns its plan.

    The masks are rebuilt from their recipes. Files and fit are checked in full before the model is
    touched, so after an error it is as it was. On a model that has an adapter of that name, which
    must be the same one, only values are loaded, and the dropout it was attached with stays.

    Raises
    ------
    FileFormatError
        A file is missing, truncated, altered, foreign or from a newer version, or the two files
        are not of one save.
    AdapterError
        The adapter does not fit the model, another one is attached, or it is merged.
    """
    stored = _read(Path(folder))
    if is_attached(model) and name in attachment(model).adapters:
        _require_same(model, name, stored)
    else:
        require_free(model, name)
        places = check_fit(model, stored.plan, stored.config)
        heads = {place: bare_module(model, place) for place in places}
        _require_saved(saved_tensors(NamedAdapter(stored.plan, stored.config, heads)), stored)
        _require_value_dtypes(
            {place: value_dtype(weight_of(bare_module(model, place))) for place in stored.plan},
            stored,
        )
        attach(model, stored.plan, config=stored.config, name=name)
    with torch.no_grad():
        for key, tensor in adapter_tensors(model, name).items():
            tensor.copy_(like(stored.tensors[key], tensor))
    return attachment(model).adapters[name].plan


def require_folder(folder: Path, *, own: bool) -> None:
    """Refuse to write over a file, or over an adapter in the other of the two formats.

    This library's folders (``own``) and PEFT's have files of the same names.
    """
    if folder.exists() and not folder.is_dir():
        raise AdapterError(f"{os.fspath(folder)!r} is a file; an adapter is written to a folder")
    path = folder / CONFIG_NAME
    if not path.exists():
        return
    try:
        found = parse_json(read_bytes(path))
    except FileFormatError:
        found = None
    if (isinstance(found, dict) and found.get("format") == FORMAT) is not own:
        kind = "another kind of checkpoint (PEFT's?)" if own else "an adapter of save_adapter"
        raise AdapterError(
            f"{os.fspath(folder)!r} holds {kind}, whose files have the same names; choose another "
            "folder"
        )


def adapter_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Every tensor of an adapter on ``model`` by its name in the file.

    These are ``module.A`` and ``module.B`` for the values, ``module.rank_gate`` and
    ``module.module_gate`` for gates that train, then the modules to save.
    """
    found: dict[str, Tensor] = {}
    for place, layer in masked_layers(model, name).items():
        adapter = layer.adapter(name)
        found |= {f"{place}.A": adapter.values_a, f"{place}.B": adapter.values_b}
        found |= _gates(place, adapter)
    return found | saved_tensors(attachment(model).adapters[name])


def _gates(place: str, adapter: MaskedAdapter) -> dict[str, Tensor]:
    gates = {"rank_gate": adapter.rank_gate, "module_gate": adapter.module_gate}
    return {f"{place}.{key}": g for key, g in gates.items() if g is not None}


def value_shapes(plan: MaskPlan) -> dict[str, TensorShape]:
    """Shapes of the values by their names in the file: (k, left_degree) and (d, left_degree).

    Masks that are not regular have those of `value_shape`.
    """
    shapes: dict[str, TensorShape] = {}
    for place, pair in plan.items():
        shapes |= {f"{place}.A": value_shape(pair.a), f"{place}.B": value_shape(pair.b)}
    return shapes


# -- reading, and what can be wrong --------------------------------------------------------------


def _read(folder: Path) -> _Stored:
    """Both files, checked against each other; `FileFormatError` for whatever is wrong."""
    document = require_fields(
        read_document(read_bytes(folder / CONFIG_NAME), FORMAT, FORMAT_VERSION),
        {"config": dict, "plan": dict, "tensors": dict},
        "an adapter",
    )
    config = AdapterConfig.from_dict(document["config"])
    data = read_bytes(folder / WEIGHTS_NAME)
    _require_described(describe(data), document["tensors"])
    plan = MaskPlan.from_json(json.dumps(document["plan"]))
    if (plan.r, plan.left_degree) != (config.r, config.left_degree):
        raise FileFormatError("the config and the plan differ in r or left_degree")
    tensors = read_tensors(data)
    for name, shape in value_shapes(plan).items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            found = list(tensors[name].shape) if name in tensors else "missing"
            raise FileFormatError(f"tensor {name!r} must have shape {list(shape)}: {found}")
    return _Stored(config, plan, tensors)


def _require_described(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The tensors of the one file are those the other describes, bit for bit."""
    if found == expected:
        return
    names = sorted(found.keys() ^ expected.keys())
    names = names or [name for name in found if found[name] != expected[name]]
    raise FileFormatError(
        f"{WEIGHTS_NAME} is not the file {CONFIG_NAME} describes: tensor {names[0]!r} differs "
        "(altered, or the save was interrupted between the two files); save the adapter again"
    )


def _require_same(model: nn.Module, name: str, stored: _Stored) -> None:
    """The adapter called ``name`` on ``model`` is the stored one but for its values."""
    own, layers = attachment(model).adapters[name], masked_layers(model, name)
    if own.plan != stored.plan or _scaling(own.config) != _scaling(stored.config):
        raise AdapterError(
            f"the model has another adapter attached as {name!r} (its plan or scale differ from "
            "the file's); give the stored one another name, or call detach(model) first"
        )
    if any(name in layer.merged for layer in layers.values()):
        raise AdapterError("the adapter on the model is merged; call unmerge(model) first")
    _require_saved(saved_tensors(own), stored)
    _require_value_dtypes(
        {place: layer.adapter(name).values_a.dtype for place, layer in layers.items()}, stored
    )


def _scaling(config: AdapterConfig) -> tuple[float, str]:
    return config.lora_alpha, config.scaling


def _require_saved(own: Mapping[str, Tensor], stored: _Stored) -> None:
    """The stored modules to save are exactly the model's: names, shapes and dtypes."""
    extra = stored.tensors.keys() - value_shapes(stored.plan).keys()
    if names := sorted(extra ^ own.keys()):
        where = "file" if names[0] in extra else "model"
        raise AdapterError(
            f"tensor {names[0]!r} of the modules to save is only in the {where}; "
            f"the file's config has modules_to_save={stored.config.modules_to_save}"
        )
    for name, tensor in own.items():
        theirs = stored.tensors[name]
        if (theirs.shape, theirs.dtype) != (tensor.shape, tensor.dtype):
            raise AdapterError(
                f"tensor {name!r} is {tuple(theirs.shape)} {theirs.dtype} in the file and "
                f"{tuple(tensor.shape)} {tensor.dtype} in the model"
            )


def _require_value_dtypes(own: Mapping[str, torch.dtype], stored: _Stored) -> None:
    for name, dtype in own.items():
        for side in "AB":
            if (theirs := stored.tensors[f"{name}.{side}"].dtype) != dtype:
                raise AdapterError(
                    f"the values of {name!r} are {theirs} in the file and would be {dtype} in the "
                    "model; attach the plan first and convert the model with model.to(dtype)"
                )
