"""The header of a safetensors file against the stock reader, and every way to be wrong."""

from __future__ import annotations

import json
import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from expandermask.errors import FileFormatError
from expandermask.safetensors_header import (
    Entry,
    header_text,
    parse_header,
    parse_whole_header,
)
from tests.adapters.forgery import framed

GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
WHAT = "w.safetensors"


def header(**tensors: object) -> bytes:
    return json.dumps(tensors).encode()


def entry(dtype: str, shape: list[int], first: int, last: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def test_tensors_come_in_the_order_of_the_header():
    text = header(
        late=entry("I64", [2], 7, 23),
        none=entry("F16", [4, 0], 7, 7),
        scalar=entry("U8", [], 0, 1),
        new=entry("F6_E3M2", [8], 1, 7),
    )
    found = parse_header(text + b"   ", 23, WHAT)
    assert found == {
        "late": Entry("I64", (2,), 7, 23),
        "none": Entry("F16", (4, 0), 7, 7),
        "scalar": Entry("U8", (), 0, 1),
        "new": Entry("F6_E3M2", (8,), 1, 7),
    }
    assert list(found) == ["late", "none", "scalar", "new"]
    assert parse_header(b"{}", 0, WHAT) == {}


def test_metadata_only_where_it_is_let_in():
    text = header(__metadata__={"format": "pt"}, m=GOOD)
    assert list(parse_header(text, 24, WHAT, metadata=True)) == ["m"]
    with pytest.raises(FileFormatError, match=r"w\.safetensors holds __metadata__"):
        parse_header(text, 24, WHAT)
    with pytest.raises(FileFormatError, match="__metadata__"):
        parse_header(header(__metadata__=GOOD), 24, WHAT)
    for wrong in ([], "pt", {"format": 3}, None, GOOD):
        with pytest.raises(FileFormatError, match="must hold strings by name"):
            parse_header(header(__metadata__=wrong, m=GOOD), 24, WHAT, metadata=True)


def test_metadata_are_returned_with_the_tensors():
    text = header(__metadata__={"format": "pt", "": "\N{SNOWMAN}"}, m=GOOD)
    found = parse_whole_header(text, 24, WHAT)
    assert found.metadata == {"format": "pt", "": "\N{SNOWMAN}"}
    assert found.entries == parse_header(text, 24, WHAT, metadata=True)
    assert parse_whole_header(header(m=GOOD), 24, WHAT).metadata == {}
    for wrong in ([], "pt", {"format": 3}, None, {"format": None}, {"format": ["pt"]}):
        with pytest.raises(FileFormatError, match="must hold strings by name"):
            parse_whole_header(header(__metadata__=wrong, m=GOOD), 24, WHAT)
    twice = b'{"__metadata__": {"format": "pt", "format": "pt"}}'
    with pytest.raises(FileFormatError, match="duplicate key"):
        parse_whole_header(twice, 0, WHAT)


def test_the_header_is_read_only_if_it_can_be_there():
    content = framed(header(m=GOOD), bytes(24))
    assert header_text(BytesIO(content), len(content), WHAT) == header(m=GOOD)
    for size, length in ((7, 0), (8, 0), (9, 2), (2**40, 100_000_001), (2**40, 2**64 - 1)):
        stream = BytesIO(length.to_bytes(8, "little"))
        with pytest.raises(FileFormatError, match=f"{size} bytes, header of {length}"):
            header_text(stream, size, WHAT)
        assert stream.tell() == 8
    with pytest.raises(FileFormatError, match="ends within its header"):
        header_text(BytesIO(content[:20]), len(content), WHAT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b" {}", "not a JSON object"),
        (b"{", "its header: not valid JSON"),
        (b"{}}", "not valid JSON"),
        (b'{"\xff": 1}', "utf-8"),
        ('{"m": 1}'.encode("utf-16-le"), "not valid JSON"),
        (b'{"m":' + b"[" * 10**5, "not valid JSON"),
        (b'{"m": {}, "m": {}}', "duplicate key"),
        (b'{"m": {"dtype": "U8", "dtype": "U8"}}', "duplicate key"),
        (b'{"m": NaN}', "NaN"),
        (header(m=[]), "tensor 'm' must have exactly the fields"),
        (header(m={**GOOD, "extra": 1}), "exactly the fields"),
        (header(m={"dtype": "F32", "shape": [2, 3]}), "exactly the fields"),
        (header(m={**GOOD, "dtype": 7}), "'dtype' must be str"),
        (header(m={**GOOD, "shape": None}), "'shape' must be list"),
        (header(m={**GOOD, "shape": [2, -3]}), "shape must be integers >= 0"),
        (header(m={**GOOD, "shape": [2, 3.0]}), "shape must be integers >= 0"),
        (header(m={**GOOD, "shape": [6, True]}), "shape must be integers >= 0"),
        (header(m={**GOOD, "shape": [2, 4]}), "F32 of shape .* does not take the 24 bytes it has"),
        (header(m={**GOOD, "shape": [2, 0]}), "does not take the 24 bytes"),
        (header(m={**GOOD, "shape": [0, 2**61], "data_offsets": [0, 0]}), "does not take the 0 b"),
        (header(m={**GOOD, "shape": [2**61, 0], "data_offsets": [0, 0]}), "does not take the 0 b"),
        (header(m={**GOOD, "shape": [2**40] * 4 + [0], "data_offsets": [0, 0]}), "does not take"),
        (header(m={**GOOD, "shape": [10**4000] * 50}), "does not take the 24 bytes"),
        (header(m={**GOOD, "data_offsets": [24, 0]}), "two ascending integers"),
        (header(m={**GOOD, "data_offsets": [-24, 0]}), "two ascending integers"),
        (header(m={**GOOD, "data_offsets": [0, 24, 48]}), "two ascending integers"),
        (header(m={**GOOD, "data_offsets": [0, 24.0]}), "two ascending integers"),
        (header(m={**GOOD, "data_offsets": [8, 32]}), "end at byte 32 of 24"),
        (header(m={**GOOD, "data_offsets": [0, 10**4000]}), "a truncated file"),
        (header(), "24 bytes follow its header, and its tensors take 0"),
        (header(m=entry("U8", [23], 0, 23)), "its tensors take 23"),
        (header(m=entry("U8", [23], 1, 24)), "start at byte 1 and leave a hole"),
        (header(m=GOOD, n=entry("U8", [1], 23, 24)), "'n': .* start at byte 23 and overlap"),
        (header(m=GOOD, n=GOOD), "overlap those before them, which end at 24"),
        (header(m=GOOD, n=entry("U8", [0], 5, 5)), "overlap"),
    ],
)
def test_headers_that_are_wrong_are_refused(text, message):
    with pytest.raises(FileFormatError, match=message):
        parse_header(text, 24, WHAT)


