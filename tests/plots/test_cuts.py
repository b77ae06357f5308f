"""Pictures of cuts show every vertex on its side and every crossing edge."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt

from expandermask.errors import InvalidInputError
from expandermask.expansion.cheeger import cheeger
from expandermask.expansion.cuts import Cut
from expandermask.graphs import heawood, random_biregular
from expandermask.graphs.bipartite import as_bipartite
from expandermask.plots.cuts import cheeger_intervals, cut


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("kind", ["edge", "vertex"])
def test_cut_draws_each_vertex_and_edge_once(kind):
    mask = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]])
    found = cheeger(mask, kind)
    ax = cut(found)
    within, crossing = (lines.get_segments() for lines in ax.collections)
    assert len(crossing) == found.cut.crossing.sum()
    assert len(within) + len(crossing) == mask.sum()
    markers = ax.get_lines()
    drawn = [len(line.get_xdata()) for line in markers if line.get_markersize() == 8]
    left, right = found.cut.left, found.cut.right
    assert drawn == [left.sum(), (~left).sum(), right.sum(), (~right).sum()]
    places = [line.get_xdata() for line in markers if line.get_markersize() == 8]
    for first, then in (places[:2], places[2:]):
        assert max(first, default=0) < min(then, default=1)
    ringed = sum(len(line.get_xdata()) for line in markers if line.get_markersize() > 8)
    assert ringed == (found.cut.boundary if kind == "vertex" else 0)
    inside = {tuple(p) for k in (0, 1) for p in np.transpose(_sides(markers)[2 * k].get_data())}
    for a, b in crossing:
        assert (tuple(a) in inside) != (tuple(b) in inside)
    for a, b in within:
        assert (tuple(a) in inside) == (tuple(b) in inside)


def _sides(markers):
    """Left in X, left outside, right in X, right outside."""
    return [line for line in markers if line.get_markersize() == 8]


def test_cut_draws_a_cut_that_is_not_the_best_on_the_axes_given():
    graph = as_bipartite(heawood())
    one = Cut(graph, "edge", np.arange(7) == 2, np.zeros(7, dtype=bool))
    _, ax = plt.subplots()
    assert cut(one, ax) is ax
    assert ax.get_title() == "edge boundary 3, |X| = 1: 3"
    assert len(ax.collections[1].get_segments()) == 3


def test_cut_refuses_what_is_no_cut():
    with pytest.raises(InvalidInputError, match="got BiregularGraph"):
        cut(heawood())


def test_intervals_are_bars_and_exact_values_points():
    large = random_biregular(96, 64, 2, rng=0)
    results = {
        "large": cheeger(large, rng=0),
        "Heawood": cheeger(heawood()),
        "Heawood, vertices": cheeger(heawood(), "vertex"),
        "large, vertices": cheeger(large, "vertex", rng=0),
    }
    ax = cheeger_intervals(results)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(results)
    points = {y: x for line in ax.get_lines() for x, y in zip(*line.get_data(), strict=True)}
    assert points == {1.0: 1.0, 2.0: float(results["Heawood, vertices"].upper)}
    bars = [bar for lines in ax.collections for bar in lines.get_segments()]
    for (low, high), (y, name) in zip(bars, [(0, "large"), (3, "large, vertices")], strict=True):
        assert low.tolist() == [float(results[name].lower), y]
        assert high.tolist() == [float(results[name].upper), y]
    top, bottom = ax.get_ylim()
    assert top > bottom  # the first row is on top
    assert len(ax.get_legend().get_texts()) == 4


def test_intervals_of_one_kind_and_of_none():
    ax = cheeger_intervals({"Heawood": cheeger(heawood(), "vertex")})
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["vertex, exact"]
    with pytest.raises(InvalidInputError, match="at least one"):
        cheeger_intervals({})
