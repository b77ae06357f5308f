"""Studies go on where they were, and their statistics are right."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy import stats

mpl.use("agg")
import matplotlib.pyplot as plt

from analysis._masks import blocks, switched
from analysis._statistics import adjusted, correlation, mean_and_spread, paired, welch
from analysis._study import Study
from expandermask import certify
from expandermask.errors import InvalidInputError


@pytest.fixture(autouse=True)
def _threads() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Counting:
    """A study of five runs that can be made to fail at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[int] = []
        self.fail_at: int | None = None
        self.study = Study(
            name="counting",
            question="How many?",
            paper="none",
            runs=lambda mode: [{"i": i} for i in range(5)],
            run=self.run,
            summarise=lambda runs: {"total": sum(r["result"]["square"] for r in runs)},
            draw=lambda record: plt.figure(),
        )
        module = types.ModuleType("analysis.counting")
        module.STUDY = self.study  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "analysis.counting", module)

    def run(self, settings: dict[str, Any]) -> dict[str, Any]:
        if settings["i"] == self.fail_at:
            raise KeyboardInterrupt
        self.done.append(settings["i"])
        return {"square": settings["i"] ** 2}


def test_a_stopped_study_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(monkeypatch)
    counting.fail_at = 3
    with pytest.raises(KeyboardInterrupt):
        counting.study.record("full", place=tmp_path)
    assert counting.done == [0, 1, 2]
    assert not (tmp_path / "counting.json").exists()
    counting.fail_at = None
    record = counting.study.record("full", place=tmp_path)
    assert counting.done == [0, 1, 2, 3, 4]
    assert record["summary"] == {"total": 30}
    assert [r["settings"]["i"] for r in record["runs"]] == [0, 1, 2, 3, 4]
    counting.study.record("full", place=tmp_path)
    assert len(counting.done) == 5
    counting.study.record("full", place=tmp_path, fresh=True)
    assert len(counting.done) == 10
    counting.study.record("quick", place=tmp_path)
    assert len(counting.done) == 15  # runs of another mode are kept apart


def test_a_kept_run_of_other_settings_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(monkeypatch)
    counting.study.record("full", place=tmp_path)
    (file, *_) = sorted((tmp_path / "runs" / "counting-full").iterdir())
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"settings": {"i": 99}}))
    counting.study.record("full", place=tmp_path)
    assert len(counting.done) == 6


def test_a_study_that_is_part_of_another_takes_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(monkeypatch)
    counting.study.record("full", place=tmp_path)
    part = replace(
        counting.study, name="part", runs=lambda mode: [{"i": 2}, {"i": 3}], kept_by="counting"
    )
    record = part.record("full", place=tmp_path)
    assert len(counting.done) == 5
    assert (record["name"], record["summary"]) == ("part", {"total": 13})
    assert (tmp_path / "part.json").exists()


def test_welchs_test_by_hand() -> None:
    found = welch([1.0, 2.0, 3.0], [2.0, 4.0, 6.0, 8.0])
    error = 1 / 3 + (20 / 3) / 4  # variances 1 and 20/3 over 3 and 4 values
    freedom = error**2 / ((1 / 3) ** 2 / 2 + (5 / 3) ** 2 / 3)
    half = stats.t.ppf(0.975, freedom) * error**0.5
    assert found["difference"] == -3
    np.testing.assert_allclose(found["interval"], [-3 - half, -3 + half])
    np.testing.assert_allclose(found["p"], 2 * stats.t.sf(3 / error**0.5, freedom))
    assert welch([1.0], [0.0, 1.0])["p"] is None
    assert welch([1.0, 1.0], [1.0, 1.0])["interval"] is None


def test_means_and_paired_tests_are_scipys() -> None:
    a, b = [80.0, 81.5, 79.0, 82.0], [79.0, 81.0, 79.5, 80.0]
    found = mean_and_spread(a)
    assert (found["mean"], found["n"]) == (np.mean(a), 4)
    assert found["std"] == pytest.approx(np.std(a, ddof=1))
    assert mean_and_spread([3.0])["std"] is None
    test = paired(a, b)
    assert test["difference"] == pytest.approx(0.75)
    assert test["p"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    low, high = test["interval"]
    assert low < 0.75 < high
    half = stats.t.ppf(0.975, 3) * np.std(np.subtract(a, b), ddof=1) / 2
    assert (high - low) / 2 == pytest.approx(half)
    assert paired([1.0], [0.0])["p"] is None
    assert paired([1.0, 2.0], [0.0, 1.0])["interval"] is None
    rounded = paired([80.1, 81.2, 79.3], [79.8, 80.9, 79.0])  # 0.3 each, but for rounding
    assert rounded["difference"] == pytest.approx(0.3)
    assert rounded["p"] is None
    assert paired([0.0, 0.0], [0.0, 0.0])["p"] is None


def test_p_values_are_adjusted_for_how_many_there_are() -> None:
    """Benjamini and Hochberg's first example of 15 p-values (1995), of which four are called."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    given = {f"{i}": {"difference": float(i), "p": x} for i, x in enumerate(reversed(p))}
    given["one seed"] = {"difference": 1.0, "p": None}
    found = adjusted(given)
    assert sum((own["p_adjusted"] or 1) <= 0.05 for own in found.values()) == 4
    assert found["one seed"] == {"difference": 1.0, "p": None, "p_adjusted": None}
    assert found["14"] == {"difference": 14.0, "p": 0.0001, "p_adjusted": pytest.approx(0.0015)}
    assert adjusted({}) == {}


def test_correlations_are_scipys_and_their_intervals_cover() -> None:
    rng, covered = np.random.default_rng(0), 0
    for i in range(40):
        x = rng.normal(size=40)
        y = 0.5 * x + rng.normal(size=40)
        if i < 2:
            found = correlation(x, y)
            assert found["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
            low, high = found["spearman_interval"]
            assert low < found["spearman"] < high
        low, high = stats.pearsonr(x, y).confidence_interval(0.95)
        covered += low < 0.5 / np.sqrt(1.25) < high
    assert found["pearson_interval"][0] < found["pearson"] < found["pearson_interval"][1]
    assert covered >= 34


@pytest.mark.parametrize("count", [2, 4, 8])
def test_blocks_are_apart_and_switches_join_them_and_keep_degrees(count: int) -> None:
    apart = blocks(384, 16, 2, count, rng=3)
    proof = certify(apart)
    assert (apart.d1, apart.d2, proof.connected, proof.verdict) == (2, 48, False, "REFUTED")
    values = np.linalg.svd(apart.mask().astype(float), compute_uv=False)
    assert int(np.isclose(values, values[0]).sum()) >= count
    joined = switched(apart, 0.3, rng=3)
    assert (joined.d1, joined.d2) == (2, 48)
    assert certify(joined).sigma2[1] < proof.sigma2[0]
    assert switched(apart, 0.0, rng=1) == apart
    assert switched(apart, 0.3, rng=3) == joined


def test_blocks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="cannot be cut into 3 blocks"):
        blocks(384, 16, 2, 3)
    with pytest.raises(InvalidInputError, match="cannot be cut into 16 blocks"):
        blocks(384, 16, 2, 16)
