"""export_peft: stock PEFT loads the folder and computes the same logits."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from torch import nn

from expandermask.adapters import AdapterConfig, export_peft, merge, save_adapter
from expandermask.errors import AdapterError
from tests.adapters.models import ENCODER, attached, bert, gpt2, layers, logits, mlp


def mixed() -> nn.Module:
    """A GPT-2 with one Conv1D exchanged for an nn.Linear of the same shape."""
    model = gpt2()
    torch.manual_seed(1)
    model.transformer.h[1].attn.c_proj = nn.Linear(64, 64).eval()
    return model


CASES = [
    (bert, AdapterConfig(r=16, target_modules=ENCODER, modules_to_save=["classifier"])),
    (bert, AdapterConfig(r=32, target_modules=["query", "value"], scaling="paper")),
    (gpt2, AdapterConfig(r=16)),
    (mixed, AdapterConfig(r=16)),
]


@pytest.mark.parametrize(("make", "config"), CASES)
def test_stock_peft_gives_the_same_logits(
    make: Callable[[], nn.Module], config: AdapterConfig, tmp_path: Path
) -> None:
    model = make()
    plan = attached(model, config)
    export_peft(model, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out" if make is mixed else "gradient_check")
        warnings.filterwarnings("error", "Found missing adapter keys|.*unexpected")
        loaded = peft.PeftModel.from_pretrained(make(), str(tmp_path)).eval()
    assert (logits(make()) - logits(model)).abs().max() > 0.1
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)
    found = [
        name.removeprefix("base_model.model.")
        for name, module in loaded.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    ]
    assert sorted(found) == sorted(plan)


def test_exported_factors_are_dense_with_zeros_off_the_masks(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = bert()
    plan = attached(model)
    export_peft(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    for name, pair in plan.items():
        a = tensors[f"base_model.model.{name}.lora_A.weight"]
        b = tensors[f"base_model.model.{name}.lora_B.weight"]
        assert torch.equal((a.T != 0).byte(), pair.a.to_torch())
        assert torch.equal((b != 0).byte(), pair.b.to_torch())
    assert len(tensors) == 2 * len(plan)


def test_names_that_end_alike_are_not_hit(tmp_path: Path) -> None:
    def twins() -> nn.Module:
        return nn.ModuleDict(
            {"fc": nn.Linear(64, 64), "inner": nn.ModuleDict({"fc": nn.Linear(64, 64)})}
        )

    model = twins()
    attached(model, AdapterConfig(r=16, target_modules="fc"))
    assert len(layers(model)) == 1
    export_peft(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(twins(), str(tmp_path))
    hit = [n for n, m in loaded.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    assert hit == ["base_model.model.fc"]


def test_the_config_holds_only_what_every_peft_knows(tmp_path: Path) -> None:
    model = bert()
    attached(model, AdapterConfig(r=16, lora_alpha=8, lora_dropout=0.25))
    export_peft(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert set(config) <= set(peft.LoraConfig().to_dict())
    assert config["lora_alpha"] / config["r"] == AdapterConfig(r=16, lora_alpha=8).scale
    assert config["lora_dropout"] == 0.25


def test_a_merged_model_exports_the_same_adapter(tmp_path: Path) -> None:
    model = bert()
    attached(model)
    export_peft(model, tmp_path / "plain")
    merge(model)
    export_peft(model, tmp_path / "merged")
    name = "adapter_model.safetensors"
    assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()


def test_saving_refuses_to_write_over_an_export(tmp_path: Path) -> None:
    model = mlp()
    attached(model)
    export_peft(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(AdapterError, match="another kind of checkpoint"):
        save_adapter(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    export_peft(model, tmp_path)


def test_refuses_to_write_over_a_saved_adapter(tmp_path: Path) -> None:
    model = mlp()
    attached(model)
    save_adapter(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(AdapterError, match="an adapter of save_adapter"):
        export_peft(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(AdapterError, match="is a file"):
        export_peft(model, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="no adapters attached"):
        export_peft(mlp(), tmp_path)
    export_peft(model, tmp_path / "peft")
    export_peft(model, tmp_path / "peft")
