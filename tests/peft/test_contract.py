"""What PEFT asks of a tuner, item by item; each test is called after the line it checks.

The list is that of PEFT's own tests/test_custom_models.py, over four kinds of model.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tests.adapters.models import bits, same
from tests.peft.cases import CASES, Case, frozen, layers, outputs, stir, train

HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def close(first: torch.Tensor, second: torch.Tensor, tolerance: float) -> bool:
    return torch.allclose(first, second, rtol=tolerance, atol=tolerance)


def test_only_prefixed_parameters_change_and_frozen_ones_stay_bit_equal(case: Case) -> None:
    model = case.adapted()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rest = frozen(model)
    train(model, case.inputs)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {name for name in before if model.prefix in name}
    assert same(frozen(model), rest)


def test_it_computes_what_the_base_does_at_first(case: Case) -> None:
    base = case.make().eval()
    expected = case.out(base)
    assert close(case.out(peft.get_peft_model(base, case.config())), expected, 1e-6)


def test_save_and_load_under_another_seed_to_1e_5(case: Case, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = case.adapted(mask_seed=None)
    expected = case.out(model)
    assert not close(expected, case.out(case.make().eval()), 1e-3)
    model.save_pretrained(str(tmp_path))
    base = case.make().eval()
    torch.manual_seed(54321)
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path))
    assert close(case.out(loaded), expected, 1e-5)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_parameters_after_loading_are_the_trained_ones(case: Case, tmp_path: Path) -> None:
    model = case.adapted()
    train(model, case.inputs)
    model.save_pretrained(str(tmp_path))
    loaded = peft.PeftModel.from_pretrained(case.make(), str(tmp_path))
    assert same(model.state_dict(), loaded.state_dict())


def test_merge_unmerge_and_unload_agree_to_1e_4(case: Case) -> None:
    model = case.adapted()
    expected, rest = case.out(model), frozen(model)
    model.merge_adapter()
    assert close(case.out(model), expected, 1e-4)
    assert not same(frozen(model), rest)
    model.unmerge_adapter()
    assert same(frozen(model), rest)
    assert torch.equal(case.out(model), expected)
    unloaded = model.merge_and_unload()
    assert close(case.out(unloaded), expected, 1e-4)
    assert not layers(unloaded)
    assert {n for n, _ in unloaded.named_parameters()} == {
        n for n, _ in case.make().named_parameters()
    }


def test_unload_gives_the_base_back(case: Case) -> None:
    base = case.make().eval()
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = peft.get_peft_model(base, case.config())
    stir(model)
    assert same(model.unload().state_dict(), state)


def test_merge_is_idempotent(case: Case) -> None:
    model = case.adapted()
    model.merge_adapter()
    once = frozen(model)
    with pytest.warns(UserWarning, match="All adapters are already merged, nothing to do"):
        model.merge_adapter()
    assert same(frozen(model), once)


def test_unmerge_of_an_unmerged_model_warns_and_changes_nothing(case: Case) -> None:
    model = case.adapted()
    rest = frozen(model)
    with pytest.warns(UserWarning, match="Already unmerged. Nothing to do."):
        model.unmerge_adapter()
    assert same(frozen(model), rest)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("unload", [False, True])
def test_safe_merge_raises_on_nan_without_touching_the_base(
    case: Case, broken: float, unload: bool
) -> None:
    model = case.adapted()
    last = list(layers(model).values())[-1]  # so that a merge in order has merged the others
    with torch.no_grad():
        last.xora_adapter["default"].lora_B[0] = broken
    rest = frozen(model)
    merge = model.merge_and_unload if unload else model.merge_adapter
    with pytest.raises(ValueError, match="infinite or NaN"):
        merge(safe_merge=True)
    assert same(frozen(model), rest)
    assert not any(layer.merged for layer in layers(model).values())


def test_disable_adapter_restores(case: Case) -> None:
    model, base = case.adapted(), case.make().eval()
    expected = case.out(model)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    with model.disable_adapter():
        assert torch.equal(case.out(model), case.out(base))
    assert torch.equal(case.out(model), expected)
    assert flags == {name: p.requires_grad for name, p in model.named_parameters()}


def test_disable_adapter_restores_when_merged(case: Case) -> None:
    model, base = case.adapted(), case.make().eval()
    expected = case.out(model)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(case.out(model), case.out(base))
    assert close(case.out(model), expected, 1e-4)


def test_several_adapters_add_switch_and_delete(case: Case) -> None:
    model = case.adapted()
    first = case.out(model)
    model.add_adapter("other", case.config(mask_seed=7, r=32, left_degree=4))
    assert torch.equal(case.out(model), first)
    model.set_adapter("other")
    assert close(case.out(model), case.out(case.make().eval()), 1e-6)
    stir(model, seed=2)
    other = case.out(model)
    assert not close(other, first, 1e-3)
    model.delete_adapter("other")
    assert model.active_adapters == ["default"]
    assert list(model.peft_config) == list(model.base_model.mask_plans) == ["default"]
    assert all(list(layer.xora_adapter) == ["default"] for layer in layers(model).values())
    model.delete_adapter("default")
    with torch.no_grad():
        found = outputs(model.base_model, case.inputs)
    assert torch.equal(found, case.out(case.make().eval()))


def test_delete_of_a_merged_or_unknown_adapter_is_refused(case: Case) -> None:
    model = case.adapted()
    with pytest.raises(ValueError, match="does not exist"):
        model.delete_adapter("unknown")
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"while they are merged\. Please unmerge"):
        model.delete_adapter("default")


def test_several_active_adapters_add_up_and_merge_in_any_order(case: Case) -> None:
    model = case.adapted()
    model.add_adapter("other", case.config(mask_seed=7))
    stir(model, seed=2)
    model.base_model.set_adapter(["default", "other"])
    both, rest = case.out(model), frozen(model)
    for layer in layers(model).values():
        assert layer.active_adapters == ["default", "other"]
    model.merge_adapter()
    assert close(case.out(model), both, 1e-4)
    model.unmerge_adapter()
    assert same(frozen(model), rest)
    model.merge_adapter(adapter_names=["other"])
    with pytest.warns(UserWarning, match="additionally merging default"):
        model.merge_adapter(adapter_names=["default"])
    assert close(case.out(model), both, 1e-4)
    model.unmerge_adapter()
    assert same(frozen(model), rest)


def test_load_adapter_beside_another(case: Case, tmp_path: Path) -> None:
    model = case.adapted(mask_seed=5)
    expected = case.out(model)
    model.save_pretrained(str(tmp_path))
    other = case.adapted(mask_seed=6)
    other.load_adapter(str(tmp_path), "loaded")
    assert not close(case.out(other), expected, 1e-3)
    other.set_adapter("loaded")
    assert torch.equal(case.out(other), expected)


@pytest.mark.parametrize("name", ["bert", "embedding"])
def test_modules_to_save(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = case.adapted(modules_to_save=[case.head])
    expected = case.out(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.save_pretrained(str(tmp_path))
    loaded = peft.PeftModel.from_pretrained(case.make(), str(tmp_path)).eval()
    assert close(case.out(loaded), expected, 1e-5)
    train(model, case.inputs)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if model.prefix in n or "modules_to_save" in n}
    assert close(case.out(loaded.merge_and_unload()), expected, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_low_cpu_mem_usage(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    model = case.adapted()
    model.save_pretrained(str(tmp_path))
    loaded = peft.PeftModel.from_pretrained(
        case.make().to(dtype), str(tmp_path), low_cpu_mem_usage=True
    )
    loaded.load_adapter(str(tmp_path), "other", low_cpu_mem_usage=True)
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    values = {n: p for n, p in model.named_parameters() if model.prefix in n}
    for name, parameter in loaded.named_parameters():
        if loaded.prefix in name:  # not rounded to the base's dtype on the way
            assert torch.equal(parameter, values[name.replace(".other.", ".default.")])


def test_injecting_with_low_cpu_mem_usage_leaves_values_on_meta(case: Case) -> None:
    model = peft.inject_adapter_in_model(case.config(), case.make(), low_cpu_mem_usage=True)
    assert {p.is_meta for n, p in model.named_parameters() if "xora_" in n} == {True}
    assert not any(p.is_meta for n, p in model.named_parameters() if "xora_" not in n)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("autocast", [True, False])
def test_fp16_and_bf16(case: Case, dtype: torch.dtype, autocast: bool) -> None:
    base = case.make().eval().to(dtype)
    inputs = case.inputs.to(dtype) if case.inputs.is_floating_point() else case.inputs
    model = peft.get_peft_model(base, case.config(), autocast_adapter_dtype=autocast)
    expected = torch.float32 if autocast else dtype
    model.add_adapter("other", case.config(), autocast_adapter_dtype=autocast)
    assert {p.dtype for n, p in model.named_parameters() if model.prefix in n} == {expected}
    outputs(model.train(), inputs).float().pow(2).mean().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    stir(model)
    rest = frozen(model)
    with torch.no_grad():
        expected_out = outputs(model.eval(), inputs)
        for safe in (False, True):
            model.merge_adapter(safe_merge=safe)
            merged = outputs(model, inputs)
            assert ((merged - expected_out).norm() / expected_out.norm()) < 0.1
            model.unmerge_adapter()
            assert same(frozen(model), rest)
        assert torch.equal(outputs(model, inputs), expected_out)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(name: str, reentrant: bool) -> None:
    case = CASES[name]
    model = case.adapted().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0

    def grads() -> dict[str, torch.Tensor]:
        model.zero_grad()
        outputs(model, case.inputs).pow(2).sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain = grads()
    model.prepare_model_for_gradient_checkpointing(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert same(grads(), plain)
    assert plain.keys() == {n for n, _ in model.named_parameters() if model.prefix in n}


def test_requires_grad_follows_set_adapter(case: Case) -> None:
    model = case.adapted()

    def trained() -> set[str]:
        return {
            n.split(".xora_adapter.")[1] for n, p in model.named_parameters() if p.requires_grad
        }

    def of(*names: str) -> set[str]:
        return {f"{name}.lora_{side}" for name in names for side in "AB"}

    assert trained() == of("default")
    model.add_adapter("other", case.config())
    assert trained() == of("default")
    model.set_adapter("other")
    assert trained() == of("other")
    model.set_adapter("default", inference_mode=True)
    assert trained() == set()
    model.set_requires_grad("other")
    assert trained() == of("other")
    model.base_model.set_adapter(["default", "other"])
    assert trained() == of("default", "other")


def test_adapters_on_different_modules_are_switched_alone() -> None:
    case = CASES["mlp"]
    model = case.adapted(target_modules=["0"])
    model.add_adapter("other", case.config(target_modules=["2"]))
    first = case.out(model)
    model.set_adapter("other")
    stir(model, seed=3)
    second = case.out(model)
    model.set_adapter("default")
    assert not close(first, second, 1e-3)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"base_model.model.0.xora_adapter.default.lora_{side}" for side in "AB"
    }


def test_layers_say_their_features_and_status(case: Case) -> None:
    model = case.adapted()
    status = model.get_model_status()
    assert (status.enabled, status.active_adapters, status.merged_adapters) == (
        True,
        ["default"],
        [],
    )
    assert status.peft_types == {"default": "XORA"}
    assert status.requires_grad == {"default": True}
    for layer in layers(model).values():
        d, k = layer.xora_adapter["default"].shape
        assert (layer.in_features, layer.out_features) == (k, d)
        assert repr(layer).startswith("xora.XoraLayer(")


def test_the_state_dict_of_the_base_is_left_alone(case: Case) -> None:
    base = case.make()
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = peft.get_peft_model(base, case.config())
    own = {n: t for n, t in model.get_base_model().state_dict().items() if "xora_" not in n}
    assert same({name.replace(".base_layer", ""): t for name, t in own.items()}, state)


def test_saving_one_adapter_leaves_those_with_names_like_it_out(case: Case, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = case.adapted()
    expected = peft.get_peft_model_state_dict(model)
    for name in ("default2", "other_default", "foodefault_bar", "efaul"):
        model.add_adapter(name, case.config())
    model.save_pretrained(str(tmp_path), selected_adapters=["default"])
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert same(stored, expected)
    assert {name.rsplit(".", 1)[1] for name in stored} == {"lora_A", "lora_B", "mask_sha256"}


def test_saving_as_a_pickle_works_too(case: Case, tmp_path: Path) -> None:
    model = case.adapted()
    model.save_pretrained(str(tmp_path), safe_serialization=False)
    loaded = peft.PeftModel.from_pretrained(case.make().eval(), str(tmp_path))
    assert torch.equal(case.out(loaded), case.out(model))


def test_a_deep_copy_is_independent(case: Case) -> None:
    model = case.adapted()
    model.merge_adapter()
    twin = copy.deepcopy(model)
    twin.unmerge_adapter()
    assert all(layer.merged for layer in layers(model).values())
    stir(twin, seed=9)
    model.unmerge_adapter()
    assert same(frozen(model), frozen(twin))
    assert not close(case.out(model), case.out(twin), 1e-3)


def test_no_layer_is_put_around_a_layer(case: Case) -> None:
    model = case.adapted()
    model.add_adapter("other", case.config(mask_seed=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", 'target_modules="all-linear" adapts')
        model.add_adapter("third", case.config(mask_seed=4))
    for layer in layers(model).values():
        assert not isinstance(layer.base_layer, BaseTunerLayer)
        assert set(layer.xora_adapter) == {"default", "other", "third"}
        digests = {bytes(bits(a.mask_sha256).tolist()) for a in layer.xora_adapter.values()}
        assert len(digests) == 3
