"""Rows and columns drawn by softmax(score / T): from the best ones, cold, to any, hot."""

from __future__ import annotations

from analysis._arms import Arm, partial_variant
from analysis._comparison import Comparison
from analysis._study import Settings

TEMPERATURES = (0.05, 0.2, 1.0, 5.0, 20.0)
SOURCES = ("SVD", "IMP")
R = 16


def build(settings: Settings) -> Arm:
    """One temperature; without one, the targeted masks."""
    return partial_variant(settings)


STUDY = Comparison(
    arms={
        f"{source} T={t:g}": {
            "select": "stochastic",
            "source": source,
            "temperature": t,
            "r": R,
            "group": source,
            "x": t,
        }
        for source in SOURCES
        for t in TEMPERATURES
    }
    | {
        f"Targeted {source}": {
            "select": "targeted",
            "source": source,
            "r": R,
            "group": f"Targeted {source}",
        }
        for source in SOURCES
    },
    build=build,
    x_label="temperature, in standard deviations of the scores",
    log_x=True,
    quick=("SVD T=0.05", "SVD T=20", "Targeted SVD"),
    pairs=tuple((f"{s} T={t:g}", f"Targeted {s}") for s in SOURCES for t in TEMPERATURES),
).study(
    "temperature",
    "Does drawing by score instead of taking the best change anything?",
    "Partial-LoRA, figure 11",
)

if __name__ == "__main__":
    STUDY.main()
