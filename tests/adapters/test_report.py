"""parameter_report: the paper's table to the digit, and bytes that match real files and tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoModel,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from expandermask import MaskPlan
from expandermask.adapters import (
    AdapterConfig,
    attach,
    export_peft,
    parameter_report,
    save_adapter,
)
from expandermask.adapters.attachment import masked_layers
from expandermask.adapters.files.tensors import float32_file_size
from expandermask.allocation import prune
from expandermask.errors import AdapterError
from expandermask.masks.peft_file import PEFT_METADATA
from tests.adapters.models import SMALL, attached, bert, layers, trainable
from tests.peft.cases import CASES


def roberta_base() -> PreTrainedConfig:
    return RobertaConfig()


def roberta_large() -> PreTrainedConfig:
    return RobertaConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    )


def llama() -> PreTrainedConfig:
    return LlamaConfig()


def deberta() -> PreTrainedConfig:
    return DebertaV2Config(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
    )


def gpt2_medium() -> PreTrainedConfig:
    return GPT2Config(n_embd=1024, n_layer=24, n_head=16)


QV, QKVO = ["query", "value"], ["q_proj", "k_proj", "v_proj", "o_proj"]
SIX = ["query_proj", "key_proj", "value_proj", "attention.output.dense", "intermediate.dense"]
SIX = [*SIX, r"output.dense"]

# Model, r, left_degree, modules, how many, XoRA's values, LoRA's values (papers/xora.txt).
TABLE = [
    (roberta_base, 8, 2, QV, 24, 73_728, 294_912),
    (roberta_base, 8, 3, QV, 24, 110_592, 294_912),
    (roberta_base, 8, 4, QV, 24, 147_456, 294_912),
    (roberta_large, 8, 2, QV, 48, 196_608, 786_432),
    (llama, 8, 2, QKVO, 128, 2_097_152, 8_388_608),
    (llama, 16, 2, QKVO, 128, 2_097_152, 16_777_216),
    (llama, 32, 2, QKVO, 128, 2_097_152, 33_554_432),
    (llama, 64, 2, QKVO, 128, 2_097_152, 67_108_864),
    (deberta, 16, 2, SIX, 72, 331_776, 2 * 1_327_104),
    (gpt2_medium, 4, 2, ["c_attn"], 24, 196_608, 393_216),
]


@pytest.mark.parametrize(("config", "r", "degree", "targets", "modules", "ours", "lora"), TABLE)
def test_the_papers_parameter_counts(
    config: Callable[[], Any],
    r: int,
    degree: int,
    targets: list[str],
    modules: int,
    ours: int,
    lora: int,
) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(config())
    plan = MaskPlan.for_model(model, target_modules=targets, r=r, left_degree=degree, rng=0)
    report = parameter_report(plan)
    assert report.modules == modules
    assert report.masked.trainable_values == ours
    assert report.lora.trainable_values == lora
    assert ours * r == lora * degree
    assert report.masked.gradient_bytes == 4 * ours
    assert report.masked.optimizer_bytes == 8 * ours
    assert report.masked.index_bytes == ours


def test_an_attached_model_is_what_its_report_says(tmp_path: Path) -> None:
    model = bert()
    plan = attach(model, AdapterConfig(r=16, modules_to_save=["classifier"]), rng=0)
    report = parameter_report(model)
    values = sum(p.numel() for p in trainable(model))
    assert values == report.masked.trainable_values + report.saved_values
    assert report.saved_values == 3 * 64 + 3
    buffers = [b for layer in layers(model) for b in layer.buffers()]
    assert sum(b.nbytes for b in buffers) == report.masked.index_bytes
    alone = parameter_report(plan).masked
    assert replace(report.masked, file_bytes=0) == replace(alone, file_bytes=0)
    model(torch.ones(2, 5, dtype=torch.long)).logits.sum().backward()
    optimizer = torch.optim.AdamW([p for m in layers(model) for p in m.parameters()], lr=1e-3)
    optimizer.step()
    grads = [p.grad for m in layers(model) for p in m.parameters() if p.grad is not None]
    assert sum(g.nbytes for g in grads) == report.masked.gradient_bytes
    moments = [t for s in optimizer.state.values() for t in s.values() if t.dim() > 0]
    assert sum(t.nbytes for t in moments) == report.masked.optimizer_bytes


def test_file_bytes_are_those_of_real_files(tmp_path: Path) -> None:
    model = bert()
    plan = attached(model, SMALL)
    save_adapter(model, tmp_path / "ours")
    again = bert()
    attach(again, plan)
    save_adapter(again, tmp_path / "plan")
    lora = peft.get_peft_model(
        bert(), peft.LoraConfig(r=16, target_modules="|".join(plan).replace(".", r"\."))
    )
    lora.save_pretrained(tmp_path / "lora")
    export_peft(model, tmp_path / "export")
    report = parameter_report(model)
    size = {
        name: (tmp_path / name / "adapter_model.safetensors").stat().st_size
        for name in ("ours", "plan", "lora", "export")
    }
    assert size["ours"] == report.masked.file_bytes
    assert size["plan"] == parameter_report(plan).masked.file_bytes
    assert size["lora"] == report.lora.file_bytes
    with safe_open(tmp_path / "export" / "adapter_model.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()  # the plan, for import_peft
    assert size["export"] == float32_file_size(shapes, metadata)
    factors = {name: shape for name, shape in shapes.items() if "lora" in name}
    assert float32_file_size(factors, PEFT_METADATA) == size["lora"]
    assert float32_file_size(factors, metadata) == report.export_bytes


@pytest.mark.parametrize("compact", [False, True])
def test_the_report_has_the_size_of_both_kinds_of_export(tmp_path: Path, compact: bool) -> None:
    model = CASES["embedding"].make()
    attach(model, AdapterConfig(r=8, left_degree=8, target_modules=["table", "mix"]), rng=0)
    layers = masked_layers(model, "default")
    layers["mix"].adapter("default").set_rank_gate(torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0]))
    prune(model)
    export_peft(model, tmp_path, compact=compact)
    report = parameter_report(model)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size == (report.compact_export_bytes if compact else report.export_bytes)
    assert report.compact_export_bytes < report.export_bytes


def test_the_file_of_llama_2_7b_is_its_values_and_two_per_cent() -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(llama())
    plan = MaskPlan.for_model(model, target_modules=QKVO, r=64, rng=0)
    values = 4 * 2_097_152
    assert values < parameter_report(plan).masked.file_bytes < 1.02 * values


def test_the_report_prints_and_converts() -> None:
    model = bert()
    attach(model, AdapterConfig(r=16, modules_to_save=["classifier"]), rng=0)
    report = parameter_report(model)
    text, data = str(report), report.to_dict()
    for number in (report.masked.trainable_values, report.lora.file_bytes, report.saved_values):
        assert f"{number:,}" in text
    assert len({len(line) for line in text.splitlines()[1:-2]}) == 1
    assert data["masked"]["trainable_values"] == report.masked.trainable_values
    assert data["r"] == 16


def test_a_model_without_adapters_has_no_report() -> None:
    with pytest.raises(AdapterError, match="no adapters attached"):
        parameter_report(nn.Linear(3, 3))
