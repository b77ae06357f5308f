"""save_adapter and load_adapter: exact round trips, and models an adapter does not fit."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from expandermask.adapters import (
    AdapterConfig,
    attach,
    load_adapter,
    merge,
    save_adapter,
)
from expandermask.adapters.files.stored import open_adapter
from expandermask.errors import AdapterError
from tests.adapters.conftest import HEADED, WEIGHTS
from tests.adapters.models import attached, bert, gpt2, logits, mlp, randomise, same, state


@pytest.mark.parametrize(("make", "config"), [(bert, HEADED), (gpt2, AdapterConfig(r=32))])
def test_round_trip_onto_a_fresh_model(
    make: Callable[[], nn.Module], config: AdapterConfig, tmp_path: Path
) -> None:
    model, fresh = make(), make()
    plan = attached(model, config)
    save_adapter(model, tmp_path / "new" / "folder")
    assert load_adapter(fresh, tmp_path / "new" / "folder") == plan
    assert same(state(fresh), state(model))
    assert torch.equal(logits(fresh), logits(model))


@settings(max_examples=15)
@given(
    shape=st.sampled_from([(8, 2), (16, 2), (16, 4), (64, 8)]),
    seed=st.integers(0, 2**64 - 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_round_trip_of_any_shape_seed_and_base(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    seed: int,
    dtype: torch.dtype,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    model, fresh = mlp(dtype=dtype), mlp(dtype=dtype)
    attached(model, AdapterConfig(r=shape[0], left_degree=shape[1]), rng=seed)
    save_adapter(model, folder)
    load_adapter(fresh, folder)
    assert same(state(fresh), state(model))


def test_loading_onto_the_same_adapter_takes_the_values(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    other = bert()
    attached(other, HEADED)
    randomise(other, seed=8)
    assert not same(state(other), state(model))
    load_adapter(other, folder)
    assert same(state(other), state(model))


def test_only_values_and_heads_are_in_the_file(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    tensors = load_file(folder / WEIGHTS)
    heads = {name for name in tensors if not name.endswith((".A", ".B"))}
    assert heads == {"classifier.weight", "classifier.bias"}
    assert tensors["bert.encoder.layer.0.attention.self.query.A"].shape == (64, 2)
    assert os.listdir(folder) == [WEIGHTS]
    with safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"format", "expandermask"}
    document = json.loads(metadata["expandermask"])
    assert set(document) == {"format", "format_version", "config", "plan", "sha256", "seal"}
    for name, tensor in tensors.items():
        digest = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        assert document["sha256"][name] == digest


def test_reading_takes_less_than_twice_the_file(tmp_path: Path) -> None:
    """tracemalloc sees Python's memory and not torch's, so a copy by torch is looked for too."""
    model = nn.ModuleDict({"fc": nn.Linear(64, 32), "head": nn.Linear(2**10, 2**13)})
    attached(model, AdapterConfig(r=16, target_modules="fc", modules_to_save=["head"]))
    save_adapter(model, tmp_path)
    path = tmp_path / WEIGHTS
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with path.open("rb", buffering=0) as stream:
            _, tensors = open_adapter(stream, size, "it").read()
        assert tracemalloc.get_traced_memory()[1] < 1.1 * size
    finally:
        tracemalloc.stop()
    storages = {t.untyped_storage().data_ptr() for t in tensors.values()}
    assert max(storages) - min(storages) < size
    assert torch.equal(tensors["head.weight"], model["head"].weight)


def test_saving_over_an_adapter_replaces_it(tmp_path: Path) -> None:
    first, second, fresh = mlp(), mlp(), mlp()
    attached(first)
    attached(second, AdapterConfig(r=8))
    save_adapter(first, tmp_path)
    save_adapter(second, tmp_path)
    load_adapter(fresh, tmp_path)
    assert same(state(fresh), state(second))


# -- a sound folder on a model it is not for -----------------------------------------------------


def other_width() -> nn.Module:
    model = bert()
    model.bert.encoder.layer[0].intermediate.dense = nn.Linear(64, 64)
    return model


def other_classes() -> nn.Module:
    model = bert()
    model.classifier = nn.Linear(64, 5)
    return model


def half_head() -> nn.Module:
    model = bert()
    model.classifier.to(torch.bfloat16)
    return model


def no_bias() -> nn.Module:
    model = bert()
    model.classifier = nn.Linear(64, 3, bias=False)
    return model


def attached_otherwise() -> nn.Module:
    model = bert()
    attach(model, HEADED, rng=1)
    return model


def attached_with_another_scale() -> nn.Module:
    model = bert()
    attach(model, AdapterConfig(r=16, lora_alpha=1, modules_to_save=["classifier"]), rng=0)
    return model


def attached_without_head() -> nn.Module:
    model = bert()
    attach(model, AdapterConfig(r=16), rng=0)
    return model


def merged() -> nn.Module:
    model = bert()
    attached(model, HEADED)
    merge(model)
    return model


def converted() -> nn.Module:
    model = bert()
    attached(model, HEADED)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def attached_inside() -> nn.Module:
    model = bert()
    attach(model.bert, AdapterConfig(r=16), rng=0)
    return model


UNFIT = [
    (gpt2, "no linear module or embedding of this model"),
    (other_width, r"\(64, 64\)"),
    (other_classes, r"'classifier.weight' is \(3, 64\) in the file and \(5, 64\)"),
    (half_head, "float32 in the file and torch.bfloat16 in the model"),
    (no_bias, "'classifier.bias' of the modules to save is only in the file"),
    (attached_otherwise, "another adapter attached"),
    (attached_with_another_scale, "plan or scale differ"),
    (attached_without_head, "only in the file"),
    (merged, "call unmerge"),
    (converted, r"float32 in the file and torch\.bfloat16 in the model; attach"),
    (lambda: bert().double(), r"float32 in the file"),
    (attached_inside, "already has"),
]


@pytest.mark.parametrize(("make", "message"), UNFIT)
def test_a_model_the_adapter_does_not_fit_is_refused_and_unchanged(
    make: Callable[[], nn.Module], message: str, saved: tuple[Path, nn.Module]
) -> None:
    model = make()
    before = state(model)
    with pytest.raises(AdapterError, match=message):
        load_adapter(model, saved[0])
    assert same(state(model), before)


def test_saving_needs_adapters_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no adapters attached"):
        save_adapter(bert(), tmp_path)
    model = mlp()
    attached(model)
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterError, match="is a file"):
        save_adapter(model, tmp_path / "file")
