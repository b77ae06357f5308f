"""Every way to allocate ranks, beside LoRA, XoRA and Partial-LoRA, at a mean rank of about 8."""

from __future__ import annotations

from analysis._allocators import allocator, at_random, by_gradient_norm, lora_of_rank
from analysis._arms import Arm, derived, expander, partial_variant
from analysis._comparison import Comparison
from analysis._study import TRAINING, Settings
from analysis._task import shapes

R = 8
POLICIES = ("AdaLoRA", "SoRA", "SaLoRA", "ALoRA", "ROLoRA", "DiffoRA")


def build(settings: Settings) -> Arm:
    """One method."""
    kind, r, seed = settings["arm"], settings["r"], settings["seed"]
    if kind == "LoRA":
        return lora_of_rank(r, seed)
    if kind == "gradient norms":
        return by_gradient_norm(r, settings)
    if kind == "random ranks":
        return at_random(r, settings)
    if kind == "XoRA":  # as many values, at four times the rank
        return expander(4 * r, r, seed)
    if kind == "Partial-LoRA":
        return partial_variant({**settings, "r": rank_of_equal_size(settings)})
    return allocator(kind, r, settings)


def rank_of_equal_size(settings: Settings) -> int:
    """The rank at which Partial-LoRA has about as many values as LoRA of rank r."""
    sizes, densities = shapes(), derived(settings)
    whole = sum(d + k for d, k in sizes.values())
    kept = sum(p.rows * sizes[n][0] + p.columns * sizes[n][1] for n, p in densities.items())
    return max(1, round(settings["r"] * whole / kept))


ARMS = ("LoRA", "random ranks", "gradient norms", *POLICIES, "XoRA", "Partial-LoRA")
STUDY = Comparison(
    arms={
        kind: {"r": R}
        | ({"select": "bernoulli", "source": "SVD"} if kind == "Partial-LoRA" else {})
        for kind in ARMS
    },
    build=build,
    reference="LoRA",
    quick=("AdaLoRA", "LoRA", "DiffoRA"),
    what=("values_left", TRAINING, "gradient_bytes", "optimizer_bytes"),
).study(
    "allocation_methods",
    "Does it pay to allocate ranks, at a mean rank of 8?",
    "AdaLoRA, table 1; ROLoRA, table 1; DiffoRA, table 1",
)

if __name__ == "__main__":
    STUDY.main()
