"""Masks out of files and folders: real checkpoints, our own files, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
import weakref
import zipfile
from pathlib import Path

import numpy as np
import peft
import psutil
import pytest
import scipy.sparse
import torch
from safetensors.torch import load_file, save_file

import expandermask as xm
from expandermask.adapters import export_peft, save_adapter
from expandermask.errors import (
    ExpanderMaskError,
    FileFormatError,
    InvalidInputError,
    TooLargeError,
)
from expandermask.graphs import heawood, random_biregular
from expandermask.inspection.checkpoints import open_masks
from expandermask.inspection.inspect_mask import inspect_mask
from expandermask.masks import MaskPlan, save_mask
from tests.adapters.models import attached, bert, gpt2, mlp
from tests.peft.cases import CASES as XORA_CASES

INDEX = "model.safetensors.index.json"


def is_report_of(report, tensor) -> bool:
    """Whether a report has the figures of a tensor's support."""
    ones = (tensor.double() != 0).numpy()
    return (
        report.shape == ones.shape
        and report.ones == ones.sum()
        and report.left.dead == (~ones.any(axis=1)).sum()
        and report.right.dead == (~ones.any(axis=0)).sum()
    )


# -- one mask in a file --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".json"])
def test_mask_files_of_this_library(tmp_path, suffix):
    graph = random_biregular(24, 8, 2, rng=0)
    save_mask(tmp_path / f"mask{suffix}", graph)
    report = inspect_mask(tmp_path / f"mask{suffix}")
    assert report.certificate == xm.certify(graph)
    assert inspect_mask(str(tmp_path / f"mask{suffix}")) == report


def test_irregular_masks_are_read_too(tmp_path):
    dense = np.triu(np.ones((5, 5)))
    np.save(tmp_path / "dense.npy", dense)
    np.savez(tmp_path / "dense.npz", anything=dense)
    scipy.sparse.save_npz(tmp_path / "sparse.npz", scipy.sparse.csr_array(dense))
    for name in ("dense.npy", "dense.npz", "sparse.npz"):
        report = inspect_mask(tmp_path / name)
        assert (report.verdict, report.ones) == ("NOT BIREGULAR", 15)
    np.savez(tmp_path / "many.npz", a=dense, b=heawood().mask(), c=np.ones(3))
    report = inspect_mask(tmp_path / "many.npz")
    assert {name: r.verdict for name, r in report.items()} == {"a": "NOT BIREGULAR", "b": "PROVED"}
    assert report.skipped == {"c": (3,)}
    dense[1, 2] = np.nan
    np.save(tmp_path / "nan.npy", dense)
    with pytest.raises(InvalidInputError, match=r"nan.npy holds nan at \[1, 2\]"):
        inspect_mask(tmp_path / "nan.npy")


def test_an_altered_mask_of_ours_is_refused(tmp_path):
    save_mask(tmp_path / "mask.npz", heawood())
    found = dict(np.load(tmp_path / "mask.npz"))
    np.savez(tmp_path / "mask.npz", **{**found, "mask": found["mask"][::-1]})
    with pytest.raises(FileFormatError, match="hashes to"):
        inspect_mask(tmp_path / "mask.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged_arrays_and_pickles_are_refused(tmp_path, suffix):
    save_mask(tmp_path / f"mask{suffix}", heawood())
    content = (tmp_path / f"mask{suffix}").read_bytes()
    for fraction in (0.0, 0.2, 0.6, 0.9):
        (tmp_path / f"mask{suffix}").write_bytes(content[: int(len(content) * fraction)])
        with pytest.raises(FileFormatError):
            inspect_mask(tmp_path / f"mask{suffix}")
    objects = np.array([[{}]], dtype=object)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", objects, allow_pickle=True)
    with pytest.raises(FileFormatError, match=r"cannot read .* Python objects"):
        inspect_mask(tmp_path / f"objects{suffix}")


def header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """What a .npy starts with, whatever follows."""
    stream = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(2**40, 2**20), (3, 3), (0, 3), (-1, -1), (True, 1)])
