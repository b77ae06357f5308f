"""LoRA, Partial-LoRA and Targeted-LoRA at ranks 1 to 64."""

from __future__ import annotations

from analysis._arms import Arm, lora, partial_variant
from analysis._comparison import Comparison
from analysis._study import Settings

RANKS = (1, 4, 16, 32, 64)
SELECT = {"Partial": "bernoulli", "Targeted": "targeted"}


def build(settings: Settings) -> Arm:
    """One method at one rank."""
    return lora(settings["r"]) if settings["group"] == "LoRA" else partial_variant(settings)


STUDY = Comparison(
    arms={
        f"{name} r={r}": {"group": name, "r": r, "x": r, "source": "SVD"}
        | ({"select": SELECT[name]} if name in SELECT else {})
        for name in ("LoRA", *SELECT)
        for r in RANKS
    },
    build=build,
    x_label="rank r",
    log_x=True,
    quick=("Partial r=1", "LoRA r=1"),
    pairs=tuple((f"{name} r={r}", f"LoRA r={r}") for name in SELECT for r in RANKS),
).study(
    "rank_ablation",
    "Does what is lost by dropping rows and columns depend on the rank?",
    "Partial-LoRA, figures 6 and 16",
)

if __name__ == "__main__":
    STUDY.main()
