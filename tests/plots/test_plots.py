"""The pictures hold the numbers they claim to show, and draw where they are told."""

import math

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt

from expandermask import MaskPlan, plots
from expandermask.graphs import heawood, random_biregular


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
