"""Adapters on embeddings: the table's rows plus those of (scale * B A)'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from torch import nn
from transformers.models.bart.modeling_bart import BartScaledWordEmbedding
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from expandermask import MaskPlan
from expandermask.adapters import (
    AdapterConfig,
    MaskedEmbedding,
    attach,
    detach,
    export_peft,
    load_adapter,
    merge,
    save_adapter,
    unmerge,
)
from expandermask.errors import AdapterError
from tests.adapters.models import attached, bert, logits, randomise, same, state
from tests.adapters.pairs import the_adapter

CONFIG = AdapterConfig(r=8, target_modules=["0"])
IDS = torch.tensor([[3, 0, 3, 31], [7, 3, 1, 0]])


def table(padding: int | None = None, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(32, 16, padding_idx=padding), nn.Linear(16, 4)).to(dtype)


def dense_delta(layer: nn.Module) -> torch.Tensor:
    adapter = the_adapter(layer)
    a, b = adapter.factors()
    return adapter.scale * (b.double() @ a.double()).T


def test_an_embedding_is_adapted_only_where_it_is_named() -> None:
    assert list(MaskPlan.for_model(table(), r=4, rng=0)) == ["1"]
    model = table()
    before = model(IDS)
    attach(model, CONFIG, rng=0)
    assert isinstance(model[0], MaskedEmbedding)
    assert torch.equal(model(IDS), before)
    assert (the_adapter(model[0]).lora_A == 0).all()
    assert the_adapter(model[0]).lora_B.std() > 0.5


@pytest.mark.parametrize("irregular", [False, True])
def test_rows_and_gradients_equal_the_dense_oracle(irregular: bool) -> None:
    model = table(dtype=torch.float64)
    if irregular:
        generator = np.random.default_rng(0)
        plan = MaskPlan.from_masks(
            {"0": (generator.random((32, 8)) < 0.4, generator.random((16, 8)) < 0.4)}, rng=0
        )
        attach(model, plan)
    else:
        attach(model, CONFIG, rng=0)
    randomise(model)
    layer, adapter = model[0], the_adapter(model[0])
    out = layer(IDS)
    torch.testing.assert_close(out, (layer.weight + dense_delta(layer))[IDS])
    weights = torch.randn(out.shape, dtype=torch.float64)
    (out * weights).sum().backward()
    top = torch.zeros(32, 16, dtype=torch.float64)
    top.index_put_((IDS.flatten(),), weights.reshape(-1, 16), accumulate=True)
    a, b = adapter.factors()
    pair = {"a": (adapter.scale * top @ b).T, "b": (adapter.scale * top.T @ a.T).T}
    for side, grad in pair.items():
        index, values = getattr(adapter, f"index_{side}"), getattr(adapter, f"lora_{side.upper()}")
        places = grad.reshape(-1)
        kept = places[index.long(), None] if irregular else grad.gather(0, index.long()).T
        torch.testing.assert_close(values.grad, kept)


def test_the_padding_row_never_trains() -> None:
    model = table(padding=0)
    attached(model, CONFIG)
    model(IDS).sum().backward()
    grad = the_adapter(model[0]).lora_A.grad
    assert (grad[0] == 0).all()
    assert (grad[3] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_merge_unmerge_save_and_load(dtype: torch.dtype, tmp_path: Path) -> None:
    model, fresh = table(dtype=dtype), table(dtype=dtype)
    attached(model, CONFIG)
    before, out = state(model), model(IDS)
    merge(model)
    assert model[0].weight.shape == (32, 16)
    torch.testing.assert_close(model(IDS), out, rtol=2e-2, atol=2e-2)
    unmerge(model)
    assert same(state(model), before)
    save_adapter(model, tmp_path)
    load_adapter(fresh, tmp_path)
    assert torch.equal(fresh(IDS), out)
    detach(fresh)
    assert same(state(fresh), state(table(dtype=dtype)))


def test_stock_peft_reads_the_exported_table(tmp_path: Path) -> None:
    config = AdapterConfig(r=12, target_modules=["word_embeddings", "query"], left_degree=4)
    model = bert()
    model.resize_token_embeddings(96)
    torch.manual_seed(3)
    other = bert()
    other.resize_token_embeddings(96)
    other.load_state_dict(model.state_dict())
    attached(model, AdapterConfig(r=16, target_modules=config.target_modules, left_degree=4))
    export_peft(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(other, str(tmp_path)).eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)


def test_a_table_that_rewrites_its_rows_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(32, 16, max_norm=1.0))
    with pytest.raises(AdapterError, match=r"max_norm=1\.0"):
        attach(model, CONFIG, rng=0)


@pytest.mark.parametrize("kind", [BartScaledWordEmbedding, Gemma3TextScaledWordEmbedding])
def test_a_table_that_scales_its_rows_scales_their_updates(kind: type[nn.Embedding]) -> None:
    model = nn.Sequential(kind(32, 16, 0, embed_scale=8.0))
    attach(model, CONFIG, rng=0)
    randomise(model)
    rows = (model[0].weight + dense_delta(model[0])).detach().float()
    torch.testing.assert_close(model(IDS), 8 * rows[IDS], rtol=1e-5, atol=1e-5)
    model[0].base.embed_scale = torch.zeros(())
    assert not model(IDS).any()


def test_an_embedding_tied_to_the_head_is_refused() -> None:
    model = nn.ModuleDict({"0": nn.Embedding(32, 16), "out": nn.Linear(16, 32, bias=False)})
    model["out"].weight = model["0"].weight
    with pytest.raises(AdapterError, match=r"'0' is tied to 'out\.weight'"):
        attach(model, CONFIG, rng=0)
