"""What adapters cost in a training step, in time and memory, as benchmarks/adapters.py measured."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "adapters.json"
ARMS = {
    "lora": ("peft LoRA", "#999999"),
    "masked_in": ("mask multiplied in", "#e69f00"),
    "fused": ("dense LoRA, fused (control)", "#56b4e9"),
    "portable": ("masked, PyTorch's operations", "#0072b2"),
    "kernel": ("masked, CPU kernel", "#009e73"),
}
MIB = 2**20


def bars(ax: Axes, cases: dict[str, dict[str, float]], title: str, unit: str) -> None:
    """One group of bars for each case, one bar for each arm."""
    width = 0.8 / len(ARMS)
    for i, (arm, (label, colour)) in enumerate(ARMS.items()):
        values = [case[arm] for case in cases.values()]
        places = [k + (i - (len(ARMS) - 1) / 2) * width for k in range(len(values))]
        ax.bar(places, values, width, label=label, color=colour)
    ax.set_xticks(range(len(cases)), list(cases))
    ax.set_title(title)
    ax.set_ylabel(unit)


def main() -> None:
    """Draw both panels into adapters.png beside this script."""
    cases = json.loads(RECORD.read_text(encoding="utf-8"))["cases"]
    overhead = {name: {arm: case[arm]["overhead"] for arm in ARMS} for name, case in cases.items()}
    state = {
        name: {
            arm: 4 * sum(case[arm][k] for k in ("trainable", "gradient", "optimizer")) / MIB
            for arm in ARMS
        }
        for name, case in cases.items()
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    bars(left, overhead, "Time of a training step beyond the base model's", "share of peft LoRA's")
    left.axhline(1, color="black", linewidth=0.8)
    bars(right, state, "Parameters, gradients and AdamW's moments", "MiB")
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter(NullFormatter())
    right.legend(fontsize=8)
    path = Path(__file__).with_name("adapters.png")
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
