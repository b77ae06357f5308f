"""Our reading of safetensors files against the safetensors library's, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from expandermask.errors import ExpanderMaskError, FileFormatError
from expandermask.inspection.inspect_mask import inspect_mask
from expandermask.inspection.tensor_files import read_header

DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
]


def whole(path: Path, name: str) -> np.ndarray:
    tensor = read_header(path)[name]
    return tensor.read_rows(0, tensor.shape[0])


def written(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """A file with any header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_reads_as_torch_reads_it(dtype, tmp_path):
    values = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.5], [-0.0, 3.0, 1.0]]).to(dtype)
    save_file({"first": torch.ones(5), "m": values}, tmp_path / "t.safetensors")
    tensor = read_header(tmp_path / "t.safetensors")["m"]
    assert tensor.dtype == str(dtype).removeprefix("torch.")
    assert np.array_equal(tensor.read_rows(0, 3), values.double().numpy())
    assert np.array_equal(tensor.read_rows(1, 2), values[1:2].double().numpy())
    report = inspect_mask(tmp_path / "t.safetensors")["m"]
    assert (report.dtype, report.ones) == (tensor.dtype, np.count_nonzero(values.double().numpy()))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16], ids=str)
def test_all_words_of_the_floats_numpy_lacks(dtype, tmp_path):
    small = dtype.itemsize == 1
    words = torch.arange(256 if small else 2**16, dtype=torch.int32)
    raw = words.to(torch.uint8) if small else words.to(torch.uint16)
    values = raw.view(dtype).reshape(16, -1)
    save_file({"m": values}, tmp_path / "t.safetensors")
    expected = values.float().numpy()
    assert np.array_equal(whole(tmp_path / "t.safetensors", "m"), expected, equal_nan=True)


def test_zeros_of_either_sign_are_no_entries_and_the_least_numbers_are(tmp_path):
    words = torch.tensor([[0x0000, 0x8000, 0x0001], [0x8001, 0x3F80, 0x0000]], dtype=torch.int32)
    save_file({"m": words.to(torch.uint16).view(torch.bfloat16)}, tmp_path / "t.safetensors")
    report = inspect_mask(tmp_path / "t.safetensors")["m"]
    assert (report.ones, report.left.histogram) == (3, {1: 1, 2: 1})


@pytest.mark.parametrize(
    ("dtype", "word"),
    [
        (torch.bfloat16, 0x7F80),
        (torch.bfloat16, 0xFFC0),
        (torch.float16, 0x7C00),
        (torch.float8_e4m3fn, 0x7F),
        (torch.float8_e5m2, 0xFC),
    ],
)
def test_values_that_are_not_finite_are_damage(dtype, word, tmp_path):
    raw = torch.ones(3, 4, dtype=dtype).view(torch.uint8 if dtype.itemsize == 1 else torch.uint16)
    raw[2, 1] = word
    save_file({"bad": raw.view(dtype), "good": torch.eye(2)}, tmp_path / "t.safetensors")
    report = inspect_mask(tmp_path / "t.safetensors")
    assert list(report) == ["good"]
    assert "at [2, 1]" in report.damaged["bad"]


def test_a_dtype_that_cannot_be_read_is_damage(tmp_path):
    save_file({"c": torch.ones(2, 2, dtype=torch.complex64)}, tmp_path / "t.safetensors")
    assert "dtype C64 cannot be read" in inspect_mask(tmp_path / "t.safetensors").damaged["c"]


GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "not valid JSON"),
        (b'{"m": {}, "m": {}}', "duplicate key"),
        ([], "not a JSON object"),
        ({"m": []}, "exactly the fields"),
        ({"m": {**GOOD, "extra": 1}}, "exactly the fields"),
        ({"m": {**GOOD, "shape": [2, -3]}}, "shape must be integers"),
        ({"m": {**GOOD, "shape": [2, 3.0]}}, "shape must be integers"),
        ({"m": {**GOOD, "shape": [2, 4]}}, "does not take the 24 bytes it has"),
        ({"m": {**GOOD, "shape": [2**62, 4]}}, "does not take"),
        ({"m": {**GOOD, "data_offsets": [24, 0]}}, "two ascending integers"),
        ({"m": {**GOOD, "data_offsets": [0, 24, 48]}}, "two ascending integers"),
        ({"m": {**GOOD, "data_offsets": [8, 32]}}, "end at byte 32 of 24"),
        ({"m": {**GOOD, "dtype": 7}}, "must be str"),
    ],
)
def test_headers_that_are_wrong_are_refused(header, message, tmp_path):
    path = written(tmp_path / "t.safetensors", header, bytes(24))
    with pytest.raises(FileFormatError, match=message):
        read_header(path)


def test_truncated_files_are_refused_at_every_length(tmp_path):
    path = tmp_path / "t.safetensors"
    save_file({"m": torch.eye(3), "v": torch.ones(2)}, path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FileFormatError):
            read_header(path)
    written(path, GOOD, length=2**63)
    with pytest.raises(FileFormatError, match="truncated"):
        read_header(path)
    with pytest.raises(FileFormatError, match="No such file"):
        read_header(tmp_path / "absent.safetensors")


def test_a_file_cut_short_after_its_header_was_read_is_noticed(tmp_path):
    path = written(tmp_path / "t.safetensors", {"m": GOOD}, bytes(24))
    tensor = read_header(path)["m"]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(FileFormatError, match="ends before its data"):
        tensor.read_rows(0, 2)


def test_damaged_files_raise_nothing_else(tmp_path):
    """Bits flipped and ends cut at random: a report comes back, or one of our errors does."""
    path = tmp_path / "t.safetensors"
    save_file({"m": torch.eye(4), "v": torch.ones(2), "h": torch.eye(3).half()}, path)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] ^= 1 << int(random.integers(8))
        end = None if random.random() < 0.8 else int(random.integers(len(content)))
        path.write_bytes(damaged[:end])
        try:
            inspect_mask(path)
        except ExpanderMaskError:
            refused += 1
    assert refused > 100
