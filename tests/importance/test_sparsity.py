"""derive_sparsity against removing rows one at a time on a copy, and what it promises besides."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expandermask.errors import AdapterError, FileFormatError, InvalidInputError
from expandermask.files import seal
from expandermask.importance import (
    AxisSparsity,
    ModuleSparsity,
    SparsityResult,
    accuracy,
    derive_sparsity,
    svd_scores,
)
from expandermask.importance.batches import on_device
from expandermask.masks import Scores
from tests.importance.models import cut, data, mlp, states, unchanged

Metric = Callable[[nn.Module], float]


def fitting(model: nn.Module) -> Metric:
    """Accuracy on labels that the untouched model gets right."""
    x, _ = data()
    return accuracy([(x, model(x).argmax(dim=1))])


def wavy(model: nn.Module) -> float:
    """A metric that goes up and down as rows and columns vanish."""
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    return 2.0 + np.sin(zeros / 3.0) * (zeros > 0)


def without(model: nn.Module, name: str, axis: str, gone: list[int]) -> nn.Module:
    """A copy of the model with rows or columns of a module's (d, k) weight at zero."""
    twin = copy.deepcopy(model)
    weight = twin[int(name)].weight
    stored_by_input = name == "2"  # Conv1D
    with torch.no_grad():
        for i in gone:
            if (axis == "rows") != stored_by_input:
                weight[i] = 0
            else:
                weight[:, i] = 0
    return twin


def by_hand(
    model: nn.Module, name: str, axis: str, scores: np.ndarray, metric: Metric, least: float
):
    """Algorithm 1: which numbers of removed rows pass, up to the first that does not."""
    left, passing = dict(enumerate(scores.tolist())), [True]
    gone: list[int] = []
    while left:
        worst = min(left, key=left.__getitem__)
        gone.append(worst)
        del left[worst]
        passing.append(metric(without(model, name, axis, gone)) >= least)
    return passing


def sealed(data: dict[str, object]) -> str:
    """An altered document with a seal that fits, as anyone can make one."""
    body = {name: value for name, value in data.items() if name != "seal"}
    return json.dumps(body | {"seal": seal(body)})


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 50),
    threshold=st.sampled_from([0.5, 0.8, 0.9, 1.0]),
    search=st.sampled_from(["one-by-one", "bisection"]),
    is_wavy=st.booleans(),
)
def test_kept_is_what_removing_by_hand_leaves(
    seed: int, threshold: float, search: str, is_wavy: bool
) -> None:
    model = mlp(seed)
    metric: Metric = wavy if is_wavy else fitting(model)
    scores = svd_scores(model)
    found = derive_sparsity(
        model, scores, metric, threshold=threshold, search=search, progress=False
    )
    assert found.baseline == metric(model)
    for name, both in found.modules.items():
        for axis in ("rows", "columns"):
            result, own = getattr(both, axis), getattr(scores[name], axis)
            passing = by_hand(model, name, axis, own, metric, threshold * found.baseline)
            removed = result.size - result.kept
            assert result.size == len(own)
            assert passing[removed]
            assert removed == result.size or not passing[removed + 1]
            if search == "one-by-one":
                assert all(passing[:removed])
                assert result.evaluations == min(removed + 1, result.size)
            else:
                assert result.evaluations <= min(12, result.size.bit_length())
            assert dict(result.curve).get(result.kept, np.inf) >= threshold * found.baseline


