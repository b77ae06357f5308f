"""Mask files come back as they were, and nothing else is taken for one."""

import json
import zipfile

import numpy as np
import pytest
import scipy.sparse

from expandermask.errors import (
    ExpanderMaskError,
    FileFormatError,
    InvalidInputError,
    NotBiregularError,
    TooLargeError,
)
from expandermask.graphs import BiregularGraph, heawood, random_biregular
from expandermask.inspection import inspect_mask
from expandermask.masks import load_mask, save_mask

SUFFIXES = (".npz", ".npy", ".json")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("graph", [heawood(), random_biregular(24, 8, 2, rng=3)], ids=repr)
def test_round_trip(tmp_path, suffix, graph):
    path = tmp_path / f"mask{suffix}"
    save_mask(path, graph)
    assert load_mask(path) == graph
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_json_holds_the_recipe_and_not_the_edges(tmp_path):
    graph = random_biregular(4096, 64, 2, rng=3)
    save_mask(tmp_path / "mask.json", graph)
    text = (tmp_path / "mask.json").read_text()
    assert len(text) < 400
    assert json.loads(text)["recipe"]["seed"] == 3
    assert load_mask(tmp_path / "mask.json").recipe == graph.recipe


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, fraction):
    path = tmp_path / f"mask{suffix}"
    save_mask(path, random_biregular(64, 16, 2, rng=0))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(FileFormatError):
        load_mask(path)


def test_a_changed_edge_or_hash_is_refused(tmp_path):
    path = tmp_path / "mask.json"
    save_mask(path, BiregularGraph.from_mask(heawood().mask()))  # no recipe, so saved by its rows
    data = json.loads(path.read_text())
    rows = data["neighbors"]
    rows[0], rows[1] = rows[1], rows[0]
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match="hashes to"):
        load_mask(path)
    rows[0], rows[1] = rows[1], rows[0]
    path.write_text(json.dumps({**data, "sha256": "0" * 64}))
    with pytest.raises(FileFormatError, match="hashes to"):
        load_mask(path)


def test_a_changed_npz_is_refused(tmp_path):
    path = tmp_path / "mask.npz"
    graph = heawood()
    np.savez(path, mask=graph.mask()[::-1], sha256=graph.digest, format_version=1)
    with pytest.raises(FileFormatError, match="hashes to"):
        load_mask(path)
    np.savez(path, mask=graph.mask(), sha256=graph.digest, format_version=1)
    assert load_mask(path) == graph


def test_newer_versions_are_refused(tmp_path):
    save_mask(tmp_path / "mask.json", heawood())
    data = json.loads((tmp_path / "mask.json").read_text())
    (tmp_path / "mask.json").write_text(json.dumps({**data, "format_version": 2}))
    with pytest.raises(FileFormatError, match="upgrade"):
        load_mask(tmp_path / "mask.json")
    graph = heawood()
    np.savez(tmp_path / "mask.npz", mask=graph.mask(), sha256=graph.digest, format_version=2)
    with pytest.raises(FileFormatError, match="version 2"):
        load_mask(tmp_path / "mask.npz")


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        '{"format": "expandermask plan", "format_version": 1}',
        '{"format": "expandermask mask", "format_version": 1, "n2": 3}',
        '{"format": "expandermask mask", "format_version": 1, "n2": 2, "sha256": "", '
        '"neighbors": [[0, 1], [0]]}',
        '{"format": "expandermask mask", "format_version": 1, "n2": 2, "sha256": "", '
        '"neighbors": [["0", "1"]]}',
        '{"format": "expandermask mask", "format_version": 1, "n2": 2, "sha256": "", "recipe": '
        '{"algorithm": "other", "version": 1, "n1": 2, "n2": 2, "d1": 2, "seed": 0}}',
    ],
)
def test_foreign_json_is_refused(tmp_path, body):
    (tmp_path / "mask.json").write_text(body)
    with pytest.raises(FileFormatError):
        load_mask(tmp_path / "mask.json")


