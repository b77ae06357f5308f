"""Embeddings that were resized are saved and loaded with the adapter, in each of PEFT's ways."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from expandermask.peft._tuner import XoraConfig
from tests.adapters.models import gpt2
from tests.peft.cases import outputs, train

OLD, NEW = 90, 96


def llama() -> LlamaForCausalLM:
    """One layer of width 64 whose head is not tied to its embedding."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=OLD,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


MODELS = {
    "gpt2": (gpt2, ["c_attn"], ["wte"]),
    "llama": (llama, ["q_proj", "v_proj"], ["embed_tokens", "lm_head"]),
}


def resized(make: object, seed: int) -> nn.Module:
    """The model with more tokens, whose new rows are random."""
    model = make()
    torch.manual_seed(seed)
    model.resize_token_embeddings(NEW, mean_resizing=False)
    return model


def new_tokens() -> torch.Tensor:
    return torch.randint(OLD - 4, NEW, (3, 20), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", ["modules_to_save", "save_embedding_layers", "auto", "target"])
def test_nothing_of_a_resized_embedding_is_lost(name: str, way: str, tmp_path: Path) -> None:
    make, targets, saved = MODELS[name]
    base = make()
    base.save_pretrained(tmp_path / "base")
    model = resized(make, seed=1)
    model.name_or_path = str(tmp_path / "base")
    if way == "target":
        targets = [*targets, *saved]  # of a head that is not adapted too, PEFT saves nothing here
    config = XoraConfig(
        r=16,
        target_modules=targets,
        mask_seed=0,
        modules_to_save=saved if way == "modules_to_save" else None,
    )
    adapted = peft.get_peft_model(model, config)
    if way != "modules_to_save":  # the new rows are the base's, and train with it
        adapted.get_input_embeddings().weight.requires_grad_(True)
    train(adapted, new_tokens())
    options = {} if way != "save_embedding_layers" else {"save_embedding_layers": True}
    adapted.save_pretrained(tmp_path / "adapter", **options)
    again = peft.PeftModel.from_pretrained(resized(make, seed=2), tmp_path / "adapter")
    torch.testing.assert_close(outputs(again, new_tokens()), outputs(adapted, new_tokens()))
