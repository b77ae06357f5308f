"""The update of a few tokens, as decoding has them, in plain loops that numba compiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from expandermask.adapters.layers.factors import Factors
from expandermask.adapters.layers.kernel.launch import available, note_failure
from expandermask.compiling import compile_kept

LEAST_TOKENS = 16
"""From where on `masked_update` was measured to be faster than PyTorch's own operations."""
_INDEX_DTYPES = (torch.uint8, torch.int32)


def supports_few(y: Tensor, x: Tensor, factors: Factors) -> bool:
    """Whether `few_update` takes these: on a CPU in float32, without gradients.

    The first yes compiles the loops: a second once, then from numba's cache.
    """
    tensors = (y, x, *factors[:4])
    return (
        not torch.is_grad_enabled()
        and len(x) < LEAST_TOKENS
        and all(
            (type(t) is Tensor or type(t) is Parameter)
            and t.dim() == 2
            and t.device.type == "cpu"
            and t.is_contiguous()
            for t in tensors
        )
        and all(t.dtype == torch.float32 for t in tensors[:4])
        and factors.index_a.dtype == factors.index_b.dtype
        and factors.index_a.dtype in _INDEX_DTYPES
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()  # a mode that watches operations
        and available()
        and _compiled() is not None
    )


def few_update(y: Tensor, x: Tensor, factors: Factors) -> Tensor:
    """What `masked_update` computes, for the few tokens of decoding, without gradients."""
    out = y.clone()
    add = _compiled()
    assert add is not None
    arrays = (tensor.detach().numpy() for tensor in (out, x, *factors[:4]))
    add(*arrays, factors.r, float(factors.scale))
    return out


@cache
def _compiled() -> Callable[..., None] | None:
    """The loops as numba compiles them, or None where it cannot, which is warned of once."""
    from numba import njit

    matrices = ", ".join(["float32[:, ::1]"] * 4)
    kinds = [str(dtype).removeprefix("torch.") for dtype in _INDEX_DTYPES]
    signatures = [
        f"void({matrices}, {kind}[:, ::1], {kind}[:, ::1], int64, float64)" for kind in kinds
    ]
    try:
        add: Callable[..., None] = compile_kept(
            partial(njit, signatures), _add_few, error_model="numpy"
        )
    except Exception as error:  # of whatever kind numba and LLVM raise
        note_failure(error)
        return None
    return add


def _add_few(
    out: Any, x: Any, values_a: Any, values_b: Any, index_a: Any, index_b: Any, r: Any, scale: Any
) -> None:
    """out += scale * x A' B', for arrays of `masked_update`'s shapes."""
    h = np.empty(r, np.float32)
    for t in range(len(x)):
        h[:] = 0
        for i in range(len(values_a)):
            for slot in range(len(index_a)):
                h[index_a[slot, i]] += values_a[i, slot] * x[t, i]
        for j in range(len(values_b)):
            total = np.float32(0)
            for slot in range(len(index_b)):
                total += values_b[j, slot] * h[index_b[slot, j]]
            out[t, j] += scale * total
