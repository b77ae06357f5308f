"""Where each policy's ranks are in the end, and how many it has over its steps, from the record."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from expandermask.plots import budget_over_time, rank_heatmap

RECORD = Path(__file__).parents[2] / "analysis" / "results" / "allocated_ranks.json"
LARGEST = 16
"""Where the colours end: no policy has more terms in a module, AdaLoRA and SoRA up to 12."""
BUDGETS = {"AdaLoRA": 288, "ALoRA": 288, "ROLoRA": 288, "DiffoRA": 288}
"""In terms. SaLoRA's is one of values, SoRA has none."""


def draw(name: str, results: list[dict]) -> None:
    """One picture: mean ranks over seeds at the left, terms in use at the right."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 3.4), layout="constrained", width_ratios=[3, 2]
    )
    mean = {
        module: sum(found["ranks"][module] for found in results) / len(results)
        for module in results[0]["ranks"]
    }
    rank_heatmap(mean, left, r=LARGEST, title=f"{name}: ranks in the end, mean of {len(results)}")
    budget_over_time(
        {f"seed {seed}": found["in_use"] for seed, found in enumerate(results)},
        right,
        budget=BUDGETS.get(name),
        label="terms an evaluation would use",
        title="over the steps",
    )
    path = Path(__file__).with_name(f"ranks_{name.lower()}.png")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Draw ranks_NAME.png of every policy beside this script."""
    results: dict[str, list[dict]] = {}
    for run in json.loads(RECORD.read_text(encoding="utf-8"))["runs"]:
        results.setdefault(run["settings"]["arm"], []).append(run["result"])  # in seeds' order
    for name, found in results.items():
        draw(name, found)


if __name__ == "__main__":
    main()
