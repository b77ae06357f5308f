"""Pictures of ranks, module weights, budgets and gradient norms have the numbers they are given."""

from __future__ import annotations

import matplotlib as mpl
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from expandermask.errors import InvalidInputError
from expandermask.plots import budget_over_time, gradient_norms, module_weights, rank_heatmap

RANKS = {"enc.layer.0.attn.query": 4, "enc.layer.0.mlp.up": 0, "enc.layer.3.attn.query": 8}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_ranks_are_coloured_from_zero_to_the_largest() -> None:
    ax = rank_heatmap(RANKS, r=16, title="AdaLoRA")
    assert ax.get_images()[0].get_clim() == (0, 16)
    assert ax.get_images()[0].get_array().filled(-1).tolist() == [[4, 8], [0, -1]]
    assert {t.get_text() for t in ax.texts} == {"4", "8", "0"}
    assert ax.get_title(loc="left") == "AdaLoRA"
    assert rank_heatmap(RANKS).get_images()[0].get_clim() == (0, 8)
    assert rank_heatmap(dict.fromkeys(RANKS, 0)).get_images()[0].get_clim() == (0, 1)


def test_selected_modules_are_framed_where_they_are() -> None:
    weights = {name: 0.25 for name in RANKS}
    selected = {"enc.layer.3.attn.query": True, "enc.layer.0.mlp.up": True}
    ax = module_weights(weights, selected={**selected, "enc.layer.0.attn.query": False})
    centres = {
        (round(p.get_x() + p.get_width() / 2), round(p.get_y() + p.get_height() / 2))
        for p in ax.patches
    }
    assert centres == {(1, 0), (0, 1)}
    assert not module_weights(weights).patches


def test_budgets_are_steps_from_the_first() -> None:
    ax = budget_over_time({"a": [8, 6, 5], "b": [4, 4, 4]}, budget=6, title="t")
    first, second, line = ax.get_lines()
    assert first.get_xydata().tolist() == [[1, 8], [2, 6], [3, 5]]
    assert first.get_drawstyle() == "steps-post"
    assert first.get_color() != second.get_color()
    assert set(line.get_ydata()) == {6}
    assert ax.get_ylim()[0] == 0
    assert budget_over_time({"a": [8, 8], "b": [8]}, budget=8).get_ylim()[1] > 8
    assert budget_over_time({"a": [0, 0]}).get_ylim() == (0, 1)


def test_gradient_norms_have_a_line_for_each_kind() -> None:
    norms = {"l.0.q": 1.0, "l.1.q": 2.0, "l.0.v": 30.0, "l.1.v": 10.0}
    ax = gradient_norms(norms)
    q, v = ax.get_lines()
    assert q.get_xydata().tolist() == [[0, 1], [1, 2]]
    assert v.get_xydata().tolist() == [[0, 30], [1, 10]]
    assert ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "norm of the gradient")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank_heatmap({}), "no modules to draw"),
        (lambda: rank_heatmap({"l.0.q": -1}), "rank of 'l.0.q' is negative"),
        (lambda: module_weights({"l.0.q": 1.0}, selected={"l.0.v": True}), "'l.0.v', which has no"),
        (lambda: budget_over_time({}), "nothing to draw"),
        (lambda: budget_over_time({"a": []}), "a finite number for every step"),
        (lambda: budget_over_time({"a": [float("nan")]}), "a finite number for every step"),
        (lambda: gradient_norms({}), "nothing to draw"),
        (lambda: gradient_norms({"l.0.q": 0.0}), "must be positive"),
        (lambda: gradient_norms({"head": 1.0}), "in numbered layers"),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()
