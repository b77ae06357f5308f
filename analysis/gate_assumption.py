"""Theorem 2 of DiffoRA on real features: does its assumption hold, and does selection help?

Inputs x_i are what the feed-forward layers of the pretrained encoder see, of one token of each of
some snippets, scaled to norm 1 as the theorem has them; w_0 is a neuron's pretrained weights; the
gates are 0 or 1, drawn at random, anew for every layer, share and draw.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from analysis._statistics import mean_and_spread
from analysis._study import Mode, Run, Settings, Study
from analysis._task import held_out, pretrained
from expandermask.allocation.gram import compare_gates
from expandermask.graphs.random import derive_seed

LAYERS: dict[Mode, tuple[int, ...]] = {
    "smoke": (0,),
    "quick": (0, 5),
    "full": (0, 1, 2, 3, 4, 5),
}
NEURONS = 4
INPUTS = {"smoke": 8, "quick": 32, "full": 64}
SHARES = (0.25, 0.5, 0.75)
"""Of gates that are 1."""
DRAWS = {"smoke": 1, "quick": 5, "full": 20}
"""Of snippets, tokens, gates and neurons, for every layer and share."""
FLOOR = 1e-9
"""Ratios below it are drawn there: an eigenvalue with gates that is zero but for rounding."""


def runs(mode: Mode) -> list[Settings]:
    """Every layer with every share of gates, over a few draws."""
    return [
        {"layer": i, "share": s, "inputs": INPUTS[mode], "seed": seed}
        for i in LAYERS[mode]
        for s in SHARES
        for seed in range(DRAWS[mode])
    ]


def run(settings: Settings) -> dict[str, Any]:
    """Both sides of the theorem, for zero weights and for neurons drawn from the layer."""
    own = derive_seed(settings["seed"], f"{settings['layer']}", f"{settings['share']}")
    rng = np.random.default_rng(own)
    x, weights = features(settings["layer"], settings["inputs"], rng)
    d = x.shape[1]
    gates = np.zeros(d)
    gates[rng.permutation(d)[: round(settings["share"] * d)]] = 1
    chosen = rng.permutation(len(weights))[:NEURONS]
    found = [compare_gates(x, gates, w0=w0) for w0 in (np.zeros(d), *weights[chosen])]
    positive = (x @ weights.T >= 0).mean(axis=0)
    one_sided = weights[positive == 1][:NEURONS]
    return {
        "neurons_in_all": len(weights),
        "positive_everywhere": int((positive == 1).sum()),
        "mean_positive": float(positive.mean()),
        "one_sided_holds": [compare_gates(x, gates, w0=w0).assumption_holds for w0 in one_sided],
        "margins": [own.margin for own in found],
        "holds": [own.assumption_holds for own in found],
        "ratios": [own.gated / own.full for own in found],
    }


@cache
def encoder() -> nn.Module:
    """The pretrained model, once in a process."""
    return pretrained().eval()


def features(layer: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (count, d) of norm 1 of a feed-forward layer, and its weights (neurons, d)."""
    model, data = encoder(), held_out()
    batch = data.batch(rng.permutation(len(data))[:count].tolist())
    linear = model.get_submodule(f"bert.encoder.layer.{layer}.intermediate.dense")
    seen: list[torch.Tensor] = []
    hook = linear.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        model(**batch)
    hook.remove()
    lengths = batch["attention_mask"].sum(dim=1).numpy()
    tokens = seen[0].double().numpy()
    x = np.stack([own[rng.integers(n)] for own, n in zip(tokens, lengths, strict=True)])
    return x / np.linalg.norm(x, axis=1, keepdims=True), linear.weight.detach().double().numpy()


def summarise(found: list[Run]) -> dict[str, Any]:
    """How often the assumption holds, and lambda_min with gates over that without."""
    shares = sorted({r["settings"]["share"] for r in found})
    once = [r["result"] for r in found if r["settings"]["share"] == shares[0]]
    return {
        "neurons over layers and draws": sum(own["neurons_in_all"] for own in once),
        "neurons positive on all inputs": sum(own["positive_everywhere"] for own in once),
        "inputs a neuron is positive on": float(np.mean([own["mean_positive"] for own in once])),
        "by share of gates": {
            f"{share:g}": {
                "comparisons": len(of_share(found, share, "holds")),
                "assumption holds": of_share(found, share, "holds").count(True),
                "assumption open": of_share(found, share, "holds").count(None),
                "of neurons positive on all inputs": len(of_share(found, share, "one_sided_holds")),
                "assumption holds for those": of_share(found, share, "one_sided_holds").count(True),
                "largest margin": max(of_share(found, share, "margins")),
                "lambda_min, gated over full": mean_and_spread(of_share(found, share, "ratios")),
                "gated is larger": larger(of_share(found, share, "ratios")),
                "gated is larger without w_0": larger(
                    [r["result"]["ratios"][0] for r in found if r["settings"]["share"] == share]
                ),
            }
            for share in shares
        },
    }


def larger(ratios: list[float]) -> float:
    """The share of ratios above 1."""
    return float(np.mean(np.array(ratios) > 1))


def of_share(found: list[Run], share: float, what: str) -> list[Any]:
    """One number of all comparisons with so many gates."""
    return [x for r in found if r["settings"]["share"] == share for x in r["result"][what]]


def draw(record: dict[str, Any]) -> Any:
    """Margins of the assumption, and what the gates do to lambda_min, by layer."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    shares = sorted({r["settings"]["share"] for r in record["runs"]})
    for i, (share, color, marker) in enumerate(
        zip(shares, ("#0072B2", "#D55E00", "#009E73"), "osD", strict=True)
    ):
        own = [r for r in record["runs"] if r["settings"]["share"] == share]
        for ax, what in zip(axes, ("margins", "ratios"), strict=True):
            x = [r["settings"]["layer"] + 0.22 * (i - 1) for r in own for _ in r["result"][what]]
            y = np.array([value for r in own for value in r["result"][what]])
            y = np.maximum(y, FLOOR) if what == "ratios" else y
            label = f"{share:.0%} of gates are 1"
            ax.plot(x, y, marker, color=color, ms=3, alpha=0.4, label=label)
    axes[0].axhline(0, color="black", lw=0.8)
    axes[0].set_ylabel(r"least eigenvalue of $I^{\Gamma w} - I^{w}$ (assumed $\geq 0$)")
    axes[1].axhline(1, color="black", lw=0.8)
    axes[1].set_ylabel(r"$\lambda_{\min}(H)$ with gates over without")
    axes[1].set_yscale("log")
    for ax in axes:
        ax.set_xlabel("layer")
        ax.set_xticks(sorted({r["settings"]["layer"] for r in record["runs"]}))
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, loc="outside lower center", ncols=len(shares))
    figure.suptitle(record["question"], x=0.01, ha="left", fontsize="medium")
    return figure


STUDY = Study(
    name="gate_assumption",
    question="Does the assumption of DiffoRA's theorem hold on real features?",
    paper="DiffoRA, theorems 2 and 3",
    runs=runs,
    run=run,
    summarise=summarise,
    draw=draw,
)

if __name__ == "__main__":
    STUDY.main()