def test_arrays_that_are_not_of_the_declared_size_are_refused_at_once(tmp_path, shape):
    content = header(shape) + bytes(16)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("good.npy", header((1, 2)) + bytes(16))
        archive.writestr("bomb.npy", content)
    with pytest.raises(FileFormatError, match=r"cannot read"):
        inspect_mask(tmp_path / "bomb.npz")
    (tmp_path / "bomb.npy").write_bytes(content)
    with pytest.raises((FileFormatError, InvalidInputError)):
        inspect_mask(tmp_path / "bomb.npy")


def test_a_member_that_is_no_array_is_refused(tmp_path):
    for name, content, message in (
        ("notes.txt", header((1, 2)) + bytes(16), "notes.txt' .* it is no array"),
        ("a.npy", b"x", "cannot read"),
        ("a.npy", b"\x93NUMPY\x03\x00", r"version \(3, 0\)"),
    ):
        with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(FileFormatError, match=message):
            inspect_mask(tmp_path / "odd.npz")
    zipfile.ZipFile(tmp_path / "odd.npz", "w").close()
    with pytest.raises(FileFormatError, match="holds no arrays"):
        inspect_mask(tmp_path / "odd.npz")


def test_arrays_that_do_not_fit_are_refused_before_they_are_read(tmp_path, monkeypatch):
    wide = np.zeros((2, 2**26), dtype=np.uint8)
    np.savez_compressed(tmp_path / "one.npz", wide)
    np.savez_compressed(tmp_path / "many.npz", small=np.eye(2), wide=wide)
    parts = {"format": b"csr", "shape": wide.shape, "indices": wide}
    np.savez_compressed(tmp_path / "sparse.npz", data=wide, indptr=wide, **parts)
    memory = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *a, **k: pytest.fail("read"))
    for name in ("one", "many", "sparse"):
        with pytest.raises(TooLargeError, match=r"in .* needs about 0\.1 GiB"):
            inspect_mask(tmp_path / f"{name}.npz")


def test_the_parts_of_a_sparse_matrix_must_fit_together(tmp_path, monkeypatch):
    diagonal = scipy.sparse.eye_array(6_000_000, format="csr")  # 48 MB, twice 24 MB
    scipy.sparse.save_npz(tmp_path / "sparse.npz", diagonal, compressed=False)
    memory = psutil.virtual_memory()._replace(available=9 * 10**7)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match="the sparse matrix in"):
        inspect_mask(tmp_path / "sparse.npz")


def test_one_array_at_a_time(tmp_path, monkeypatch):
    arrays = {f"w{k}": np.random.default_rng(k).random((40, 30)) for k in range(4)}
    np.savez(tmp_path / "many.npz", bias=np.ones(3), **arrays)
    read, living = np.lib.format.read_array, []

    def counted(*args, **options):
        assert not [array for array in living if array() is not None]
        array = read(*args, **options)
        living.append(weakref.ref(array))
        return array

    monkeypatch.setattr(np.lib.format, "read_array", counted)
    report = inspect_mask(tmp_path / "many.npz")
    assert report.verdicts == {"DENSE": 4}
    assert report.skipped == {"bias": (3,)}
    assert len(living) == 5


def test_a_npy_is_mapped_and_never_whole_in_memory(tmp_path, monkeypatch):
    from expandermask.inspection import supports

    np.save(tmp_path / "mask.npy", np.asfortranarray(np.triu(np.ones((40, 40)))))
    found = open_masks(tmp_path / "mask.npy")
    assert isinstance(found.base, np.memmap)
    monkeypatch.setattr(supports, "_CHUNK", 80)
    assert inspect_mask(tmp_path / "mask.npy").ones == 820


def test_damage_within_an_archive_is_told(tmp_path):
    np.savez(tmp_path / "many.npz", a=np.ones((9, 9)), b=np.ones((9, 9)))
    content = bytearray((tmp_path / "many.npz").read_bytes())
    place = content.rindex(np.float64(1).tobytes())
    content[place] ^= 1
    (tmp_path / "many.npz").write_bytes(content)
    with pytest.raises(FileFormatError, match="CRC"):
        inspect_mask(tmp_path / "many.npz")


def test_damaged_archives_raise_nothing_else(tmp_path):
    np.savez_compressed(tmp_path / "many.npz", a=np.eye(9), b=np.ones((3, 2)), c=np.ones(2))
    content = (tmp_path / "many.npz").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] ^= 1 << int(random.integers(8))
        (tmp_path / "many.npz").write_bytes(damaged)
        try:
            inspect_mask(tmp_path / "many.npz")
        except ExpanderMaskError:
            refused += 1
    assert refused > 100


