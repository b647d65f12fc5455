"""A text in pieces is the text as a whole, wherever it is cut."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.dapi import Function, function, longtext
from zcluster.dapi.longtext import LONG_BYTES, PIECE_BYTES, decode_text
from zcluster.dapi.steps import at_once
from zcluster.errors import InvalidArguments

PARTS = st.sampled_from(["x", "abcdefghijklmnop", "é", "€", "😀", "\n", '"', "\\", "\0", "\\u0041", "\u2028", "/"])
TEXTS = st.lists(PARTS, max_size=60).map("".join)


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of a few bytes are long, and cut everywhere."""
    monkeypatch.setattr(longtext, "PIECE_BYTES", 3)


@given(TEXTS, st.sampled_from([True, False]))
def test_pieces_make_the_whole(text: str, ascii_only: bool) -> None:
    written = json.dumps(text, ensure_ascii=ascii_only).encode()
    steps = decode_text(memoryview(written))
    assert at_once(steps) == text


BITS = st.sampled_from([b"x" * 13, b"\\u00", b"\\ud83d", b"\\ude00", b"\xe2", b"\x82", b"\xac", b"\\", b"\x1f", b"\\x"])


@given(st.lists(BITS))
def test_what_is_no_text_is_none_in_pieces(parts: list[bytes]) -> None:
    written = b'"' + b"".join(parts) + b'"'
    try:
        whole = msgspec.json.decode(written, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            at_once(decode_text(memoryview(written)))
    else:
        assert at_once(decode_text(memoryview(written))) == whole


@pytest.mark.parametrize(
    ("dense", "pieces"), [(b"\\n", 500), (b"\\u20ac", 1000), (b"xxxxxx\\n", 1001), (b"\\ud83d\\ude00", 1000), (b"\\\\", 1)]
)
def test_where_escapes_are_dense_the_text_is_cut_before_one(dense: bytes, pieces: int) -> None:
    written = b'"' + dense * 1000 + b'"'
    assert at_once(decode_text(memoryview(written))) == json.loads(written)
    assert len(list(decode_text(memoryview(written)))) == pieces


def free(value: Any, other: str = "", number: int = 0) -> Any:
    return value


@pytest.mark.parametrize("text", ["x", "é€😀\n"])
def test_long_texts_among_the_arguments(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(longtext, "PIECE_BYTES", PIECE_BYTES)
    declared = Function(function("free")(free))
    value = text * (LONG_BYTES // len(text.encode()) + 1)
    arguments = {"number": 7, "value": value, "other": value[:-1]}
    assert declared.decode(orjson.dumps(arguments)) == (value, value[:-1], 7)
    assert declared.decode(bytearray(json.dumps({"value": [value]}).encode())) == ([value], "", 0)
    for body, words in (
        (orjson.dumps({**arguments, "more": 1}), "unknown argument 'more'"),
        (orjson.dumps({**arguments, "number": "x"}), "argument 'number': expected int, got str"),
        (orjson.dumps({"other": value}), "missing argument 'value'"),
        (orjson.dumps({"value": 1, "number": value}), "argument 'number': expected int, got str"),
        (orjson.dumps(arguments)[:-1] + b',"other":""}', "'other' is given twice"),
        (orjson.dumps(arguments)[:-2] + b'\xff"}', "not UTF-8"),
        (orjson.dumps(arguments)[:-2] + b'\\x"}', "not valid JSON"),
    ):
        with pytest.raises(InvalidArguments) as caught:
            declared.decode(body)
        assert words in caught.value.message
