"""load_adapter refuses every damaged, foreign or forged file, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from expandermask.adapters import load_adapter
from expandermask.errors import AdapterError, FileFormatError, TooLargeError
from tests.adapters.conftest import HEADED, WEIGHTS
from tests.adapters.forgery import Parts, edit, edit_header, forge
from tests.adapters.models import attached, bert, same, state

QUERY = "bert.encoder.layer.0.attention.self.query"
A = f"{QUERY}.A"
HEAD = "classifier.weight"
LONE = "\ud800"


def masks(parts: Parts, name: str = QUERY) -> dict[str, Any]:
    return parts.document["plan"]["modules"][name]


def recipe(**fields: object) -> Callable[[Parts], None]:
    return lambda p: masks(p)["A"]["recipe"].update(fields)


def in_document(old: str, new: str) -> Callable[[Path], None]:
    """Text exchanged in the document, as it stands in the header."""
    return edit_header(lambda h: h.replace(*(json.dumps(t)[1:-1].encode() for t in (old, new)), 1))


def add_tensor(parts: Parts, name: str, data: bytes = b"\0" * 8) -> None:
    end = len(parts.data)
    parts.data += data
    parts.header[name] = {"dtype": "U8", "shape": [8], "data_offsets": [end, end + len(data)]}


def swap_names(parts: Parts) -> None:
    """Two tensors of one shape under each other's name."""
    key = A.replace("query", "key")
    parts.header[A], parts.header[key] = parts.header[key], parts.header[A]


def swap_places(parts: Parts) -> None:
    """Two tensors of one shape, each with the other's bytes and hash: another adapter."""
    swap_names(parts)
    sha256 = parts.document["sha256"]
    key = A.replace("query", "key")
    sha256[A], sha256[key] = sha256[key], sha256[A]


def drop(parts: Parts, name: str) -> None:
    """The last tensor of the file, cut off."""
    first, _ = parts.header.pop(name)["data_offsets"]
    del parts.data[first:]


def first_name(parts: Parts) -> str:
    return min(parts.header, key=lambda name: parts.header[name]["data_offsets"])


def last_name(parts: Parts) -> str:
    return max(parts.header, key=lambda name: parts.header[name]["data_offsets"])


def shifted(parts: Parts) -> None:
    """One odd byte before everything else, so that nothing is aligned."""
    parts.data[:0] = b"\0"
    for entry in parts.header.values():
        entry["data_offsets"] = [n + 1 for n in entry["data_offsets"]]
    parts.header["classifier.x"] = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


