"""Masked LoRA on real models: only the surviving entries are stored, trained and saved."""

from expandermask.errors import MissingPackageError

try:
    import torch as _torch  # noqa: F401  # only asks whether it is there
except ImportError as error:
    raise MissingPackageError(
        "expandermask.adapters needs PyTorch; install it with: pip install 'expandermask[torch]'"
    ) from error

from expandermask.adapters.activate import (
    active_adapters,
    adapter_names,
    delete_adapter,
    disable_adapters,
    set_adapters,
)
from expandermask.adapters.adapter import MaskedAdapter
from expandermask.adapters.attach import attach, detach
from expandermask.adapters.backend import get_backend, set_backend
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.export import export_peft
from expandermask.adapters.files import save_adapter
from expandermask.adapters.layer import MaskedEmbedding, MaskedLayer, MaskedLinear
from expandermask.adapters.loading import load_adapter
from expandermask.adapters.merge import merge, unmerge
from expandermask.adapters.remask import change_masks
from expandermask.adapters.report import AdapterCost, ParameterReport, parameter_report

__all__ = [
    "AdapterConfig",
    "AdapterCost",
    "MaskedAdapter",
    "MaskedEmbedding",
    "MaskedLayer",
    "MaskedLinear",
    "ParameterReport",
    "active_adapters",
    "adapter_names",
    "attach",
    "change_masks",
    "delete_adapter",
    "detach",
    "disable_adapters",
    "export_peft",
    "get_backend",
    "load_adapter",
    "merge",
    "parameter_report",
    "save_adapter",
    "set_adapters",
    "set_backend",
    "unmerge",
]
