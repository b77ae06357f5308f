"""The masks of XoRA's tables, made and proved: degrees, sparsity, sigma_2 over its limit."""

from __future__ import annotations

from typing import Any

from analysis._study import Mode, Run, Settings, Study
from expandermask import certify, ramanujan_graph

WIDTHS, RANKS, DEGREES = (768, 1024), (8, 16, 32, 64), (2, 3, 4)


def runs(mode: Mode) -> list[Settings]:
    """Table 10's: two entries a row at every rank; table 11's: two to four at rank 8."""
    shapes = [(n, r, 2) for n in WIDTHS for r in RANKS] + [
        (n, 8, d) for n in WIDTHS for d in (3, 4)
    ]
    return [{"n": n, "r": r, "left_degree": d, "seed": 0} for n, r, d in shapes]


def run(settings: Settings) -> dict[str, Any]:
    """One mask and its certificate."""
    n, r, degree = settings["n"], settings["r"], settings["left_degree"]
    proof = certify(ramanujan_graph(n, r, degree, rng=settings["seed"]))
    return {
        "verdict": proof.verdict,
        "right_degree": proof.d2,
        "sparsity": 1 - degree / r,
        "sigma2_over_bound": float(proof.sigma2[1] / proof.bound),
        "ratio": float(proof.ratio),
    }


def summarise(found: list[Run]) -> dict[str, Any]:
    """The table, a row for each mask."""
    table = {}
    for r in found:
        s, x = r["settings"], r["result"]
        key = f"{s['n']} x {s['r']} ({s['left_degree']}, {x['right_degree']})"
        table[key] = {"sparsity": x["sparsity"], "verdict": x["verdict"], "ratio": x["ratio"]}
    return table


def draw(record: dict[str, Any]) -> Any:
    """sigma_2 over the Ramanujan bound and over the limit, for every mask."""
    import matplotlib.pyplot as plt

    labels = list(record["summary"])
    results = [r["result"] for r in record["runs"]]
    figure, ax = plt.subplots(figsize=(7, 0.6 + 0.32 * len(labels)), layout="constrained")
    rows = range(len(labels))
    ax.plot([x["ratio"] for x in results], rows, "o", color="#009E73", label="over the limit")
    bound = [x["sigma2_over_bound"] for x in results]
    ax.plot(bound, rows, "D", color="#D55E00", label="over the Ramanujan bound")
    ax.axvline(1, color="black", lw=0.8)
    ax.set_yticks(rows, [f"{k}: {x['sparsity']:.2%}" for k, x in zip(labels, results, strict=True)])
    ax.invert_yaxis()
    ax.set_xlabel(
        r"$\sigma_2$ over its limit (at least 1) and over the Ramanujan bound (at most 1)"
    )
    ax.legend(frameon=False, fontsize="small")
    return figure


STUDY = Study(
    name="mask_shapes",
    question="Are the masks of XoRA's tables Ramanujan, and how near the limit?",
    paper="XoRA, tables 10 and 11",
    runs=runs,
    run=run,
    summarise=summarise,
    draw=draw,
)

if __name__ == "__main__":
    STUDY.main()
