"""A call that was written for LoraConfig works with XoraConfig, or says what to use instead."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.utils import hotswap

from expandermask.errors import InvalidInputError
from expandermask.peft._lora_fields import INSTEAD, LoraFields
from expandermask.peft._tuner import XoraConfig
from tests.adapters.models import gpt2, mlp

METHODS_OWN = {entry.name for entry in fields(peft.PeftConfig)}
NOTHING = {
    entry.name: getattr(peft.LoraConfig(), entry.name)
    for entry in fields(peft.LoraConfig)
    if entry.name not in METHODS_OWN | {"target_modules"}
}
"""Every field of LoraConfig at its default; rank and alpha are left as LoRA has them."""


def test_every_field_of_lora_is_accepted_at_its_default() -> None:
    config = XoraConfig(**NOTHING)
    assert (config.r, config.lora_alpha) == (8, 8)


@pytest.mark.parametrize("name", INSTEAD)
def test_any_other_value_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^{name}=.* takes only (False|None); (use|copy) "):
        XoraConfig(**{name: [(0, 1)]})


def test_nothing_of_lora_is_left_out_and_nothing_is_made_up() -> None:
    ours = {entry.name for entry in fields(XoraConfig)}
    lora = {entry.name for entry in fields(peft.LoraConfig)}
    assert lora <= ours
    assert {entry.name for entry in fields(LoraFields)} <= lora


def test_defaults_are_those_of_lora() -> None:
    for entry in fields(LoraFields):
        default = entry.default_factory() if entry.default is MISSING else entry.default
        if entry.name not in METHODS_OWN:
            assert (default or None) == (getattr(peft.LoraConfig(), entry.name) or None), entry.name


@pytest.mark.parametrize("value", [True, False])
def test_the_layout_is_read_off_the_module(value: bool) -> None:
    config = XoraConfig(r=16, target_modules=["c_attn"], mask_seed=0, fan_in_fan_out=value)
    model = peft.get_peft_model(gpt2(), config)
    assert {p.shape for p in model.base_model.mask_plans["default"].values()} == {(192, 64)}


def test_files_have_no_field_without_an_effect(tmp_path: Path) -> None:
    XoraConfig(**NOTHING, mask_seed=0).save_pretrained(tmp_path)
    written: dict[str, Any] = json.loads((tmp_path / "adapter_config.json").read_text())
    assert not set(written) & ({e.name for e in fields(LoraFields)} - METHODS_OWN)
    assert XoraConfig.from_pretrained(tmp_path).r == 8


def test_peft_loads_a_folder_without_a_word_about_lora(tmp_path: Path) -> None:
    model = peft.get_peft_model(mlp(), XoraConfig(r=16, mask_seed=0))
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(mlp(), tmp_path, ephemeral_gpu_offload=True)
    x = torch.randn(3, 64)
    torch.testing.assert_close(again(x), model(x))


def test_hot_swapping_is_refused_by_the_name_of_the_method(tmp_path: Path) -> None:
    model = peft.get_peft_model(mlp(), XoraConfig(r=16, mask_seed=0))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="XORA"):
        hotswap.hotswap_adapter(model, tmp_path, "default")


@pytest.mark.parametrize("name", INSTEAD)
def test_what_is_refused_is_refused_later_too(name: str) -> None:
    config = XoraConfig()
    setattr(config, name, NOTHING.get(name))
    with pytest.raises(InvalidInputError, match=f"^{name}="):
        setattr(config, name, [(0, 1)])


def test_layer_classes_of_ones_own_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match=r"^_register_custom_module .*peft\.LoraConfig"):
        XoraConfig()._register_custom_module({torch.nn.LSTM: torch.nn.Module})


def test_one_module_to_save_needs_a_list_too() -> None:
    with pytest.raises(InvalidInputError, match=r"modules_to_save must be a list .* got 'head'"):
        XoraConfig(modules_to_save="head")
