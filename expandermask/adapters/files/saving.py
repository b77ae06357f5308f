"""save_adapter() and load_adapter(): a trained adapter as a folder with one file in it.

``adapter_model.safetensors`` holds the values, the gates that train and the modules to save, and in
its metadata the config, the plan (recipes and hashes) and the SHA-256 of every tensor: see
`expandermask.masks.adapter_file`. It is one file, replaced by one rename: whatever interrupts a
save, the folder holds the old adapter or the new one, and no two files can disagree.

Before a model is touched everything is checked. Names, shapes and dtypes in the file's header are
compared with the model before any data are read and any mask is made: so a file that asks for much,
and is not for this model, costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from expandermask.adapters.attach import attaching, require_free
from expandermask.adapters.attachment import (
    NamedAdapter,
    attachment,
    is_attached,
    masked_layers,
    saved_tensors,
)
from expandermask.adapters.files.stored import (
    AdapterFile,
    opened_adapter,
    require_folder,
    value_shapes,
)
from expandermask.adapters.fit import check_fit
from expandermask.adapters.layers.adapter import value_dtype
from expandermask.adapters.layers.quantized import weight_of
from expandermask.adapters.training.distributed import is_writer, like, on_writer, whole
from expandermask.errors import AdapterError, InvalidInputError
from expandermask.io.tensors import described, digest, plain, write_tensors
from expandermask.masks.adapter_file import WEIGHTS_NAME, adapter_metadata
from expandermask.masks.places import bare_at
from expandermask.masks.plan import MaskPlan

_GATES = ("rank_gate", "module_gate")
_EMPTY = "empty its slot first, with set_rank_gate(None) or set_module_gate(None)"
_CHOOSE = 'pass dtype="file" or dtype="model" to keep the one or the other'
_CONVERT = "attach the plan first and convert the model with model.to(dtype)"


def save_adapter(
    model: nn.Module, folder: str | os.PathLike[str], *, name: str | None = None
) -> None:
    """Write an adapter on ``model`` to ``folder``: its values, config and plan, in one file.

    Where torch.distributed runs, every rank has to call it: sharded tensors are put together on
    all of them, rank 0 writes, and all return once the file is there.

    Parameters
    ----------
    model : torch.nn.Module
        With an adapter from `attach` or `load_adapter` on it.
    folder : str or path
        Made if it is missing. An adapter in it is replaced whole or not at all.
    name : str, optional
        Which adapter, if several are active.

    Raises
    ------
    AdapterError
        No adapters are attached; or the folder's place is taken: by a file, by a checkpoint of
        another kind under the same name (PEFT's), or by a pickle, beside which none is loaded; or a
        module to save has a dtype no file can hold; or nothing is left of any module; or, on the
        other ranks, rank 0 failed.
    OSError
        The disk is full, or the folder cannot be written; what was there before is still there.

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
    >>> torch.equal(fresh[0].adapters["default"].lora_A, model[0].adapters["default"].lora_A)
    True
    """
    name, adapter = attachment(model).adapter(name)
    if not adapter.plan.without_empty():
        raise AdapterError(f"no module of {name!r} has a term left, so there is nothing to save")
    if attachment(model).biases(name):
        raise AdapterError(
            f"{name!r} trains biases of the base, for which this format has no place; call the "
            "PeftModel's save_pretrained, or export_peft"
        )
    tensors: dict[str, Tensor] = {}
    for key, tensor in adapter_tensors(model, name).items():
        gathered = whole(tensor.detach())  # on every rank, in the same order
        if is_writer():
            tensors[key] = plain(gathered)
    on_writer(lambda: _write(Path(folder), adapter, tensors))


def _write(folder: Path, adapter: NamedAdapter, tensors: Mapping[str, Tensor]) -> None:
    require_folder(folder, own=True)
    hashes = {name: digest(tensor) for name, tensor in sorted(tensors.items())}
    plan = adapter.plan.without_empty().to_dict()
    metadata = adapter_metadata(adapter.config.to_dict(), plan, described(tensors), hashes)
    write_tensors(folder / WEIGHTS_NAME, tensors, metadata=metadata)


def adapter_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Every tensor of an adapter on ``model`` by its name in the file.

    These are ``module.A`` and ``module.B`` for the values, ``module.rank_gate``, shape (r,), and
    ``module.module_gate``, shape (), for the gates there are, then the modules to save. Gates are
    views, whatever shape of so many elements they had.
    """
    found: dict[str, Tensor] = {}
    record = attachment(model).adapters[name]
    plan = record.plan.without_empty()
    shapes = value_shapes(plan)
    for place, layer in masked_layers(model, name).items():
        if place not in plan:
            continue
        adapter = layer.adapter(name)
        for key, values in ((f"{place}.A", adapter.lora_A), (f"{place}.B", adapter.lora_B)):
            found[key] = values.view(shapes[key])
        if (gate := adapter.steady_gate) is not None:
            found[f"{place}.rank_gate"] = gate.view(adapter.r)
        if adapter.module_gate is not None:
            found[f"{place}.module_gate"] = adapter.module_gate.view(())
    return found | saved_tensors(record.heads)


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
    with opened_adapter(Path(folder)) as file:
        present = is_attached(model) and name in attachment(model).adapters
        if present:
            _require_same(model, name, file, dtype)
        else:
            _require_fit(model, name, file, dtype)
        plan, tensors = file.read()
    if present:
        fill(model, name, tensors, dtype)
        return attachment(model).adapters[name].plan
    with attaching(model, plan, file.config, name):
        fill(model, name, tensors, dtype)
    return plan


def fill(model: nn.Module, name: str, stored: Mapping[str, Tensor], dtype: str | None) -> None:
    """Copy stored tensors into an adapter, and put gates that it lacks in its slots.

    The copies to the model's devices, which can fail, come first.
    """
    targets = adapter_tensors(model, name)
    moved = {key: like(stored[key].to(t.device).view(t.shape), t) for key, t in targets.items()}
    gates = []
    for place, layer in masked_layers(model, name).items():
        adapter = layer.adapter(name)
        for slot in _GATES:
            key = f"{place}.{slot}"
            if key in stored and getattr(adapter, slot) is None:
                gate = nn.Parameter(stored[key].to(adapter.lora_B.device, copy=True))
                gates.append((getattr(adapter, f"set_{slot}"), gate))
    if dtype == "file":
        _keep_dtypes(attachment(model).adapters[name].heads, stored)
    with torch.no_grad():
        for key, tensor in targets.items():
            tensor.copy_(moved[key])
    for put_in, gate in gates:
        put_in(gate)


def _keep_dtypes(heads: Mapping[str, nn.Module], stored: Mapping[str, Tensor]) -> None:
    """Give modules to save the dtypes of the file, which they keep beside another of the model."""
    for place, head in heads.items():
        for key, tensor in saved_tensors({place: head}).items():
            if tensor.dtype != stored[key].dtype:
                tensor.data = tensor.data.to(stored[key].dtype)
                head.keeps_dtype = True  # type: ignore[assignment]


# -- what can be wrong between a file and a model -------------------------------------------------


def require_choice(dtype: object) -> None:
    """Raise `InvalidInputError` unless it is "file", "model" or None.

    QLoRA trains heads in float32 on a bfloat16 model, so a file can hold another dtype than the
    model, and the caller says which of the two a head keeps.
    """
    if dtype not in (None, "file", "model"):
        raise InvalidInputError(f'dtype must be "file", "model" or None, got {dtype!r:.80}')


def require_alike(
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    dtype: str | None = None,
    hint: str = _CHOOSE,
) -> None:
    """The file has every one of these tensors of the model, of its shape and dtype.

    The dtypes may differ if the caller has said which to keep. Raises `AdapterError`.
    """
    for name, tensor in ours.items():
        if name not in theirs:
            raise AdapterError(f"tensor {name!r} of the modules to save is only in the model")
        stored = theirs[name]
        if stored.shape != tensor.shape:
            raise AdapterError(
                f"tensor {name!r} is {tuple(stored.shape)} in the file and {tuple(tensor.shape)} "
                "in the model"
            )
        if dtype is None and stored.dtype != tensor.dtype:
            raise AdapterError(
                f"tensor {name!r} is {stored.dtype} in the file and {tensor.dtype} in the model; "
                f"{hint}"
            )


def _require_fit(model: nn.Module, name: str, file: AdapterFile, dtype: str | None) -> None:
    """The adapter can be attached to the model: by names, shapes and dtypes alone."""
    require_free(model, name)
    masks = file.document.masks
    shapes = {place: mask.shape for place, mask in masks.items()}
    heads = {place: bare_at(model, place) for place in check_fit(model, shapes, file.config)}
    theirs = file.shells()
    values = {
        key: theirs[key].to(value_dtype(weight_of(bare_at(model, place))))
        for place in masks
        for key in (f"{place}.A", f"{place}.B")
    }
    _require_saved(file, saved_tensors(heads), dtype)
    require_alike(theirs, values, hint=_CONVERT)


def _require_same(model: nn.Module, name: str, file: AdapterFile, dtype: str | None) -> None:
    """The adapter called ``name`` on ``model`` is the file's but for its values."""
    record = attachment(model).adapters[name]
    kept = record.plan.without_empty()
    ours = {place: (pair.a.digest, pair.b.digest) for place, pair in kept.items()}
    masks = file.document.masks.items()
    theirs = {place: (pair.a.sha256, pair.b.sha256) for place, pair in masks}
    scales = [
        (config.lora_alpha, config.scaling, config.alpha_pattern)
        for config in (record.config, file.config)
    ]
    if ours != theirs or scales[0] != scales[1]:
        raise AdapterError(
            f"the model has another adapter attached as {name!r} (its plan or scale differ from "
            "the file's); give the stored one another name, or call detach(model) first"
        )
    if any(layer.merges for layer in masked_layers(model, name).values()):
        raise AdapterError("the adapter on the model is merged; call unmerge(model) first")
    own = saved_tensors(record.heads)
    _require_saved(file, own, dtype)
    values = {k: t for k, t in adapter_tensors(model, name).items() if k not in own}
    for key, tensor in values.items():
        if key not in file.document.sha256:
            raise AdapterError(f"{key!r} is a gate on the model and not in the file; {_EMPTY}")
        base = tensor if tensor._base is None else tensor._base  # what the view is a view of
        if base.grad_fn is not None:
            raise AdapterError(
                f"{key!r} is computed from other parameters, so it cannot be loaded into; {_EMPTY}"
            )
    require_alike(file.shells(), values, hint=_CONVERT)


def _require_saved(file: AdapterFile, own: Mapping[str, Tensor], dtype: str | None) -> None:
    """The file's modules to save are exactly the model's."""
    if names := sorted(file.saved - own.keys()):
        raise AdapterError(
            f"tensor {names[0]!r} of the modules to save is only in the file; "
            f"the file's config has modules_to_save={file.config.modules_to_save}"
        )
    require_alike(file.shells(), own, dtype)
