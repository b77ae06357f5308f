"""Exports of models whose projections PEFT takes for those of fused experts."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, DeepseekV3Config, Glm4MoeConfig, MixtralConfig

from expandermask.adapters import AdapterConfig, attach, export_peft, import_peft
from expandermask.adapters.attachment import attachment
from expandermask.errors import AdapterError
from tests.adapters.models import VOCABULARY, logits, randomise

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LATENT: dict[str, Any] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
DEEPSEEK = DeepseekV3Config(**SIZES, **EXPERTS, **LATENT)
GLM = Glm4MoeConfig(**SIZES, **EXPERTS, head_dim=8)
MIXTRAL = MixtralConfig(**SIZES, num_local_experts=4)


def model_of(config: Any) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()


def written(config: Any, folder: Path, targets: Any, **options: Any) -> tuple[nn.Module, Any]:
    """A model with an exported adapter, and the config of the export."""
    model = model_of(config)
    attach(model, AdapterConfig(r=8, target_modules=targets, lora_dropout=0.1), rng=0)
    randomise(model)
    export_peft(model, folder, **options)
    return model, json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("config", [DEEPSEEK, GLM, MIXTRAL], ids=lambda c: c.model_type)
@pytest.mark.parametrize(
    "targets",
    ["all-linear", ["o_proj", "down_proj"], ["gate_proj", "o_proj"], r".*\.0\.(mlp|self).*proj"],
)
def test_stock_peft_computes_the_same(
    config: Any, targets: Any, compact: bool, tmp_path: Path
) -> None:
    model, fields = written(config, tmp_path, targets, compact=compact)
    stock = peft.PeftModel.from_pretrained(model_of(config), tmp_path).eval()
    torch.testing.assert_close(logits(stock), logits(model), atol=1e-5, rtol=1e-4)
    assert ("target_parameters" in fields) == (config is not MIXTRAL)
    back = model_of(config)
    import_peft(back, tmp_path)
    torch.testing.assert_close(logits(back), logits(model), atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_stock_peft_trains_on_and_merges(tmp_path: Path) -> None:
    model, _ = written(GLM, tmp_path, ["down_proj"])
    stock = peft.PeftModel.from_pretrained(model_of(GLM), tmp_path, is_trainable=True)
    stock(torch.arange(12)[None]).logits.square().mean().backward()
    grads = [p.grad for n, p in stock.named_parameters() if "lora_B" in n]
    assert len(grads) == len(attachment(model).plans["default"])
    assert all(grad is not None and bool(grad.any()) for grad in grads)
    merged = stock.eval().merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_quantized_projection_that_peft_would_mistake_is_refused(tmp_path: Path) -> None:
    model = model_of(GLM)
    attach(model, AdapterConfig(r=8, target_modules=["o_proj", "down_proj"]), rng=0)
    base = attachment(model).layers["model.layers.0.mlp.down_proj"].base
    base.weight = nn.Parameter(base.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(AdapterError, match=r"'model\.layers\.0\.mlp\.down_proj' for a part of fus"):
        export_peft(model, tmp_path)
    assert not any(tmp_path.iterdir())
