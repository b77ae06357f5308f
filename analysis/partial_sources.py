"""Partial, Targeted and Inverted LoRA at densities read off by three kinds of scores."""

from __future__ import annotations

from analysis._arms import Arm, lora, partial_variant
from analysis._comparison import Comparison
from analysis._sparsity import METHODS
from analysis._study import Settings

SELECT = {"Partial": "bernoulli", "Targeted": "targeted", "Inverted": "inverted"}
R = 16


def build(settings: Settings) -> Arm:
    """A row and column mask, or dense LoRA."""
    return lora(R) if settings["arm"] == "LoRA" else partial_variant(settings)


STUDY = Comparison(
    arms={"LoRA": {"r": R}}
    | {
        f"{name} {source}": {"select": select, "source": source, "r": R}
        for name, select in SELECT.items()
        for source in METHODS
    },
    build=build,
    reference="LoRA",
    quick=("Partial SVD", "Targeted SVD", "Inverted SVD", "LoRA"),
    pairs=tuple(
        (f"Partial {s}", f"{other} {s}") for s in METHODS for other in ("Targeted", "Inverted")
    ),
).study(
    "partial_sources",
    "Does it matter which rows and columns are kept, or only how many?",
    "Partial-LoRA, table 2",
)

if __name__ == "__main__":
    STUDY.main()
