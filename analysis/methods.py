"""LoRA, LoRA+, DoRA, VeRA and AdaLoRA from PEFT beside Partial-LoRA and expander masks."""

from __future__ import annotations

from analysis._arms import Arm, adalora, expander, lora, lora_plus, partial_variant, vera
from analysis._comparison import Comparison
from analysis._study import Settings

R = 16


def build(settings: Settings) -> Arm:
    """One method at its own learning rate."""
    kind = settings["arm"]
    if kind == "Partial-LoRA":
        return partial_variant(settings)
    if kind == "XoRA":
        return expander(R, 2, settings["seed"])
    if kind == "AdaLoRA":
        return adalora(R, settings)
    if kind == "VeRA":
        return vera()
    if kind == "LoRA+":
        return lora_plus(R)
    return lora(R, use_dora=kind == "DoRA")


PARTIAL = {"select": "bernoulli", "source": "SVD", "r": R}
STUDY = Comparison(
    arms={
        kind: PARTIAL if kind == "Partial-LoRA" else {"r": R}
        for kind in ("LoRA", "Partial-LoRA", "XoRA", "VeRA", "LoRA+", "DoRA", "AdaLoRA")
    },
    build=build,
    reference="LoRA",
    quick=("VeRA", "LoRA+", "DoRA", "AdaLoRA"),
).study(
    "methods",
    "How do the methods compare on one task?",
    "Partial-LoRA, tables 5 and 6",
)

if __name__ == "__main__":
    STUDY.main()
