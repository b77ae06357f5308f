"""The page's table of options says what XoraConfig does with each field of LoraConfig.

What an option does is asked of stock PEFT: the same option of `LoraConfig` on the same model.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import peft
import pytest
from torch import nn

from expandermask.errors import InvalidInputError
from expandermask.peft import XoraConfig
from expandermask.peft._lora_fields import INSTEAD
from tests.adapters.models import bert
from tests.peft.tables import table

ROWS = table("Options of LoraConfig")
LORA, OURS = peft.LoraConfig(), XoraConfig()
METHODS_OWN = {entry.name for entry in fields(peft.PeftConfig)} - {"inference_mode"}
"""What every config of PEFT has, and only keeps."""
EFFECTS: dict[str, dict[str, Any]] = {
    "inference_mode": {"inference_mode": True},
    "r": {"r": 32},
    "target_modules": {"target_modules": ["key", "output.dense"]},
    "exclude_modules": {"exclude_modules": ["layer.1.attention.self.query"]},
    "lora_alpha": {"lora_alpha": 3},
    "lora_dropout": {"lora_dropout": 0.25},
    "bias": {"bias": "lora_only"},
    "modules_to_save": {"modules_to_save": ["classifier"]},
    "layers_to_transform": {"layers_to_transform": [1]},
    "layers_pattern": {"layers_pattern": "encoder.layer", "layers_to_transform": [1]},
    "rank_pattern": {"rank_pattern": {"layer.0.attention.self.query": 8}},
    "alpha_pattern": {"alpha_pattern": {"layer.0.attention.self.query": 2}},
}
"""A value for each option that does something."""
KEPT = {
    "task_type": "SEQ_CLS",
    "peft_type": "LORA",
    "auto_mapping": {"base_model_class": "BertModel", "parent_library": "transformers"},
    "peft_version": "0.20.0",
    "base_model_name_or_path": "some/model",
    "revision": "main",
}
WITHOUT_EFFECT = {
    "fan_in_fan_out": True,
    "megatron_core": "another.core",
    "qalora_group_size": 8,
    "runtime_config": peft.LoraRuntimeConfig(ephemeral_gpu_offload=True),
}


def named(*words: str) -> set[str]:
    return {name for name, (here, _) in ROWS.items() if here in words}


def effects(config: peft.PeftConfig) -> dict[str, Any]:
    """Rank, scale and dropout of each adapted module, and what of the base model trains."""
    model = peft.get_peft_model(bert(), config)
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            rate = getattr(module.lora_dropout["default"], "p", 0.0)
            found[name] = (module.r["default"], module.scaling["default"], rate)
        elif hasattr(module, "xora_adapter"):
            adapter = module.adapter("default")
            found[name] = (adapter.r, adapter.scale, adapter.dropout)
    own = re.compile(r"\.(lora_[AB]\.|xora_adapter\.)")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    found["adapter trains"] = any(own.search(name) for name in trained)
    found["also trained"] = {n.replace(".base_layer", "") for n in trained if not own.search(n)}
    return found


def lora(**options: Any) -> dict[str, Any]:
    return effects(peft.LoraConfig(**{"r": 16, "target_modules": ["query", "value"], **options}))


def xora(**options: Any) -> dict[str, Any]:
    """With the scale as LoRA has it."""
    base = {"r": 16, "lora_alpha": 8, "target_modules": ["query", "value"], "scaling": "paper"}
    return effects(XoraConfig(**{**base, "mask_seed": 0, **options}))


def test_every_field_of_lora_has_one_row_in_lora_s_order() -> None:
    assert list(ROWS) == [entry.name for entry in fields(peft.LoraConfig)]


def test_every_row_that_is_not_refused_has_a_value_to_try() -> None:
    assert named("same", "other default") == {*EFFECTS, *KEPT}
    assert named("no effect") == set(WITHOUT_EFFECT)
    assert named("in part") == {"init_lora_weights"}


def test_rows_tell_of_other_defaults_and_quote_them() -> None:
    differ = {n for n in ROWS if (getattr(OURS, n) or None) != (getattr(LORA, n) or None)}
    assert named("other default") == differ
    for name in differ:
        assert re.search(rf"(^|\W){re.escape(str(default(OURS, name)))}(\W|$)", ROWS[name][1]), name
        if name != "peft_type":
            assert f"for LoRA {default(LORA, name)}" in ROWS[name][1]


def default(config: peft.PeftConfig, name: str) -> Any:
    value = getattr(config, name)
    return getattr(value, "value", value)


@pytest.mark.parametrize("name", EFFECTS)
def test_an_accepted_option_does_what_it_does_for_lora(name: str) -> None:
    changed = xora(**EFFECTS[name])
    assert changed == lora(**EFFECTS[name])
    assert changed != xora()


@pytest.mark.parametrize("name", KEPT)
def test_what_every_method_has_is_kept_as_lora_keeps_it(name: str) -> None:
    value = {name: KEPT[name]}
    kept = getattr(XoraConfig(**value), name)
    if name == "peft_type":
        assert kept == "XORA"
    else:
        assert kept == getattr(peft.LoraConfig(**value), name) == KEPT[name]


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_an_option_without_effect_changes_nothing(name: str) -> None:
    assert xora(**{name: WITHOUT_EFFECT[name]}) == xora()


def test_refused_rows_are_refused_by_name_and_quote_the_hint() -> None:
    assert named("refused") == set(INSTEAD)
    for name, instead in INSTEAD.items():
        assert ROWS[name][1] == instead.replace("`", ""), name
        with pytest.raises(InvalidInputError, match=f"^{name}=") as caught:
            XoraConfig(**{name: {"embed": [1]}})
        assert str(caught.value).endswith(instead)


def test_first_values_of_lora_s_other_kinds_are_refused() -> None:
    for value in (True, False):
        assert XoraConfig(init_lora_weights=value).init_lora_weights is value
    for kind in ("gaussian", "eva", "olora", "pissa", "pissa_niter_4", "corda", "loftq", "mica"):
        with pytest.raises(InvalidInputError, match=rf"^init_lora_weights='{kind}'") as caught:
            XoraConfig(init_lora_weights=kind)
        assert "use peft.LoraConfig" in str(caught.value)
    assert "True and False are accepted" in ROWS["init_lora_weights"][1]
    assert "use peft.LoraConfig" in ROWS["init_lora_weights"][1]


@pytest.mark.parametrize("module", [nn.Conv2d(4, 8, 3), nn.MultiheadAttention(64, 4)])
def test_modules_that_the_page_rules_out_are_refused_by_name(module: nn.Module) -> None:
    config = XoraConfig(r=4, target_modules=["0"], mask_seed=0)
    with pytest.raises(ValueError, match=f"'0' cannot be adapted: {type(module).__name__}"):
        peft.get_peft_model(nn.Sequential(module), config)
