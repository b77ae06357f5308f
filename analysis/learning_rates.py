"""Each method of `methods` at four learning rates, measured on validation snippets.

`methods` takes the best of each, so that none is at another's rate.
"""

from __future__ import annotations

from analysis._rate_search import rate_search
from analysis.methods import build, method

GRID = {
    "LoRA": (5e-4, 1e-3, 2e-3, 4e-3),
    "DoRA": (5e-4, 1e-3, 2e-3, 4e-3),
    "AdaLoRA": (1.6e-2, 3.2e-2, 6.4e-2, 1.28e-1),
    "LoRA+": (1.25e-4, 2.5e-4, 5e-4, 1e-3),
    "VeRA": (2e-2, 4e-2, 8e-2, 1.6e-1),
    "Partial-LoRA": (1.25e-3, 2.5e-3, 5e-3, 1e-2),
    "XoRA": (2.5e-3, 5e-3, 1e-2, 2e-2),
}
"""Half, one, two and four times, or so, what each paper or PEFT's examples take."""

STUDY = rate_search(
    GRID,
    method,
    build,
    quick=tuple(f"{kind}, {GRID[kind][1]:g}" for kind in ("VeRA", "LoRA+", "DoRA", "AdaLoRA")),
    x_label="learning rate (LoRA+: of A)",
)(
    "learning_rates",
    "Which learning rate suits which method?",
    "Partial-LoRA, section 5: 20 models of a method, the best by validation",
)

if __name__ == "__main__":
    STUDY.main()
