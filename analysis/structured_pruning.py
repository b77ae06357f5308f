"""AdaLoRA beside LoRA of which whole terms are pruned for good, by the same scores and schedule."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from analysis._allocators import RATES, allocator, dense_plan, fixed, lora_of_rank
from analysis._arms import Arm
from analysis._comparison import Comparison
from analysis._study import Settings
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.allocation import AdaLoRA

RANKS = (2, 4, 8)


class PrunedLoRA(AdaLoRA):
    """LoRA's own factors, whose terms are dropped by AdaLoRA's importance and never come back."""

    def start_terms(self, adapter: MaskedAdapter, terms: Tensor, seed: int) -> None:
        """LoRA's first values stay, and all gates are 1."""
        adapter.set_rank_gate(torch.ones(adapter.r, dtype=adapter.lora_A.dtype))

    def scores(self) -> Tensor:
        """AdaLoRA's scores of the terms that are left."""
        gone = torch.cat([gate.reshape(-1) for gate in self._terms.gates()]) == 0
        return super().scores().masked_fill(gone, -math.inf)


def build(settings: Settings) -> Arm:
    """One method at one target rank."""
    kind, r = settings["kind"], settings["r"]
    if kind == "LoRA":
        return lora_of_rank(r, settings["seed"])
    if kind == "AdaLoRA":
        return allocator(kind, r, settings)
    start = fixed(dense_plan(r + r // 2, settings["seed"]), RATES["LoRA"])
    return replace(
        start,
        policy=lambda steps: PrunedLoRA(
            target_rank=r,
            total_steps=steps,
            warmup_steps=steps // 10,
            final_steps=steps // 3,
            orthogonality=0.0,
        ),
    )


_KINDS = ("LoRA", "AdaLoRA", "pruned LoRA")
STUDY = Comparison(
    arms={
        f"{kind}, R={r}": {"kind": kind, "group": kind, "r": r, "x": r}
        for kind in _KINDS
        for r in RANKS
    },
    build=build,
    x_label="target rank R",
    quick=("pruned LoRA, R=4", "AdaLoRA, R=4"),
    pairs=tuple((f"AdaLoRA, R={r}", f"pruned LoRA, R={r}") for r in RANKS),
    log_x=True,
).study(
    "structured_pruning",
    "Is it better to mask singular values than to prune whole terms?",
    "AdaLoRA, section 4.4",
)

if __name__ == "__main__":
    STUDY.main()
