"""Masked LoRA on real models: only the surviving entries are stored, trained and saved."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from expandermask.errors import MissingPackageError

try:
    import torch as _torch  # noqa: F401  # only asks whether it is there
except ImportError as error:
    raise MissingPackageError(
        "expandermask.adapters needs PyTorch; install it with: pip install 'expandermask[torch]'"
    ) from error

from expandermask.adapters.attach import (
    active_adapters,
    adapter_names,
    attach,
    delete_adapter,
    detach,
    disable_adapters,
    set_adapters,
)
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.files.saving import load_adapter, save_adapter
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.layers.compute import get_backend, set_backend
from expandermask.adapters.layers.masked import MaskedEmbedding, MaskedLayer, MaskedLinear
from expandermask.adapters.merge import merge, unmerge
from expandermask.adapters.remask import change_masks
from expandermask.adapters.report import (
    AdapterCost,
    ParameterReport,
    parameter_report,
    residual_norms,
)
from expandermask.adapters.training.groups import parameter_groups

if TYPE_CHECKING:
    from expandermask.adapters.training.callback import AdapterCallback, SmallCheckpoints
    from expandermask.peft import XoraConfig as XoraConfig
    from expandermask.peft import export_peft, import_peft, shira_mask_fn

__all__ = [
    "AdapterCallback",
    "AdapterConfig",
    "AdapterCost",
    "MaskedAdapter",
    "MaskedEmbedding",
    "MaskedLayer",
    "MaskedLinear",
    "ParameterReport",
    "SmallCheckpoints",
    "active_adapters",
    "adapter_names",
    "attach",
    "change_masks",
    "delete_adapter",
    "detach",
    "disable_adapters",
    "export_peft",
    "get_backend",
    "import_peft",
    "load_adapter",
    "merge",
    "parameter_groups",
    "parameter_report",
    "residual_norms",
    "save_adapter",
    "set_adapters",
    "set_backend",
    "shira_mask_fn",
    "unmerge",
]

_LATER = {
    "AdapterCallback": ("expandermask.adapters.training.callback", "transformers"),
    "SmallCheckpoints": ("expandermask.adapters.training.callback", "transformers"),
    "XoraConfig": ("expandermask.peft", "peft"),
    "export_peft": ("expandermask.peft", "peft"),
    "import_peft": ("expandermask.peft", "peft"),
    "shira_mask_fn": ("expandermask.peft", "peft"),
}
"""Names whose modules import a package that takes seconds. They wait until they are asked for."""

_REMOVED = {
    name: "use XoraConfig in peft.get_peft_model, or import_peft a saved LoRA folder with a plan"
    for name in ("mask_peft", "unmask_peft")
}
"""What to use in place of names that version 0.1.0 had."""


def __getattr__(name: str) -> Any:
    if name in _REMOVED:
        raise AttributeError(f"{name} was removed after version 0.1.0: {_REMOVED[name]}")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, package = _LATER[name]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingPackageError(
            f"{name} needs {package}; install it with: pip install 'expandermask[torch]'"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
