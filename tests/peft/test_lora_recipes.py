"""The page's table of recipes: each is run as a user of PEFT would who changes the config."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from expandermask.adapters import merge, parameter_groups
from expandermask.errors import AdapterError, InfeasibleShapeError, InvalidInputError
from expandermask.peft import XoraConfig
from tests.adapters.models import bert, tokens
from tests.peft.tables import table

TARGETS = ["q_proj", "v_proj"]
NF4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
)


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=90,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def config(**changes: Any) -> XoraConfig:
    fields = {"r": 16, "target_modules": TARGETS, "task_type": "CAUSAL_LM", "mask_seed": 0}
    return XoraConfig(**{**fields, **changes})


def tuned(model: nn.Module, **changes: Any) -> peft.PeftModel:
    return peft.get_peft_model(model, config(**changes))


def trained(model: peft.PeftModel, optimizer: torch.optim.Optimizer | None = None) -> set[str]:
    """The parameters that a few steps change; the loss must go down."""
    before = dense(model)
    optimizer = optimizer or torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.01
    )
    losses = []
    model.train()
    for _ in range(5):
        loss = model(input_ids=tokens(), labels=tokens()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    assert losses[-1] < losses[0]
    return {name for name, value in dense(model).items() if not torch.equal(value, before[name])}


def dense(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters, without quantized ones that torch cannot compare."""
    found = {name: p.detach() for name, p in model.named_parameters()}
    return {name: value.clone() for name, value in found.items() if type(value) is Tensor}


def factors(names: set[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens()).logits


same = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)


def qlora(folder: Path) -> None:
    llama().save_pretrained(folder)
    load = partial(AutoModelForCausalLM.from_pretrained, folder, quantization_config=NF4)
    base = peft.prepare_model_for_kbit_training(load())
    model = tuned(base, target_modules="all-linear", lora_dropout=0.05)
    assert factors(trained(model)) == {"lora_A", "lora_B"}
    out = model.generate(input_ids=tokens(2, 4), max_new_tokens=3, pad_token_id=0)
    assert out.shape[0] == 2
    model.save_pretrained(folder / "adapter")
    again = peft.PeftModel.from_pretrained(load(), folder / "adapter").eval()
    same(logits(again), logits(model))
    merges_after_dequantizing(again)


def merges_after_dequantizing(model: peft.PeftModel) -> None:
    before = logits(model)
    call = r"call expandermask\.adapters\.merge\(model, dequantize=True\)"
    with pytest.raises(AdapterError, match=call):
        model.merge_and_unload()
    merge(model, dequantize=True)
    plain = model.merge_and_unload()
    assert type(plain.model.layers[0].self_attn.q_proj) is nn.Linear
    same(logits(plain), before)


def torchao(_: Path) -> None:
    base = llama()
    quantize_(base.model, Int8WeightOnlyConfig())
    model = tuned(base)
    assert factors(trained(model)) == {"lora_A", "lora_B"}
    merges_after_dequantizing(model)


def rslora(_: Path) -> None:
    """The squared gradients of B, on average over first values: one layer of width 256."""
    lora = peft.LoraConfig(r=64, lora_alpha=4, use_rslora=True, target_modules=["0"])
    dense, masked = 0.0, 0.0
    for seed in range(8):
        ours = XoraConfig(r=64, lora_alpha=4 * math.sqrt(64), target_modules=["0"], mask_seed=seed)
        dense += squared_gradient(lora, seed)
        masked += squared_gradient(ours, seed)
    assert abs(masked / dense - 1) < 0.1


def squared_gradient(config: peft.PeftConfig, seed: int) -> float:
    torch.manual_seed(seed)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(256, 256, bias=False)), config)
    model(torch.randn(64, 256)).pow(2).mean().backward()
    return sum(p.grad.pow(2).sum().item() for p in model.parameters() if p.requires_grad)


def loraplus(_: Path) -> None:
    model = tuned(llama())
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    ours = torch.optim.AdamW(parameter_groups(model, lr=1e-3, lr_ratio=16))
    rates = [
        {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for optimizer in (theirs, ours)
    ]
    assert rates[0] == rates[1]
    assert set(rates[0].values()) == {1e-3, 16e-3}
    assert factors(trained(model, theirs)) == {"lora_A", "lora_B"}


def lorafa(_: Path) -> None:
    model = tuned(llama(), target_modules=["q_proj"])
    whole = model.get_nb_trainable_parameters()[0]
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    assert factors(trained(model)) == {"lora_B"}
    assert 2 * model.get_nb_trainable_parameters()[0] == whole
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    kept: list[int] = []
    x = torch.randn(7, 64)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (kept.append(tensor.data_ptr()), tensor)[1], lambda tensor: tensor
    ):
        layer.train()(x)
    assert x.data_ptr() in kept, "the page says that inputs are kept"


