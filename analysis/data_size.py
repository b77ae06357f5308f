"""LoRA, Targeted-LoRA and Partial-LoRA on few examples and on all of them.

The masks' densities are the same in both: those found with the mode's whole train set at hand.
"""

from __future__ import annotations

from dataclasses import replace

from analysis._arms import Arm, lora, partial_variant
from analysis._comparison import Comparison
from analysis._study import Mode, Settings

R = 16
SELECT = {"LoRA": None, "Partial": "bernoulli", "Targeted": "targeted"}
FEWER, LONGER = 16, 10
"""Few examples are a 16th of all, gone through 10 times as often."""


def build(settings: Settings) -> Arm:
    """One method; how much it trains on is in its settings."""
    return lora(R) if settings["select"] is None else partial_variant(settings)


COMPARISON = Comparison(
    arms={
        f"{name}, {share}": {"select": select, "share": share, "r": R, "source": "SVD"}
        for share in ("few", "all")
        for name, select in SELECT.items()
    },
    build=build,
    quick=("Partial, few", "LoRA, few"),
    pairs=tuple(
        (f"{n}, {s}", f"LoRA, {s}") for s in ("few", "all") for n in ("Partial", "Targeted")
    ),
)


def runs(mode: Mode) -> list[Settings]:
    """The comparison's runs, those on few examples with fewer of them and more epochs."""
    return [
        s | {"train": max(16, s["train"] // FEWER), "epochs": s["epochs"] * LONGER}
        if s["share"] == "few" and mode != "smoke"
        else s
        for s in COMPARISON.runs(mode)
    ]


STUDY = replace(
    COMPARISON.study(
        "data_size",
        "Do masked adapters fare as well as LoRA on few examples and on many?",
        "Partial-LoRA, table 3",
    ),
    runs=runs,
)

if __name__ == "__main__":
    STUDY.main()