def test_endings_that_are_not_read(tmp_path):
    for name in ("model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"):
        torch.save({"w": torch.eye(2)}, tmp_path / name)
        with pytest.raises(InvalidInputError, match="to read it is to run what is in it"):
            inspect_mask(tmp_path / name)
    with pytest.raises(InvalidInputError, match=r"got '.txt'"):
        inspect_mask(tmp_path / "mask.txt")
    with pytest.raises(InvalidInputError, match="no ending"):
        inspect_mask(tmp_path / "absent")
    for name in ("absent.npy", "absent.json", "absent.safetensors"):
        with pytest.raises(FileFormatError, match="No such file"):
            inspect_mask(tmp_path / name)
    (tmp_path / "other.json").write_text('{"format": "other"}')
    with pytest.raises(FileFormatError, match="its field 'format' is 'other'"):
        inspect_mask(tmp_path / "other.json")


# -- plans and adapters --------------------------------------------------------------------------


def test_a_plan_file(tmp_path):
    plan = xm.MaskPlan.for_shapes({"q": (24, 36)}, r=12, method="random", rng=0)
    plan.save(tmp_path / "plan.json")
    report = inspect_mask(tmp_path / "plan.json")
    assert {name: r.certificate for name, r in report.items()} == plan.certify()
    assert report.source == str(tmp_path / "plan.json")
    assert list(report.products) == ["q"]


def test_an_adapter_folder_of_this_library(tmp_path):
    model = mlp()
    plan = attached(model)
    save_adapter(model, tmp_path)
    for place in (tmp_path, tmp_path / "adapter_model.safetensors"):
        report = inspect_mask(place)
        assert {name: r.certificate for name, r in report.items()} == plan.certify()
        assert sorted(report.products) == sorted(plan)


def test_an_altered_adapter_is_not_shown(tmp_path):
    model = mlp()
    attached(model)
    save_adapter(model, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"matched", b"Matched"))
    with pytest.raises(FileFormatError, match="the seal does not fit"):
        inspect_mask(tmp_path)


def test_an_adapters_masks_are_read_without_torch(tmp_path):
    model = mlp()
    attached(model)
    save_adapter(model, tmp_path)
    program = (
        "import sys\nsys.modules['torch'] = None\nimport expandermask as xm\n"
        "print(len(xm.inspect_mask(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "4\n", done.stderr


def test_an_exported_adapter_shows_its_masks_again(tmp_path):
    model = bert()
    plan = attached(model)
    export_peft(model, tmp_path)
    report = inspect_mask(tmp_path)
    assert len([name for name in report if "lora" in name]) == 2 * len(plan)
    for name, pair in plan.items():
        for side, graph in (("A", pair.a.transpose()), ("B", pair.b)):
            found = report[f"base_model.model.{name}.lora_{side}.weight"]
            assert found.digest == graph.digest
            assert (found.verdict, found.kind) == ("PROVED", "weights")
        joined = pair.b.mask().astype(int) @ pair.a.mask().T.astype(int)
        assert report.products[f"base_model.model.{name}"].joined == np.count_nonzero(joined)


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_peft_adapter(tmp_path, dtype):
    config = peft.LoraConfig(r=4, target_modules=["c_attn", "wte"], fan_in_fan_out=True)
    model = peft.get_peft_model(gpt2().to(dtype), config, autocast_adapter_dtype=False)
    model.save_pretrained(tmp_path)
    report = inspect_mask(tmp_path, progress=False)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(report) == len(tensors) == 6
    assert all(is_report_of(report[name], tensor) for name, tensor in tensors.items())
    assert report.verdicts == {"EMPTY": 3, "DENSE": 3}  # one factor of each pair starts at zero
    assert len(report.products) == 3
    assert {p.joined for p in report.products.values()} == {0}
    assert {p.ranks_only_in_a + p.ranks_only_in_b for p in report.products.values()} == {4}
    assert {r.dtype for r in report.values()} == {str(dtype).removeprefix("torch.")}


# -- transformers checkpoints --------------------------------------------------------------------


def pruned() -> torch.nn.Module:
    model = bert()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[torch.rand(parameter.shape) < 0.7] = 0.0
        model.bert.encoder.layer[0].output.dense.weight[5] = 0.0
    return model


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    pruned().save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def test_a_checkpoint_whole_and_in_shards(sharded, tmp_path):
    tensors = {}
    for shard in sharded.glob("*.safetensors"):
        tensors |= load_file(shard)
    save_file(tensors, tmp_path / "model.safetensors")
    for folder in (sharded, tmp_path, tmp_path / "model.safetensors"):
        report = inspect_mask(folder)
        assert report.keys() == {name for name, t in tensors.items() if t.ndim == 2}
        assert report.skipped.keys() == {name for name, t in tensors.items() if t.ndim != 2}
        assert all(is_report_of(report[name], tensors[name]) for name in report)
        name = "bert.encoder.layer.0.output.dense.weight"
        assert report[name].left.first_dead == (5,)
        assert not report.damaged


@pytest.fixture
def copied(sharded, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(sharded, folder)
    return folder


def change_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_a_missing_or_truncated_shard_is_named(copied):
    shard = sorted(copied.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-7])
    with pytest.raises(FileFormatError, match="truncated"):
        inspect_mask(copied)
    shard.unlink()
    with pytest.raises(FileFormatError, match=f"names the shard '{shard.name}', which is missing"):
        inspect_mask(copied)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "..",
        ".",
        "",
        "sub/inside.safetensors",
        "..\\outside.safetensors",
        "model.bin",
    ],
)
def test_shards_elsewhere_are_refused(copied, name):
    save_file({"w": torch.eye(2)}, copied.parent / "outside.safetensors")
    change_index(copied, lambda places: places.update(w=name))
    with pytest.raises(FileFormatError, match=r"must be a \.safetensors file in the same folder"):
        inspect_mask(copied)