def ranks_by_layer(_: Path) -> None:
    fields = {
        "rank_pattern": {"layers.0.self_attn.q_proj": 8},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 32},
        "lora_alpha": 16,
    }
    model = tuned(llama(), scaling="paper", **fields)
    lora = peft.get_peft_model(llama(), peft.LoraConfig(r=16, target_modules=TARGETS, **fields))
    for name, layer in lora.named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            adapter = model.get_submodule(name).adapter("default")
            assert (adapter.r, adapter.scale) == (layer.r["default"], layer.scaling["default"])
    assert factors(trained(model)) == {"lora_A", "lora_B"}
    odd = {"layers.0.self_attn.q_proj": 12}
    with pytest.raises(InfeasibleShapeError, match="r = 8 or 16 works"):
        tuned(llama(), rank_pattern=odd)
    with pytest.warns(UserWarning, match="have no masks"):
        near = tuned(llama(), rank_pattern=odd, infeasible="nearest")
    plan = near.base_model.mask_plans["default"]
    assert plan["model.layers.0.self_attn.q_proj"].r == 8


def merging(_: Path) -> None:
    model = tuned(llama())
    trained(model)
    before = logits(model)
    weights = dense(model)
    model.merge_adapter()
    same(logits(model), before)
    model.unmerge_adapter()
    assert all(torch.equal(value, weights[name]) for name, value in dense(model).items())
    same(logits(model.merge_and_unload()), before)


def several(_: Path) -> None:
    model = tuned(llama())
    model.add_adapter("other", config(mask_seed=1))
    alone = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        trained(model)
        alone[name] = logits(model)
    with torch.no_grad():
        mixed = model(input_ids=tokens(), adapter_names=["other", "default", "__base__"]).logits
    same(mixed[:1], alone["other"][:1])
    same(mixed[1:2], alone["default"][1:2])
    with model.disable_adapter():
        same(mixed[2:], logits(model)[2:])


def new_head(folder: Path) -> None:
    model = peft.get_peft_model(
        bert(),
        XoraConfig(r=16, target_modules=["query"], modules_to_save=["classifier"], mask_seed=0),
    )
    model(tokens(), labels=torch.arange(3)).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()
    assert not torch.equal(model.classifier.weight, bert().classifier.weight)
    model.save_pretrained(folder)
    again = peft.PeftModel.from_pretrained(bert(), folder).eval()
    same(logits(again), logits(model.eval()))


def new_tokens(folder: Path) -> None:
    def grown() -> PreTrainedModel:
        model = llama()
        model.resize_token_embeddings(96, mean_resizing=False)
        return model

    model = tuned(grown(), modules_to_save=["embed_tokens", "lm_head"])
    changed = trained(model)
    for name in ("embed_tokens", "lm_head"):
        assert any(f"{name}.modules_to_save" in one for one in changed)
    model.save_pretrained(folder)
    same(logits(peft.PeftModel.from_pretrained(grown(), folder).eval()), logits(model))


def refused(error: str, *options: dict[str, Any]) -> Callable[[Path], None]:
    def run(_: Path) -> None:
        for option in options:
            with pytest.raises(InvalidInputError, match=error):
                config(**option)

    return run


RECIPES: dict[str, Callable[[Path], None]] = {
    "QLoRA: bitsandbytes NF4, double quantization, prepare_model_for_kbit_training": qlora,
    "Another quantized base: torchao, int8": torchao,
    "rsLoRA": rslora,
    "LoRA+": loraplus,
    "LoRA-FA": lorafa,
    "Ranks by layer": ranks_by_layer,
    "Merging": merging,
    "Several adapters": several,
    "modules_to_save for a new head": new_head,
    'New tokens: modules_to_save=["embed_tokens", "lm_head"]': new_tokens,
    "New tokens: trainable_token_indices": refused(
        "^trainable_token_indices=.*modules_to_save",
        {"trainable_token_indices": {"embed_tokens": [1, 2]}},
    ),
    "LoftQ, PiSSA, EVA, CorDA, OLoRA": refused(
        "^init_lora_weights='.*takes only True and False",
        *({"init_lora_weights": kind} for kind in ("loftq", "pissa", "eva", "corda", "olora")),
    ),
}


def test_every_row_is_tried() -> None:
    assert list(table("Recipes")) == list(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_ends_as_the_page_says(recipe: str, tmp_path: Path) -> None:
    RECIPES[recipe](tmp_path)
