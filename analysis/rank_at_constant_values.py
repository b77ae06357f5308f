"""Ranks 8 to 64 with two entries kept in each row: one number of trainable values for all.

Once with one learning rate for all ranks, once with one that keeps an update as large: the scale is
lora_alpha / sqrt(r * left_degree), so a step of Adam of one size changes the weights less at a
higher rank.
"""

from __future__ import annotations

from dataclasses import replace

from analysis._arms import Arm, expander, lora, matched_rate
from analysis._comparison import Comparison
from analysis._study import Settings

RANKS = (8, 16, 32, 64)
SCALED = "XoRA, rate as the scale asks"


def build(settings: Settings) -> Arm:
    """XoRA, or LoRA of the same rank, which has r / 2 times as many values."""
    if settings["group"] == "LoRA":
        return lora(settings["r"])
    arm = expander(settings["r"], 2, settings["seed"])
    if settings["group"] == SCALED:
        return replace(arm, learning_rate=matched_rate(settings["r"], 2))
    return arm


STUDY = Comparison(
    arms={
        f"{kind} r={r}": {"group": kind, "r": r, "x": r}
        for kind in ("XoRA", SCALED, "LoRA")
        for r in RANKS
    },
    build=build,
    x_label="rank r",
    log_x=True,
    quick=("XoRA r=8", "XoRA r=64"),
    pairs=tuple((f"{kind} r={r}", f"{kind} r=8") for kind in ("XoRA", SCALED) for r in RANKS[1:]),
).study(
    "rank_at_constant_values",
    "Does a higher rank help at the same number of trainable values?",
    "XoRA, table 4 and figure 2",
)

if __name__ == "__main__":
    STUDY.main()
