"""What attach refuses before it changes anything: PEFT's layers, compiled ones, unfit targets."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import (
    AdapterConfig,
    attach,
    detach,
    load_adapter,
    merge,
    save_adapter,
)
from expandermask.adapters.attachment import attachment
from expandermask.errors import AdapterError
from tests.adapters.models import attached, bert, mlp, same, state, trainable

SMALL = AdapterConfig(r=4)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.called = nn.Linear(64, 64)
        self.read = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.called(x) @ self.read.weight


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=4, target_modules=["query"]),
        peft.IA3Config(target_modules=["query"], feedforward_modules=[]),
        peft.LoraConfig(r=4, target_modules=["query"], modules_to_save=["classifier"]),
        peft.LoraConfig(r=4, target_modules=["word_embeddings"]),
    ],
)
def test_a_model_with_adapters_of_peft_is_refused(config: Any) -> None:
    plain = bert()
    wrapped = peft.get_peft_model(plain, config)
    for model in (wrapped, plain):
        before = state(wrapped)
        with pytest.raises(AdapterError, match=r"PEFT adapters already .*merge_and_unload"):
            attach(model, SMALL, rng=0)
        assert same(state(wrapped), before)
    attach(wrapped.unload(), SMALL, rng=0)


def test_a_target_compiled_by_itself_is_refused() -> None:
    model = mlp()
    model[2] = torch.compile(model[2])
    before = state(model)
    with pytest.raises(AdapterError, match=r"'2' is compiled by itself .* attach first"):
        attach(model, SMALL, rng=0)
    assert same(state(model), before)
    attach(model, AdapterConfig(r=4, target_modules=["0"]), rng=0)


def test_what_is_around_a_target_may_be_compiled() -> None:
    attach(nn.Sequential(torch.compile(mlp())), SMALL, rng=0)


def test_a_plan_that_names_a_weight_read_without_a_call_is_refused() -> None:
    model = nn.Sequential(Reader())
    plan = MaskPlan.for_shapes({"0.called": (64, 64), "0.read": (64, 64)}, r=4, rng=0)
    before = state(model)
    with pytest.raises(AdapterError, match=r"'0\.read' cannot be adapted: Reader can compute"):
        attach(model, plan)
    assert same(state(model), before)


ROUTED = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
TINY: list[tuple[str, dict[str, Any]]] = [
    ("Mamba", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    ("Jamba", {**ROUTED, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1}),
    ("Llama4", {**ROUTED, "intermediate_size_mlp": 64, "head_dim": 8, "num_local_experts": 4}),
    ("Mixtral", {**ROUTED, "num_local_experts": 4}),
    ("Falcon", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}),
    ("Bloom", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
]


@pytest.mark.parametrize(("name", "settings"), TINY)
def test_every_value_on_all_linear_trains_and_merging_changes_no_output(
    name: str, settings: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    kind = "Llama4TextConfig" if name == "Llama4" else f"{name}Config"
    config = getattr(transformers, kind)(**settings)
    if name == "Falcon":
        config.num_attention_heads = 4
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    ids = torch.randint(3, 60, (2, 8))
    before = state(model)
    attached(model, SMALL)
    output = model(input_ids=ids, labels=ids)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trainable(model))
    merge(model)
    merged = model(input_ids=ids).logits
    torch.testing.assert_close(merged, output.logits, rtol=1e-3, atol=1e-3)
    detach(model)
    assert same(state(model), before)


def test_a_head_that_is_trained_needs_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        attach(bert(), AdapterConfig(r=16, modules_to_save=["classifier"]), rng=0)
    with pytest.warns(UserWarning, match="passes over classifier "):
        attach(bert(), AdapterConfig(r=16), rng=0)


def test_excluded_modules_are_left_out_and_saved(tmp_path: Path) -> None:
    model = bert()
    config = AdapterConfig(r=16, exclude_modules=["pooler.dense", "query"])
    plan = attach(model, config, rng=0)
    assert not any(name.endswith(("query", "pooler.dense")) for name in plan)
    save_adapter(model, tmp_path)
    again = bert()
    load_adapter(again, tmp_path)
    assert attachment(again).adapters["default"].config == config
