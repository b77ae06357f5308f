"""Names that have moved since 0.1.0: they can be imported from where they were until 0.3.

`docs/from_0_1.md` has the table for readers; a test holds the two against each other.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ADAPTERS = "expandermask.adapters"
_PEFT = "expandermask.peft"

MOVED: dict[str, dict[str, str]] = {
    "expandermask.adapters.activate": dict.fromkeys(
        (
            "active_adapters",
            "adapter_names",
            "delete_adapter",
            "disable_adapters",
            "set_adapters",
        ),
        _ADAPTERS,
    ),
    "expandermask.adapters.files.load": {"load_adapter": _ADAPTERS},
    "expandermask.adapters.files.save": {"save_adapter": _ADAPTERS},
    "expandermask.adapters.layers.backend": {"get_backend": _ADAPTERS, "set_backend": _ADAPTERS},
    "expandermask.adapters.norms": {"residual_norms": _ADAPTERS},
    "expandermask.adapters.peft": {},
    "expandermask.adapters.peft.config": {"XoraConfig": _PEFT},
    "expandermask.adapters.peft.export_peft": {"export_peft": _PEFT},
    "expandermask.adapters.peft.import_peft": {"import_peft": _PEFT},
    "expandermask.adapters.peft.layer": {"XoraLayer": _PEFT},
    "expandermask.adapters.peft.shira": {"shira_mask_fn": _PEFT},
    "expandermask.adapters.peft.tuner": {"XoraModel": _PEFT},
}
"""What can be imported from each module that is gone, and where it is now."""


def moved_names(module: str, names: dict[str, str]) -> Callable[[str], object]:
    """The ``__getattr__`` of ``module``, which had these ``names`` before, with their places."""
    return partial(_moved, module, names)


def moved_attribute(old: str, new: str) -> property:
    """An attribute that is called ``new`` now."""

    def read(self: object) -> Any:
        warnings.warn(
            f"{type(self).__name__}.{old} is called {new} now; the old name works until 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(self, new)

    return property(read)


def _moved(module: str, names: dict[str, str], name: str) -> object:
    place = names.get(name)
    if place is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(
        f"{module}.{name} is {place}.{name} now; the old place works until 0.3",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module(place), name)


class _MovedModules(MetaPathFinder, Loader):
    """Finds the modules of `MOVED`, which have no files any more."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A module without a file, for a name of `MOVED`."""
        return ModuleSpec(fullname, self, is_package=True) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its names."""
        names = MOVED[module.__name__]
        module.__getattr__ = moved_names(module.__name__, names)  # type: ignore[method-assign]


sys.meta_path.append(_MovedModules())
