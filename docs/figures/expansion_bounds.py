"""The intervals for the Cheeger constants as a picture and a table.

Drawn from benchmarks/results/cheeger_intervals.json, made by ``benchmarks/cheeger_intervals.py``.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from expandermask.plots._axes import BOUND, LIMIT, METHODS

HERE = Path(__file__).parent
RECORD = HERE.parents[1] / "benchmarks" / "results" / "cheeger_intervals.json"
PAGE = HERE.parent / "theory" / "expansion_bounds.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"
HEAD = """| graph | kind | spectral | mixing | flow | best cut | within |
|---|---|---|---|---|---|---|
"""
MARKERS = {"spectral": "o", "mixing": "s", "flow": "^"}
COLOURS = (METHODS[0], METHODS[4], METHODS[2])
TITLES = {"edge": r"edges, $h_E$", "vertex": r"vertices, $h_V$"}


def main() -> None:
    """Draw expansion_bounds.png and write the table in docs/theory/expansion_bounds.md."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    figure, axes = plt.subplots(1, 2, figsize=(12, 8), sharey=True, layout="constrained")
    for ax, kind in zip(axes, TITLES, strict=True):
        draw(ax, [row for row in record["rows"] if row["kind"] == kind], record["goal"])
        ax.set_title(TITLES[kind])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    path = Path(__file__).with_name("expansion_bounds.png")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    table = HEAD + "".join(map(line, record["rows"]))
    PAGE.write_text(before + BEGIN + table + END + rest.split(END)[1], encoding="utf-8")


def draw(ax: Axes, rows: list[dict[str, Any]], goal: float) -> None:
    """Each lower bound over the best cut, one line per graph."""
    places = range(len(rows))
    best = [1 / row["within"] for row in rows]
    ax.hlines(places, best, 1, color="0.8", lw=5, label="where the constant is")
    for (name, marker), color in zip(MARKERS.items(), COLOURS, strict=True):
        shown = [(row["lower"][name], row, k) for k, row in enumerate(rows) if name in row["lower"]]
        ratios = [bound / row["cut"]["ratio"] for bound, row, _ in shown]
        ax.plot(ratios, [k for *_, k in shown], marker, color=color, ms=5, label=name)
    ax.axvline(1 / goal, color=BOUND, lw=1, ls="--", label=f"1/{goal:g} of the cut")
    ax.axvline(1, color=LIMIT, lw=1, label="best cut")
    ax.set(xlim=(-0.02, 1.02), xlabel="lower bound / best cut")
    ax.set_yticks(places, [row["graph"] for row in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)


def line(row: dict[str, Any]) -> str:
    """One line of the table, the best bound in bold."""
    cells = []
    for name in MARKERS:
        bound = row["lower"].get(name)
        text = "" if bound is None else f"{bound:.4g}"
        cells.append(f"**{text}**" if name == row["best"] else text)
    within = "exact" if row["exact"] else f"{row['within']:.2f}"
    cells += [f"{row['cut']['ratio']:.4g}", within]
    return f"| {row['graph']} | {row['kind']} | {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
