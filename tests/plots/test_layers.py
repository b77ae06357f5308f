"""heatmap, over_depth and density_curves draw the numbers they are given, with their labels."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from expandermask.errors import InvalidInputError
from expandermask.importance import AxisSparsity, ModuleSparsity, SparsityResult
from expandermask.plots import density_curves, heatmap, over_depth

VALUES = {
    "enc.layer.0.attn.query": 0.5,
    "enc.layer.0.mlp.up": 0.25,
    "enc.layer.3.attn.query": 1.0,
    "pooler": 0.75,
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_heatmap_puts_each_value_in_its_layer_and_kind() -> None:
    ax = heatmap(VALUES, label="fraction kept", title="densities")
    grid = ax.get_images()[0].get_array()
    kinds = [t.get_text() for t in ax.get_yticklabels()]
    layers = [t.get_text() for t in ax.get_xticklabels()]
    assert kinds == ["attn.query", "mlp.up", "pooler"]
    assert layers == ["0", "3", "-"]
    assert grid.filled(-1).tolist() == [[0.5, 1.0, -1], [0.25, -1, -1], [-1, -1, 0.75]]
    assert {t.get_text() for t in ax.texts} == {"0.5", "1", "0.25", "0.75"}
    bar = ax.figure.axes[1]
    assert bar.get_ylabel() == "fraction kept"
    assert (ax.get_xlabel(), ax.get_title(loc="left")) == ("layer", "densities")
    colors = {t.get_text(): t.get_color() for t in ax.texts}
    assert (colors["0.25"], colors["1"]) == ("white", "black")  # on dark, on light
    limited = heatmap(VALUES, limits=(0.0, 2.0))
    assert limited.get_images()[0].get_clim() == (0.0, 2.0)


def test_over_depth_draws_layer_means_and_bands() -> None:
    named = {k: v for k, v in VALUES.items() if k != "pooler"}
    ax = over_depth(
        {"SVD": named, "IMP": {"l.1": 2.0}},
        label="norm",
        spread={"SVD": dict.fromkeys(named, 0.1)},
    )
    first, second = ax.get_lines()
    np.testing.assert_allclose(first.get_xydata(), [[0, 0.375], [3, 1.0]])
    np.testing.assert_allclose(second.get_xydata(), [[1, 2.0]])
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()
    assert len(ax.collections) == 1
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["SVD", "IMP"]
    assert ax.get_ylabel() == "norm"


def test_density_curves_join_what_was_tried() -> None:
    rows = AxisSparsity(10, 3, ((5, 0.8), (2, 0.4), (3, 0.75)))
    result = SparsityResult(
        0.8,
        0.9,
        "bisection",
        {"l.0.m": ModuleSparsity(rows, rows), "l.2.m": ModuleSparsity(rows, rows)},
    )
    ax = density_curves(result, axis="columns")
    curve = ax.get_lines()[0].get_xydata()
    np.testing.assert_allclose(curve, [[0.2, 0.4], [0.3, 0.75], [0.5, 0.8], [1.0, 0.8]])
    np.testing.assert_allclose(ax.get_lines()[1].get_xydata(), [[0.3, 0.75]])
    assert ax.get_xlabel() == "fraction of columns kept in one module"
    assert any(line.get_ydata()[0] == pytest.approx(0.72) for line in ax.get_lines()[-1:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: heatmap({}), "no modules to draw"),
        (lambda: heatmap({"l.0": float("nan")}), "value of 'l.0' is nan"),
        (lambda: over_depth({}), "curves is empty"),
        (
            lambda: over_depth({"SVD": {"l.0": 1.0}}, spread={"SVD": {"l.7": 1.0}}),
            "spread of 'SVD' is of layers",
        ),
        (lambda: over_depth({"SVD": {"pooler": 1.0}}), "no layer's number"),
        (lambda: density_curves(SparsityResult(1.0, 0.9, "bisection", {})), "no modules"),
        (
            lambda: density_curves(SparsityResult(1.0, 0.9, "bisection", {}), axis="x"),
            "axis must be",
        ),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()  # type: ignore[operator]


def test_an_encoder_and_a_decoder_do_not_share_places() -> None:
    names = [f"{side}.block.{i}.q" for side in ("encoder", "decoder") for i in range(2)]
    ax = heatmap({name: float(i) for i, name in enumerate(names)})
    assert [t.get_text() for t in ax.get_yticklabels()] == ["encoder.block.q", "decoder.block.q"]
    assert ax.images[0].get_array().tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_density_curves_have_the_colours_of_their_colour_bar() -> None:
    axis = AxisSparsity(4, 4, ((3, 0.5),))
    modules = {f"layer.{i}.q": ModuleSparsity(axis, axis) for i in (2, 5, 11)}
    ax = density_curves(SparsityResult(1.0, 0.9, "bisection", modules))
    bar = ax.figure.axes[-1]
    assert bar.get_ylim() == (2, 11)
    shades = bar._colorbar.mappable
    curves = [line for line in ax.lines if line.get_marker() == "None"][:3]
    for layer, line in zip((2, 5, 11), curves, strict=True):
        assert tuple(line.get_color()) == shades.to_rgba(layer)
