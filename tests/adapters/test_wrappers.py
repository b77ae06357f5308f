"""Names come from the plan: wrappers are seen through, layers that have gone are noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from expandermask.adapters import (
    AdapterConfig,
    attach,
    change_masks,
    detach,
    export_peft,
    load_adapter,
    merge,
    parameter_report,
    residual_norms,
    save_adapter,
    unmerge,
)
from expandermask.errors import AdapterError
from expandermask.masks.plan import MaskPlan
from expandermask.peft import XoraConfig
from tests.adapters.models import bert, bits, logits, randomise, same

CONFIG = AdapterConfig(r=16, target_modules=["query", "value"], modules_to_save=["classifier"])


def adapted() -> nn.Module:
    model = bert()
    attach(model, CONFIG, rng=0)
    randomise(model)
    return model


def with_peft() -> nn.Module:
    config = XoraConfig(
        r=16, target_modules=["query", "value"], modules_to_save=["classifier"], mask_seed=0
    )
    model = peft.get_peft_model(bert(), config)
    randomise(model)
    return model.eval()


def bare(model: nn.Module) -> nn.Module:
    return model.get_base_model() if isinstance(model, peft.PeftModel) else model


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_layers(model: nn.Module) -> nn.Module:
    encoder = bare(model).bert.encoder
    for i, layer in enumerate(encoder.layer):
        encoder.layer[i] = torch.compile(layer, backend="eager")
    return model


def compiled_linear(model: nn.Module) -> nn.Module:
    attention = bare(model).bert.encoder.layer[0].attention.self
    attention.query = torch.compile(attention.query, backend="eager")
    return model


def checkpointed(model: nn.Module) -> nn.Module:
    encoder = bare(model).bert.encoder
    for i, layer in enumerate(encoder.layer):
        encoder.layer[i] = checkpoint_wrapper(layer)
    return model


def twice(model: nn.Module) -> nn.Module:
    return compiled(checkpointed(compiled_layers(model)))


def parallel(model: nn.Module) -> nn.Module:
    return nn.DataParallel(model)


WRAPPERS = [compiled, compiled_layers, compiled_linear, checkpointed, twice, parallel]
HOLDERS = [adapted, with_peft]
Wrap = Callable[[nn.Module], nn.Module]
Make = Callable[[], nn.Module]


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("make", HOLDERS)
def test_a_wrapped_model_saves_and_exports_what_it_saves_without(
    make: Make, wrap: Wrap, tmp_path: Path
) -> None:
    plain = make()
    wrapped = wrap(make())
    for model, folder in ((plain, "plain"), (wrapped, "wrapped")):
        save_adapter(model, tmp_path / folder)
        export_peft(model, tmp_path / f"export-{folder}")
    for folder in ("", "export-"):
        first = load_file(tmp_path / f"{folder}plain" / "adapter_model.safetensors")
        second = load_file(tmp_path / f"{folder}wrapped" / "adapter_model.safetensors")
        assert len(first) >= 10
        assert same(first, second)
    fresh = bert()
    load_adapter(fresh, tmp_path / "wrapped")
    torch.testing.assert_close(logits(fresh), logits(bare(plain)), rtol=1e-5, atol=1e-5)
    assert residual_norms(wrapped) == residual_norms(plain)
    assert parameter_report(wrapped) == parameter_report(plain)


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("make", HOLDERS)
def test_a_wrapped_model_merges_and_changes_masks(make: Make, wrap: Wrap) -> None:
    plain = make()
    wrapped = wrap(make())
    for model in (plain, wrapped):
        merge(model)
    weight = "bert.encoder.layer.1.attention.self.value"
    layer = bare(plain).get_submodule(weight)
    theirs = [m for m in wrapped.modules() if hasattr(m, "is_masked_layer")][-1]
    assert torch.equal(layer.weight, theirs.weight)
    for model in (plain, wrapped):
        unmerge(model)
    assert torch.equal(theirs.weight, bert().get_submodule(weight).weight)
    other = MaskPlan.for_model(bert(), target_modules=["query", "value"], r=16, rng=7)
    for model in (plain, wrapped):
        change_masks(model, other)
    assert residual_norms(wrapped) == residual_norms(plain)


@pytest.mark.parametrize("wrap", [compiled, compiled_layers, checkpointed, twice, parallel])
def test_adapters_go_on_a_wrapped_model_by_the_same_names(wrap: Wrap, tmp_path: Path) -> None:
    plain = adapted()
    wrapped = wrap(bert())
    assert attach(wrapped, CONFIG, rng=0) == attach(bert(), CONFIG, rng=0)
    randomise(wrapped)
    save_adapter(plain, tmp_path / "plain")
    save_adapter(wrapped, tmp_path / "wrapped")
    names = [load_file(tmp_path / f / "adapter_model.safetensors") for f in ("plain", "wrapped")]
    assert names[0].keys() == names[1].keys()


@pytest.mark.parametrize("wrap", [compiled_layers, checkpointed])
def test_peft_puts_the_same_masks_on_a_wrapped_model(wrap: Wrap) -> None:
    config = XoraConfig(r=16, mask_seed=0, modules_to_save=["classifier"])
    plain = peft.get_peft_model(bert(), copy.deepcopy(config))
    wrapped = peft.get_peft_model(wrap(bert()), copy.deepcopy(config))
    assert wrapped.base_model.mask_plans == plain.base_model.mask_plans
    assert wrapped.peft_config["default"].to_dict() == plain.peft_config["default"].to_dict()


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_detach_takes_adapters_off_inside_wrappers(wrap: Wrap) -> None:
    wrapped = wrap(adapted())
    detach(wrapped)
    found = [bits(p) for p in wrapped.parameters()]
    wanted = [bits(p) for p in bert().parameters()]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not [m for m in wrapped.modules() if hasattr(m, "is_masked_layer")]
    assert all(p.requires_grad for p in wrapped.parameters())


@pytest.mark.parametrize("wrap", WRAPPERS[:-1])
def test_pefts_own_files_are_the_same_whatever_is_wrapped(wrap: Wrap, tmp_path: Path) -> None:
    plain = with_peft()
    wrapped = wrap(with_peft())
    for model, folder in ((plain, "plain"), (wrapped, "wrapped")):
        model.save_pretrained(str(tmp_path / folder))
    files = [load_file(tmp_path / f / "adapter_model.safetensors") for f in ("plain", "wrapped")]
    assert same(*files)
    for around in (lambda model: model, compiled_layers, checkpointed):
        fresh = peft.PeftModel.from_pretrained(around(bert()), str(tmp_path / "wrapped"))
        torch.testing.assert_close(logits(fresh.eval()), logits(plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrap", [compiled, compiled_linear, checkpointed])
def test_a_wrapped_model_is_saved_under_the_names_of_the_model(wrap: Wrap, tmp_path: Path) -> None:
    wrapped = wrap(adapted())
    wrapped.save_pretrained(str(tmp_path))
    saved = load_file(tmp_path / "model.safetensors")
    base = {k: v for k, v in bert().state_dict().items() if not k.startswith("classifier")}
    assert all(torch.equal(saved[key], tensor) for key, tensor in base.items())


def moved(model: nn.Module) -> str:
    layers = bare(model).bert.encoder.layer
    first, second = layers[0].attention.self, layers[1].attention.self
    first.query, second.query = second.query, first.query
    return r"'bert\.encoder\.layer\.0\.attention\.self\.query' was moved to '\S+1\S+query'"


def replaced(model: nn.Module) -> str:
    bare(model).bert.encoder.layer[1].attention.self.value = nn.Linear(64, 64)
    return r"1\.attention\.self\.value' was replaced by a Linear"


def deleted(model: nn.Module) -> str:
    del bare(model).bert.encoder.layer[1]
    return r"1\.attention\.self\.query' is no longer in the model"


def reordered(model: nn.Module) -> str:
    encoder = bare(model).bert.encoder
    encoder.layer = nn.ModuleList(reversed(encoder.layer))
    return r"was moved to"


def wrapped_by_own_class(model: nn.Module) -> str:
    encoder = bare(model).bert.encoder
    encoder.layer[0] = nn.Sequential(encoder.layer[0])
    return r"was moved to '\S+layer\.0\.0\.attention"


@pytest.mark.parametrize("change", [moved, replaced, deleted, reordered, wrapped_by_own_class])
@pytest.mark.parametrize("make", HOLDERS)
def test_layers_that_are_not_in_their_places_are_noticed(
    make: Make, change: Callable[[nn.Module], str], tmp_path: Path
) -> None:
    model = make()
    words = change(model)
    for verb in (
        lambda: save_adapter(model, tmp_path / "own"),
        lambda: export_peft(model, tmp_path / "export"),
        lambda: merge(model),
        lambda: residual_norms(model),
    ):
        with pytest.raises(AdapterError, match=words):
            verb()
    with pytest.raises(AdapterError, match=words):
        model.save_pretrained(str(tmp_path / "pretrained"))
    assert not (tmp_path / "own").exists()
    assert not (tmp_path / "export").exists()


def test_a_copy_of_a_model_has_its_own_adapters(tmp_path: Path) -> None:
    for make in HOLDERS:
        first = make()
        second = copy.deepcopy(first)
        randomise(second, seed=9)
        save_adapter(first, tmp_path / "first")
        save_adapter(second, tmp_path / "second")
        fresh = bert()
        load_adapter(fresh, tmp_path / "second")
        torch.testing.assert_close(logits(fresh), logits(bare(second)), rtol=1e-5, atol=1e-5)
        assert not torch.equal(logits(fresh), logits(bare(first)))
