"""Adapters whose modules differ in rank: what they compute, save, load, export and cost."""

from __future__ import annotations

import warnings
from pathlib import Path

import peft
import pytest
import torch
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import (
    AdapterConfig,
    attach,
    export_peft,
    import_peft,
    load_adapter,
    parameter_report,
    save_adapter,
)
from expandermask.adapters.attachment import attachment
from expandermask.errors import AdapterError

PATTERNED = AdapterConfig(r=16, rank_pattern={"2": 8, "4": 4}, alpha_pattern={"2": 3.0})
NEAREST = AdapterConfig(r=16, infeasible="nearest", scaling="paper")


def stack() -> nn.Sequential:
    """64 -> 32 -> 36 -> 64: with left_degree 2, r = 16 is possible in the first module only."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 36), nn.Tanh(), nn.Linear(36, 64)
    )


def ready(config: AdapterConfig) -> nn.Sequential:
    """The stack with an adapter that does something."""
    model = stack()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no masks of the rank")
        attach(model, config, rng=0)
    for layer in attachment(model).layers.values():
        nn.init.normal_(layer.adapter("default").lora_B, generator=torch.Generator().manual_seed(1))
    return model


def test_the_scale_of_a_module_is_by_its_own_rank_and_alpha() -> None:
    layers = attachment(ready(PATTERNED)).layers
    scales = {place: layer.adapter("default").scale for place, layer in layers.items()}
    assert scales == pytest.approx({"0": 16 / 32**0.5, "2": 3 / 4, "4": 16 / 8**0.5})
    layers = attachment(ready(NEAREST)).layers
    scales = {place: layer.adapter("default").scale for place, layer in layers.items()}
    assert scales == pytest.approx({"0": 16 / 16, "2": 16 / 8, "4": 16 / 8})


@pytest.mark.parametrize("config", [PATTERNED, NEAREST])
def test_the_output_is_that_of_dense_factors(config: AdapterConfig) -> None:
    model, x = ready(config), torch.randn(5, 64)
    expected = x
    for place, module in stack().named_children():
        before, expected = expected, module(expected)
        if place in attachment(model).layers:
            adapter = attachment(model).layers[place].adapter("default")
            a, b = adapter.factors()
            expected = expected + adapter.scale * before @ a.t() @ b.t()
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("config", [PATTERNED, NEAREST])
def test_saved_and_loaded(config: AdapterConfig, tmp_path: Path) -> None:
    model, x = ready(config), torch.randn(5, 64)
    save_adapter(model, tmp_path)
    again = stack()
    plan = load_adapter(again, tmp_path)
    assert plan == attachment(model).plans["default"]
    assert (
        attachment(again).adapters["default"].config == attachment(model).adapters["default"].config
    )
    torch.testing.assert_close(again(x), model(x))


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("config", [PATTERNED, NEAREST])
def test_exported_and_imported(config: AdapterConfig, compact: bool, tmp_path: Path) -> None:
    model, x = ready(config), torch.randn(5, 64)
    export_peft(model, tmp_path, compact=compact)
    torch.testing.assert_close(peft.PeftModel.from_pretrained(stack(), tmp_path)(x), model(x))
    again = stack()
    import_peft(again, tmp_path)
    assert attachment(again).plans == attachment(model).plans
    torch.testing.assert_close(again(x), model(x))


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_patterns_for_no_module_are_warned_of(field: str) -> None:
    config = AdapterConfig(r=8, target_modules=["0"], **{field: {"0": 4, "1": 4, "00": 4}})
    with pytest.warns(UserWarning, match=rf"{field} matches no module with \['1', '00'\]"):
        attach(stack(), config, rng=0)


def test_skipped_modules_stay_plain() -> None:
    model = stack()
    with pytest.warns(UserWarning, match="skipped, as r=16"):
        attach(model, AdapterConfig(r=16, infeasible="skip", target_modules=["0", "2"]), rng=0)
    assert list(attachment(model).layers) == ["0"]
    assert "2 (skipped, as r=16 does not work)" in str(parameter_report(model))


def test_the_report_counts_each_module_at_its_own_rank() -> None:
    model = ready(NEAREST)
    report = parameter_report(model)
    ranks = {"0": 16, "2": 8, "4": 8}
    assert report.lora.trainable_values == 16 * 96 + 8 * 68 + 8 * 100
    assert report.masked.trainable_values == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    assert report.adjusted == {p: f"r={r}, not 16" for p, r in ranks.items() if r != 16}
    assert "no masks of the rank asked for: 2, 4 (r=8, not 16)" in str(report)


def test_a_plan_of_unequal_ranks_needs_no_config() -> None:
    plan = attachment(ready(PATTERNED)).plans["default"]
    model = stack()
    attach(model, plan)
    config = attachment(model).adapters["default"].config
    assert config.fits({place: pair.r for place, pair in plan.items()}, 2)
    with pytest.raises(AdapterError, match="they must agree"):
        attach(stack(), plan, config=AdapterConfig(r=16))


def test_masks_are_changed_only_at_the_ranks_there_are() -> None:
    from expandermask.adapters import change_masks

    model = ready(PATTERNED)
    shapes = {"0": (32, 64), "2": (36, 32), "4": (64, 36)}
    change_masks(model, MaskPlan.for_shapes(shapes, r=16, rank_pattern={"2": 8, "4": 4}, rng=9))
    with pytest.raises(AdapterError, match="the new plan must be for"):
        change_masks(model, MaskPlan.for_shapes(shapes, r=4, rng=9))