def config(**fields: object) -> Callable[[Path], None]:
    return forge(lambda p: p.document["config"].update(fields))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    # bytes
    "missing": (lambda f: f.unlink(), "No such file"),
    "empty": (edit(lambda b: b""), "truncated"),
    "7 bytes": (edit(lambda b: b[:7]), "truncated"),
    "truncated header": (edit(lambda b: b[:50]), "truncated"),
    "truncated data": (edit(lambda b: b[:-1]), "truncated"),
    "trailing bytes": (edit(lambda b: b + b"\0" * 8), "not a safetensors file"),
    "one bit": (edit(lambda b: b[:-1] + bytes([b[-1] ^ 1])), "was altered: its hash"),
    "huge header length": (edit(lambda b: b"\xff" * 8 + b[8:]), "header of 18446744073709551615"),
    "no header": (edit(lambda b: b"\0" * 8 + b[8:]), "header of 0"),
    # the header
    "header a list": (edit_header(lambda h: b"[]"), "not a JSON object"),
    "header a number": (edit_header(lambda h: b" 3"), "not a JSON object"),
    "header UTF-16": (edit_header(lambda h: h.decode().encode("utf-16")), "not ASCII"),
    "header not UTF-8": (
        edit_header(lambda h: h.replace(b"cls", b"\xff")[:-1] + b"\xff}"),
        "ASCII",
    ),
    "tensor twice": (
        edit_header(lambda h: h.replace(b"{", b'{"classifier.bias":{},', 1)),
        "duplicate key",
    ),
    "metadata twice": (
        edit_header(lambda h: h.replace(b"{", b'{"__metadata__":{},', 1)),
        "duplicate key",
    ),
    "metadata field twice": (
        edit_header(lambda h: h.replace(b'"format":', b'"format": "pt", "format":', 1)),
        "duplicate key",
    ),
    "unknown header field": (
        edit_header(lambda h: h.replace(b'"dtype"', b'"x":1,"dtype"', 1)),
        "exactly the fields",
    ),
    "unknown metadata": (forge(lambda p: p.metadata.update(x="1")), "its metadata must be"),
    "metadata a number": (forge(lambda p: p.metadata.update(format=1)), "strings by name"),
    "other framework": (forge(lambda p: p.metadata.update(format="tf")), "its metadata must be"),
    "infinite offset": (edit_header(lambda h: h.replace(b"[0,", b"[Infinity,", 1)), "Infinity"),
    "number too long": (
        edit_header(lambda h: h.replace(b"[0,", b"[" + b"9" * 5000 + b",", 1)),
        "JSON",
    ),
    "deep": (edit_header(lambda h: h.replace(b"[0,", b"[" * 90 + b"]" * 90 + b",", 1)), "JSON"),
    "deeper": (edit_header(lambda h: h.replace(b"[0,", b"[" * 10**4, 1)), "JSON"),
    "too many values": (edit_header(lambda h: h.replace(b"[0,", b"[0," * 70_000, 1)), "values"),
    "header nearly all": (edit_header(lambda h: h + b" " * 2**22), "a header of"),
    "dtype": (forge(lambda p: p.header[A].update(dtype="I32")), "values are"),
    "unknown dtype": (forge(lambda p: p.header[HEAD].update(dtype="F6", shape=[3])), "not read"),
    "shape turned": (forge(lambda p: p.header[A]["shape"].reverse()), r"must have shape \[64, 2\]"),
    "shape flat": (forge(lambda p: p.header[A].update(shape=[128])), r"must have shape \[64, 2\]"),
    "shape true": (forge(lambda p: p.header[A].update(shape=[64, True])), "integers >= 0"),
    "zero size": (forge(lambda p: p.header[A].update(shape=[0, 2])), "does not take the 512 bytes"),
    "offsets beyond": (
        forge(lambda p: p.header[last_name(p)]["data_offsets"].__setitem__(1, 10**15)),
        "data end at byte",
    ),
    "offsets descending": (
        forge(lambda p: p.header[A].update(data_offsets=[9, 8])),
        "ascending",
    ),
    "overlap": (forge(lambda p: p.header.update({A: p.header[first_name(p)]})), "overlap"),
    "not aligned": (forge(shifted, hashes=True), "multiple of 4 bytes"),
    "head's shape": (
        forge(lambda p: p.header[HEAD]["shape"].reverse(), seal=False),
        "seal does not fit",
    ),
    "head's dtype": (forge(lambda p: p.header[HEAD].update(dtype="I32"), seal=False), "seal"),
    # names
    "a path": (
        forge(lambda p: add_tensor(p, "../../etc/passwd"), hashes=True),
        "neither of the plan",
    ),
    "absolute": (forge(lambda p: add_tensor(p, "/etc/passwd"), hashes=True), "neither of the plan"),
    "no name": (forge(lambda p: add_tensor(p, ""), hashes=True), "neither of the plan"),
    "tensor added": (forge(lambda p: add_tensor(p, "x")), "'x' is only in the file"),
    "tensor missing": (forge(lambda p: drop(p, last_name(p))), "is only in its document"),
    "values missing": (
        forge(lambda p: p.header.update(x=p.header.pop(A)), hashes=True),
        "is missing",
    ),
    "names swapped": (forge(swap_names), "was altered: its hash"),
    "swapped with hashes": (forge(swap_places, seal=False), "seal does not fit"),
    "lone surrogate": (forge(lambda p: add_tensor(p, LONE), hashes=True), "surrogates"),
    "gate's shape": (
        forge(lambda p: add_tensor(p, f"{QUERY}.rank_gate"), hashes=True),
        r"rank_gate.* must have shape \[16\]",
    ),
    # the document
    "a PEFT adapter": (
        lambda f: save_file({"x": torch.ones(2)}, f, {"format": "pt"}),
        "by PeftModel.from_pretrained",
    ),
    "no metadata": (lambda f: save_file({"x": torch.ones(2)}, f), "no adapter of save_adapter"),
    "document a list": (forge(lambda p: setattr(p, "document", []), seal=False), "'format' must"),
    "document NaN": (in_document(":16.0", ":NaN"), "NaN"),
    "document twice": (in_document('"config":', '"config":{},"config":'), "duplicate key"),
    "deep twice": (in_document('"r":16', '"r":16,"r":16'), "duplicate key"),
    "document truncated": (in_document('"seal":', "x"), "not valid JSON"),
    "document surrogate": (in_document("matched", "\\ud800"), "surrogates"),
    "a plan": (
        forge(lambda p: p.document.update(format="expandermask plan")),
        "not an expandermask",
    ),
    "newer": (forge(lambda p: p.document.update(format_version=3)), "upgrade expandermask"),
    "older": (forge(lambda p: p.document.update(format_version=1)), "reads version 2"),
    "extra field": (forge(lambda p: p.document.update(extra=1)), "exactly the fields"),
    "no plan": (forge(lambda p: p.document.pop("plan")), "exactly the fields"),
    "no seal": (forge(lambda p: p.document.pop("seal"), seal=False), "exactly the fields"),
    "wrong seal": (forge(lambda p: p.document.update(seal="0" * 64), seal=False), "seal"),
    "alpha": (in_document(":16.0", ":17.0"), "seal does not fit"),
    "hash": (forge(lambda p: p.document["sha256"].update({A: "0" * 64})), "was altered: its hash"),
    "no hash": (forge(lambda p: p.document["sha256"].update({A: None})), "is no SHA-256"),
    "hash in capitals": (
        forge(lambda p: p.document["sha256"].update({A: p.document["sha256"][A].upper()})),
        "is no SHA-256",
    ),
    # the config
    "config field": (config(r="16"), "'r' must be int"),
    "config and plan": (config(r=32), "differ in r"),
    "config true": (config(lora_dropout=True), "'lora_dropout' must be float"),
    "config huge": (config(lora_alpha=10**400), "'lora_alpha' must be float"),
    "config code": (config(auto_mapping={"base": "os.system"}), "exactly the fields"),
    # the plan
    "plan version": (forge(lambda p: p.document["plan"].update(format_version=3)), "upgrade"),
    "seed of a mask": (forge(recipe(seed=1)), "hashes to"),
    "mask hash": (forge(lambda p: masks(p)["B"].update(sha256="0" * 64)), "hashes to"),
    "rank": (forge(recipe(n2=32)), "must have one rank n2"),
    "degree": (forge(recipe(d1=4)), "not of left_degree=2"),
    "no graph": (forge(recipe(n1=63)), "no biregular graph"),
    "huge number": (forge(recipe(n1=10**300)), "below"),
    "a billion": (forge(recipe(n1=2 * 10**9)), "at most 67108864"),
    "a million": (forge(recipe(n1=10**6)), r"must have shape \[1000000, 2\]"),
    "huge base": (
        forge(
            lambda p: masks(p)["A"].update(
                recipe={
                    **masks(p)["A"]["recipe"],
                    "algorithm": "transpose",
                    "base": {**masks(p)["A"]["recipe"], "n1": 16 * 10**6},
                }
            )
        ),
        "rests on a graph of 32000000 edges",
    ),
    "many bases": (
        forge(lambda p: masks(p)["A"].update(recipe=stacked(masks(p)["A"]["recipe"]))),
        "bases in a row",
    ),
    "unknown algorithm": (forge(recipe(algorithm="os.system")), "cannot rebuild"),
    "huge rows kept": (
        forge(
            lambda p: masks(p).update(
                A={"n1": 2**31 - 1, "n2": 16, "kept": "AAAAAA==", "sha256": "0" * 64}
            )
        ),
        "at most 67108864",
    ),
}
# What only a model can tell, which is there or not.
MISFITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "head renamed": (
        forge(lambda p: p.header.update({f"{HEAD}s": p.header.pop(HEAD)}), hashes=True),
        "only in the",
    ),
    "head turned": (forge(lambda p: p.header[HEAD]["shape"].reverse()), r"'classifier.weight' is"),
    "head of integers": (forge(lambda p: p.header[HEAD].update(dtype="I32")), "torch.int32 in the"),
    "head added": (forge(lambda p: add_tensor(p, "classifier.x"), hashes=True), "only in the file"),
}