def test_arrays_from_elsewhere(tmp_path):
    dense = heawood().mask().astype(float)
    np.save(tmp_path / "dense.npy", dense)
    np.savez(tmp_path / "dense.npz", anything=dense)
    assert load_mask(tmp_path / "dense.npy") == load_mask(tmp_path / "dense.npz") == heawood()
    np.savez(tmp_path / "two.npz", a=dense, b=dense)
    with pytest.raises(FileFormatError, match="one array"):
        load_mask(tmp_path / "two.npz")
    np.save(tmp_path / "irregular.npy", np.triu(np.ones((3, 3))))
    with pytest.raises(NotBiregularError):
        load_mask(tmp_path / "irregular.npy")


@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "bsr"])
def test_matrices_of_scipy_are_read(tmp_path, layout):
    path = tmp_path / "matrix.npz"
    scipy.sparse.save_npz(path, heawood().biadjacency().asformat(layout))
    assert load_mask(path) == heawood()


def test_a_matrix_that_claims_more_than_there_is_memory_is_refused(tmp_path):
    path = tmp_path / "matrix.npz"
    place = np.array([2**31 - 2])
    matrix = scipy.sparse.coo_array((np.ones(1), (place, place)), shape=(2**31 - 1, 2**31 - 1))
    scipy.sparse.save_npz(path, matrix)
    with pytest.raises(TooLargeError, match="memory"):
        load_mask(path)


@pytest.mark.parametrize("second", ["mask", "mask.npy", "sha256"])
@pytest.mark.parametrize("read", [load_mask, inspect_mask])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_has_one_member_for_each_array(tmp_path, read, second):
    path = tmp_path / "mask.npz"
    save_mask(path, heawood())
    with zipfile.ZipFile(path) as archive:
        other = archive.read("mask.npy")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(second, other)
    with pytest.raises(FileFormatError, match="2 members for the array"):
        read(path)


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(FileFormatError):
        load_mask(tmp_path / "objects.npy")


def test_endings_and_missing_files(tmp_path):
    with pytest.raises(InvalidInputError, match=r"\.npz"):
        save_mask(tmp_path / "mask.txt", heawood())
    with pytest.raises(FileFormatError, match="No such file"):
        load_mask(tmp_path / "mask.npy")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "mask.npz"
    save_mask(path, heawood())

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        save_mask(path, BiregularGraph([[0, 1], [0, 1]], 2))
    assert load_mask(path) == heawood()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_raise_nothing_else(tmp_path, suffix):
    """Bits flipped and ends cut at random: the graph comes back, or one of our errors does."""
    path = tmp_path / f"mask{suffix}"
    graph = random_biregular(48, 8, 2, rng=0)
    save_mask(path, graph)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged[: None if random.random() < 0.7 else random.integers(len(whole))])
        try:
            load_mask(path)
        except ExpanderMaskError:
            refused += 1
    assert refused > 100


def test_any_biregular_mask_can_be_saved(tmp_path):
    for made in (heawood().mask(), heawood().to_networkx(), heawood().biadjacency()):
        save_mask(tmp_path / "mask.npz", made)
        assert load_mask(tmp_path / "mask.npz") == heawood()
    with pytest.raises(NotBiregularError):
        save_mask(tmp_path / "no.npz", np.triu(np.ones((3, 3))))
    assert not (tmp_path / "no.npz").exists()


@pytest.mark.parametrize("name", ["text.npz", "text.npy", "text.json"])
def test_errors_name_the_file(tmp_path, name):
    (tmp_path / name).write_text("no mask", encoding="utf-8")
    with pytest.raises(FileFormatError, match=name) as caught:
        load_mask(tmp_path / name)
    assert "allow_pickle" not in str(caught.value)
    np.save(tmp_path / "nan.npy", np.array([[1.0, np.nan], [1.0, 1.0]]))
    with pytest.raises(InvalidInputError, match=r"nan\.npy.*got nan at row 0, column 1"):
        load_mask(tmp_path / "nan.npy")
