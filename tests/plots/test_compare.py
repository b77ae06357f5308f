"""The pictures of comparisons hold the numbers they claim to show."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt

from expandermask import MaskPlan
from expandermask.errors import InvalidInputError
from expandermask.graphs import random_biregular
from expandermask.masks.compare import compare, overlap_matrix
from expandermask.plots.compare import layer_overlap, overlap


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def seeds_of(n: int, n1: int = 48) -> dict:
    return {f"seed {k}": random_biregular(n1, 8, 2, rng=k) for k in range(n)}


def bar_of(ax):
    return next(axes for axes in ax.figure.axes if axes is not ax)


def test_overlap_draws_each_two_masks_but_not_a_mask_with_itself():
    masks = seeds_of(4)
    ax = overlap(masks)
    drawn = ax.images[0].get_array()
    expected = overlap_matrix(masks)
    np.testing.assert_array_equal(drawn.mask, np.eye(4, dtype=bool))
    apart = ~drawn.mask
    np.testing.assert_array_equal(drawn.data[apart], expected.values[apart])
    assert [t.get_text() for t in ax.get_xticklabels()] == list(masks)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(masks)
    numbers = {t.get_position(): t.get_text() for t in ax.texts}
    assert numbers[1, 0] == numbers[0, 1] == f"{expected.values[0, 1]:.3f}"
    assert len(numbers) == 12


def test_overlap_marks_what_chance_gives_on_the_colour_bar():
    bar = bar_of(overlap(seeds_of(3)))
    chance = 24 / (2 * 96 - 24)  # 96 * 96 / 384 common, of the rest
    assert [line.get_ydata()[0] for line in bar.get_lines()] == [pytest.approx(chance)] * 2
    assert bar.get_ylabel() == f"Jaccard index (red: {chance:.3g} if independent)"
    mixed = seeds_of(2) | {"denser": random_biregular(48, 8, 4, rng=0)}
    bar = bar_of(overlap(overlap_matrix(mixed, measure="overlap")))
    low, high = sorted({line.get_ydata()[0] for line in bar.get_lines()})
    assert (low, high) == (pytest.approx(1 / 4), pytest.approx(1 / 2))
    assert bar.get_ylabel() == "Overlap of kept entries (red: 0.25 to 0.5 if independent)"


def test_overlap_of_disjoint_masks_and_on_axes_given():
    _, axes = plt.subplots()
    left = np.kron(np.eye(2, dtype=int), np.ones((3, 3), dtype=int))
    ax = overlap({"one": left, "other": 1 - left}, axes)
    assert ax is axes
    assert ax.images[0].get_array().compressed().tolist() == [0.0, 0.0]


def test_overlap_thins_the_labels_of_many_masks():
    many = {f"layers.{k}.A": random_biregular(12, 8, 2, rng=k) for k in range(80)}
    ax = overlap(many)
    ticks = ax.get_xticks()
    shown = [t.get_text() for t in ax.get_xticklabels()]
    assert len(ticks) <= 32
    assert shown == [f"{int(k)}.A" for k in ticks]
    assert not ax.texts


def test_overlap_needs_two_masks():
    with pytest.raises(InvalidInputError, match="at least two masks, got 1"):
        overlap(seeds_of(1))


def test_layer_overlap_draws_every_mask_and_what_chance_gives():
    shapes = {f"layer.{k}.q": (48, 96) for k in range(3)}
    one, other = (MaskPlan.for_shapes(shapes, r=12, method="random", rng=s) for s in (0, 1))
    found = compare(one, other)
    ax = layer_overlap(found)
    lines = {line.get_label(): line for line in ax.get_lines()}
    for side, shift in (("A", -0.16), ("B", 0.16)):
        x, y = lines[side].get_data()
        np.testing.assert_allclose(x, np.arange(3) + shift)
        assert list(y) == [found.masks[f"layer.{k}.q.{side}"].overlap for k in range(3)]
    bars, dashes = ax.collections[:2]
    mask = found.masks["layer.0.q.A"]
    low, high = bars.get_segments()[0][:, 1]
    kept = mask.entries.kept_a
    assert (low + high) / 2 == pytest.approx(mask.entries.expected / kept)
    assert (high - low) / 4 == pytest.approx(mask.relabelled_std / kept)
    np.testing.assert_allclose(dashes.get_offsets()[:, 1], mask.entries.expected / kept)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.q", "1.q", "2.q"]


def test_layer_overlap_of_masks_without_sides():
    one = {"q": np.eye(4, dtype=int), "v": np.zeros((3, 3), dtype=int)}
    ax = layer_overlap(compare(one, one))
    assert ax.get_lines()[0].get_label() == "masks"
    assert list(ax.get_lines()[0].get_ydata()) == [1.0, 1.0]
