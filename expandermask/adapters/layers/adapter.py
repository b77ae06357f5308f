"""MaskedAdapter: one masked low-rank update, scale * gamma * B diag(g) A, with its slots for gates.

It knows nothing of the module it adapts but its sizes, so the same class serves the layers of
`attach` and those of the PEFT tuner.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from expandermask._moved import moved_attribute
from expandermask.adapters.layers.factors import (
    Factors,
    columns_by_rank,
    dense_factor,
    index_of,
    ranks_of,
    uniform_values,
    value_shape,
)
from expandermask.adapters.layers.kernel import check_index
from expandermask.adapters.training.distributed import whole
from expandermask.errors import AdapterError
from expandermask.graphs.random import derive_seed
from expandermask.masks.plan import MaskPair

Gate = nn.Parameter | Tensor | None


class MaskedAdapter(nn.Module):
    """The trainable part of one adapted module: values of A and B on their masks, and gates.

    A starts uniform in its true fan-in's range and B at zero, so the update is zero at first. For
    an embedding it is the other way round: A, whose columns are looked up, at zero, and B normal.
    The indices are buffers that follow from the plan and are not saved.

    Parameters
    ----------
    pair : MaskPair
        Masks of A (k x r, transposed) and B (d x r).
    scale, dropout : float
        Factor on the update, and the probability of dropping an input while training.
    seed : int
        64-bit seed of the first values.
    device, dtype : optional
        Of the values.
    embedding : bool
        Whether the inputs are rows of a table, looked up by number.
    zero : bool
        Whether one factor starts at zero. Otherwise both are random, and the update is not zero.
    """

    index_a: Tensor
    index_b: Tensor
    rank_gate: Gate
    """g, shape (r,): one factor per rank, or None for ones. A Parameter, or any tensor to train."""
    module_gate: Gate
    """gamma, shape (): one factor for the module, or None for 1."""
    evaluation_gate: Tensor | None
    """g in evaluation mode, merged and in files, if it is another: see `set_rank_gate`."""

    def __init__(
        self,
        pair: MaskPair,
        *,
        scale: float,
        dropout: float,
        seed: int,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        embedding: bool = False,
        zero: bool = True,
    ) -> None:
        super().__init__()
        self.r = pair.a.n2
        self.shape = pair.shape
        self.embedding = embedding
        self.scale = scale
        self.dropout = dropout
        a, b = first_values(pair, seed, embedding=embedding, zero=zero)
        self.lora_A = nn.Parameter(a.to(device, dtype))
        self.lora_B = nn.Parameter(b.to(device, dtype))
        for side, graph in (("a", pair.a), ("b", pair.b)):
            index = index_of(graph)
            if index.dim() == 2:
                check_index(index, self.r)  # the kernel writes where it says
            self.register_buffer(f"index_{side}", index.to(device), persistent=False)
        self.register_parameter("rank_gate", None)
        self.register_parameter("module_gate", None)
        self.evaluation_gate = None
        self._trains = True
        self._gate_flags: dict[str, bool] = {}
        self._shares_values = False
        self.register_state_dict_post_hook(_copy_shared)
        self.register_load_state_dict_pre_hook(_take_old_names)

    values_a = moved_attribute("values_a", "lora_A")
    values_b = moved_attribute("values_b", "lora_B")

    def let_train(self, trains: bool) -> None:
        """Unfreeze the values, or freeze them and the gates.

        A gate's own ``requires_grad`` is the choice of whoever put it there: it comes back as it
        was.
        """
        self._trains = trains
        for values in (self.lora_A, self.lora_B):
            values.requires_grad_(trains)
        for slot in ("rank_gate", "module_gate"):
            gate = getattr(self, slot)
            if not isinstance(gate, nn.Parameter):
                continue
            if trains:
                gate.requires_grad_(self._gate_flags.pop(slot, gate.requires_grad))
            else:
                self._gate_flags.setdefault(slot, gate.requires_grad)
                gate.requires_grad_(False)

    def share_values(self, other: MaskedAdapter) -> None:
        """Use the very values of ``other`` from now on: the same Parameters, trained once.

        Both need the same masks. A state dict holds the values for each of them.
        """
        self.lora_A = other.lora_A
        self.lora_B = other.lora_B
        self._shares_values = True

    def own_values(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Undo `share_values`: take copies of the values, and return each after its original."""
        if not self._shares_values:
            return []
        shared = (self.lora_A, self.lora_B)
        copies = [nn.Parameter(p.detach().clone(), p.requires_grad) for p in shared]
        self.lora_A, self.lora_B = copies
        self._shares_values = False
        return list(zip(shared, copies, strict=True))

    def set_rank_gate(self, gate: Gate, *, evaluation: Tensor | None = None) -> None:
        """Put ``gate``, of r elements, in the slot for g; None empties it.

        A Parameter trains and is part of the state dict; any other tensor is used as it is, so that
        a policy can give one computed from parameters of its own. Where gates are drawn at random,
        ``evaluation`` has those without noise, which are then used in evaluation mode, by `merge`
        and in files. `AdapterError` for another size.
        """
        self._set_gate("rank_gate", gate, self.r)
        self.evaluation_gate = evaluation

    @property
    def steady_gate(self) -> Gate:
        """The rank gate of evaluation: g itself, unless it is drawn."""
        return self.rank_gate if self.evaluation_gate is None else self.evaluation_gate

    def set_module_gate(self, gate: Gate) -> None:
        """Put ``gate``, of one element, in the slot for gamma; otherwise as `set_rank_gate`."""
        self._set_gate("module_gate", gate, 1)

    def _set_gate(self, slot: str, gate: Gate, size: int) -> None:
        if gate is not None and gate.numel() != size:
            raise AdapterError(f"{slot} must have {size} elements, got shape {tuple(gate.shape)}")
        delattr(self, slot)
        self._gate_flags.pop(slot, None)
        if gate is None:
            self.register_parameter(slot, None)
        else:
            setattr(self, slot, gate)
            if not self._trains:
                self.let_train(False)

    def stored(self) -> Factors:
        """Both factors, the gates multiplied into the values of B: what products take."""
        gated = self.gated_b()
        return Factors(self.lora_A, gated, self.index_a, self.index_b, self.r, self.scale)

    def gated_b(self) -> Tensor:
        """The values of B with both gates multiplied in; the parameter itself if there are none.

        A gate costs one product per value of B, however many tokens follow.
        """
        rank_gate = self.rank_gate if self.training else self.steady_gate
        return self._gated(self.lora_B, rank_gate, self.module_gate)

    def steady_b(self) -> Tensor:
        """The same with the gates of evaluation."""
        return self._gated(self.lora_B, self.steady_gate, self.module_gate)

    def _gated(self, values: Tensor, rank_gate: Gate, module_gate: Gate) -> Tensor:
        if rank_gate is not None:
            gate = rank_gate.to(values.dtype).reshape(-1)
            ranks = ranks_of(values, self.index_b, self.shape[0])
            if ranks is not None:
                gate = gate.gather(0, ranks.reshape(-1)).view(ranks.shape)
            values = values * gate
        if module_gate is not None:
            values = values * module_gate.to(values.dtype).reshape(())
        return values

    @torch.no_grad()
    def factors(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Dense A (r, k) and B (d, r), gates in B, zero off their masks; None is the values' dtype.

        Where the values are sharded (FSDP2), they are gathered: all ranks have to call it.
        """
        d, k = self.shape
        dtype = dtype or self.lora_A.dtype
        gates = [g if g is None else whole(g) for g in (self.steady_gate, self.module_gate)]
        b = self._gated(whole(self.lora_B).to(dtype), *gates)
        a = dense_factor(whole(self.lora_A), self.index_a, (self.r, k), dtype)
        b = dense_factor(b, self.index_b, (self.r, d), dtype)
        return a, b.t().contiguous()

    @torch.no_grad()
    def delta(self) -> Tensor:
        """The dense update of the weight, scale * gamma * B diag(g) A: (d, k), values' dtype."""
        a, b = self.factors()
        with torch.autocast(a.device.type, enabled=False):
            return (b @ a).mul_(self.scale)

    @torch.no_grad()
    def touched(self) -> tuple[Tensor, Tensor] | None:
        """Rows and columns of the weight's entries that the update can change; None for nearly all.

        Entry (i, j) when row i of B and column j of A share a rank: it follows from the masks. The
        two int64 tensors broadcast; an entry may be named twice. O(entries) where the masks are
        biregular, O(d * k * r) else.
        """
        columns = columns_by_rank(self.index_a, self.r)
        if columns is not None and self.index_b.dim() == 2:
            (d, k), degree = self.shape, self.index_b.shape[0]
            if 2 * degree * columns.shape[1] > k:
                return None
            rows = torch.arange(d, device=columns.device).unsqueeze(1)
            return rows, columns[self.index_b.t().long()].reshape(d, -1)
        (d, k), r = self.shape, self.r
        a = dense_factor(torch.ones_like(self.lora_A), self.index_a, (r, k), torch.float32)
        b = dense_factor(torch.ones_like(self.lora_B), self.index_b, (r, d), torch.float32)
        rows, columns = (b.t() @ a > 0).nonzero(as_tuple=True)
        return (rows, columns) if 2 * rows.numel() <= d * k else None

    def extra_repr(self) -> str:
        """What `print` shows."""
        gates = [n for n in ("rank_gate", "module_gate") if getattr(self, n) is not None]
        values = self.lora_A.numel() + self.lora_B.numel()
        return ", ".join([f"r={self.r}", f"values={values}", f"scale={self.scale:g}", *gates])


def _take_old_names(adapter: MaskedAdapter, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Take values by the names they had in version 0.1.0, where single elements lay in a line."""
    for old, new in (("values_a", "lora_A"), ("values_b", "lora_B")):
        if (values := state.pop(f"{prefix}{old}", None)) is not None:
            state[f"{prefix}{new}"] = values.unsqueeze(1) if values.dim() == 1 else values


def _copy_shared(adapter: MaskedAdapter, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """Give a state dict its own copies of shared values: safetensors refuses shared memory."""
    if adapter._shares_values:
        for name in ("lora_A", "lora_B"):
            state[prefix + name] = state[prefix + name].clone()


def first_values(
    pair: MaskPair, seed: int, *, embedding: bool, zero: bool = True
) -> tuple[Tensor, Tensor]:
    """The values of A and B before training, float32 on the CPU: see `MaskedAdapter`."""
    drawn = pair.b if embedding else pair.a
    other = pair.a if embedding else pair.b
    if embedding:
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(value_shape(drawn), generator=generator, device="cpu")
    else:
        first = uniform_values(drawn, seed)
    if zero:
        second = torch.zeros(value_shape(other), device="cpu")
    else:
        second = uniform_values(other, derive_seed(seed, "second"))
    return (second, first) if embedding else (first, second)


def value_dtype(weight: Tensor) -> torch.dtype:
    """float32, or float64 beside a float64 base: half-precision values would not train well."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32
