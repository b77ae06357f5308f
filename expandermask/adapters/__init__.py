"""Masked LoRA on real models: only the surviving entries are stored, trained and saved."""

from expandermask.errors import MissingPackageError

try:
    import torch as _torch  # noqa: F401  # only asks whether it is there
except ImportError as error:
    raise MissingPackageError(
        "expandermask.adapters needs PyTorch; install it with: pip install 'expandermask[torch]'"
    ) from error

from expandermask.adapters.attach import attach, detach
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.export import export_peft
from expandermask.adapters.files import load_adapter, save_adapter
from expandermask.adapters.layer import MaskedLinear
from expandermask.adapters.merge import merge, unmerge
from expandermask.adapters.report import AdapterCost, ParameterReport, parameter_report

__all__ = [
    "AdapterConfig",
    "AdapterCost",
    "MaskedLinear",
    "ParameterReport",
    "attach",
    "detach",
    "export_peft",
    "load_adapter",
    "merge",
    "parameter_report",
    "save_adapter",
    "unmerge",
]
