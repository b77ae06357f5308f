"""``dtype=`` where adapters are read: whose dtype a tensor keeps, the file's or the model's.

QLoRA trains heads in float32 on a bfloat16 model, so a file can hold another dtype than the model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from expandermask.adapters.attachment import saved_in
from expandermask.errors import AdapterError, InvalidInputError

_CHOICES = (None, "file", "model")


def require_choice(dtype: object) -> None:
    """Raise `InvalidInputError` unless it is "file", "model" or None."""
    if dtype not in _CHOICES:
        raise InvalidInputError(f'dtype must be "file", "model" or None, got {dtype!r:.80}')


def require_dtype(name: str, theirs: torch.dtype, ours: torch.dtype, dtype: str | None) -> None:
    """Raise `AdapterError` where the dtypes differ and the caller has not said which to keep."""
    if theirs != ours and dtype is None:
        raise AdapterError(
            f"tensor {name!r} is {theirs} in the file and {ours} in the model; "
            'pass dtype="file" or dtype="model" to keep the one or the other'
        )


def keep_dtypes(heads: Mapping[str, nn.Module], stored: Mapping[str, Tensor]) -> None:
    """Give modules to save the dtypes of the file, which they keep beside another of the model."""
    for place, key, tensor in saved_in(heads):
        theirs = stored[f"{place}.{key}"].dtype
        if tensor.dtype != theirs:
            tensor.data = tensor.data.to(theirs)
            heads[place].keeps_dtype = True  # type: ignore[assignment]
