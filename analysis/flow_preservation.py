"""Scores of each layer alone, or with those of the layer that reads it added, for targeted masks.

Rows of queries and keys, which no linear layer reads, stay as they are.
"""

from __future__ import annotations

from analysis._arms import partial_variant
from analysis._comparison import Comparison

R = 16

STUDY = Comparison(
    arms={
        name: {"select": "targeted", "source": "IMP", "flow": flow, "r": R}
        for name, flow in (("Isolated", False), ("Continuous", True))
    },
    build=partial_variant,
    reference="Isolated",
    seeds=5,
).study(
    "flow_preservation",
    "Does adding the next layer's scores, to keep the flow through both, help?",
    "Partial-LoRA, table 4",
)

if __name__ == "__main__":
    STUDY.main()