def test_an_index_that_is_wrong(copied):
    first = sorted(copied.glob("*.safetensors"))[0].name
    change_index(copied, lambda places: places.update(nowhere=first))
    with pytest.raises(
        FileFormatError, match=f"puts tensor 'nowhere' in '{first}', which has none"
    ):
        inspect_mask(copied)
    for text in ("[]", "{}", '{"weight_map": {"a": 3}}', '{"weight_map": []}'):
        (copied / INDEX).write_text(text)
        with pytest.raises(FileFormatError, match="weight_map must map"):
            inspect_mask(copied)
    (copied / INDEX).write_text('{"weight_map": {}, "weight_map": {}}')
    with pytest.raises(FileFormatError, match="duplicate key"):
        inspect_mask(copied)


def test_folders_without_safetensors(tmp_path):
    with pytest.raises(FileFormatError, match=r"holds none of adapter_model\.safetensors"):
        inspect_mask(tmp_path)
    torch.save({"w": torch.eye(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileFormatError, match=r"'pytorch_model\.bin' is a pickle"):
        inspect_mask(tmp_path)
    save_file({"w": torch.eye(2)}, tmp_path / "model.safetensors")
    assert inspect_mask(tmp_path)["w"].verdict == "STAR"


def test_nothing_of_a_pickle_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("adapter_model.bin", "mask.npy", "mask.npz", "model.safetensors", "mask.json"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        for place in (tmp_path / name, tmp_path):
            with pytest.raises(ExpanderMaskError):
                inspect_mask(place)
    assert not (tmp_path / "sprung").exists()


def test_one_tensor_at_a_time(tmp_path, monkeypatch):
    """Rows are read in chunks, and no file is read whole."""
    from expandermask.inspection import supports

    monkeypatch.setattr(supports, "_CHUNK", 1000)
    tensors = {f"w{k}": torch.rand(200, 50) for k in range(5)}
    save_file(tensors, tmp_path / "model.safetensors")
    sizes = []
    read = np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *a, **k: sizes.append(a[2]) or read(*a, **k))
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} read whole"))
    assert inspect_mask(tmp_path).verdicts == {"DENSE": 5}
    assert set(sizes) == {1000}
    assert len(sizes) == 50


# -- adapters of a XoraConfig, as PEFT saves them --------------------------------------------------


@pytest.fixture(params=["mlp", "bert", "gpt2", "embedding"])
def xora(request, tmp_path):
    """A folder that PEFT wrote, and the plan its masks were made from."""
    case = XORA_CASES[request.param]
    model = case.adapted(modules_to_save=[case.head] if case.head else None)
    model.save_pretrained(tmp_path)
    return tmp_path, model.base_model.mask_plans["default"]


def test_a_folder_of_pefts_shows_the_masks_of_its_recipes(xora):
    folder, plan = xora
    for path in (folder, folder / "adapter_model.safetensors"):
        found = open_masks(path)
        assert dict(found) == dict(plan)
        report = inspect_mask(path)
        assert report.verdicts == {"PROVED": 2 * len(plan)}
        assert {name[:-2] for name in report} == set(plan)


def test_a_folder_of_pefts_is_read_without_torch(xora):
    folder, plan = xora
    program = (
        "import sys\nsys.modules['torch'] = None\nimport expandermask as xm\n"
        "print(len(xm.inspect_mask(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{2 * len(plan)}\n", done.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"rank_pattern": {"value": 8, "query": 4}, "bias": "all"},
        {"r": 48, "infeasible": "nearest"},
        {"r": 48, "infeasible": "skip", "rank_pattern": {"query": 16}},
    ],
)
@pytest.mark.filterwarnings("ignore:.*no masks of the rank")
def test_a_folder_whose_modules_differ_in_rank_is_read_too(tmp_path, changes, recwarn):
    model = XORA_CASES["bert"].adapted(**changes)
    model.save_pretrained(tmp_path)
    recwarn.clear()
    assert dict(open_masks(tmp_path)) == dict(model.base_model.mask_plans["default"])
    assert not recwarn


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("as_text", [True, False])
def test_a_plan_in_pefts_config_goes_before_its_numbers(xora, as_text):
    folder, plan = xora
    stored = plan.to_json() if as_text else plan.to_dict()
    edit_config(folder, mask_plan=stored, mask_seed=5)
    assert dict(open_masks(folder)) == dict(plan)
    shapes = {name: pair.shape for name, pair in plan.items()}
    other = MaskPlan.for_shapes(shapes, r=plan.r, left_degree=plan.left_degree, rng=9)
    edit_config(folder, mask_plan=other.to_json())
    with pytest.raises(FileFormatError, match=r"belong to other masks .* hash differs"):
        open_masks(folder)
    first, *rest = plan
    edit_config(
        folder, mask_plan=MaskPlan({first: plan[first]}, r=plan.r, left_degree=2, seed=0).to_json()
    )
    with pytest.raises(FileFormatError, match=f"module {sorted(rest)[0]!r} is only in the file"):
        open_masks(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_seed": 1}, "hash differs"),
        ({"mask_method": "random"}, "hash differs"),
        ({"mask_method": "magic"}, "describes no masks: method must be one of"),
        ({"mask_seed": None}, "field 'mask_seed' must be int"),
        ({"mask_seed": -1}, "describes no masks"),
        ({"mask_seed": 2**64}, "describes no masks"),
        ({"r": 8}, "hash differs"),
        ({"r": 10**12}, "describes no masks"),
        ({"r": 7}, "describes no masks"),
        ({"r": "16"}, "field 'r' must be int"),
        ({"left_degree": 4}, "left_degree=4 columns"),
        ({"peft_type": "LORA"}, "must have peft_type 'XORA'"),
        ({"mask_plan": "{}"}, "a plan|document|format"),
        ({"mask_plan": 3}, "plan|document|object"),
    ],
)
def test_a_config_that_does_not_fit_pefts_values_is_refused(tmp_path, changes, words):
    XORA_CASES["mlp"].adapted().save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(FileFormatError, match=words):
        inspect_mask(tmp_path)


def test_pefts_values_without_a_config_or_a_hash_are_refused(tmp_path):
    XORA_CASES["mlp"].adapted().save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.0.xora_adapter.mask_sha256"
    for wrong in ({}, {name: tensors[name][:31]}):
        save_file({key: t for key, t in tensors.items() if key != name} | wrong, path)
        with pytest.raises(FileFormatError, match="module '0' must have lora_A, lora_B and"):
            inspect_mask(tmp_path)
    save_file(tensors, path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(FileFormatError, match=r"cannot read .*adapter_config\.json"):
        inspect_mask(tmp_path)
