"""mask_peft: compact values under PEFT's own LoRA, stock checkpoints in and out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters.peft.mask_peft import mask_peft, unmask_peft
from expandermask.errors import AdapterError, InfeasibleShapeError, InvalidInputError
from tests.adapters.models import bert, gpt2, logits, mlp, same, tokens

TARGETS = {mlp: ["0", "2"], bert: ["query", "value"], gpt2: ["c_attn"]}


def lora(make: Callable[[], nn.Module] = bert, **settings: object) -> peft.PeftModel:
    """A stock LoRA with values that do something."""
    torch.manual_seed(4)
    fields = {"r": 16, "target_modules": TARGETS[make], "init_lora_weights": False}
    if make is gpt2:
        fields["fan_in_fan_out"] = True
    return peft.get_peft_model(make(), peft.LoraConfig(**{**fields, **settings})).eval()


def factors(model: nn.Module, adapter: str = "default") -> dict[str, torch.Tensor]:
    """Every dense lora_A and lora_B by its module's name and side."""
    return {
        f"{name}.{side}": getattr(layer, f"lora_{side}")[adapter].weight.detach().clone()
        for name, layer in model.get_base_model().named_modules()
        if isinstance(layer, peft.tuners.lora.LoraLayer)
        for side in "AB"
    }


def mask_of(plan: MaskPlan, key: str) -> torch.Tensor:
    name, side = key.rsplit(".", 1)
    pair = plan[name]
    return pair.a.to_torch().T if side == "A" else pair.b.to_torch()


def step(model: nn.Module, count: int = 3) -> torch.optim.Optimizer:
    """AdamW with momentum and decay, which leak into entries that are only multiplied by a mask."""
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1
    )
    for _ in range(count):
        optimizer.zero_grad()
        model(tokens()).logits.pow(2).mean().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("make", [bert, gpt2])
def test_surviving_values_are_kept_and_the_others_zero(make: Callable[[], nn.Module]) -> None:
    model = lora(make)
    before = factors(model)
    plan = mask_peft(model, rng=0)
    for key, weight in factors(model).items():
        mask = mask_of(plan, key)
        assert torch.equal(weight, torch.where(mask == 1, before[key], 0.0))
        assert int(mask.sum()) == int(weight.count_nonzero())


def test_only_the_values_train_and_zeros_stay_exactly_zero() -> None:
    model = lora()
    plan = mask_peft(model, rng=0)
    before = factors(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == plan.num_values
    optimizer = step(model)
    held = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    assert sum(t.numel() for t in held) == 2 * plan.num_values
    for key, weight in factors(model).items():
        mask = mask_of(plan, key)
        assert not weight[mask == 0].any()
        assert (weight != before[key])[mask == 1].any()


def test_gradients_are_those_of_the_dense_factors_on_the_mask() -> None:
    masked, dense = lora(), lora()
    plan = mask_peft(masked, rng=0)
    twin = copy.deepcopy(masked)
    unmask_peft(twin)
    for model in (masked, twin, dense):
        model(tokens()).logits.pow(2).mean().backward()
    for name, layer in twin.get_base_model().named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            mine = masked.get_base_model().get_submodule(name)
            for side in "AB":
                full = getattr(layer, f"lora_{side}")["default"].weight.grad
                factor = getattr(mine, f"lora_{side}")["default"]
                compact = factor.parametrizations.weight.original.grad
                shown = factor.parametrizations.weight[0](compact)
                mask = mask_of(plan, f"{name}.{side}")
                torch.testing.assert_close(shown, full * mask)


@pytest.mark.parametrize("make", [bert, gpt2])
def test_stock_peft_loads_what_a_masked_model_saves(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    model = lora(make)
    names = set(peft.get_peft_model_state_dict(model))
    mask_peft(model, rng=0)
    step(model)
    expected = logits(model)
    model.save_pretrained(str(tmp_path))
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == names
    loaded = peft.PeftModel.from_pretrained(make(), str(tmp_path)).eval()
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=0)
    assert same(factors(loaded), factors(model))


@pytest.mark.parametrize("low", [False, True])
def test_a_masked_model_loads_what_it_saved(low: bool, tmp_path: Path) -> None:
    model = lora()
    plan = mask_peft(model, rng=0)
    step(model)
    model.save_pretrained(str(tmp_path))
    other = lora()
    mask_peft(other, plan)
    assert not same(factors(other), factors(model))
    result = other.load_adapter(str(tmp_path), "default", low_cpu_mem_usage=low, is_trainable=True)
    assert not result.missing_keys
    assert same(factors(other), factors(model))
    assert sum(p.numel() for p in other.parameters() if p.requires_grad) == plan.num_values
    step(other)
    other.load_state_dict(model.state_dict())
    assert same(factors(other), factors(model))


def test_values_off_the_masks_are_not_loaded(tmp_path: Path) -> None:
    lora().save_pretrained(str(tmp_path))
    model = lora()
    mask_peft(model, rng=0)
    with pytest.raises(AdapterError, match=r"lora_A\S* has 896 entries other than zero off"):
        model.load_adapter(str(tmp_path), "default")


def test_merging_disabling_and_unloading_go_on() -> None:
    model, base = lora(), bert()
    mask_peft(model, rng=0)
    expected = logits(model)
    assert not torch.allclose(expected, logits(base), atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(base))
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, rtol=1e-4, atol=1e-4)


