"""load_adapter(): a saved adapter onto a model, which is touched only once everything is checked.

Names, shapes and dtypes in the file's header are compared with the model before any data are read
and any mask is made: so a file that asks for much, and is not for this model, costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from expandermask.adapters.activate import apply_active
from expandermask.adapters.attach import attaching, require_free
from expandermask.adapters.attachment import (
    attachment,
    is_attached,
    masked_layers,
    saved_in,
    saved_tensors,
)
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.files.dtypes import keep_dtypes, require_choice, require_dtype
from expandermask.adapters.files.folder import opened_adapter
from expandermask.adapters.files.save import adapter_tensors
from expandermask.adapters.files.stored import AdapterFile, StoredAdapter, open_adapter
from expandermask.adapters.fit import check_fit
from expandermask.adapters.layers.adapter import value_dtype
from expandermask.adapters.layers.masked import weight_of
from expandermask.adapters.training.distributed import like
from expandermask.errors import AdapterError
from expandermask.masks.places import bare_at
from expandermask.masks.plan import MaskPlan


def load_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    name: str = "default",
    dtype: str | None = None,
) -> MaskPlan:
    """Put a saved adapter on ``model`` under ``name``; returns its plan.

    The masks are rebuilt from their recipes. The file and its fit are checked in full before the
    model is touched, so after an error it is as it was. On a model that has an adapter of that
    name, which must be the same one, only values are loaded, and the dropout it was attached with
    stays. Gates in the file fill the model's, or are put in as gates that train.

    Parameters
    ----------
    model : torch.nn.Module
        The base model, or one with adapters.
    folder : str or path
        As `save_adapter` wrote it. Only that one file is opened; no code, no pickle and no path in
        it is followed.
    name : str
        What the adapter is called on the model.
    dtype : {"file", "model"}, optional
        Which dtype the modules to save get where the file's is not the model's. With "file" a head
        in float32 stays so on a bfloat16 model, which then has to run under `torch.autocast`. None
        refuses such a file.

    Raises
    ------
    FileFormatError
        The file is missing, truncated, altered, foreign or from a newer version, or lies beside a
        pickle or PEFT's config.
    AdapterError
        The adapter does not fit the model, another one is attached, or it is merged.
    TooLargeError
        The file, or the masks it asks for, do not fit in memory.

    Notes
    -----
    Less than twice the file in memory, beside the masks; time is that of hashing the file and
    making the masks.

    Examples
    --------
    See `save_adapter`.
    """
    require_choice(dtype)
    with opened_adapter(Path(folder)) as (stream, size):
        file = open_adapter(stream, size, repr(os.fspath(folder)))
        present = is_attached(model) and name in attachment(model).adapters
        if present:
            _require_same(model, name, file, dtype)
        else:
            _require_fit(model, name, file, dtype)
        stored = file.read()
    if present:
        _fill(model, name, file, stored, dtype)
        return attachment(model).adapters[name].plan
    with attaching(model, stored.plan, stored.config, name):
        _fill(model, name, file, stored, dtype)
    return stored.plan


def _fill(
    model: nn.Module, name: str, file: AdapterFile, stored: StoredAdapter, dtype: str | None
) -> None:
    """Copy the stored values in; the copies to the model's devices, which can fail, come first."""
    layers = masked_layers(model, name)
    gates: dict[str, nn.Parameter] = {}
    for key in file.gates:
        place, _, slot = key.rpartition(".")
        adapter = layers[place].adapter(name)
        if getattr(adapter, slot) is None:
            gates[key] = nn.Parameter(stored.tensors[key].to(adapter.values_b.device, copy=True))
    targets = adapter_tensors(model, name)
    moved = {k: like(stored.tensors[k].to(t.device), t) for k, t in targets.items()}
    if dtype == "file":
        keep_dtypes(attachment(model).adapters[name].heads, stored.tensors)
    with torch.no_grad():
        for key, tensor in targets.items():
            tensor.copy_(moved[key])
    for key, gate in gates.items():
        place, _, slot = key.rpartition(".")
        adapter = layers[place].adapter(name)
        adapter.set_rank_gate(gate) if slot == "rank_gate" else adapter.set_module_gate(gate)
    apply_active(model)


