"""find_targets: PEFT's conventions for naming modules, and errors that list what there is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from expandermask import MaskPlan
from expandermask.errors import AdapterError, InvalidInputError
from expandermask.masks import find_targets


def on_meta(build, config):
    with torch.device("meta"):
        return build(config)


@pytest.fixture(scope="module")
def bert():
    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=50,
    )
    return on_meta(BertForSequenceClassification, config)


@pytest.fixture(scope="module")
def gpt2():
    return on_meta(GPT2LMHeadModel, GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=50))


@pytest.fixture(scope="module")
def llama():
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        vocab_size=50,
    )
    return on_meta(LlamaForCausalLM, config)


def test_all_linear_leaves_heads_alone(bert, gpt2, llama):
    found = find_targets(bert)
    assert len(found) == 2 * 6 + 1
    assert "classifier" not in found
    assert found["bert.encoder.layer.1.intermediate.dense"] == (128, 64)
    assert found["bert.encoder.layer.1.output.dense"] == (64, 128)
    assert "lm_head" not in find_targets(llama)
    assert len(find_targets(llama)) == 2 * 7
    assert "lm_head" not in find_targets(gpt2)


def test_conv1d_is_output_by_input(gpt2):
    found = find_targets(gpt2)
    assert len(found) == 2 * 4
    assert found["transformer.h.0.attn.c_attn"] == (144, 48)
    assert found["transformer.h.0.mlp.c_proj"] == (48, 192)


def test_name_endings(llama):
    found = find_targets(llama, ["q_proj", "v_proj"])
    assert {name.rsplit(".", 1)[1] for name in found} == {"q_proj", "v_proj"}
    assert len(found) == 4
    assert found["model.layers.0.self_attn.v_proj"] == (32, 64)
    assert list(find_targets(llama, {"layers.1.mlp.up_proj"})) == ["model.layers.1.mlp.up_proj"]
    assert find_targets(llama, ("lm_head",)) == {"lm_head": (50, 64)}
    with pytest.raises(AdapterError):
        find_targets(llama, ["_proj"])  # an ending of a name is not an ending of its last part
    with pytest.raises(AdapterError):
        find_targets(llama, ["model"])


def test_regular_expressions_match_whole_names(llama):
    found = find_targets(llama, r".*layers\.0\..*(q|k)_proj")
    assert list(found) == ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"]
    with pytest.raises(AdapterError):
        find_targets(llama, "q_proj")


def test_a_bare_linear_model():
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    assert find_targets(model) == {"0": (4, 8), "2": (2, 4)}


def test_nothing_matches(llama):
    with pytest.raises(AdapterError, match=r"LlamaForCausalLM.*down_proj.*q_proj"):
        find_targets(llama, ["query"])
    with pytest.raises(AdapterError, match="end in: none"):
        find_targets(nn.ReLU())
    with pytest.raises(AdapterError):
        find_targets(llama, [])
    with pytest.raises(AdapterError):
        MaskPlan.for_model(llama, target_modules="nothing")


@pytest.mark.parametrize("bad", ["(", "*", [1], ["q_proj", None], 3, None])
def test_bad_targets(llama, bad):
    with pytest.raises(InvalidInputError, match="target_modules"):
        find_targets(llama, bad)


def test_a_plan_for_a_model_on_meta(llama):
    plan = MaskPlan.for_model(llama, target_modules=["q_proj", "v_proj"], r=16, rng=0)
    assert {name: pair.shape for name, pair in plan.items()} == find_targets(
        llama, ["q_proj", "v_proj"]
    )
    assert all(proof.verdict == "PROVED" for proof in plan.certify().values())
