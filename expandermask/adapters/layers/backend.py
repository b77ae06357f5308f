"""Which way the masked update is computed: the CPU kernel where it wins, else PyTorch's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from torch import Tensor

from expandermask.adapters.layers import kernel
from expandermask.errors import InvalidInputError

if TYPE_CHECKING:
    from expandermask.adapters.layers.adapter import MaskedAdapter

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


def wants_kernel(adapter: MaskedAdapter, values_b: Tensor, x: Tensor, y: Tensor | None) -> bool:
    """Whether the CPU kernel is to compute one adapter's update: it is wanted, able and faster.

    For inputs ``x`` (tokens, k), onto ``y`` (tokens, d), or without it onto the product with a
    frozen weight. ``values_b`` are B's values with the gates multiplied in.
    """
    factors = (adapter.values_a, values_b, adapter.index_a, adapter.index_b)
    return _chosen == "auto" and kernel.supports(x, *factors, y=y)


_chosen = "auto"
set_backend(os.environ.get("EXPANDERMASK_BACKEND", "auto"))
