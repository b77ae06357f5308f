"""Strict JSON documents, and writes that are whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask.errors import FileFormatError
from expandermask.files import (
    parse_json,
    read_bytes,
    read_document,
    reading,
    replacing,
    require_fields,
    write_document,
    write_text,
)

KIND = "a test"
names = st.text(max_size=6)
finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers() | names | finite
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
bodies = st.dictionaries(names.filter(lambda k: not k.startswith("format")), values, max_size=4)


@settings(max_examples=100)
@given(bodies)
def test_documents_there_and_back(body):
    assert read_document(write_document(KIND, 3, body), KIND, 3) == body


def test_documents_hold_no_nan():
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_document(KIND, 1, {"x": [number]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "truncated"),
        ("{", "truncated"),
        ('{"format": "a test", "format_version": 1', "truncated"),
        ("[" * 100_000, "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        ('{"format": "a test", "format_version": 1}'.encode("utf-16"), "JSON"),
        ('{"format": "a test", "format_version": 1}'.encode("utf-32-le"), "JSON"),
        ('{"format": "a test", "format_version": 1}'.encode("utf-8-sig"), "BOM"),
        (b'{"format": "a test", "format_version": 1, "x": "\xed\xa0\x80"}', "JSON"),
        ('{"format": "a test", "format_version": 1, "x": "\\ud800"}', "surrogates"),
        ('{"format": "a test", "format_version": 1, "\\uDFff": 1}', "surrogates"),
        ('{"format": "a test", "format_version": 1, "x": "\ud800"}', "surrogates"),
        ("[" * 66 + "]" * 66, "nested deeper than 64"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested deeper than 64"),
        ("1" * 5000, "JSON"),
        ("[]", "format"),
        ("null", "format"),
        ("{}", "format"),
        ('{"format": "other", "format_version": 1}', "must be 'a test'"),
        ('{"format": ["a test"], "format_version": 1}', "must be 'a test'"),
        ('{"format": "a test"}', "version None"),
        ('{"format": "a test", "format_version": true}', "version True"),
        ('{"format": "a test", "format_version": 1.0}', "version 1.0"),
        ('{"format": "a test", "format_version": 2}', "version 2.*reads version 1; upgrade"),
        ('{"format": "a test", "format_version": 0}', "version 0.*reads version 1$"),
        ('{"format": "a test", "format": "a test", "format_version": 1}', "duplicate"),
        ('{"format": "a test", "format_version": 1, "x": {"a": 1, "a": 1}}', "duplicate"),
        ('{"format": "a test", "format_version": 1, "x": NaN}', "NaN"),
        ('{"format": "a test", "format_version": 1, "x": [-Infinity]}', "Infinity"),
        ('{"format": "a test", "format_version": 1, "x": 1e999}', "allowed"),
    ],
)
def test_bad_documents(text, words):
    with pytest.raises(FileFormatError, match=words):
        read_document(text, KIND, 1)


def test_pairs_of_surrogates_and_what_looks_like_one_are_text():
    for text in ("\N{ROCKET}", "\\ud800", "\\\\ud800"):
        for ascii_only in (True, False):
            assert parse_json(json.dumps({text: [text]}, ensure_ascii=ascii_only)) == {text: [text]}


def test_nesting_is_read_up_to_the_limit():
    assert parse_json("[" * 64 + "]" * 64)
    assert parse_json('{"a":' * 64 + "1" + "}" * 64)


@settings(max_examples=300)
@given(st.binary() | st.text())
def test_noise_raises_nothing_else(noise):
    with pytest.raises(FileFormatError):
        read_document(noise, KIND, 1)


def test_require_fields():
    good = {"a": 1, "b": "x"}
    assert require_fields(good, {"a": int, "b": str}, "it") is good
    for bad in ({"a": 1}, {**good, "c": 1}, {"a": True, "b": "x"}, {"a": 1.0, "b": "x"}, [], None):
        with pytest.raises(FileFormatError, match="it"):
            require_fields(bad, {"a": int, "b": str}, "it")


def test_write_text_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    write_text(path, "one")
    write_text(str(path), "zwei \N{SNOWMAN}")
    assert path.read_text(encoding="utf-8") == "zwei \N{SNOWMAN}"
    assert list(path.parent.iterdir()) == [path]


def test_written_files_have_the_usual_mode(tmp_path):
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_failing_body_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_killed_process_leaves_the_old_file(tmp_path, step):
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import os, signal, sys\n"
        "from expandermask.files import write_text\n"
        f"os.{step} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_text(sys.argv[1], 'new')\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert result.returncode == -9
    assert path.read_text() == "old"


def test_read_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"\x00\xff")
    assert read_bytes(tmp_path / "file") == b"\x00\xff"
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(FileFormatError, match=path.name):
            read_bytes(path)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/null"):
        with pytest.raises(FileFormatError, match="no regular file"):
            read_bytes(path)
    with pytest.raises(FileFormatError, match="null"):
        read_bytes("a\0b")


def test_reading_within_a_folder(tmp_path):
    inside, outside = tmp_path / "folder" / "in", tmp_path / "folder2"
    inside.parent.mkdir()
    inside.write_text("in")
    outside.write_text("out")
    link = tmp_path / "folder" / "link"
    for aim, words in (
        ("../folder2", "leads out"),
        ("/etc/passwd", "leads out"),
        ("no", "No such"),
    ):
        link.unlink(missing_ok=True)
        link.symlink_to(aim)
        with pytest.raises(FileFormatError, match=words), reading(link, within=inside.parent):
            pass
    link.unlink()
    link.symlink_to("in")
    with reading(link, within=inside.parent) as (stream, size):
        assert (stream.read(), size) == (b"in", 2)


def test_what_goes_wrong_while_a_file_is_open_is_not_called_a_file_error(tmp_path):
    (tmp_path / "file").write_text("x")

    def fail():
        with reading(tmp_path / "file"):
            raise ValueError("the caller's own")

    with pytest.raises(ValueError, match=r"^the caller's own$"):
        fail()


def test_documents_are_plain_json():
    document = json.loads(write_document(KIND, 2, {"x": 1}))
    assert document == {"format": KIND, "format_version": 2, "x": 1}
