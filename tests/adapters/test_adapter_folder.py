"""What may lie in an adapter's folder, what is opened there, and what the one file looks like."""

from __future__ import annotations

import json
import os
import pickle
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from expandermask.adapters import AdapterConfig, load_adapter, save_adapter
from expandermask.errors import AdapterError, FileFormatError
from expandermask.io.tensors import DTYPES, open_tensors, write_tensors
from tests.adapters.conftest import WEIGHTS
from tests.adapters.forgery import framed
from tests.adapters.models import attached, bits, mlp, same, state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = mlp()
    attached(model)
    save_adapter(model, tmp_path / "adapter")
    return tmp_path / "adapter"


def refused(folder: Path, message: str) -> None:
    model = mlp()
    before = state(model)
    with pytest.raises(FileFormatError, match=message):
        load_adapter(model, folder)
    assert same(state(model), before)


class Trap:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> object:
        return Path.touch, (self.place,)


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "optimizer.pt", "x.PTH", ".pkl.pkl", "a.ckpt", "b.pickle"]
)
def test_a_pickle_beside_the_adapter_is_refused_and_not_run(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Trap(folder / "sprung")))
    refused(folder, f"holds the pickle '{name}'")
    model = mlp()
    attached(model)
    with pytest.raises(AdapterError, match="holds the pickle"):
        save_adapter(model, folder)
    assert not (folder / "sprung").exists()
    (folder / name).unlink()
    load_adapter(mlp(), folder)


def test_pefts_config_beside_the_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(folder, r"PEFT's adapter_config\.json")


def test_a_config_alone_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    model = mlp()
    attached(model)
    with pytest.raises(AdapterError, match="another kind of checkpoint"):
        save_adapter(model, tmp_path)


def test_other_files_beside_the_adapter_do_not_matter(folder: Path) -> None:
    for name in (f".{WEIGHTS}.x.tmp", "README.md", "tokenizer.json", "bin"):
        (folder / name).write_text("{")
    load_adapter(mlp(), folder)


def test_links_that_lead_out_are_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / WEIGHTS
    os.replace(path, tmp_path / "elsewhere")
    path.symlink_to("../elsewhere")
    refused(folder, "leads out of its folder")
    path.unlink()
    path.symlink_to("/etc/passwd")
    refused(folder, "leads out of its folder")
    path.unlink()
    path.symlink_to(WEIGHTS)
    refused(folder, "symbolic links|Symlink")
    path.unlink()
    os.replace(tmp_path / "elsewhere", folder / "kept")
    path.symlink_to("kept")
    load_adapter(mlp(), folder)


def test_a_snapshot_in_the_cache_of_the_hub(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    os.replace(folder / WEIGHTS, blobs / "f00")
    (snapshot / WEIGHTS).symlink_to("../../blobs/f00")
    load_adapter(mlp(), snapshot)
    (tmp_path / "link").symlink_to(snapshot)
    load_adapter(mlp(), tmp_path / "link")


def test_what_is_no_file_is_not_waited_for(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    refused(folder, "no regular file")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    refused(folder, "no regular file")
    refused(folder / WEIGHTS / "absent", "is no folder")
    refused(Path("a\0b"), "is no folder|null byte")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is no folder")


# -- the file --------------------------------------------------------------------------------------


def read(data: bytes) -> dict[str, torch.Tensor]:
    return open_tensors(BytesIO(data), len(data), "it").read()


shapes = st.lists(st.integers(0, 4), max_size=3)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@settings(max_examples=60)
@given(
    st.dictionaries(names, st.tuples(shapes, st.sampled_from(list(DTYPES.values()))), max_size=5)
)
def test_the_stock_reader_opens_what_is_written(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, tuple[list[int], torch.dtype]]
) -> None:
    path = tmp_path_factory.mktemp("stock") / "x.safetensors"
    tensors = {}
    for name, (shape, dtype) in wanted.items():
        values = torch.randint(0, 2, [*shape, dtype.itemsize], dtype=torch.uint8)
        tensors[name] = values.view(dtype).reshape(shape)
    write_tensors(path, tensors, metadata={"format": "pt", "x": '{"a": "é"}'})
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(found[name]).equal(bits(tensor))
    ours = read(path.read_bytes())
    assert ours.keys() == found.keys()
    assert all(bits(ours[name]).equal(bits(tensor)) for name, tensor in found.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "x": '{"a": "é"}'}


def test_tensors_that_are_not_aligned_are_read_all_the_same() -> None:
    values = torch.arange(3.0)
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [3], "data_offsets": [1, 13]},
    }
    content = framed(json.dumps(header).encode(), b"\7" + values.numpy().tobytes())
    found = read(content)["b"]
    assert torch.equal(found, values)
    assert found.data_ptr() % 4 == 0
    with pytest.raises(FileFormatError, match="dtype 'U9', not read"):
        read(content.replace(b"U8", b"U9"))


def test_tensors_that_share_memory_or_are_not_in_order_are_written_as_they_are(
    tmp_path: Path,
) -> None:
    base = torch.arange(12.0)
    tensors = {"a": base.view(3, 4).t(), "b": base[::2], "c": base.requires_grad_()}
    write_tensors(tmp_path / "x.safetensors", tensors)
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_dtype_that_no_file_holds_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("z", torch.zeros(2, dtype=torch.complex64))

    model = nn.ModuleDict({"fc": nn.Linear(64, 32), "head": Head()})
    attached(model, AdapterConfig(r=16, target_modules="fc", modules_to_save=["head"]))
    with pytest.raises(AdapterError, match=r"'head\.z' is torch\.complex64"):
        save_adapter(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_head_of_many_dtypes_comes_back(tmp_path: Path) -> None:
    """Sorted by name alone, the flags would put all that follows off its place in memory."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        head = nn.BatchNorm1d(3)
        head.register_buffer("a_flag", torch.tensor([True, False, True]))
        head.register_buffer("narrow", torch.rand(3).bfloat16())
        return nn.ModuleDict({"fc": nn.Linear(64, 32), "a": head})

    model, fresh = make(), make()
    attached(model, AdapterConfig(r=16, target_modules="fc", modules_to_save=["a"]))
    model["a"].train()(torch.randn(5, 3))
    model["a"].eval()
    save_adapter(model, tmp_path)
    load_adapter(fresh, tmp_path)
    assert same(state(fresh), state(model))


def test_names_beyond_ascii_and_empty_tensors_come_back(tmp_path: Path) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        model = nn.ModuleDict({"größe": nn.Linear(64, 32), "头": nn.Linear(4, 0)})
        return model

    model, fresh = make(), make()
    attached(model, AdapterConfig(r=16, target_modules="größe", modules_to_save=["头"]))
    save_adapter(model, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes()[8:].split(b"}}}")[0].isascii()
    assert "头.bias" in load_file(tmp_path / WEIGHTS)
    load_adapter(fresh, tmp_path)
    assert same(state(fresh), state(model))
    document = json.loads(safe_open(tmp_path / WEIGHTS, "pt").metadata()["expandermask"])
    assert list(document["plan"]["modules"]) == ["größe"]
