"""What each policy does over its steps, and where its ranks are then: of the study's record."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from expandermask.plots import budget_over_time, rank_heatmap

RECORD = Path(__file__).parents[2] / "analysis" / "results" / "allocated_ranks.json"
LARGEST = 16
"""Where the colours end: twice the mean rank that all policies aim at."""


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
        budget=LARGEST / 2 * len(mean),
        title="over the steps",
    )
    path = Path(__file__).with_name(f"ranks_{name.lower()}.png")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Draw ranks_NAME.png of every policy beside this script."""
    results: dict[str, list[dict]] = {}
    for run in json.loads(RECORD.read_text(encoding="utf-8"))["runs"]:
        results.setdefault(run["settings"]["arm"], []).append(run["result"])
    for name, found in results.items():
        draw(name, found)


if __name__ == "__main__":
    main()
