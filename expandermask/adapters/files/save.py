"""save_adapter(): a trained adapter as a folder with one file in it.

``adapter_model.safetensors`` holds the values, the gates that train and the modules to save, and in
its metadata the config, the plan (recipes and hashes) and the SHA-256 of every tensor: see
`expandermask.masks.adapter_file`. It is one file, replaced by one rename: whatever interrupts a
save, the folder holds the old adapter or the new one, and no two files can disagree.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from expandermask.adapters.attachment import (
    NamedAdapter,
    attachment,
    masked_layers,
    saved_tensors,
)
from expandermask.adapters.files.folder import require_folder
from expandermask.adapters.files.tensors import dtype_code, plain, raw_bytes, write_tensors
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.training.distributed import is_writer, on_writer, whole
from expandermask.errors import AdapterError
from expandermask.masks.adapter_file import WEIGHTS_NAME, adapter_metadata


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
    >>> torch.equal(fresh[0].adapters["default"].values_a, model[0].adapters["default"].values_a)
    True
    """
    name, adapter = attachment(model).adapter(name)
    if not adapter.plan.without_empty():
        raise AdapterError(f"no module of {name!r} has a term left, so there is nothing to save")
    tensors: dict[str, Tensor] = {}
    for key, tensor in adapter_tensors(model, name).items():
        gathered = whole(tensor.detach())  # on every rank, in the same order
        if is_writer():
            tensors[key] = plain(gathered)
    on_writer(lambda: _write(Path(folder), adapter, tensors))


def _write(folder: Path, adapter: NamedAdapter, tensors: Mapping[str, Tensor]) -> None:
    require_folder(folder, own=True)
    described = {n: (dtype_code(t.dtype, n), tuple(t.shape)) for n, t in tensors.items()}
    hashes = {n: hashlib.sha256(raw_bytes(t)).hexdigest() for n, t in sorted(tensors.items())}
    plan = adapter.plan.without_empty().to_dict()
    metadata = adapter_metadata(adapter.config.to_dict(), plan, described, hashes)
    write_tensors(folder / WEIGHTS_NAME, tensors, metadata=metadata)


def adapter_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Every tensor of an adapter on ``model`` by its name in the file.

    These are ``module.A`` and ``module.B`` for the values, ``module.rank_gate``, shape (r,), and
    ``module.module_gate``, shape (), for the gates there are, then the modules to save.
    """
    found: dict[str, Tensor] = {}
    plan = attachment(model).adapters[name].plan.without_empty()
    for place, layer in masked_layers(model, name).items():
        if place not in plan:
            continue
        adapter = layer.adapter(name)
        found |= {f"{place}.A": adapter.values_a, f"{place}.B": adapter.values_b}
        found |= _gates(place, adapter)
    return found | saved_tensors(attachment(model).adapters[name])


def _gates(place: str, adapter: MaskedAdapter) -> dict[str, Tensor]:
    """The gates as views in the shapes of the file, whatever shape of so many elements they had."""
    found = {}
    if (gate := adapter.steady_gate) is not None:
        found[f"{place}.rank_gate"] = gate.view(adapter.r)
    if adapter.module_gate is not None:
        found[f"{place}.module_gate"] = adapter.module_gate.view(())
    return found
