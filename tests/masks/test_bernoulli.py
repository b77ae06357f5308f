"""Bernoulli masks against the binomial law, their recipes, and their seeds for ever."""

from __future__ import annotations

import json

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from expandermask import MaskPlan
from expandermask.errors import FileFormatError, InvalidInputError, TooLargeError
from expandermask.graphs.bipartite import BipartiteGraph
from expandermask.masks import bernoulli, row_column, targeted
from expandermask.masks.edges import read_edges, write_edges

DENSITIES = st.floats(0.01, 1.0)


@pytest.mark.parametrize("density", [0.03, 0.3, 0.97])
@pytest.mark.parametrize("whole_rows", [False, True])
def test_counts_follow_the_binomial_law(density: float, whole_rows: bool) -> None:
    make, n, each = (row_column, 24, 2) if whole_rows else (bernoulli, 48, 1)
    counts = np.array([make(24, 2, density, rng=s).num_edges // each for s in range(3000)])
    law = stats.binom(n, density)
    assert stats.binomtest(int(counts.sum()), n * len(counts), density).pvalue > 1e-3
    edges = np.unique(law.ppf(np.linspace(0, 1, 9)[1:-1])).astype(int)  # bins of like mass
    edges = edges[edges < n]
    found = np.bincount(np.searchsorted(edges, counts, side="left"), minlength=len(edges) + 1)
    mass = np.diff(np.concatenate([[0], law.cdf(edges), [1]]))
    assert stats.chisquare(found, mass * len(counts)).pvalue > 1e-3


def test_every_entry_has_the_same_chance() -> None:
    total = sum(bernoulli(6, 4, 0.4, rng=s).mask().astype(int) for s in range(4000))
    assert np.abs(total - 1600).max() < 4.5 * np.sqrt(4000 * 0.4 * 0.6)


@given(
    n1=st.integers(1, 60), n2=st.integers(1, 40), density=DENSITIES, seed=st.integers(0, 2**64 - 1)
)
def test_rows_are_whole_or_empty_and_seeds_repeat(
    n1: int, n2: int, density: float, seed: int
) -> None:
    lines = row_column(n1, n2, density, rng=seed)
    assert set(lines.left_degrees) <= {0, n2}
    assert lines.digest == row_column(n1, n2, density, rng=seed).digest
    entries = bernoulli(n1, n2, density, rng=seed)
    assert entries == bernoulli(n1, n2, density, rng=seed)
    assert (np.diff(entries.lefts * n2 + entries.rights) > 0).all()


@given(
    n1=st.integers(1, 60), n2=st.integers(1, 40), density=DENSITIES, seed=st.integers(0, 2**64 - 1)
)
def test_a_file_holds_the_recipe_and_no_indices(
    n1: int, n2: int, density: float, seed: int
) -> None:
    mask = bernoulli(n1, n2, density, rng=seed)
    written = json.loads(json.dumps(write_edges(mask)))
    assert set(written) == {"n1", "n2", "sha256", "num_edges", "bernoulli"}
    again = read_edges(written, "mask")
    assert again == mask
    assert again.recipe == mask.recipe


def test_the_seed_means_the_same_mask_for_ever() -> None:
    assert bernoulli(100, 16, 0.3, rng=7).digest == GOLDEN["elements"]
    assert row_column(100, 16, 0.3, rng=7).digest == GOLDEN["rows"]


GOLDEN = {
    "elements": "08d247ceb935e5ea7670bb79f5114703ed8d04d77ca2829c92092ff58c8056f7",
    "rows": "31103785065f6bf920a7dd60c986f3851347a571b145110e932197b2e18d761c",
}


def test_large_masks_are_drawn_in_pieces_as_in_one() -> None:
    draws = np.random.PCG64(3).random_raw(3000 * 1500) >> 11
    wanted = (draws < 0.001 * 2**53).reshape(3000, 1500)
    assert np.array_equal(bernoulli(3000, 1500, 0.001, rng=3).mask(), wanted)
    wide = wanted.reshape(1, -1)  # a row is longer than a piece
    assert bernoulli(1, wide.size, 0.001, rng=3).rights.tolist() == np.flatnonzero(wide).tolist()


@pytest.mark.parametrize("make", [bernoulli, row_column])
def test_masks_beyond_the_memory_are_refused(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=2**27)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match=r"a mask of .* needs about"):
        make(2**17, 2**10, 0.5, rng=0)  # type: ignore[operator]


@pytest.mark.parametrize(
    "density", [0, -0.1, 1.0001, float("nan"), float("inf"), "0.5", None, True]
)
@pytest.mark.parametrize("make", [bernoulli, row_column])
def test_densities_outside_are_refused(make: object, density: object) -> None:
    with pytest.raises(
        InvalidInputError, match=r"density must (lie in \(0, 1\]|be a real number), got"
    ):
        make(4, 4, density)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bernoulli": {"density": 0.5, "seed": 1}}, FileFormatError, "exactly the fields"),
        ({"bernoulli": {"density": 0.5, "seed": 1, "version": 2}}, FileFormatError, "version 2"),
        ({"bernoulli": {"density": 0.0, "seed": 1, "version": 1}}, FileFormatError, "out of range"),
        (
            {"bernoulli": {"density": 0.5, "seed": -1, "version": 1}},
            FileFormatError,
            "out of range",
        ),
        (
            {"bernoulli": {"density": 0.5, "seed": 2, "version": 1}},
            FileFormatError,
            "num_edges=100, and there are 97",
        ),
        ({"sha256": "0" * 64}, FileFormatError, "hashes to"),
        ({"num_edges": -1}, FileFormatError, "num_edges=-1"),
        ({"num_edges": 10**9}, FileFormatError, "num_edges=1000000000"),
        ({"n1": 2**27}, TooLargeError, "edges or draws"),
    ],
)
def test_altered_recipes_are_refused(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    written = write_edges(bernoulli(20, 10, 0.5, rng=1)) | change
    with pytest.raises(error, match=message):
        read_edges(written, "mask")


def test_rows_that_are_kept_twice_are_refused_whatever_the_hash() -> None:
    written = write_edges(targeted(np.arange(5), 2, 3))
    assert written["kept"] == "AwQ="
    forged = BipartiteGraph(
        np.array([0, 0, 0, 0, 3, 3]), np.tile(np.arange(3, dtype=np.int32), 2), 3
    )
    with pytest.raises(FileFormatError, match="must ascend"):
        read_edges(written | {"kept": "AwM=", "sha256": forged.digest}, "mask")


def test_an_edge_count_that_is_not_the_masks_is_refused_with_the_plan() -> None:
    plan = MaskPlan.from_masks(
        {"m": (bernoulli(20, 4, 0.5, rng=1), bernoulli(12, 4, 0.5, rng=2))}, rng=0
    )
    data = plan.to_dict()
    data["modules"]["m"]["A"]["num_edges"] += 1
    with pytest.raises(FileFormatError, match="num_edges"):
        MaskPlan.from_dict(data)


def test_a_small_plan_that_asks_for_endless_draws_is_refused_at_once() -> None:
    n, r = 2**20, 64
    plan = MaskPlan.from_masks({"m": (bernoulli(4, r, 0.5, rng=1), bernoulli(4, r, 0.5, rng=2))})
    data = plan.to_dict()
    mask = {
        "n1": n,
        "n2": r,
        "sha256": "0" * 64,
        "num_edges": 1,
        "bernoulli": {"density": 1e-8, "seed": 0, "version": 1},
    }
    data["modules"] = {f"m{i}": {"A": mask, "B": mask} for i in range(33)}
    with pytest.raises(TooLargeError, match="4429185024 draws"):
        MaskPlan.from_dict(data)


def test_an_empty_mask_is_refused_with_the_plan() -> None:
    a, b = bernoulli(20, 4, 0.5, rng=1), row_column(12, 4, 0.5, rng=2)
    empty = bernoulli(20, 4, 1e-9, rng=0), targeted(np.arange(20), 1, 4)
    assert empty[0].num_edges == 0
    data = MaskPlan.from_masks({"m": (a, b)}, rng=0).to_dict()
    for written in (
        write_edges(empty[0]),
        {k: v for k, v in write_edges(empty[1]).items() if k != "kept"} | {"kept": ""},
    ):
        data["modules"]["m"]["A"] = written
        with pytest.raises(FileFormatError, match="keeps nothing"):
            MaskPlan.from_dict(data)


def test_a_plan_keeps_recipes_and_comes_back() -> None:
    plan = MaskPlan.from_masks(
        {"m": (bernoulli(20, 4, 0.5, rng=1), row_column(12, 4, 0.5, rng=2))}, rng=0
    )
    text = plan.to_json()
    assert '"bernoulli"' in text
    assert '"kept"' in text
    again = MaskPlan.from_json(text)
    assert again["m"].a == plan["m"].a
    assert again["m"].b == plan["m"].b
    assert again.to_json() == text
