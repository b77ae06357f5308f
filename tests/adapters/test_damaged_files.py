"""load_adapter refuses every damaged, foreign or half-written folder, and changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from expandermask.adapters import (
    load_adapter,
    save_adapter,
)
from expandermask.errors import AdapterError, FileFormatError
from tests.adapters.conftest import CONFIG, HEADED, WEIGHTS
from tests.adapters.models import attached, bert, mlp, randomise, same, state


def edit_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        document = json.loads((folder / CONFIG).read_text())
        change(document)
        (folder / CONFIG).write_text(json.dumps(document))

    return damage


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


def edit_bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def edit_header(change: Callable[[str], str]) -> Callable[[Path], None]:
    def new(data: bytes) -> bytes:
        end = 8 + int.from_bytes(data[:8], "little")
        header = change(data[8:end].decode()).encode()
        return len(header).to_bytes(8, "little") + header + data[end:]

    return edit_bytes(WEIGHTS, new)


QUERY = "bert.encoder.layer.0.attention.self.query"


def first_module(document: dict[str, Any]) -> dict[str, Any]:
    return document["plan"]["modules"][QUERY]


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), "cannot read"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "cannot read"),
    "empty config": (edit_bytes(CONFIG, lambda b: b""), "not valid JSON"),
    "truncated config": (edit_bytes(CONFIG, lambda b: b[:-100]), "not valid JSON"),
    "empty weights": (edit_bytes(WEIGHTS, lambda b: b""), "truncated"),
    "truncated header": (edit_bytes(WEIGHTS, lambda b: b[:50]), "truncated"),
    "truncated weights": (edit_bytes(WEIGHTS, lambda b: b[:-1]), "truncated"),
    "longer weights": (edit_bytes(WEIGHTS, lambda b: b + b"\0" * 8), "not a safetensors file"),
    "one bit": (edit_bytes(WEIGHTS, lambda b: b[:-1] + bytes([b[-1] ^ 1])), "does not|not the"),
    "a PEFT config": (
        edit_bytes(CONFIG, lambda b: b'{"peft_type": "LORA", "r": 8}'),
        "not an expandermask adapter file",
    ),
    "a plan": (edit_config(lambda d: d.update(format="expandermask plan")), "not an expandermask"),
    "newer": (edit_config(lambda d: d.update(format_version=2)), "upgrade expandermask"),
    "older": (edit_config(lambda d: d.update(format_version=0)), "reads version 1"),
    "extra field": (edit_config(lambda d: d.update(extra=1)), "exactly the fields"),
    "no plan": (edit_config(lambda d: d.pop("plan")), "exactly the fields"),
    "config field": (edit_config(lambda d: d["config"].update(r="16")), "'r' must be int"),
    "config and plan": (edit_config(lambda d: d["config"].update(r=32)), "differ in r"),
    "NaN": (edit_bytes(CONFIG, lambda b: b.replace(b"16.0", b"NaN")), "NaN"),
    "recipe": (edit_config(lambda d: first_module(d)["A"]["recipe"].update(seed=1)), "hashes to"),
    "mask hash": (edit_config(lambda d: first_module(d)["B"].update(sha256="0" * 64)), "hashes to"),
    "tensor hash": (
        edit_config(lambda d: d["tensors"][f"{QUERY}.A"].update(sha256="0" * 64)),
        f"{QUERY}.A",
    ),
    "module missing from plan": (
        edit_config(lambda d: d["plan"]["modules"].pop(QUERY)),
        "only in the file",
    ),
    "value changed": (edit_weights(lambda t: t[f"{QUERY}.A"].add_(1)), f"{QUERY}.A"),
    "tensor missing": (edit_weights(lambda t: t.pop(f"{QUERY}.A")), f"{QUERY}.A"),
    "tensor added": (edit_weights(lambda t: t.update(x=torch.ones(1))), "'x' differs"),
    "dtype changed": (
        edit_weights(lambda t: t.update({f"{QUERY}.A": t[f"{QUERY}.A"].double()})),
        f"{QUERY}.A",
    ),
    "reshaped": (
        edit_weights(lambda t: t.update({f"{QUERY}.A": t[f"{QUERY}.A"].reshape(2, 64)})),
        f"{QUERY}.A",
    ),
    "header not JSON": (edit_header(lambda h: h.replace("{", "[", 1)), "its header"),
    "header a list": (edit_header(lambda h: "[]"), "not a JSON object"),
    "duplicate key": (
        edit_header(lambda h: h.replace("{", '{"classifier.bias":{},', 1)),
        "duplicate key",
    ),
    "unknown header field": (
        edit_header(lambda h: h.replace('"dtype"', '"x":1,"dtype"', 1)),
        "exactly the fields",
    ),
    "metadata": (
        edit_header(lambda h: h.replace("{", '{"__metadata__":{"format":"pt"},', 1)),
        "__metadata__",
    ),
    "offsets beyond": (edit_header(lambda h: h.replace("]},", "00000]},", 1)), "data end at byte"),
    "offsets descending": (edit_header(lambda h: h.replace("[0,", "[9999999,", 1)), "ascending"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("on_attached", [False, True])
def test_a_damaged_folder_is_refused_and_the_model_unchanged(
    kind: str, on_attached: bool, saved: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    folder, _ = saved
    for name in (WEIGHTS, CONFIG):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    damage, message = DAMAGE[kind]
    damage(tmp_path)
    model = bert()
    if on_attached:
        attached(model, HEADED)
    before = state(model)
    error = AdapterError if kind == "module missing from plan" else FileFormatError
    if kind == "module missing from plan" and on_attached:
        message = "another adapter attached"
    with pytest.raises(error, match=message):
        load_adapter(model, tmp_path)
    assert same(state(model), before)


def test_a_consistent_pair_with_values_of_a_wrong_shape_is_refused(
    saved: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    from expandermask.adapters.tensors import describe

    folder, _ = saved
    for name in (WEIGHTS, CONFIG):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    name = f"{QUERY}.A"
    edit_weights(lambda t: t.update({name: t[name].reshape(2, 64)}))(tmp_path)
    new = describe((tmp_path / WEIGHTS).read_bytes())
    edit_config(lambda d: d.update(tensors=new))(tmp_path)
    model = bert()
    before = state(model)
    with pytest.raises(FileFormatError, match=r"must have shape \[64, 2\]: \[2, 64\]"):
        load_adapter(model, tmp_path)
    assert same(state(model), before)


@pytest.mark.parametrize("at", [WEIGHTS, CONFIG])
def test_a_crash_while_saving_is_noticed_or_leaves_the_old_adapter(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp()
    attached(model)
    save_adapter(model, tmp_path)
    old = state(model)
    randomise(model, seed=3)
    replace = os.replace

    def crash(source: object, target: object) -> None:
        if Path(str(target)).name == at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_adapter(model, tmp_path)
    monkeypatch.undo()
    fresh = mlp()
    if at == WEIGHTS:
        load_adapter(fresh, tmp_path)
        assert same(state(fresh), old)
    else:
        with pytest.raises(FileFormatError, match="interrupted between the two files"):
            load_adapter(fresh, tmp_path)
    assert sorted(os.listdir(tmp_path)) == [CONFIG, WEIGHTS]
