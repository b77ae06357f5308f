"""MaskedLinear: a frozen linear module with a masked low-rank update beside it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from expandermask.adapters.function import MaskedAffine, MaskedUpdate, dense_factor
from expandermask.errors import AdapterError
from expandermask.graphs.biregular import BiregularGraph
from expandermask.masks.plan import MaskPair
from expandermask.masks.targets import is_conv1d

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class MaskedLinear(nn.Module):
    """y = base(x) + scale * B A dropout(x), where only the masked entries of A and B exist.

    ``values_a`` (k, left_degree) and ``values_b`` (d, left_degree) are the trainable parameters;
    A starts uniform in its true fan-in's range and B at zero, so the model first computes what it
    did. The indices are small-integer buffers that follow from the plan and are not saved.

    Parameters
    ----------
    base : nn.Linear or transformers Conv1D
        The wrapped module, kept as it is.
    pair : MaskPair
        Supports of A and B, for the (d, k) of ``base``.
    scale, dropout : float
        Factor on the update, and the probability of dropping an input while training.
    seed : int
        64-bit seed of A's initial values.
    """

    backup: Tensor | None
    """The base weight's entries under the merged update, or None when not merged."""
    index_a: Tensor
    index_b: Tensor

    def __init__(
        self, base: nn.Module, pair: MaskPair, *, scale: float, dropout: float, seed: int
    ) -> None:
        super().__init__()
        self.base = base
        self.r = pair.a.n2
        self.scale = scale
        self.dropout = dropout
        weight = weight_of(base)
        device, dtype = weight.device, value_dtype(weight)
        start = initial_values(pair.a, seed).to(device, dtype)
        self.values_a = nn.Parameter(start)
        self.values_b = nn.Parameter(torch.zeros(pair.b.n1, pair.b.d1, device=device, dtype=dtype))
        self.register_buffer("index_a", compact_index(pair.a).to(device), persistent=False)
        self.register_buffer("index_b", compact_index(pair.b).to(device), persistent=False)
        self.register_buffer("backup", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The base module's output plus the masked update; the base's alone when merged."""
        if self.backup is not None:
            merged: Tensor = self.base(x)
            return merged
        rows = x.reshape(-1, x.shape[-1])
        values, index = (self.values_a, self.values_b), (self.index_a, self.index_b)
        if self._can_fuse(x):
            weight, bias = self.weight, self.bias
            out: Tensor = MaskedAffine.apply(
                rows, *values, weight, bias, *index, self.r, self.scale
            )
        else:
            y: Tensor = self.base(rows)
            dropped = functional.dropout(rows, self.dropout, self.training).to(y.dtype)
            out = MaskedUpdate.apply(y, dropped, *values, *index, self.r, self.scale)
        return out.view(*x.shape[:-1], out.shape[-1])

    def _can_fuse(self, x: Tensor) -> bool:
        """Whether to compute with W + scale * B A at once: the same result, and fewer products.

        Not for few tokens or half precision (see `MaskedAffine`); nor for a subclass of nn.Linear,
        a base with hooks or a replaced forward, an unfrozen base, under autocast, or with dropout,
        which falls on the update's input alone.
        """
        base, (d, k) = self.base, (self.out_features, self.in_features)
        tokens = x.numel() // k
        return (
            type(base) is nn.Linear
            and tokens * (d + k) >= 2 * d * k
            and x.dtype == base.weight.dtype == self.values_a.dtype
            and x.dtype in (torch.float32, torch.float64)
            and not (self.training and self.dropout)
            and not any(parameter.requires_grad for parameter in base.parameters())
            and not any(getattr(base, name) for name in _HOOKS)
            and "forward" not in vars(base)
            and not torch.is_autocast_enabled(x.device.type)
        )

    @torch.no_grad()
    def factors(self) -> tuple[Tensor, Tensor]:
        """Dense A (r, k) and B (d, r) in the dtype of the values, zero off their supports."""
        dtype = self.values_a.dtype
        a = dense_factor(self.values_a, self.index_a, self.r, dtype)
        b = dense_factor(self.values_b, self.index_b, self.r, dtype)
        return a, b.t().contiguous()

    @torch.no_grad()
    def merge(self, name: str) -> None:
        """Add scale * B A to the base weight, keeping the entries it overwrites; see `merge`.

        In floating point (w + u) - u is not w, so `unmerge` subtracts nothing. The update is
        itself sparse: entry (i, j) is in it when row i of B and column j of A share a rank. Which
        entries those are follows from the indices; only their old values are kept.
        """
        weight = self.base._parameters.get("weight")
        if weight is None or not weight.is_floating_point():
            raise AdapterError(
                f"the weight of {name!r} is not a plain floating-point parameter "
                "(quantized or parametrized?), so nothing can be merged into it"
            )
        a, b = self.factors()
        with torch.autocast(weight.device.type, enabled=False):
            update = self._as_stored(b @ a)
        touched = self._touched()
        old = weight[touched]
        new = (old.to(update.dtype) + self.scale * update[touched]).to(weight.dtype)
        if not new.isfinite().all():
            raise AdapterError(
                f"merging into {name!r} would give infinite or NaN weights in {weight.dtype}; the "
                "model is unchanged"
            )
        self.backup = old  # first, so that an interrupted write can be undone
        weight[touched] = new

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the base weight's own entries back, if it is merged."""
        if self.backup is not None:
            self.weight[self._touched()] = self.backup.to(self.weight.dtype)
            self.backup = None

    def _touched(self) -> Tensor:
        """Which entries of the base weight the update can change: bool, the weight's shape."""
        ones_a, ones_b = (
            dense_factor(torch.ones_like(values), index, self.r, torch.float32)
            for values, index in ((self.values_a, self.index_a), (self.values_b, self.index_b))
        )
        return self._as_stored(ones_b.t() @ ones_a > 0)

    def _as_stored(self, update: Tensor) -> Tensor:
        """A (d, k) tensor laid out as the base weight is."""
        return update.t() if self.is_transposed else update

    @property
    def is_transposed(self) -> bool:
        """Whether the base is a Conv1D, which stores its weight as (k, d)."""
        return is_conv1d(self.base)

    # Model code sometimes reads these from its linear layers (to choose a dtype, for example).

    @property
    def weight(self) -> Tensor:
        """The base module's weight."""
        return weight_of(self.base)

    @property
    def bias(self) -> Tensor | None:
        """The base module's bias."""
        bias = self.base.bias
        return bias if isinstance(bias, Tensor) else None

    @property
    def in_features(self) -> int:
        """k, the number of input features."""
        return self.values_a.shape[0]

    @property
    def out_features(self) -> int:
        """d, the number of output features."""
        return self.values_b.shape[0]

    def extra_repr(self) -> str:
        """What `print` shows beside the base module."""
        degree = self.values_a.shape[1]
        merged = ", merged" if self.backup is not None else ""
        return f"r={self.r}, left_degree={degree}, scale={self.scale:g}{merged}"


def index_dtype(r: int) -> torch.dtype:
    """The smallest dtype for ranks below r: uint8 to 256, int16 to 32768 and int32 beyond."""
    limits = ((2**8, torch.uint8), (2**15, torch.int16))
    return next((dtype for limit, dtype in limits if r <= limit), torch.int32)


def compact_index(graph: BiregularGraph) -> Tensor:
    """Ranks of each left vertex, shape (left_degree, n), in the order of ``graph.neighbors``."""
    return torch.from_numpy(graph.neighbors.T.copy()).to(index_dtype(graph.n2))


def initial_values(graph: BiregularGraph, seed: int) -> Tensor:
    """A's first values, float32 (k, left_degree): uniform with the variance LoRA's A x has.

    LoRA draws A within 1/sqrt(k), k being the fan-in of a rank. Under the mask a rank sees only
    k * left_degree / r inputs, so the bound is sqrt(r / (k * left_degree)).
    """
    bound = math.sqrt(1 / graph.d2)
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(graph.n1, graph.d1, generator=generator) - 1) * bound


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a linear module."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def value_dtype(weight: Tensor) -> torch.dtype:
    """float32, or float64 beside a float64 base: half-precision values would not train well."""
    if not weight.is_floating_point():
        return torch.float32
    return torch.promote_types(weight.dtype, torch.float32)
