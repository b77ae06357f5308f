"""LoRA, LoRA+, DoRA, VeRA and AdaLoRA from PEFT beside Partial-LoRA and expander masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from analysis._arms import Arm, adalora, expander, lora, lora_plus, partial_variant, vera
from analysis._comparison import Comparison
from analysis._study import TRAINING, Settings

R = 16
RATES = {
    "LoRA": 2e-3,
    "Partial-LoRA": 5e-3,
    "XoRA": 1e-2,
    "VeRA": 8e-2,
    "LoRA+": 5e-4,
    "DoRA": 2e-3,
    "AdaLoRA": 6.4e-2,
}
"""The learning rate of each, as the study `learning_rates` found it on validation snippets."""


def build(settings: Settings) -> Arm:
    """The method of settings with kind and rate."""
    kind, rate = settings["kind"], settings["rate"]
    if kind == "Partial-LoRA":
        return replace(partial_variant(settings), learning_rate=rate)
    if kind == "XoRA":
        return replace(expander(R, 2, settings["seed"]), learning_rate=rate)
    if kind == "AdaLoRA":
        return adalora(R, rate, settings)
    if kind == "VeRA":
        return vera(rate)
    if kind == "LoRA+":
        return lora_plus(R, rate)
    return replace(lora(R, use_dora=kind == "DoRA"), learning_rate=rate)


def method(kind: str, rate: float) -> dict[str, Any]:
    """Settings of one method at one learning rate."""
    own = {"select": "bernoulli", "source": "SVD"} if kind == "Partial-LoRA" else {}
    return {"kind": kind, "rate": rate, "r": R, **own}


STUDY = Comparison(
    arms={kind: method(kind, rate) for kind, rate in RATES.items()},
    build=build,
    reference="LoRA",
    quick=("VeRA", "LoRA+", "DoRA", "AdaLoRA"),
    what=(TRAINING, "gradient_bytes", "optimizer_bytes"),
).study(
    "methods",
    "How do the methods compare on one task?",
    "Partial-LoRA, tables 5 and 6",
)

if __name__ == "__main__":
    STUDY.main()