def test_the_model_is_put_back_to_the_bit_also_after_a_failure() -> None:
    model = mlp()
    before = states(model)
    derive_sparsity(model, svd_scores(model), fitting(model), progress=False)
    assert unchanged(before, model)
    calls = 0

    def failing(_: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        derive_sparsity(model, svd_scores(model), failing, progress=False)
    assert unchanged(before, model)


def test_a_killed_search_goes_on_where_it_was(tmp_path: Path) -> None:
    model = mlp()
    scores, metric, file = svd_scores(model), fitting(model), tmp_path / "sparsity.json"
    whole = derive_sparsity(model, scores, metric, progress=False)
    for stop_after in range(1, whole.evaluations, 4):
        file.unlink(missing_ok=True)
        calls = 0

        def stopping(model: nn.Module) -> float:
            nonlocal calls
            calls += 1
            if calls > stop_after:  # noqa: B023
                raise KeyboardInterrupt
            return metric(model)

        with pytest.raises(KeyboardInterrupt):
            derive_sparsity(model, scores, stopping, resume=file, progress=False)
        first, calls = calls, -(10**9)
        assert derive_sparsity(model, scores, stopping, resume=file, progress=False) == whole
        again = calls + 10**9
        longest = max(m.rows.evaluations for m in whole.modules.values())
        assert first + again <= whole.evaluations + 2 + longest
    calls = -(10**9)
    assert derive_sparsity(model, scores, stopping, resume=file, progress=False) == whole
    assert calls == -(10**9) + 1  # only the untouched model


def test_a_file_of_another_question_is_refused(tmp_path: Path) -> None:
    model, file = mlp(), tmp_path / "sparsity.json"
    scores, metric = svd_scores(model), fitting(model)
    derive_sparsity(model, scores, metric, resume=file, progress=False)
    kept = file.read_bytes()
    for change in ({"threshold": 0.8}, {"search": "one-by-one"}):
        with pytest.raises(InvalidInputError, match="another search, threshold or scores"):
            derive_sparsity(model, scores, metric, resume=file, progress=False, **change)
    with pytest.raises(InvalidInputError, match="another search, threshold or scores"):
        derive_sparsity(model, {"0": scores["0"]}, metric, resume=file, progress=False)
    with pytest.raises(
        InvalidInputError, match=r"another metric: that of its untouched model is 1\.0"
    ):
        derive_sparsity(model, scores, lambda _: 0.5, resume=file, progress=False)
    assert file.read_bytes() == kept
    file.write_bytes(kept[:-20])
    with pytest.raises(FileFormatError):
        derive_sparsity(model, scores, metric, resume=file, progress=False)


def test_results_go_through_files(tmp_path: Path) -> None:
    model = mlp()
    found = derive_sparsity(model, svd_scores(model), fitting(model), progress=False)
    found.save(tmp_path / "found.json")
    assert SparsityResult.load(tmp_path / "found.json") == found
    assert found.densities["0"].rows == found.modules["0"].rows.kept / 9
    assert f"{found.evaluations} (bisection)" in str(found)
    for text in ("{}", found.to_json().replace('"kept": ', '"kept": 9'), found.to_json()[:-9]):
        with pytest.raises(FileFormatError):
            SparsityResult.from_json(text)


ROWS = "modules", "0", "rows"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((*ROWS, "curve", 0), [1, 10**400], "no point of its curve"),
        ((*ROWS, "curve", 0), [9, 1.0], "no point of its curve"),
        ((*ROWS, "curve", 0), [-1, 1.0], "no point of its curve"),
        ((*ROWS, "size"), 10**400, "of size=1000"),
        ((*ROWS, "curve"), [], "nowhere on its curve"),
        (("threshold",), -5.0, "threshold=-5.0"),
        (("threshold",), 1.5, "threshold=1.5"),
        (("baseline",), -1.0, "baseline=-1.0"),
        (("search",), "guess", "search='guess' is none of"),
    ],
)
def test_altered_results_are_refused(place: tuple[str | int, ...], value: object, message: str):
    model = mlp()
    found = derive_sparsity(model, svd_scores(model), fitting(model), progress=False)
    assert 0 < found.modules["0"].rows.kept < 9
    data = json.loads(found.to_json())
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(FileFormatError, match=message):
        SparsityResult.from_json(sealed(data))
    with pytest.raises(FileFormatError, match="the seal does not fit"):
        SparsityResult.from_json(json.dumps(json.loads(found.to_json()) | {"threshold": 0.8}))


def test_a_file_of_another_model_with_the_same_metric_is_refused(tmp_path: Path) -> None:
    model, file = mlp(), tmp_path / "sparsity.json"
    scores, metric = svd_scores(model), fitting(model)
    derive_sparsity(model, scores, metric, resume=file, progress=False)
    derive_sparsity(mlp(), scores, metric, resume=file, progress=False)
    with torch.no_grad():
        model[4].bias[0] += 1e-9
    assert metric(model) == 1.0
    with pytest.raises(InvalidInputError, match="another model: not all of its values"):
        derive_sparsity(model, scores, metric, resume=file, progress=False)


