"""Partial-LoRA's masks on real layers: what is stored, computed and saved, beside dense masks."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expandermask.adapters import (
    attach,
    export_peft,
    import_peft,
    load_adapter,
    merge,
    parameter_report,
    residual_norms,
    save_adapter,
)
from expandermask.importance import svd_scores
from expandermask.masks import NothingKeptWarning, Scores, balanced, find_targets, partial_plan
from tests.adapters.models import bert, logits, mlp, randomise, same, state
from tests.adapters.pairs import the_adapter

SELECT = ["bernoulli", "elements", "targeted", "inverted", "stochastic"]
SHAPES = {"0": (12, 20)}


def scores() -> dict[str, Scores]:
    rng = np.random.default_rng(0)
    return {"0": Scores(rng.random(12), rng.random(20))}


@settings(max_examples=40, deadline=None)
@given(
    select=st.sampled_from(SELECT),
    densities=st.tuples(st.floats(0.25, 0.9), st.floats(0.25, 0.9)),
    r=st.integers(1, 7),
    tokens=st.sampled_from([2, 70]),
    seed=st.integers(0, 999),
)
def test_outputs_and_gradients_equal_dense_factors_times_masks(
    select: str, densities: tuple[float, float], r: int, tokens: int, seed: int
) -> None:
    plan = partial_plan(SHAPES, {"0": densities}, r=r, select=select, scores=scores(), rng=seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 12)).double()
    attach(model, plan)
    randomise(model)
    adapter = the_adapter(model[0])
    mask_a, mask_b = (torch.from_numpy(plan["0"].a.mask().T), torch.from_numpy(plan["0"].b.mask()))
    a, b = (f.clone().requires_grad_() for f in adapter.factors())
    assert not a[mask_a == 0].any()
    assert not b[mask_b == 0].any()
    x = torch.randn(tokens, 20, dtype=torch.float64)
    wanted = model[0].base(x) + adapter.scale * (x @ (a * mask_a).T) @ (b * mask_b).T
    found = model(x)
    torch.testing.assert_close(found, wanted)
    found.pow(2).sum().backward()
    wanted.pow(2).sum().backward()
    own = sum(float(v.grad.pow(2).sum()) for v in (adapter.lora_A, adapter.lora_B))
    assert own == pytest.approx(float(a.grad.pow(2).sum() + b.grad.pow(2).sum()), rel=1e-9)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == plan.num_values


@pytest.mark.parametrize("select", SELECT)
def test_a_bert_trains_saves_exports_and_merges(select: str, tmp_path: Path) -> None:
    model = bert()
    shapes = find_targets(model, r"bert\.encoder\..*")
    with warnings.catch_warnings():
        warnings.simplefilter("error", NothingKeptWarning)
        plan = partial_plan(
            shapes, balanced(shapes, 0.3), r=4, select=select, scores=svd_scores(model), rng=0
        )
    attach(model, plan)
    kept = sum(int((g.left_degrees > 0).sum()) for pair in plan.values() for g in (pair.a, pair.b))
    report = parameter_report(model)
    if select != "elements":
        assert report.masked.trainable_values == 4 * kept
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    for _ in range(2):
        model(torch.ones(2, 5, dtype=torch.long), labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    wanted = logits(model.eval())
    norms = residual_norms(model)
    for place, norm in norms.items():
        delta = the_adapter(model.get_submodule(place)).delta()
        assert norm == pytest.approx(float(delta.double().norm()), rel=1e-4)
    save_adapter(model, tmp_path / "own")
    export_peft(model, tmp_path / "peft")
    fresh, other = bert(), bert()
    assert load_adapter(fresh, tmp_path / "own").to_json() == plan.to_json()
    assert torch.equal(logits(fresh), wanted)
    assert same(state(fresh), state(model))
    assert import_peft(other, tmp_path / "peft").to_json() == plan.to_json()
    torch.testing.assert_close(logits(other), wanted)
    merge(model)
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-4)
    size = (tmp_path / "own" / "adapter_model.safetensors").stat().st_size
    if select == "elements":  # recipes, so the file is not the indices' size
        assert size < 4 * plan.num_values + 1200 * len(plan)


def test_nothing_of_a_dropped_row_is_stored() -> None:
    model = mlp()
    shapes = {"0": (32, 64)}
    plan = partial_plan(
        shapes, {"0": (0.25, 0.5)}, r=3, select="targeted", scores=svd_scores(model), rng=0
    )
    attach(model, plan)
    adapter = the_adapter(model[0])
    assert adapter.lora_B.numel() == 3 * 8
    assert adapter.lora_A.numel() == 3 * 32