def test_adapters_are_masked_one_by_one_and_switched() -> None:
    model = lora()
    model.add_adapter("other", peft.LoraConfig(r=8, target_modules=["key"]))
    plain = factors_of(model, "key")
    mask_peft(model, rng=0)
    assert same(factors_of(model, "key"), plain)
    plan = mask_peft(model, left_degree=4, rng=1, adapter="other")
    assert (plan.r, plan.left_degree) == (8, 4)
    model.set_adapter("other")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == plan.num_values
    model.delete_adapter("other")
    unmask_peft(model)


def factors_of(model: nn.Module, module: str) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if f".{module}.lora" in n}


def test_unmasking_leaves_plain_lora_with_zeros(tmp_path: Path) -> None:
    model = lora()
    names = {name: p.shape for name, p in model.named_parameters()}
    plan = mask_peft(model, rng=0)
    expected, masked = logits(model), factors(model)
    model(tokens()).logits.sum().backward()
    unmask_peft(model)
    assert {name: p.shape for name, p in model.named_parameters()} == names
    assert same(factors(model), masked)
    assert torch.equal(logits(model), expected)
    step(model)
    assert all(weight[mask_of(plan, key) == 0].any() for key, weight in factors(model).items())
    model.save_pretrained(str(tmp_path))
    model.load_adapter(str(tmp_path), "default")  # no hook is left to refuse what is off the masks
    mask_peft(model, rng=2)


def test_gradients_of_the_old_shape_are_forgotten() -> None:
    model = lora()
    for change in (lambda: mask_peft(model, rng=0), lambda: unmask_peft(model)):
        model(tokens()).logits.sum().backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        change()
        assert all(p.grad is None for p in model.parameters())


def test_a_deep_copy_can_be_unmasked_alone() -> None:
    model = lora()
    mask_peft(model, rng=0)
    twin = copy.deepcopy(model)
    unmask_peft(twin)
    assert torch.equal(logits(twin), logits(model))
    assert same(twin.state_dict(), model.state_dict())
    twin.load_state_dict(lora().state_dict())
    step(model)
    with pytest.raises(AdapterError, match="other than zero off"):
        model.load_state_dict(lora().state_dict())


def test_half_precision_factors_stay_in_their_dtype() -> None:
    model = lora().to(torch.bfloat16)
    before = factors(model)
    plan = mask_peft(model, rng=0)
    for key, weight in factors(model).items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, torch.where(mask_of(plan, key) == 1, before[key], 0.0))


def refusals() -> list[tuple[Callable[[], peft.PeftModel], dict[str, object], str]]:
    plan = MaskPlan.for_shapes({"0": (32, 64), "2": (64, 32)}, r=16, rng=0)
    short = MaskPlan.for_shapes({"0": (32, 64)}, r=16, rng=0)
    turned = MaskPlan.for_shapes({"0": (64, 32), "2": (64, 32)}, r=16, rng=0)

    def merged() -> peft.PeftModel:
        model = lora(mlp)
        model.merge_adapter()
        return model

    def twice() -> peft.PeftModel:
        model = lora(mlp)
        mask_peft(model, rng=0)
        return model

    def conv() -> peft.PeftModel:
        model = nn.Sequential(nn.Conv2d(8, 8, 1))
        return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["0"]))

    def table() -> peft.PeftModel:
        model = nn.Sequential(nn.Embedding(32, 32))
        return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["0"]))

    return [
        (mlp, {}, "must be a peft.PeftModel, got Sequential"),
        (lambda: lora(mlp), {"adapter": "other"}, r"no LoRA adapter 'other'; it has \['default'\]"),
        (merged, {}, "merged into '0'"),
        (twice, {}, r"is masked .* already"),
        (conv, {}, "'0' is no linear module"),
        (table, {}, "'0' is no linear module"),
        (lambda: lora(mlp, use_dora=True), {}, "variant of LoRA, DoraLinear"),
        (lambda: lora(mlp, rank_pattern={"2": 8}), {}, r"ranks \[8, 16\]"),
        (lambda: lora(mlp, r=8), {"plan": plan}, "plan has r=16 and the adapter r=8"),
        (lambda: lora(mlp), {"plan": short}, "'2' is only in the adapter"),
        (
            lambda: lora(mlp),
            {"plan": turned},
            r"\(64, 32\) weight, and the adapter's is \(32, 64\)",
        ),
    ]


@pytest.mark.parametrize("number", range(11))
def test_refusals_say_why_and_change_nothing(number: int) -> None:
    make, arguments, words = refusals()[number]
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shapes = [p.shape for p in model.parameters()]
    with pytest.raises(AdapterError, match=words):
        mask_peft(model, **arguments)
    assert same(model.state_dict(), before)
    assert [p.shape for p in model.parameters()] == shapes


def test_other_refusals() -> None:
    with pytest.raises(InfeasibleShapeError, match="module '0'"):
        mask_peft(lora(mlp, r=24), rng=0)
    model = lora(mlp)
    with pytest.raises(AdapterError, match="not masked; call mask_peft"):
        unmask_peft(model)
    plan = mask_peft(model, rng=0)
    unmask_peft(model)
    with pytest.raises(InvalidInputError, match="rng=1 beside a plan"):
        mask_peft(model, plan, rng=1)
    assert mask_peft(model, plan) is plan
