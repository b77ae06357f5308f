"""Biases of the base train beside the adapter, and are saved and loaded with it, as LoRA's are."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from expandermask.adapters import export_peft, import_peft, parameter_report, save_adapter
from expandermask.errors import AdapterError, FileFormatError
from expandermask.peft._tuner import XoraConfig
from tests.adapters.models import bert, tokens
from tests.peft.cases import outputs, train

TARGETS = ["query", "value"]


def trained_biases(model: nn.Module) -> set[str]:
    every = model.named_parameters()
    return {name for name, p in every if p.requires_grad and name.endswith("bias")}


@pytest.mark.parametrize("kind", ["none", "all", "xora_only", "lora_only"])
def test_the_biases_that_train_are_those_of_lora(kind: str) -> None:
    ours = peft.get_peft_model(bert(), XoraConfig(r=16, target_modules=TARGETS, bias=kind))
    lora = peft.LoraConfig(target_modules=TARGETS, bias=kind.replace("xora", "lora"))
    assert trained_biases(ours) == trained_biases(peft.get_peft_model(bert(), lora))


@pytest.mark.parametrize("kind", ["all", "xora_only"])
@pytest.mark.parametrize("compiled", [False, True])
def test_trained_biases_are_saved_and_loaded(kind: str, compiled: bool, tmp_path: Path) -> None:
    config = XoraConfig(r=16, target_modules=TARGETS, bias=kind, mask_seed=0)
    model = peft.get_peft_model(bert(), config)
    if compiled:
        layer = model.get_base_model().bert.encoder.layer
        layer[0] = torch.compile(layer[0], backend="eager")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, tokens())
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert trained_biases(model) <= moved
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(bert(), tmp_path)
    torch.testing.assert_close(outputs(again, tokens()), outputs(model, tokens()))
    peft.set_peft_model_state_dict(model, {n: t + 1 for n, t in saved_biases(model).items()})
    for key, shifted in saved_biases(model).items():
        torch.testing.assert_close(shifted, saved_biases(again)[key] + 1)


def saved_biases(model: nn.Module) -> dict[str, Tensor]:
    """The biases that PEFT saves, apart from the head's."""
    state = peft.get_peft_model_state_dict(model)
    return {key: value.clone() for key, value in state.items() if key.endswith(".bias")}


def test_peft_lora_reads_exported_biases(tmp_path: Path) -> None:
    config = XoraConfig(r=16, target_modules=TARGETS, bias="all", mask_seed=0)
    model = peft.get_peft_model(bert(), config)
    train(model, tokens())
    export_peft(model, tmp_path)
    again = peft.PeftModel.from_pretrained(bert(), tmp_path)
    torch.testing.assert_close(outputs(again, tokens()), outputs(model, tokens()))
    with pytest.raises(FileFormatError, match=r"only bias=.none. can be imported"):
        import_peft(bert(), tmp_path)


def test_the_format_of_save_adapter_refuses_biases(tmp_path: Path) -> None:
    config = XoraConfig(r=16, target_modules=TARGETS, bias="xora_only", mask_seed=0)
    model = peft.get_peft_model(bert(), config)
    assert parameter_report(model).saved_values == 4 * 64
    with pytest.raises(AdapterError, match="trains biases of the base"):
        save_adapter(model, tmp_path)


def test_unload_leaves_trained_biases_as_peft_does() -> None:
    config = XoraConfig(r=16, target_modules=TARGETS, bias="xora_only", mask_seed=0)
    model = peft.get_peft_model(bert(), config)
    train(model, tokens())
    expected = outputs(model, tokens())
    torch.testing.assert_close(outputs(model.merge_and_unload(), tokens()), expected)