def test_finished_axes_that_are_not_the_models_are_refused(tmp_path: Path) -> None:
    model, file = mlp(), tmp_path / "sparsity.json"
    scores, metric = svd_scores(model), fitting(model)
    derive_sparsity(model, scores, metric, resume=file, progress=False)
    whole = json.loads(file.read_text())
    name, axis, found = whole["done"][0]
    for entry in (
        ["other", axis, found],
        [name, "diagonals", found],
        [name, axis, found | {"size": found["size"] + 1}],
        [name, axis],
    ):
        file.write_text(sealed(whole | {"done": [entry, *whole["done"][1:]]}))
        with pytest.raises(FileFormatError, match=r"sparsity in progress: (?!.*seal)"):
            derive_sparsity(model, scores, metric, resume=file, progress=False)
    file.write_text(sealed(whole | {"done": 2 * whole["done"]}))
    with pytest.raises(FileFormatError, match="there twice"):
        derive_sparsity(model, scores, metric, resume=file, progress=False)


def test_a_module_nothing_is_needed_of_is_told(tmp_path: Path) -> None:
    model = mlp()
    found = derive_sparsity(model, svd_scores(model), lambda _: 1.0, progress=False)
    assert found.nothing_kept == ("0", "2", "4")
    assert found.densities == {}
    assert all(m.rows.kept == 0 for m in found.modules.values())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"metric": lambda _: float("nan")},
            InvalidInputError,
            "metric of the untouched model is nan",
        ),
        ({"metric": lambda _: "good"}, InvalidInputError, "is no number: 'good'"),
        ({"metric": lambda _: 0.0}, InvalidInputError, "train the head first, or shift"),
        ({"metric": lambda _: -0.3}, InvalidInputError, "makes sense only if it is positive"),
        ({"threshold": 0}, InvalidInputError, r"threshold must lie in \(0, 1\], got 0"),
        ({"threshold": 1.1}, InvalidInputError, "threshold must lie"),
        ({"search": "fast"}, InvalidInputError, "search must be one of"),
        ({"scores": {}}, InvalidInputError, "at least one module"),
        ({"scores": {"9": Scores(np.ones(9), np.ones(6))}}, InvalidInputError, "no module"),
        (
            {"scores": {"1": Scores(np.ones(9), np.ones(6))}},
            (InvalidInputError, AdapterError),
            "no linear module",
        ),
        ({"scores": {"0": Scores(np.ones(6), np.ones(9))}}, InvalidInputError, r"\(9, 6\)"),
        (
            {"scores": {"0": Scores(np.zeros(9), np.ones(6))}},
            InvalidInputError,
            "rows of '0' are all zero",
        ),
    ],
)
def test_bad_input(changes: dict[str, object], error: object, message: str) -> None:
    model = mlp()
    asked = {"scores": svd_scores(model), "metric": fitting(model)} | changes
    with pytest.raises(error, match=message):  # type: ignore[call-overload]
        derive_sparsity(model, asked.pop("scores"), asked.pop("metric"), progress=False, **asked)


def test_a_metric_that_turns_nan_names_the_place_and_puts_the_model_back() -> None:
    model = mlp()
    before, values = states(model), iter([1.0, float("nan")])
    with pytest.raises(InvalidInputError, match="without 5 of the rows of '0' is nan"):
        derive_sparsity(model, svd_scores(model), lambda _: next(values), progress=False)
    assert unchanged(before, model)


def test_a_tie_passes_whatever_rounding_says() -> None:
    assert 0.9 * (20 / 25) > 18 / 25
    model, calls = mlp(), 0

    def metric(_: nn.Module) -> float:
        nonlocal calls
        calls += 1
        return (20 if calls == 1 else 18) / 25

    found = derive_sparsity(model, svd_scores(model, ["0"]), metric, progress=False)
    assert found.nothing_kept == ("0",)


