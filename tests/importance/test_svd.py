"""svd_scores against the definition by a full singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from expandermask.errors import AdapterError, InvalidInputError
from expandermask.importance import svd, svd_scores
from tests.importance.models import mlp, states, unchanged


def by_definition(w: np.ndarray) -> np.ndarray:
    """||W V||_2 of every row, V = Q' L."""
    _, singular, q = np.linalg.svd(w, full_matrices=False)
    return np.linalg.norm(w @ (q.T * singular), axis=1)


def as_printed(w: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """||W V||_2 with the paper's V = Q L, for square W and any signs of the singular vectors."""
    _, singular, q = np.linalg.svd(w)
    return np.linalg.norm(w @ ((signs[:, None] * q) * singular), axis=1)


@given(d=st.integers(1, 20), k=st.integers(1, 20), conv=st.booleans(), seed=st.integers(0, 999))
def test_rows_and_columns_equal_the_definition(d: int, k: int, conv: bool, seed: int) -> None:
    w = np.random.default_rng(seed).normal(size=(d, k))
    layer = Conv1D(d, k) if conv else nn.Linear(k, d)
    layer.weight.data = torch.from_numpy(w.T.copy() if conv else w)
    found = svd_scores(nn.Sequential(layer))["0"]
    np.testing.assert_allclose(found.rows, by_definition(w), rtol=1e-9)
    np.testing.assert_allclose(found.columns, by_definition(w.T), rtol=1e-9)
    assert found.rows.dtype == found.columns.dtype == np.float64


def test_it_is_not_what_the_paper_prints_which_depends_on_signs() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(8, 8))
    signs = [np.ones(8), np.where(rng.random(8) < 0.5, -1.0, 1.0)]
    one, other = (as_printed(w, s) for s in signs)
    assert not np.allclose(one, other)
    own = by_definition(w)
    assert not np.array_equal(np.argsort(own), np.argsort(one))


def test_half_precision_weights_are_read_exactly() -> None:
    model = mlp(dtype=torch.bfloat16)
    found = svd_scores(model)["0"]
    w = model[0].weight.detach().double().numpy()
    np.testing.assert_allclose(found.rows, by_definition(w), rtol=1e-9)


def test_a_singular_weight_and_a_zero_one_are_no_trouble() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    with torch.no_grad():
        model[0].weight.copy_(torch.outer(torch.ones(4), torch.arange(6.0)))
    np.testing.assert_allclose(
        svd_scores(model)["0"].rows, by_definition(np.outer(np.ones(4), np.arange(6.0)))
    )
    nn.init.zeros_(model[0].weight)
    assert not svd_scores(model)["0"].rows.any()


def test_the_model_is_only_read() -> None:
    model = mlp()
    before = states(model)
    assert list(svd_scores(model, ["0", "2"])) == ["0", "2"]
    assert unchanged(before, model)


def test_bad_weights_are_refused() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(InvalidInputError, match="the weight of '2' has NaN"):
        svd_scores(model)
    with pytest.raises(AdapterError, match="meta device"):
        svd_scores(mlp().to("meta"))
    packed = mlp()
    packed[0].weight = nn.Parameter(torch.zeros(54))
    with pytest.raises(AdapterError, match="the weight of '0' is packed"):
        svd_scores(packed)
    with pytest.raises(AdapterError, match="matches no linear"):
        svd_scores(mlp(), ["nothing"])


@pytest.mark.parametrize("shape", [(3, 50), (50, 3)])
def test_only_the_smaller_gram_matrix_is_made(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    own = svd._gram_norms
    monkeypatch.setattr(svd, "_gram_norms", lambda w: seen.append(tuple(w.shape)) or own(w))
    svd_scores(nn.Sequential(nn.Linear(shape[1], shape[0])))
    assert seen == [(50, 3)]
