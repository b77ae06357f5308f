"""Which way the masked update is computed: the CPU kernel where it wins, else PyTorch's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from expandermask.errors import InvalidInputError

if TYPE_CHECKING:
    from expandermask.adapters.adapter import MaskedAdapter

BACKENDS = ("auto", "portable")


def set_backend(name: str) -> None:
    """Choose how adapters compute, for the whole process.

    "auto" takes the CPU kernel where it is available and faster than PyTorch's own operations, and
    the latter elsewhere; "portable" takes the latter always. The environment variable
    ``EXPANDERMASK_BACKEND`` sets the first choice; without it that is "auto".

    Raises `InvalidInputError` for any other name.
    """
    global _chosen
    if name not in BACKENDS:
        raise InvalidInputError(f"the backend must be one of {BACKENDS}, got {name!r}")
    _chosen = name


def get_backend() -> str:
    """The choice in force: see `set_backend`."""
    return _chosen


def kernel_for(
    y: Tensor, x: Tensor, a: Tensor, b: Tensor, index_a: Tensor, index_b: Tensor, r: int
) -> Callable[..., Tensor] | None:
    """The kernel's update function if it takes these inputs and is wanted, else None."""
    return None


def wins(rows: Tensor, adapter: MaskedAdapter) -> bool:
    """Whether the kernel is faster than one dense product with the updated weight."""
    return False


_chosen = "auto"
set_backend(os.environ.get("EXPANDERMASK_BACKEND", "auto"))
