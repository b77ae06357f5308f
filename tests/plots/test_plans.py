"""The pictures over the depth of a plan: every mask between its bound and its limit, legibly."""

import math

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt

from expandermask import MaskPlan, certify
from expandermask.errors import InvalidInputError
from expandermask.graphs import heawood, hypercube, random_biregular
from expandermask.plots.plans import label_modules, module_columns, spectral_gaps


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_spectral_gaps_draws_every_proved_gap_between_bound_and_limit():
    shapes = {"q": (48, 96), "v": (96, 48)}
    plan = MaskPlan.for_shapes(shapes, r=12, method="random", rng=0)
    proofs = plan.certify()
    ax = spectral_gaps(plan)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == ["A", "B"]
    for side in "AB":
        names = [f"{module}.{side}" for module in shapes]
        trivial = [math.sqrt(proofs[n].d1 * proofs[n].d2) for n in names]
        drawn = lines[side].get_ydata()
        values = [np.linalg.svd(dict(plan.graphs())[n].mask(), compute_uv=False)[1] for n in names]
        np.testing.assert_allclose(drawn, 1 - np.array(values) / trivial, atol=1e-9)
        bars = ax.collections[0 if side == "A" else 3].get_segments()
        for name, bar, gap, top in zip(names, bars, drawn, trivial, strict=True):
            low, high = bar[:, 1]
            assert low == pytest.approx(1 - proofs[name].bound / top)
            assert high == pytest.approx(1 - proofs[name].limit / top)
            assert low - 1e-9 <= gap <= high + 1e-9


def test_spectral_gaps_takes_masks_and_certificates_and_the_axes_given():
    _, axes = plt.subplots()
    masks = {"heawood": heawood(), "proved": certify(random_biregular(24, 12, 3, rng=0))}
    assert spectral_gaps({**masks, "cube": hypercube(7).mask()}, axes) is axes
    (line,) = axes.get_lines()
    heights = line.get_ydata()
    assert heights[0] == pytest.approx(1 - math.sqrt(2) / 3)
    assert heights[2] == pytest.approx(1 - 5 / 7)
    assert axes.collections[0].get_segments()[2][0, 1] > heights[2]  # the bound: refuted
    assert [t.get_text() for t in axes.get_xticklabels()] == ["heawood", "proved", "cube"]


def test_spectral_gaps_of_nothing_is_refused():
    with pytest.raises(InvalidInputError, match="the plan is empty"):
        spectral_gaps({})


def test_columns_pair_the_masks_of_a_module():
    columns, modules = module_columns(["q.A", "q.B", "v.B", "A", "x.C"])
    assert modules == ["q", "v", "A", "x.C"]
    assert columns == {"q.A": -0.16, "q.B": 0.16, "v.B": 1.16, "A": 2.0, "x.C": 3.0}


def labels(modules: list[str]) -> tuple[list[str], str, list[float]]:
    ax = label_modules_on_new_axes(modules)
    ticks = [t.get_text() for t in ax.get_xticklabels()]
    return ticks, ax.get_xlabel(), ax.get_xticks().tolist()


def label_modules_on_new_axes(modules: list[str]):
    ax = plt.subplots()[1]
    label_modules(ax, modules)
    return ax


def test_large_plans_are_labelled_by_layer():
    big = [f"model.layers.{k}.self_attn.{name}" for k in range(32) for name in "qkvo"]
    ticks, label, places = labels(big)
    assert label == "layer, 4 modules in each"
    assert ticks == [str(k) for k in range(0, 32, 2)]
    assert places == [4 * k + 1.5 for k in range(0, 32, 2)]
    assert labels([*big, "model.layers.31.mlp"])[1] == "layer"


def test_small_plans_are_labelled_by_module_without_the_common_start():
    ticks, label, _ = labels(["bert.encoder.0.q", "bert.encoder.0.v", "bert.encoder.1.q"])
    assert (ticks, label) == (["0.q", "0.v", "1.q"], "module")
    assert labels(["only.one"])[0] == ["one"]


def test_many_modules_without_layers_are_counted():
    assert labels([f"m{k}" for k in range(40)])[1] == "module, of 40"
    assert labels([f"block.0.m{k}" for k in range(40)])[1] == "module, of 40"
