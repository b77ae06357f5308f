"""LoRA on one kind of module alone: the queries, the keys, the values, and so on."""

from __future__ import annotations

from dataclasses import replace

from analysis._allocators import RATES, fixed
from analysis._arms import Arm
from analysis._comparison import Comparison
from analysis._study import Settings
from analysis._task import shapes
from expandermask import MaskPlan

R = 8
KINDS = {
    "value": "attention.self.value",
    "key": "attention.self.key",
    "query": "attention.self.query",
    "attention output": "attention.output.dense",
    "feed-forward in": "intermediate.dense",
    "feed-forward out": ".output.dense",
}


def build(settings: Settings) -> Arm:
    """LoRA on the modules of one kind, or all."""
    ending, taken = settings["ending"], {}
    for name, shape in shapes().items():
        outer = ending == ".output.dense" and "attention" in name
        if name.endswith(ending) and not outer:
            taken[name] = shape
    plan = MaskPlan.for_shapes(taken, r=R, left_degree=R, rng=settings["seed"])
    return replace(fixed(plan), learning_rate=RATES["LoRA"])


STUDY = Comparison(
    arms={kind: {"ending": ending} for kind, ending in KINDS.items()} | {"all": {"ending": ""}},
    build=build,
    reference="value",
    quick=("value", "key"),
).study(
    "single_modules",
    "Which kind of module is it best to adapt alone?",
    "ROLoRA, table 7",
)

if __name__ == "__main__":
    STUDY.main()
