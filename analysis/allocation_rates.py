"""Each policy at several learning rates, measured on validation snippets.

The other studies of policies take the best of each. ALoRA takes LoRA's: it trains LoRA's factors
without gates, and a run of it is mostly evaluations, which no rate changes.
"""

from __future__ import annotations

from dataclasses import replace

from analysis._allocators import adalora, allocator, lora_of_rank, salora, sora
from analysis._arms import Arm
from analysis._rate_search import rate_search
from analysis._study import Settings

R = 8
HEAVY = 0.1
"""A weight AdaLoRA is published with, where orthogonality is a mean of norms, not their squares."""
SORA = "SoRA, gates at the same rate"
ADALORA, SALORA = (f"{kind}, orthogonality {HEAVY:g}" for kind in ("AdaLoRA", "SaLoRA"))
GRID = {
    "LoRA": (1e-3, 2e-3, 3e-3, 4e-3),
    "AdaLoRA": (1e-2, 2e-2, 4e-2, 8e-2),
    "SoRA": (1e-3, 2e-3, 4e-3, 8e-3),
    "SaLoRA": (1e-3, 2e-3, 4e-3, 8e-3),
    "ROLoRA": (1e-2, 2e-2, 4e-2, 8e-2, 1.6e-1),
    "DiffoRA": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    SORA: (1e-3, 2e-3, 4e-3, 8e-3),
    ADALORA: (1e-2, 2e-2, 4e-2, 8e-2, 1.6e-1),
    SALORA: (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2),
}


def build(settings: Settings) -> Arm:
    """One policy at one learning rate."""
    kind, rate = settings["kind"], settings["rate"]
    if kind == "LoRA":
        return lora_of_rank(R, settings["seed"], rate)
    if kind == SORA:
        arm = allocator("SoRA", R, settings, rate)
        return replace(arm, policy=lambda steps: sora(rate, steps, ratio=1, pull=0.43))
    if kind == ADALORA:
        arm = allocator("AdaLoRA", R, settings, rate)
        return replace(arm, policy=lambda steps: adalora(R, steps, HEAVY))
    if kind == SALORA:
        arm = allocator("SaLoRA", R, settings, rate)
        return replace(arm, policy=lambda steps: salora(steps, HEAVY))
    return allocator(kind, R, settings, rate)


STUDY = rate_search(
    GRID,
    lambda kind, rate: {"kind": kind, "rate": rate},
    build,
    quick=("AdaLoRA, 0.04", "SaLoRA, 0.002", "DiffoRA, 0.002"),
)(
    "allocation_rates",
    "Which learning rate suits which policy?",
    "what the papers leave to a search",
)

if __name__ == "__main__":
    STUDY.main()
