"""The pictures of a report hold its numbers, and draw where they are told."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt

from expandermask.errors import InvalidInputError
from expandermask.graphs import heawood, random_biregular
from expandermask.inspection.inspect_mask import inspect_mask
from expandermask.plots.report import checkpoint, report
from tests.oracles import inspection as oracle


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def irregular() -> np.ndarray:
    mask = (np.random.default_rng(0).random((60, 40)) < 0.15).astype(int)
    mask[10:15] = 0
    return mask


def test_an_irregular_mask_in_four_panels():
    mask = irregular()
    found = inspect_mask(mask)
    picture, rows, columns, spectrum = report(found, mask)
    assert np.array_equal(picture.images[0].get_array(), mask)
    for ax, side in ((rows, found.left), (columns, found.right)):
        bars = {round(p.get_x() + p.get_width() / 2): p.get_height() for p in ax.patches}
        assert bars == side.histogram
    assert rows.get_title() == "row degrees, 5 dead"
    drawn = np.concatenate([line.get_ydata() for line in spectrum.get_lines()])
    np.testing.assert_allclose(drawn, oracle.normalised_values(mask), atol=1e-9)
    assert spectrum.get_title() == "NOT BIREGULAR"


def test_a_biregular_mask_has_its_bound_and_limit():
    graph = random_biregular(48, 12, 3, rng=0)
    found = inspect_mask(graph)
    ax = report(found, graph.mask())[3]
    trivial, others, bound, limit = (line.get_ydata() for line in ax.get_lines())
    assert trivial == pytest.approx([1.0])
    assert others[0] == pytest.approx(found.sigma2)
    assert bound[0] == pytest.approx((math.sqrt(2) + math.sqrt(11)) / 6)
    assert limit[0] <= others[0] <= bound[0]


def test_large_masks_are_drawn_by_cells():
    mask = np.zeros((1300, 7), dtype=int)
    mask[:, 3] = 1
    mask[0] = 1
    image = report(inspect_mask(mask), mask)[0].images[0].get_array()
    assert image.shape == (434, 7)  # cells of three rows, the last of one
    assert image[0].tolist() == [1 / 3, 1 / 3, 1 / 3, 1.0, 1 / 3, 1 / 3, 1 / 3]
    assert image[-1].tolist() == [0, 0, 0, 1, 0, 0, 0]


def test_an_empty_mask_can_be_drawn():
    mask = np.zeros((3, 4))
    axes = report(inspect_mask(mask), mask)
    assert axes[3].get_lines()[:] == []
    assert axes[0].images[0].get_array().sum() == 0


def test_the_axes_given_are_used_and_others_refused():
    mask = heawood().mask()
    found = inspect_mask(mask)
    _, axes = plt.subplots(2, 2)
    assert report(found, mask, axes).tolist() == axes.ravel().tolist()
    with pytest.raises(InvalidInputError, match="4 matplotlib Axes, got 3"):
        report(found, mask, axes.ravel()[:3])
    with pytest.raises(InvalidInputError, match="the report is of one"):
        report(found, irregular())


def test_a_mask_of_the_same_shape_and_count_is_still_another_one():
    first, second = (random_biregular(48, 12, 3, rng=seed) for seed in (0, 1))
    with pytest.raises(InvalidInputError, match="of SHA-256"):
        report(inspect_mask(first), second)
    moved = first.mask()
    moved[0] = np.roll(moved[0], 1)  # no longer biregular, with as many entries
    with pytest.raises(InvalidInputError, match="of SHA-256"):
        report(inspect_mask(first), moved)
    with pytest.raises(InvalidInputError, match="of SHA-256"):
        report(inspect_mask(moved), first)
    report(inspect_mask(moved), moved.astype(float) * 3)


@pytest.mark.parametrize("zeros", [irregular(), random_biregular(24, 12, 3, rng=0).mask()])
def test_the_entries_of_a_mask_of_few_zeros_are_listed_once(zeros, monkeypatch):
    from expandermask.inspection import supports

    calls = []
    complement = supports.complement
    monkeypatch.setattr(supports, "complement", lambda g: calls.append(g) or complement(g))
    mask = 1 - zeros
    found = inspect_mask(mask)
    calls.clear()
    report(found, mask)
    assert len(calls) == 1


def test_a_checkpoint_has_a_dot_per_mask_and_a_ring_per_sign():
    dead = irregular()
    found = inspect_mask({"a": heawood(), "b": dead, "c": np.zeros((2, 2)), "d": heawood()})
    ax = checkpoint(found)
    *dots, rings = ax.get_lines()
    drawn = {int(x): y for line in dots for x, y in zip(*line.get_data(), strict=True)}
    assert drawn == {0: found["a"].gap, 1: found["b"].gap, 2: 0.0, 3: found["d"].gap}
    assert rings.get_xdata().tolist() == [1, 2]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [
        "1 EMPTY",
        "1 NOT BIREGULAR",
        "2 PROVED",
        "2 with dead rows or columns, or symptoms",
    ]
    assert checkpoint(found, ax) is ax
