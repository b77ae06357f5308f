"""The pictures hold the numbers they claim to show, and draw where they are told."""

import math

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt

from expandermask import MaskPlan, plots
from expandermask.certificates.density import kesten_mckay
from expandermask.errors import InfeasibleShapeError, InvalidInputError
from expandermask.graphs import heawood, hypercube, random_biregular


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_spectrum_shows_every_singular_value_and_both_lines():
    graph = random_biregular(48, 12, 3, rng=0)
    ax = plots.spectrum_against_bound(graph)
    values = np.linalg.svd(graph.mask().astype(float), compute_uv=False)
    drawn = np.concatenate([line.get_ydata() for line in ax.get_lines()[:2]])
    np.testing.assert_allclose(np.sort(drawn), np.sort(values), atol=1e-12)
    bound, limit = (line.get_ydata()[0] for line in ax.get_lines()[2:4])
    assert bound == pytest.approx(math.sqrt(2) + math.sqrt(11))
    assert limit <= values[1] + 1e-12 <= bound + 1e-12


def test_spectra_draws_one_column_per_mask_under_the_bound():
    plan = MaskPlan.for_shapes({"q": (48, 96), "v": (96, 48)}, r=12, rng=0)
    ax = plots.spectra(plan)
    columns = [line for line in ax.get_lines() if len(set(line.get_xdata())) == 1]
    heights = np.concatenate([line.get_ydata() for line in columns if len(line.get_ydata()) > 2])
    assert heights.size == 4 * 11
    assert heights.max() <= 1.0


def test_mask_and_bipartite_draw_on_the_axes_given():
    graph = heawood()
    _, (left, right) = plt.subplots(1, 2)
    assert plots.mask(graph, left) is left
    assert plots.bipartite(graph, right) is right
    assert left.images[0].get_array().sum() == graph.num_edges
    assert len(right.collections[0].get_segments()) == graph.num_edges


def test_bipartite_and_circular_draw_every_edge_between_its_ends():
    graph = random_biregular(12, 6, 3, rng=0)
    for draw in (plots.bipartite, plots.circular):
        ax = draw(graph)
        left, right = (np.column_stack(line.get_data()) for line in ax.get_lines())
        assert (len(left), len(right)) == (12, 6)
        drawn = {tuple(segment.ravel()) for segment in ax.collections[0].get_segments()}
        assert drawn == {(*left[i], *right[j]) for i, j in np.argwhere(graph.mask())}
        assert len(drawn) == graph.num_edges


def test_circular_spreads_both_sides_evenly():
    left, right = (
        np.column_stack(line.get_data())
        for line in plots.circular(random_biregular(12, 6, 3, rng=0)).get_lines()
    )
    np.testing.assert_allclose(np.linalg.norm(np.vstack([left, right]), axis=1), 1.0)
    steps = (np.pi / 2 - np.arctan2(*np.vstack([left, right]).T[::-1])) % (2 * np.pi) / (np.pi / 9)
    slots = np.rint(steps).astype(int) % 18
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    assert sorted(slots.tolist()) == list(range(18))
    assert np.diff(np.sort(slots[12:])).max() <= 4
    assert np.diff(np.sort(slots[:12])).max() <= 2


def test_circular_shows_the_cycle_of_an_lcf_code():
    segments = plots.circular(heawood()).collections[0].get_segments()
    lengths = np.array([np.linalg.norm(a - b) for a, b in segments])
    assert np.isclose(lengths, 2 * np.sin(np.pi / 14)).sum() == 14


def test_density_draws_the_nontrivial_values_and_the_law():
    graph = random_biregular(200, 100, 3, rng=0)
    ax = plots.density(graph)
    values = np.linalg.svd(graph.mask().astype(float), compute_uv=False)[1:]
    heights, edges, _ = ax.patches[0].get_data()
    for height, low, high in zip(heights, edges, edges[1:], strict=False):
        inside = ((values >= low) & (values < high)).sum()
        assert height * (high - low) * 99 == pytest.approx(inside, abs=1.01)  # ends may tie
    assert (heights * np.diff(edges)).sum() == pytest.approx(1.0)
    law, bound = ax.get_lines()
    assert bound.get_xdata()[0] == pytest.approx(math.sqrt(2) + math.sqrt(5))
    np.testing.assert_array_equal(law.get_ydata(), kesten_mckay(3, 6, law.get_xdata()))
    assert np.trapezoid(*law.get_data()[::-1]) == pytest.approx(1.0, abs=1e-3)


def test_density_shows_values_beyond_the_law_and_bounds_its_height():
    heights, edges, _ = plots.density(hypercube(8)).patches[0].get_data()  # 6 > 2 sqrt 7
    assert edges[-1] == pytest.approx(6.0)
    assert heights[-1] > 0
    cycles = plots.density(random_biregular(40, 40, 2, rng=0))  # the law is unbounded here
    assert cycles.get_ylim()[1] < 10
    with pytest.raises(InfeasibleShapeError, match="stars"):
        plots.density(random_biregular(4, 4, 1, rng=0))


def test_ratios_draws_least_median_and_largest():
    table = [
        ("768x8 d=2", "random", [1.5, 1.1, 1.2]),
        ("768x8 d=2", "design", [1.0]),
        ("512x512 d=3", "random", [1.3, 1.1]),
    ]
    ax = plots.ratios(table)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["768x8 d=2", "512x512 d=3"]
    random, design, limit = ax.get_lines()
    np.testing.assert_allclose(random.get_ydata(), [1.2, 1.2])
    np.testing.assert_allclose(design.get_ydata(), [1.0])
    assert set(limit.get_ydata()) == {1.0}
    np.testing.assert_allclose(
        [segment[:, 1] for segment in ax.collections[0].get_segments()], [[1.1, 1.5], [1.1, 1.3]]
    )
    columns = np.rint(np.concatenate([random.get_xdata(), design.get_xdata()]))
    assert columns.tolist() == [0, 1, 0]
    assert random.get_xdata()[0] < design.get_xdata()[0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "at least one row"),
        ([("768x8", "random", [])], r"row \('768x8', 'random'\) needs finite values"),
        ([("768x8", "random", [1.0, math.nan])], "needs finite values"),
        ([("768x8", "random", [1.0]), ("768x8", "random", [1.1])], "has two rows"),
    ],
)
def test_ratios_refuses_what_it_cannot_draw(table, message):
    with pytest.raises(InvalidInputError, match=message):
        plots.ratios(table)


@pytest.mark.parametrize(
    "draw", ["mask", "bipartite", "circular", "density", "spectrum_against_bound"]
)
def test_masks_are_drawn_as_their_graphs(draw):
    title = getattr(plots, draw)(heawood().mask()).get_title()
    assert title == getattr(plots, draw)(heawood()).get_title() != ""


@pytest.mark.parametrize("draw", ["spectral_gaps", "layer_overlap"])
def test_what_belongs_to_plans_refuses_a_mask(draw):
    with pytest.raises(InvalidInputError, match="plan"):
        getattr(plots, draw)(heawood())
