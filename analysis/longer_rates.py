"""LoRA, AdaLoRA and ROLoRA at several learning rates, trained three times as long as elsewhere.

`rank_budgets` takes the best of each, at all its ranks. The rates of fifty steps are not those of
three times as many, at which LoRA's diverges for one of two seeds.
"""

from __future__ import annotations

from analysis._allocators import ROUNDS, allocator, lora_of_rank
from analysis._arms import Arm
from analysis._rate_search import rate_search
from analysis._study import Settings

R = 8
GRID = {
    "LoRA": (2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3),
    "AdaLoRA": (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2),
    "ROLoRA": (5e-3, 1e-2, 2e-2, 4e-2),
}


def build(settings: Settings) -> Arm:
    """One method at one learning rate."""
    kind, rate, seed = settings["kind"], settings["rate"], settings["seed"]
    return lora_of_rank(R, seed, rate) if kind == "LoRA" else allocator(kind, R, settings, rate)


STUDY = rate_search(
    GRID,
    lambda kind, rate: {"kind": kind, "rate": rate, "times": ROUNDS},
    build,
    quick=("ROLoRA, 0.02",),
)(
    "longer_rates",
    "Which learning rate suits three times as many steps?",
    "what the papers leave to a search",
)

if __name__ == "__main__":
    STUDY.main()
