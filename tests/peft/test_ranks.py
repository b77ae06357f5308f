"""Ranks and alphas by pattern, and ranks that some modules cannot have, in a PEFT model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import peft
import pytest
import torch
from torch import nn

from expandermask.adapters import AdapterConfig, attach, parameter_report
from expandermask.adapters.attachment import attachment
from expandermask.errors import InfeasibleShapeError
from expandermask.peft._tuner import XoraConfig
from tests.adapters.models import bert, tokens
from tests.peft.cases import outputs, stir

TARGETS = ["query", "value", "dense"]
RANKS = {
    "layer.0.attention.self.query": 8,
    "query": 32,
    "^bert.*value": 8,
    r"layer\.1\.output\.dense": 4,
}
ALPHAS = {"layer.1.attention.self.query": 3.0, "query": 5.0}
EARLIER_FIRST = {"query": 32, "layer.0.attention.self.query": 8}
"""The first key hides the second. Sorted, as PEFT writes files, it would be the other way round."""


def config(**changes: object) -> XoraConfig:
    fields = {"r": 16, "target_modules": TARGETS, "mask_seed": 0, "exclude_modules": ["classifier"]}
    return XoraConfig(**{**fields, **changes})


def adapted(**changes: object) -> peft.PeftModel:
    model = peft.get_peft_model(bert(), config(**changes))
    stir(model)
    return model


def numbers(model: nn.Module) -> dict[str, tuple[int, float]]:
    """The rank and the scale of every module, of XoRA or of LoRA."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            found[name] = (module.r["default"], module.scaling["default"])
        elif hasattr(module, "xora_adapter"):
            adapter = module.adapter("default")
            found[name] = (adapter.r, adapter.scale)
    return found


@pytest.mark.parametrize("ranks", [RANKS, EARLIER_FIRST])
def test_patterns_give_the_ranks_and_scales_that_lora_gives(ranks: dict[str, int]) -> None:
    fields = {"rank_pattern": ranks, "alpha_pattern": ALPHAS, "lora_alpha": 16}
    lora = peft.LoraConfig(r=16, target_modules=TARGETS, exclude_modules=["classifier"], **fields)
    expected = numbers(peft.get_peft_model(bert(), lora))
    assert len({r for r, _ in expected.values()}) > 1
    assert numbers(adapted(**fields, scaling="paper")) == expected


@pytest.mark.parametrize("ranks", [RANKS, EARLIER_FIRST])
def test_patterns_survive_a_folder_in_their_order(ranks: dict[str, int], tmp_path: Path) -> None:
    alphas = {key: float(value) for key, value in ranks.items()}
    model = adapted(rank_pattern=ranks, alpha_pattern=alphas)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(bert(), tmp_path)
    assert list(again.peft_config["default"].rank_pattern.items()) == list(ranks.items())
    assert numbers(again) == numbers(model)
    torch.testing.assert_close(outputs(again, tokens()), outputs(model, tokens()))


def test_the_masks_are_those_of_attach() -> None:
    model = adapted(rank_pattern=RANKS, alpha_pattern=ALPHAS)
    plain = bert()
    own = AdapterConfig(
        r=16,
        target_modules=TARGETS,
        exclude_modules=["classifier"],
        rank_pattern=RANKS,
        alpha_pattern=ALPHAS,
    )
    plan = attach(plain, own, rng=0)
    assert plan == model.base_model.mask_plans["default"]
    assert {p: layer.adapter("default").scale for p, layer in attachment(plain).layers.items()} == {
        p: layer.adapter("default").scale for p, layer in attachment(model).layers.items()
    }


def odd() -> nn.Sequential:
    """With left_degree 2, r = 16 is possible in the first module only."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 36), nn.Linear(36, 64))


def test_an_infeasible_rank_is_refused_unless_a_choice_is_made() -> None:
    with pytest.raises(InfeasibleShapeError, match=r'infeasible="nearest" takes'):
        peft.get_peft_model(odd(), XoraConfig(r=16, mask_seed=0))


@pytest.mark.parametrize(
    ("choice", "ranks"), [("nearest", {"0": 16, "2": 8, "3": 8}), ("skip", {"0": 16})]
)
def test_a_choice_is_told_once_reported_and_loaded(
    choice: str, ranks: dict[str, int], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="2 of 3 modules have no masks") as caught:
        model = peft.get_peft_model(odd(), XoraConfig(r=16, mask_seed=0, infeasible=choice))
    assert len([w for w in caught if "no masks" in str(w.message)]) == 1
    plan = model.base_model.mask_plans["default"]
    assert {place: pair.r for place, pair in plan.items()} == ranks
    assert parameter_report(model).adjusted.keys() == {"2", "3"}
    stir(model)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(odd(), tmp_path)
    x = torch.randn(3, 64)
    torch.testing.assert_close(again(x), model(x))


def test_all_linear_takes_narrow_modules_too_where_ranks_may_be_smaller() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 4), nn.Linear(4, 1))
    with pytest.warns(UserWarning, match="2 .too narrow for r=2"):
        model = peft.get_peft_model(model, XoraConfig(r=16, mask_seed=0, infeasible="nearest"))
    plan = model.base_model.mask_plans["default"]
    assert {place: pair.r for place, pair in plan.items()} == {"0": 16, "1": 4}


def test_resumed_values_bring_their_seed_at_unequal_ranks(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(odd(), XoraConfig(r=16, mask_seed=0, infeasible="nearest"))
        other = peft.get_peft_model(odd(), XoraConfig(r=16, mask_seed=5, infeasible="nearest"))
        stir(model)
        peft.set_peft_model_state_dict(other, peft.get_peft_model_state_dict(model))
    x = torch.randn(3, 64)
    torch.testing.assert_close(other(x), model(x))


def test_files_say_nothing_of_what_is_not_used(tmp_path: Path) -> None:
    config().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    later = {"rank_pattern", "alpha_pattern", "bias", "init_lora_weights", "infeasible"}
    assert not later & set(written)
