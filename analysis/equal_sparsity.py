"""Expander, Bernoulli and near-optimal design masks, and dense LoRA, at equal sparsity."""

from __future__ import annotations

from analysis._arms import Arm, bernoulli_elements, expander, lora
from analysis._comparison import Comparison
from analysis._study import Settings

LEVELS = {"50 %": (8, 4), "62.5 %": (8, 3), "75 %": (8, 2), "96.9 %": (64, 2)}
"""Rank and left degree: the share of entries dropped is 1 - left_degree / r."""
KINDS = ("expander", "Bernoulli", "design")


def arms() -> dict[str, Settings]:
    """Every kind at every level, and dense LoRA at both ranks."""
    found = {
        f"{kind} {level}": {
            "kind": kind,
            "r": r,
            "left_degree": degree,
            "group": kind,
            "x": 100 * (1 - degree / r),
        }
        for level, (r, degree) in LEVELS.items()
        for kind in KINDS
    }
    dense = {f"LoRA r={r}": {"kind": "LoRA", "r": r, "group": f"LoRA r={r}"} for r in (8, 64)}
    return found | dense


def build(settings: Settings) -> Arm:
    """One arm; expander masks are uniformly random graphs, kept only if proved Ramanujan."""
    kind, r, seed = settings["kind"], settings["r"], settings["seed"]
    if kind == "LoRA":
        return lora(r)
    if kind == "Bernoulli":
        return bernoulli_elements(r, settings["left_degree"] / r, seed)
    return expander(
        r, settings["left_degree"], seed, method="random" if kind == "expander" else "design"
    )


STUDY = Comparison(
    arms=arms(),
    build=build,
    x_label="sparsity, % of entries dropped",
    quick=("expander 75 %", "Bernoulli 75 %", "LoRA r=8"),
    seeds=5,
    pairs=tuple(
        (f"{a} {level}", f"{b} {level}")
        for level in LEVELS
        for a, b in (("expander", "Bernoulli"), ("design", "Bernoulli"), ("design", "expander"))
    ),
).study(
    "equal_sparsity",
    "Do expander masks beat Bernoulli masks at equal sparsity, and vary less?",
    "XoRA, table 1",
)

if __name__ == "__main__":
    STUDY.main()