def stacked(recipe: dict[str, Any]) -> dict[str, Any]:
    base = recipe
    for _ in range(20):
        base = {**recipe, "algorithm": "transpose", "base": base}
    return base


@pytest.fixture
def damaged(saved: tuple[Path, nn.Module], tmp_path: Path) -> Path:
    path = tmp_path / WEIGHTS
    path.write_bytes((saved[0] / WEIGHTS).read_bytes())
    return path


@pytest.mark.parametrize("kind", [*DAMAGE, *MISFITS])
@pytest.mark.parametrize("on_attached", [False, True])
def test_a_damaged_file_is_refused_and_the_model_unchanged(
    kind: str, on_attached: bool, damaged: Path
) -> None:
    damage, message = (DAMAGE | MISFITS)[kind]
    damage(damaged)
    model = bert()
    if on_attached:
        attached(model, HEADED)
        if kind in ("seed of a mask", "mask hash"):
            message = "hashes to|another adapter attached"
    before = state(model)
    with pytest.raises((FileFormatError, AdapterError, TooLargeError), match=message):
        load_adapter(model, damaged.parent)
    assert same(state(model), before)


def test_a_forger_with_the_seal_and_every_hash_changes_values_and_no_more(
    damaged: Path, saved: tuple[Path, nn.Module]
) -> None:
    """The control: what is put together as the tests do is accepted, so the rest is not in vain."""
    forge(lambda p: p.data.__setitem__(slice(0, 4), b"\0" * 4), hashes=True)(damaged)
    model, truth = bert(), state(saved[1])
    load_adapter(model, damaged.parent)
    changed = [name for name, t in state(model).items() if not torch.equal(t, truth[name])]
    assert len(changed) == 1


def test_masks_are_not_made_before_the_file_fits_the_model(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expandermask.masks import supports_json

    monkeypatch.setattr(supports_json, "rebuild", lambda recipe: pytest.fail("made a mask"))
    model = bert()
    model.classifier = nn.Linear(64, 5)
    with pytest.raises(AdapterError, match=r"classifier.weight"):
        load_adapter(model, damaged.parent)
    with pytest.raises(AdapterError, match="no linear module"):
        load_adapter(nn.Sequential(nn.Linear(64, 64)), damaged.parent)
    edit(lambda b: b[:-1] + bytes([b[-1] ^ 1]))(damaged)
    with pytest.raises(FileFormatError, match="its hash"):
        load_adapter(bert(), damaged.parent)


def test_a_file_larger_than_the_memory(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expandermask import errors
    from expandermask.masks import declared

    monkeypatch.setattr(errors, "_WORTH_ASKING", 0)
    monkeypatch.setattr(declared, "require_memory", lambda *_: None)  # it asks for the masks
    monkeypatch.setattr(errors.psutil, "virtual_memory", lambda: type("M", (), {"available": 999}))
    model = bert()
    with pytest.raises(TooLargeError, match=r"and 0\.0 GiB is free"):
        load_adapter(model, damaged.parent)