def test_a_shape_of_many_numbers_costs_no_more():
    big = header(m={**GOOD, "shape": [2**62] * 10**5})
    with pytest.raises(FileFormatError, match="does not take"):
        parse_header(big, 24, WHAT)
    assert parse_header(header(m=entry("U8", [1] * 10**5, 0, 1)), 1, WHAT)["m"].last == 1


sizes = {"BOOL": 1, "I8": 1, "BF16": 2, "U16": 2, "F32": 4, "C64": 8, "F64": 8}
numbers = st.one_of(st.integers(-2, 30), st.booleans(), st.floats(), st.none(), st.just(2**64))
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*sizes, "F4", "?", 3]),
        "shape": st.one_of(st.lists(numbers, max_size=3), numbers),
        "data_offsets": st.one_of(st.lists(numbers, min_size=1, max_size=3), numbers),
    },
    optional={"x": numbers},
)
json_values = st.recursive(
    st.one_of(numbers, st.text(max_size=3), entries),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=3), inner)),
    max_leaves=5,
)


@settings(max_examples=400)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.dictionaries(st.text(max_size=3), entries, max_size=3),
        st.dictionaries(st.sampled_from(["__metadata__", "m"]), json_values),
    ),
    st.integers(0, 60),
    st.booleans(),
)
def test_whatever_the_header_says_nothing_else_is_raised(drawn, room, metadata):
    text = drawn if isinstance(drawn, bytes) else json.dumps(drawn).encode()
    try:
        found = parse_header(text, room, WHAT, metadata=metadata)
    except FileFormatError:
        return
    assert sum(e.last - e.first for e in found.values()) == room


@st.composite
def files(draw) -> tuple[dict[str, object], int]:
    """Headers that are right, or nearly: one number may be off by a little."""
    tensors, end = {}, 0
    for k in range(draw(st.integers(1, 4))):
        dtype, shape = draw(st.sampled_from(list(sizes))), draw(st.lists(st.integers(0, 3)))
        first, end = end, end + sizes[dtype] * (0 if 0 in shape else _product(shape))
        tensors[f"t{k}"] = {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}
    chosen = tensors[draw(st.sampled_from(list(tensors)))]
    target = chosen[draw(st.sampled_from(["shape", "data_offsets"]))]
    if target and draw(st.booleans()):
        target[draw(st.integers(0, len(target) - 1))] += draw(st.integers(-2, 2))
    return tensors, max(0, end + draw(st.sampled_from([0, 0, 0, 0, -1, 1])))


def _product(shape: list[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


@settings(max_examples=300)
@given(files())
def test_what_is_accepted_is_what_the_stock_reader_accepts(file):
    tensors, room = file
    text = json.dumps(tensors).encode()
    try:
        theirs = dict(deserialize(struct.pack("<Q", len(text)) + text + bytes(room)))
    except SafetensorError:
        with pytest.raises(FileFormatError):
            parse_header(text, room, WHAT)
        return
    ours = parse_header(text, room, WHAT)
    assert {name: (e.dtype, list(e.shape)) for name, e in ours.items()} == {
        name: (t["dtype"], list(t["shape"])) for name, t in theirs.items()
    }
    assert all(e.last - e.first == len(theirs[name]["data"]) for name, e in ours.items())
