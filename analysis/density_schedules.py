"""Balanced and pyramidal densities from sparse to dense: random rows and columns."""

from __future__ import annotations

from analysis._arms import Arm, lora, scheduled
from analysis._comparison import Comparison
from analysis._study import Settings

DENSITIES = (0.05, 0.1, 0.2, 0.4, 0.7)
R = 16


def build(settings: Settings) -> Arm:
    """One schedule at one density, or dense LoRA."""
    if settings["arm"] == "LoRA":
        return lora(R)
    return scheduled(settings["group"], settings["density"], R, settings["seed"])


STUDY = Comparison(
    arms={
        f"{schedule} {p:g}": {"group": schedule, "density": p}
        for schedule in ("balanced", "pyramidal")
        for p in DENSITIES
    }
    | {"LoRA": {"group": "LoRA"}},
    build=build,
    x_label="trainable values",
    x_is="trainable_values",
    log_x=True,
    quick=("balanced 0.1", "pyramidal 0.7", "LoRA"),
    reference="LoRA",
).study(
    "density_schedules",
    "How much may be dropped everywhere, or more with depth?",
    "Partial-LoRA, figure 5",
)

if __name__ == "__main__":
    STUDY.main()
