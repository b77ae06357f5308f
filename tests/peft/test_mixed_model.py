"""PeftMixedModel: masked adapters beside other methods of PEFT."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import Tensor, nn

from expandermask.adapters.attachment import is_attached
from expandermask.errors import InfeasibleShapeError
from expandermask.peft import XoraConfig, XoraModel

INPUTS = torch.randn(5, 16, generator=torch.Generator().manual_seed(3))
METHODS = {
    "loha": peft.LoHaConfig(r=4, target_modules=["0"], init_weights=False),
    "lora": peft.LoraConfig(r=4, target_modules=["0"], init_lora_weights=False),
}


def base() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16)).eval()


def xora(**fields: object) -> XoraConfig:
    settings = {"r": 8, "target_modules": ["0", "2"], "init_lora_weights": False, "mask_seed": 1}
    return XoraConfig(**{**settings, **fields})


def mixed(method: str, first: str) -> peft.PeftMixedModel:
    torch.manual_seed(1)
    configs = {"xora": xora(), "other": METHODS[method]}
    names = sorted(configs, key=lambda name: name != first)
    model = peft.get_peft_model(base(), configs[names[0]], names[0], mixed=True)
    model.add_adapter(names[1], configs[names[1]])
    return model.eval()


def out(model: nn.Module, *names: str) -> Tensor:
    model.set_adapter(list(names))
    with torch.no_grad():
        return model(INPUTS)


def update(model: nn.Module, place: str, name: str) -> Tensor:
    """What an adapter adds to a weight, wherever in the pile of layers it is."""
    layer = model.get_submodule(f"base_model.model.{place}")
    while name not in layer._all_available_adapter_names():
        layer = layer.base_layer
    return layer.get_delta_weight(name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first", ["xora", "other"])
def test_updates_of_both_methods_add_up(method: str, first: str) -> None:
    model = mixed(method, first)
    expected = base()
    with torch.no_grad():
        expected[0].weight += update(model, "0", "xora") + update(model, "0", "other")
        expected[2].weight += update(model, "2", "xora")
        both = expected(INPUTS)
    torch.testing.assert_close(out(model, "xora", "other"), both, rtol=1e-4, atol=1e-4)
    merged = copy.deepcopy(model).merge_and_unload()
    torch.testing.assert_close(merged(INPUTS), both, rtol=1e-4, atol=1e-4)
    alone = out(model, "other")
    model.delete_adapter("xora")
    torch.testing.assert_close(out(model, "other"), alone)
    unloaded = model.unload()
    torch.testing.assert_close(unloaded(INPUTS), base()(INPUTS))
    assert not is_attached(unloaded)


def test_masks_are_those_of_an_unmixed_model() -> None:
    plain = peft.get_peft_model(base(), xora(), "xora").eval()
    for first in ("xora", "other"):
        torch.testing.assert_close(out(mixed("loha", first), "xora"), plain(INPUTS))
    assert isinstance(plain.base_model, XoraModel)


def test_only_the_active_adapter_trains() -> None:
    model = mixed("loha", "other")
    model.set_adapter("xora")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 4
    assert all(".xora_adapter.xora.lora_" in name for name in trained)


def test_a_rank_without_masks_is_refused() -> None:
    with pytest.raises(InfeasibleShapeError, match="module '0'"):
        peft.get_peft_model(base(), xora(r=7), mixed=True)


def test_other_methods_are_mixed_as_before() -> None:
    model = peft.get_peft_model(base(), METHODS["loha"], "loha", mixed=True)
    model.add_adapter("lora", METHODS["lora"])
    before = out(model, "lora", "loha")
    torch.testing.assert_close(model.merge_and_unload()(INPUTS), before, rtol=1e-4, atol=1e-4)