def test_a_training_model_is_refused() -> None:
    model = mlp()
    scores, metric = svd_scores(model), fitting(model)
    with pytest.raises(InvalidInputError, match=r"derive_sparsity needs.*model\.eval"):
        derive_sparsity(model.train(), scores, metric, progress=False)
    with pytest.raises(InvalidInputError, match="accuracy needs"):
        metric(model)
    with pytest.raises(InvalidInputError, match="batches is empty"):
        accuracy(iter([]))
    x, y = data()
    with pytest.raises(InvalidInputError, match=r"labels must lie in \[0, 3\)"):
        accuracy([(x, y + 2)])(model.eval())


def test_accuracy_counts_rows_over_batches_of_any_size() -> None:
    model = mlp()
    x, y = data()
    right = float((model(x).argmax(1) == y).double().mean())
    for cuts in ([24], [1, 23], [5, 5, 14]):
        assert accuracy(cut((x, y), cuts))(model) == pytest.approx(right, abs=1e-12)


def test_accuracy_of_nothing_or_of_nan_is_refused() -> None:
    model, (x, y) = mlp(), data()
    with pytest.raises(InvalidInputError, match="batches have no rows"):
        accuracy([(x[:0], y[:0])])(model)
    assert accuracy([(x[:0], y[:0]), (x, y)])(model) == accuracy([(x, y)])(model)
    with pytest.raises(InvalidInputError, match="logits of a batch have NaN"):
        accuracy([(x * float("nan"), y)])(model)


def test_a_threshold_of_numpy_is_a_number() -> None:
    model = mlp()
    found = derive_sparsity(
        model, svd_scores(model), lambda _: 1.0, threshold=np.float32(0.5), progress=False
    )
    assert type(found.threshold) is float
    assert SparsityResult.from_json(found.to_json()) == found


@pytest.mark.parametrize("both", [np.ones(9), (np.ones(9),), (np.ones(9), np.ones(6), 1)])
def test_scores_that_are_no_pair_are_refused(both: object) -> None:
    with pytest.raises(InvalidInputError, match=r"'0' must be Scores\(rows, columns\)"):
        derive_sparsity(mlp(), {"0": both}, lambda _: 1.0, progress=False)  # type: ignore[dict-item]


def test_evaluations_are_all_calls_of_the_metric() -> None:
    model, calls = mlp(), 0
    own = fitting(model)

    def metric(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        return own(model)

    assert derive_sparsity(model, svd_scores(model), metric, progress=False).evaluations == calls


def test_a_search_in_another_order_is_another(tmp_path: Path) -> None:
    model, file = mlp(), tmp_path / "sparsity.json"
    metric, scores = fitting(model), {"0": Scores(np.arange(1.0, 10), np.arange(1.0, 7))}
    derive_sparsity(model, scores, metric, resume=file, progress=False)
    same = {"0": Scores(*(2 * s for s in scores["0"]))}
    derive_sparsity(model, same, metric, resume=file, progress=False)
    turned = {"0": Scores(scores["0"].rows, scores["0"].columns[::-1].copy())}
    with pytest.raises(InvalidInputError, match="another search, threshold or scores"):
        derive_sparsity(model, turned, metric, resume=file, progress=False)


def test_a_module_without_rows_or_without_columns_has_no_density() -> None:
    none, some = AxisSparsity(4, 0, ((2, 1.0), (0, 1.0))), AxisSparsity(4, 4, ((3, 0.1),))
    modules = {"a": ModuleSparsity(none, some), "b": ModuleSparsity(some, none)}
    modules["c"] = ModuleSparsity(some, some)
    found = SparsityResult(1.0, 0.9, "one-by-one", modules)
    assert (found.nothing_kept, list(found.densities)) == (("a", "b"), ["c"])


def test_batches_go_to_the_models_device_however_deep() -> None:
    x = torch.ones(2)
    moved = on_device(({"a": x, "b": [x, "text"]}, x), torch.device("meta"))
    inputs, labels = moved
    assert all(t.is_meta for t in (inputs["a"], inputs["b"][0], labels))
    assert inputs["b"][1] == "text"
