"""Terms: every rank-1 term of an adapter in one row, module after module.

A term is column j of B, its gate and row j of A, what AdaLoRA calls a triplet. Policies rank all
terms of all modules together, and this is the order in which ties are broken.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.layers.factors import ranks_of
from expandermask.errors import AdapterError


class Terms:
    """The terms of some modules' adapters, all of one rank or not.

    Raises `AdapterError` for values that are sharded over processes, of which no process has all.
    """

    def __init__(self, adapters: Mapping[str, MaskedAdapter]) -> None:
        self.adapters = dict(adapters)
        for name, adapter in self.adapters.items():
            if any(isinstance(p, DTensor) for p in adapter.parameters()):
                raise AdapterError(
                    f"the values of {name!r} are sharded over processes (FSDP2), and terms are "
                    "ranked as a whole; train with DDP instead"
                )
        self._sizes = [adapter.r for adapter in self.adapters.values()]
        self.exists = self._exists()
        """Which terms have entries in both factors: bool, shape (terms,). Others do nothing."""

    def __len__(self) -> int:
        return sum(self._sizes)

    def split(self, row: Tensor) -> dict[str, Tensor]:
        """Numbers of all terms, shape (terms,), as one vector for each module: views."""
        return dict(zip(self.adapters, torch.split(row, self._sizes), strict=True))

    def gates(self) -> list[Tensor]:
        """Every module's rank gate, which has to be there."""
        found = [gate for a in self.adapters.values() if (gate := a.rank_gate) is not None]
        assert len(found) == len(self.adapters)
        return found

    def values(self) -> list[torch.nn.Parameter]:
        """The values of A and then of B, module after module."""
        return [v for a in self.adapters.values() for v in (a.lora_A, a.lora_B)]

    def of_values(self) -> Tensor:
        """The term each value belongs to, in the order of `values`: int32, shape (values,)."""
        both = zip(self._of_side("a"), self._of_side("b"), strict=True)
        return torch.cat([part for parts in both for part in parts])

    def _of_side(self, side: str) -> list[Tensor]:
        """The term of each value of one factor, for every module."""
        parts, start = [], 0
        for adapter in self.adapters.values():
            values, index = (
                getattr(adapter, f"lora_{side.upper()}"),
                getattr(adapter, f"index_{side}"),
            )
            ranks = ranks_of(values, index, adapter.shape["ba".index(side)])
            if ranks is None:  # whole lines: one value of every rank
                ranks = torch.arange(adapter.r, device=values.device).expand(values.shape)
            parts.append((ranks.reshape(-1) + start).int())
            start += adapter.r
        return parts

    def _exists(self) -> Tensor:
        a, b = (
            torch.bincount(torch.cat(self._of_side(side)), minlength=len(self)) > 0 for side in "ab"
        )
        return a & b

    def shares_of_values(self) -> Tensor:
        """For a mean over each factor's entries of a term: 1 / their number, in the same order."""
        parts, start = [], 0
        all_terms = self.of_values()
        for values in self.values():
            own = all_terms[start : start + values.numel()].long()
            start += values.numel()
            parts.append(1 / torch.bincount(own)[own])
        return torch.cat(parts)
