"""The spectral report as a picture and a page: sigma_2 of every construction beside the limit.

Drawn from benchmarks/results/spectral_report.json, made by ``benchmarks/spectral_report.py``.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from expandermask import plots

HERE = Path(__file__).parent
RECORD = HERE.parents[1] / "benchmarks" / "results" / "spectral_report.json"
PAGE = HERE.parent / "theory" / "spectral_report.md"
INTRODUCTION = """# Spectral report

What each construction gives at a few shapes, small graphs and LoRA masks among them: $\\sigma_2$
(the upper end of its proved enclosure) over several seeds, beside the [limit](limits.md) that no
graph of the shape can be below and the Ramanujan bound. A method is missing from a shape it cannot
make, and interlacing families where one takes longer than a minute; what takes no seed, or only to
break ties, is run once. Every graph is PROVED. Made by `python benchmarks/spectral_report.py`.

```{image} ../figures/spectral_report.png
:alt: sigma_2 over the limit of the shape, by method
```

| shape | method | seeds | min | median | max | bound | limit | median / limit |
|---|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Draw spectral_report.png and write the table in docs/theory/spectral_report.md."""
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    table = []
    lines = []
    for row in rows:
        shape = "{} x {} ({})".format(*row["shape"])
        sigma = [row["sigma2"][k] for k in ("min", "median", "max")]
        table.append((shape, row["method"], [value / row["limit"] for value in sigma]))
        cells = [shape, row["method"], str(row["seeds"])]
        cells += [f"{x:.4f}" for x in (*sigma, row["bound"], row["limit"])]
        lines.append("| " + " | ".join([*cells, f"{sigma[1] / row['limit']:.3f}"]) + " |")
    PAGE.write_text(INTRODUCTION + "\n".join(lines) + "\n", encoding="utf-8")
    figure, axes = plt.subplots(figsize=(11, 6.5), layout="constrained")
    plots.ratios(table, axes)
    figure.savefig(HERE / "spectral_report.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
