"""Ranks 8 to 64 with two entries kept in each row: one number of trainable values for all."""

from __future__ import annotations

from analysis._arms import Arm, expander, lora
from analysis._comparison import Comparison
from analysis._study import Settings

RANKS = (8, 16, 32, 64)


def build(settings: Settings) -> Arm:
    """XoRA, or LoRA of the same rank, which has r / 2 times as many values."""
    if settings["group"] == "LoRA":
        return lora(settings["r"])
    return expander(settings["r"], 2, settings["seed"])


STUDY = Comparison(
    arms={
        f"{kind} r={r}": {"group": kind, "r": r, "x": r} for kind in ("XoRA", "LoRA") for r in RANKS
    },
    build=build,
    x_label="rank r",
    log_x=True,
    quick=("XoRA r=8", "XoRA r=64"),
    pairs=tuple((f"XoRA r={r}", "XoRA r=8") for r in RANKS[1:]),
).study(
    "rank_at_constant_values",
    "Does a higher rank help at the same number of trainable values?",
    "XoRA, table 4 and figure 2",
)

if __name__ == "__main__":
    STUDY.main()