# -- what can be wrong between a file and a model -------------------------------------------------


def _require_fit(model: nn.Module, name: str, file: AdapterFile, dtype: str | None) -> None:
    """The adapter can be attached to the model: by names, shapes and dtypes alone."""
    require_free(model, name)
    masks = file.document.masks
    places = check_fit(model, masks, file.config)
    heads = {place: bare_at(model, place) for place in places}
    _require_saved({f"{place}.{key}": t for place, key, t in saved_in(heads)}, file, dtype)
    _require_value_dtypes(
        {place: value_dtype(weight_of(bare_at(model, place))) for place in masks}, file
    )


def _require_same(model: nn.Module, name: str, file: AdapterFile, dtype: str | None) -> None:
    """The adapter called ``name`` on ``model`` is the file's but for its values."""
    own, layers = attachment(model).adapters[name], masked_layers(model, name)
    kept = own.plan.without_empty()
    ours = {place: (pair.a.digest, pair.b.digest) for place, pair in kept.items()}
    masks = file.document.masks.items()
    theirs = {place: (pair.a.sha256, pair.b.sha256) for place, pair in masks}
    if ours != theirs or _scaling(own.config) != _scaling(file.config):
        raise AdapterError(
            f"the model has another adapter attached as {name!r} (its plan or scale differ from "
            "the file's); give the stored one another name, or call detach(model) first"
        )
    if any(layer.merges for layer in layers.values()):
        raise AdapterError("the adapter on the model is merged; call unmerge(model) first")
    _require_saved(saved_tensors(own), file, dtype)
    _require_value_dtypes(
        {place: layers[place].adapter(name).values_a.dtype for place in kept}, file
    )
    for key, tensor in adapter_tensors(model, name).items():
        if key.rpartition(".")[2] in ("rank_gate", "module_gate") and key not in file.saved:
            _require_gate(key, tensor, file)


def _scaling(config: AdapterConfig) -> tuple[float, str]:
    return config.lora_alpha, config.scaling


def _require_gate(key: str, gate: Tensor, file: AdapterFile) -> None:
    """The file has the model's gate, and it can be written to."""
    if key not in file.entries:
        raise AdapterError(
            f"{key!r} is a gate on the model and not in the file; empty its slot first, with "
            "set_rank_gate(None) or set_module_gate(None)"
        )
    base = gate if gate._base is None else gate._base  # what the view is a view of
    if base.grad_fn is not None:
        raise AdapterError(
            f"{key!r} is computed from other parameters, so it cannot be loaded into; empty its "
            "slot first, with set_rank_gate(None) or set_module_gate(None)"
        )
    if file.dtype(key) != gate.dtype:
        raise AdapterError(
            f"gate {key!r} is {file.dtype(key)} in the file and {gate.dtype} in the model"
        )


def _require_saved(own: Mapping[str, Tensor], file: AdapterFile, dtype: str | None) -> None:
    """The file's modules to save are exactly the model's: names, shapes and dtypes."""
    if names := sorted(file.saved ^ own.keys()):
        where = "file" if names[0] in file.saved else "model"
        raise AdapterError(
            f"tensor {names[0]!r} of the modules to save is only in the {where}; "
            f"the file's config has modules_to_save={file.config.modules_to_save}"
        )
    for name, tensor in own.items():
        shape = file.entries[name].shape
        if shape != tuple(tensor.shape):
            raise AdapterError(
                f"tensor {name!r} is {shape} in the file and {tuple(tensor.shape)} in the model"
            )
        require_dtype(name, file.dtype(name), tensor.dtype, dtype)


def _require_value_dtypes(own: Mapping[str, torch.dtype], file: AdapterFile) -> None:
    for place, dtype in own.items():
        for side in "AB":
            if (theirs := file.dtype(f"{place}.{side}")) != dtype:
                raise AdapterError(
                    f"the values of {place!r} are {theirs} in the file and would be {dtype} in the "
                    "model; attach the plan first and convert the model with model.to(dtype)"
                )
