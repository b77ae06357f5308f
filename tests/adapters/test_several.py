"""Several adapters on one model: added, switched, summed, disabled, deleted, merged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from expandermask.adapters import (
    AdapterConfig,
    active_adapters,
    adapter_names,
    attach,
    delete_adapter,
    detach,
    disable_adapters,
    export_peft,
    load_adapter,
    merge,
    parameter_report,
    save_adapter,
    set_adapters,
    unmerge,
)
from expandermask.adapters.attachment import attachment
from expandermask.errors import AdapterError, InvalidInputError
from tests.adapters.models import ENCODER, bert, layers, logits, same, state, trainable

NEWS = AdapterConfig(r=16, target_modules=ENCODER, modules_to_save=["classifier"])
HEAD = AdapterConfig(r=8, target_modules=["pooler.dense"])
FILMS = AdapterConfig(r=8, target_modules=["query", "value"])


def two(first: AdapterConfig = NEWS, second: AdapterConfig = FILMS) -> nn.Module:
    """A BERT with two adapters of random values, the first active."""
    model = bert()
    attach(model, first, name="news", rng=0)
    attach(model, second, name="films", rng=1)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        for parameter in model.classifier.parameters():
            parameter.add_(0.1)
    return model


def alone(name: str) -> torch.Tensor:
    """What a model computes that has only one of the two."""
    model = two()
    set_adapters(model, name)
    delete_adapter(model, "films" if name == "news" else "news")
    return logits(model)


def test_an_added_adapter_waits_and_then_runs() -> None:
    model = two()
    assert adapter_names(model) == ("news", "films")
    assert active_adapters(model) == ("news",)
    news = logits(model)
    assert torch.equal(news, alone("news"))
    set_adapters(model, "films")
    films = logits(model)
    assert torch.equal(films, alone("films"))
    assert not torch.allclose(news, films)
    set_adapters(model, ["news"])
    assert torch.equal(logits(model), news)


def test_updates_of_several_active_adapters_add_up() -> None:
    model = two()
    set_adapters(model, ["news", "films"])
    layer = model.bert.encoder.layer[0].attention.self.query
    x = torch.randn(5, 64)
    delta = sum(layer.adapter(name).delta() for name in ("news", "films"))
    torch.testing.assert_close(
        layer(x), nn.functional.linear(x, layer.weight + delta, layer.bias), rtol=1e-4, atol=1e-4
    )
    dense = model.bert.encoder.layer[0].intermediate.dense
    assert len(dense.running()) == 1


def test_only_active_adapters_and_their_modules_train() -> None:
    model = two()
    for names, heads in ((["news"], 2), (["films"], 0), (["news", "films"], 2)):
        set_adapters(model, names)
        found = [n for n, p in model.named_parameters() if p.requires_grad]
        assert {n.split(".adapters.")[1].split(".")[0] for n in found if "adapters" in n} == set(
            names
        )
        assert sum(n.startswith("classifier") for n in found) == heads


def test_each_adapter_has_its_own_head() -> None:
    model = two(NEWS, AdapterConfig(r=8, target_modules=["query"], modules_to_save=["classifier"]))
    original = bert().classifier.weight
    news = model.classifier.weight
    assert torch.equal(news, original + 0.1)
    set_adapters(model, "films")
    assert torch.equal(model.classifier.weight, original)
    assert model.classifier.weight.requires_grad
    with torch.no_grad():
        model.classifier.weight.zero_()
    set_adapters(model, "news")
    assert model.classifier.weight is news
    with pytest.raises(AdapterError, match="'news' and 'films' both save 'classifier'"):
        set_adapters(model, ["news", "films"])
    with disable_adapters(model):
        assert torch.equal(model.classifier.weight, original)


def test_heads_out_of_the_model_follow_its_dtype_and_mode() -> None:
    model = two(NEWS, AdapterConfig(r=8, target_modules=["query"], modules_to_save=["classifier"]))
    model.to(torch.bfloat16).train()
    for name in ("films", "news"):
        set_adapters(model, name)
        assert model.classifier.weight.dtype == torch.bfloat16
        assert model.classifier.training
        model(torch.ones(2, 5, dtype=torch.long)).logits.sum().backward()
    detach(model)
    assert model.classifier.weight.dtype == torch.bfloat16
    assert model.classifier.training


@pytest.mark.parametrize("merged", [False, True])
def test_within_the_disabled_block_the_model_is_the_base_to_the_bit(merged: bool) -> None:
    model, base = two(), logits(bert())
    set_adapters(model, ["films", "news"])
    before = logits(model)
    if merged:
        merge(model)
    with disable_adapters(model):
        assert torch.equal(logits(model), base)
        assert not trainable(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    assert all(bool(layer.merged) is merged for layer in layers(model))
    with pytest.raises(ZeroDivisionError), disable_adapters(model):
        raise ZeroDivisionError
    assert active_adapters(model) == ("films", "news")


def test_an_adapter_added_or_deleted_in_the_disabled_block_does_not_run_in_it() -> None:
    model, base = two(), logits(bert())
    with disable_adapters(model):
        delete_adapter(model, "news")
        attach(model, FILMS, name="more", rng=2)
        assert active_adapters(model) == ()
        assert not trainable(model)
        assert torch.equal(logits(model), base)
    assert active_adapters(model) == ("films",)
    assert torch.equal(logits(model), alone("films"))


def test_what_was_merged_in_the_disabled_block_is_not_merged_after_it() -> None:
    model = two()
    before = logits(model)
    with disable_adapters(model):
        set_adapters(model, "films")
        merge(model)
    assert active_adapters(model) == ("news",)
    assert torch.equal(logits(model), before)


def test_a_model_detached_in_the_disabled_block_stays_so() -> None:
    model = two()
    with disable_adapters(model):
        detach(model)
    assert same(state(model), state(bert()))


def test_a_block_that_cannot_begin_leaves_the_adapters_running() -> None:
    model = two(NEWS, AdapterConfig(r=8, target_modules=["query"], modules_to_save=["classifier"]))
    head = model.classifier
    model.to("meta")  # where the head that is out of the model cannot follow it
    with pytest.raises(RuntimeError), disable_adapters(model):
        pytest.fail("the block began")
    assert active_adapters(model) == ("news",)
    assert model.classifier is head
    assert all(layer.active for layer in layers(model) if "news" in layer.adapters)


def test_deleting_leaves_no_trace() -> None:
    model = two()
    delete_adapter(model, "news")
    assert active_adapters(model) == ("films",)
    assert len(layers(model)) == 4
    assert torch.equal(model.classifier.weight, bert().classifier.weight)
    assert not any("news" in name for name in model.state_dict())
    assert not attachment(model).originals
    with pytest.raises(AdapterError, match="'films' is the last adapter"):
        delete_adapter(model, "films")
    detach(model)
    assert same(state(model), state(bert()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("names", [["news"], ["news", "films"]])
def test_merging_and_unmerging_what_is_active(names: list[str], dtype: torch.dtype) -> None:
    model = two()
    if dtype is torch.bfloat16:
        for layer in layers(model):
            layer.base.to(dtype)
    set_adapters(model, names)
    before = state(model)
    deltas = {
        place: sum(m.adapter(n).delta() for n in names if n in m.adapters)
        for place, m in model.named_modules()
        if hasattr(m, "adapters")
    }
    merge(model)
    for place, delta in deltas.items():
        weight = model.get_submodule(place).weight
        wanted = (before[f"{place}.base.weight"].float() + delta).to(dtype)
        torch.testing.assert_close(weight, wanted, rtol=0, atol=0)
    for refused in (lambda: set_adapters(model, "films"), lambda: delete_adapter(model, "films")):
        with pytest.raises(AdapterError, match="call unmerge"):
            refused()
    with pytest.raises(AdapterError, match="call unmerge"):
        attach(model, FILMS, name="third", rng=0)
    unmerge(model)
    assert same(state(model), before)


def test_without_safe_merge_a_nan_goes_in_and_comes_out() -> None:
    model = two()
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.query.adapter("news").lora_B[0, 0] = torch.nan
    before = state(model)
    with pytest.raises(AdapterError, match="infinite or NaN"):
        merge(model)
    assert same(state(model), before)
    merge(model, safe_merge=False)
    assert model.bert.encoder.layer[0].attention.self.query.weight.isnan().any()
    unmerge(model)
    assert same(state(model), before)


def test_each_is_saved_loaded_and_exported_under_its_name(tmp_path: Path) -> None:
    model, fresh = two(), bert()
    set_adapters(model, ["news", "films"])
    with pytest.raises(AdapterError, match="name which adapter is meant"):
        save_adapter(model, tmp_path)
    for name in ("news", "films"):
        save_adapter(model, tmp_path / name, name=name)
        load_adapter(fresh, tmp_path / name, name=name)
        export_peft(model, tmp_path / f"peft-{name}", name=name)
    set_adapters(fresh, ["news", "films"])
    assert torch.equal(logits(fresh), logits(model))
    assert parameter_report(model, name="films").modules == 4
    with pytest.raises(AdapterError, match="no adapter is called 'other'"):
        save_adapter(model, tmp_path, name="other")


def test_detach_takes_all_off() -> None:
    model = two()
    set_adapters(model, ["films", "news"])
    merge(model)
    twin = copy.deepcopy(model)
    detach(model)
    assert same(state(model), state(bert()))
    merged = logits(twin)
    detach(twin, keep_merged=True)
    assert torch.equal(logits(twin), merged)
    assert list(twin.state_dict()) == list(bert().state_dict())


REFUSED: list[tuple[Callable[[nn.Module], object], type[Exception], str]] = [
    (lambda m: attach(m, FILMS, name="news"), AdapterError, "already has an adapter 'news'"),
    (lambda m: attach(m, FILMS, name="a.b"), InvalidInputError, "without dots"),
    (lambda m: attach(m, FILMS, name=""), InvalidInputError, "without dots"),
    (lambda m: attach(m, FILMS, name="items"), InvalidInputError, "no attribute of"),
    (lambda m: set_adapters(m, "other"), AdapterError, "no adapter is called 'other'"),
    (lambda m: set_adapters(m, []), InvalidInputError, "at least one"),
    (lambda m: set_adapters(m, ["news", "news"]), InvalidInputError, "no name twice"),
    (lambda m: delete_adapter(m, "other"), AdapterError, "no adapter is called 'other'"),
    (
        lambda m: attach(m, AdapterConfig(r=2, target_modules=["classifier"]), name="third"),
        AdapterError,
        "overlaps the module to save 'classifier' of the adapter 'news'",
    ),
    (
        lambda m: attach(m, replace(HEAD, modules_to_save=["intermediate"]), name="third"),
        AdapterError,
        r"overlaps the target 'bert\.encoder\.layer\.0\.intermediate\.dense' of the adapter 'news'",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_refuses_and_changes_nothing(
    call: Callable[[nn.Module], object], error: type[Exception], message: str
) -> None:
    model = two()
    before = state(model)
    with pytest.raises(error, match=message):
        call(model)
    assert same(state(model), before)
