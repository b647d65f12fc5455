"""Arguments that take long to decode are found before they are decoded; long texts are not taken for many values."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.dapi import Function, function
from zcluster.dapi.steps import at_once
from zcluster.dapi.weight import (
    BLANKS,
    FEW_ODD,
    LARGE_BYTES,
    LIGHT_BYTES,
    LONG_DIGITS,
    MAX_BACKSLASHES,
    MAX_BLANKS,
    MAX_ESCAPES,
    MAX_LONG,
    MAX_ODD,
    MAX_QUOTES,
    MAX_TEXT_BYTES,
    MAX_VALUES,
    ODD_BYTES,
    outside_of_texts,
    too_many_values,
    values_of,
    weigh,
    weigh_short,
)
from zcluster.errors import InvalidArguments

PAD = b" " * (LARGE_BYTES + 1)
"""What makes a body long enough to be looked at."""


def listed(count: int, each: bytes = b"1") -> bytes:
    return b"[" + b",".join([each] * count) + b"]" + PAD


@pytest.mark.parametrize(
    ("body", "many"),
    [
        (b"", False),
        (PAD, False),
        (listed(MAX_VALUES - 1), False),
        (listed(MAX_VALUES), True),
        (listed(MAX_VALUES // 2 - 1, b"[]"), False),
        (listed(MAX_VALUES // 2, b"{}"), True),
        (b'{"value":"' + b"," * (2 * MAX_VALUES) + b'"}', False),
        (b'{"value":"' + b"\\" * MAX_BACKSLASHES + b'","more":"' + b"[" * MAX_VALUES + b'"}', False),
        (b'{"value":"' + b"\\" * (MAX_BACKSLASHES + 1) + b'","more":"' + b"[" * MAX_VALUES + b'"}', True),
        (b'{"value":"\\"' + b"{" * (2 * MAX_VALUES) + b'"}', False),
        (b'{"value":"' + b"," * MAX_VALUES + b'","more":[' + b"[]," * (MAX_VALUES // 2) + b"1]}", True),
        (b'{"value":"' + b"," * MAX_VALUES + b'\\\\","more":[' + b"[]," * (MAX_VALUES // 2) + b"1]}", True),
        (b'{"value":"' + b"," * MAX_VALUES + b'\\"","more":"' + b"[]," * (MAX_VALUES // 2) + b'1"}', False),
        (b'{"value":"' + b"," * MAX_VALUES, False),
        (b'{"value":"' + b"," * MAX_VALUES + b'\\"' * (MAX_QUOTES - 1) + b'"}', False),
        (b'{"value":"' + b"," * MAX_VALUES + b'\\"' * MAX_QUOTES + b'"}', True),
        (b'[""' + b',""' * (MAX_QUOTES + 1) + b',"' + b"," * MAX_VALUES + b'"]', True),
    ],
)  # fmt: skip
def test_values_are_counted_and_texts_are_not(body: bytes, many: bool) -> None:
    assert at_once(too_many_values(body)) is many
    assert at_once(too_many_values(bytearray(body))) is many


TEXTS = st.text(alphabet='[]{},"\\ab:', max_size=8)
JSON = st.recursive(
    st.integers(-9, 9) | TEXTS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
)


def count(value: object) -> int:
    """Values as the decoder makes them, without the first; a container counts for its own beginning too."""
    if isinstance(value, dict):
        return 1 + sum(count(each) for each in value.values()) + max(0, len(value) - 1) if value else 1
    if isinstance(value, list):
        return 1 + sum(count(each) for each in value) + max(0, len(value) - 1) if value else 1
    return 0


@given(JSON)
def test_what_is_outside_of_texts_is_counted_exactly(value: object) -> None:
    body = orjson.dumps(value)
    assert at_once(values_of(body, MAX_QUOTES)) == count(value)
    assert [*outside_of_texts(body, MAX_QUOTES)][-1][1] == len(body)


def test_a_function_is_not_called_with_too_many() -> None:
    def free(value: Any) -> int:
        return 1

    declared = Function(function("free")(free))
    with pytest.raises(InvalidArguments, match="more than 200,000 values") as caught:
        declared.decode(b'{"value":[' + b"[]," * MAX_VALUES + b"1]}")
    assert "several calls" in caught.value.hint
    assert declared.decode(b'{"value":"' + b"," * MAX_VALUES * 2 + b'"}') == ("," * MAX_VALUES * 2,)


def said(body: bytes) -> str:
    whole, gathered = (
        weigh_short(each) if len(each) <= LARGE_BYTES else at_once(weigh(each)) for each in (body, bytearray(body))
    )
    assert whole == gathered
    return whole


ODD = [b"1e-309", b"1.2345678901234567E-300", b"-1e0308", b"1E+300", b"1e-000325", b"9.9e250"]
PLAIN = [b"1e-249", b"1e249", b"1.5e-05", b"1e400", b"1e-340", b"1e3000", b"123456789012345678", b"-0.12345678901234567"]


@pytest.mark.parametrize("number", ODD)
def test_numbers_near_the_end_of_their_range_are_few(number: bytes) -> None:
    def with_odd(count: int) -> bytes:
        return b"[" + b",".join([number] * count) + b"]" + b" " * ODD_BYTES * MAX_ODD

    assert said(with_odd(MAX_ODD)) == ""
    assert "10,000 numbers beyond 1e250" in said(with_odd(MAX_ODD + 1))


@pytest.mark.parametrize("number", PLAIN)
@pytest.mark.parametrize("count", [2000, MAX_VALUES - 1])
def test_other_numbers_are_as_many_as_values_may_be(number: bytes, count: int) -> None:
    assert said(b"[" + b",".join([number] * count) + b"]") == ""


def test_a_short_body_has_fewer_of_them() -> None:
    body = b"[" + b",".join([b"1e-309"] * 300) + b"]"
    most = FEW_ODD + ODD_BYTES * 300 // ODD_BYTES
    assert said(body.ljust(ODD_BYTES * 300, b" ")) == ""
    assert f"more than {most - 1} numbers" in said(body.replace(b"]", b",1e-309" * 16 + b"]").ljust(ODD_BYTES * 300 - 1, b" "))


@pytest.mark.parametrize("digits", [b"7" * LONG_DIGITS, b"0." + b"3" * (LONG_DIGITS - 2), b"1" * 50 * LONG_DIGITS])
def test_long_numbers_are_few(digits: bytes) -> None:
    pieces = len(digits) // LONG_DIGITS

    def listed_long(count: int) -> bytes:
        return b"[" + b",".join([digits] * count) + b"]"

    assert said(listed_long(MAX_LONG // pieces)) == ""
    assert "1,200,000 digits in numbers" in said(listed_long(MAX_LONG // pieces + 1))


@pytest.mark.parametrize("together", [1, FEW_ODD])
def test_numbers_between_short_texts_are_counted_too(together: int) -> None:
    body = b"[" + b'"",'.join([b"1e-309," * together] * (MAX_ODD // together + 1)) + b"1]"
    assert "numbers beyond 1e250" in said(body)
    assert said(body.replace(b"1e-309", b"1e-300,").replace(b"1e-300", b"1e-3000")) == ""


def test_names_are_no_numbers() -> None:
    assert said(orjson.dumps([f"node-{number:06}" for number in range(30_000)])) == ""
    assert said(orjson.dumps([f"3e-{number:06}" for number in range(1000)])) == ""


def test_blanks_are_bounded() -> None:
    most = b" \n\t\r" * (BLANKS * MAX_BLANKS // 4)
    assert said(most + b"{}") == ""
    assert said(b"{" + most + b"}") == ""
    assert "32,000,000 blanks" in said(most + b" " * BLANKS + b"{}")


def test_numbers_in_texts_are_texts() -> None:
    odd = b"1e-309," * (MAX_ODD + 1) + b"7" * LONG_DIGITS * (MAX_LONG + 1)
    assert said(b'{"value":"' + odd + b'"}') == ""
    assert said(b'{"value":"\\"' + odd + b'"}') == ""
    assert said(b'{"value":["",' + odd + b"]}") != ""
    assert said(b'{"value":"' + b"1e-309," * 2000 + b'"}') == "", "where texts end is looked for in shorter ones too"


def test_escapes_are_bounded() -> None:
    assert said(b'{"value":"' + b"\\n" * MAX_ESCAPES + b'"}') == ""
    assert "4,000,000 escapes" in said(b'{"value":"' + b"\\n" * (MAX_ESCAPES + 1) + b'"}')
    assert said(b'{"value":"' + b"\\u0041" * (MAX_ESCAPES // 2) + b'"}') == ""
    assert "4,000,000 escapes" in said(b'{"value":"' + b"\\u0041" * (MAX_ESCAPES // 2 + 1) + b'"}')


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("\U0001f600", 4), ("\U00010000", 4), ("\U0010ffff", 4), ("\\ud83d\\ude00", 4), ("\\uD83D\\uDE00", 4),
        ("\u0100", 2), ("\u20ac", 2), ("\uffff", 2), ("\\u20ac", 2), ("\\u0041\xe9", 2),
    ],
)  # fmt: skip
def test_one_wide_character_makes_a_long_text_larger(text: str, width: int) -> None:
    begin, end = b'{"value":"', text.encode() + b'"}'
    taken = len(begin) + len(b'"}') + len(text) - 5 * text.count("\\u")
    fits = begin + b"x" * (MAX_TEXT_BYTES // width - taken) + end
    assert said(fits) == ""
    assert f"100,663,296 bytes at {width} for a character" in said(fits + b" ")


@pytest.mark.parametrize("text", ["x", "\xe9", "\xff", "\u20ac", "\u20acx"])
def test_as_much_as_a_body_may_be_of_other_texts(text: str) -> None:
    encoded = text.encode()
    assert said(b'{"value":"' + encoded * (64 * 1024 * 1024 // len(encoded)) + b'"}') == ""


@pytest.mark.parametrize("count", [MAX_VALUES, 4 * LIGHT_BYTES])
def test_what_is_too_much_is_refused_for_a_function(count: int) -> None:
    def free(value: Any) -> int:
        return 1

    declared = Function(function("free")(free))
    with pytest.raises(InvalidArguments, match=r"the arguments hold more than [0-9,]+ numbers beyond") as caught:
        declared.decode(b'{"value":[' + b"1e-309," * (count // 16) + b"1]}")
    assert "as one text" in caught.value.hint


def test_no_step_looks_at_much() -> None:
    looked = list(weigh(b"x" * 64 * 1024 * 1024))
    assert len(looked) >= 8
