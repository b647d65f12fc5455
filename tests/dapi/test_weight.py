"""Arguments that take long to decode are found before they are decoded; long texts are not taken for many values."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.dapi import Function, function, weight
from zcluster.dapi.steps import at_once
from zcluster.dapi.weight import (
    BACKSLASHES_IN_A_ROW,
    BLANKS,
    FEW_SLOW,
    LARGE_BYTES,
    LIGHT_BYTES,
    LONG_DIGITS,
    MAX_BACKSLASHES,
    MAX_BLANKS,
    MAX_HEX,
    MAX_QUOTES,
    MAX_SLOW,
    MAX_TEXT_BYTES,
    MAX_VALUES,
    ODD,
    SLOW_BYTES,
    VERY_LONG,
    VERY_LONG_DIGITS,
    outside_of_texts,
    weigh,
    weigh_short,
)
from zcluster.errors import InvalidArguments

PAD = b" " * (MAX_VALUES + 1)
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
        (b'{"value":"' + b"\\" * BACKSLASHES_IN_A_ROW + b'","more":"' + b"[" * MAX_VALUES + b'"}', False),
        (b'{"value":"' + b"\\" * (BACKSLASHES_IN_A_ROW + 1) + b'","more":"' + b"[" * MAX_VALUES + b'"}', True),
        (b'{"value":"\\"' + b"{" * (2 * MAX_VALUES) + b'"}', False),
        (b'{"value":"' + b"," * MAX_VALUES + b'","more":[' + b"[]," * (MAX_VALUES // 2) + b"1]}", True),
        (b'{"value":"' + b"," * MAX_VALUES + b'\\\\","more":[' + b"[]," * (MAX_VALUES // 2) + b"1]}", True),
        (b'{"value":"' + b"," * MAX_VALUES + b'\\"","more":"' + b"[]," * (MAX_VALUES // 2) + b'1"}', False),
        (b'{"value":"' + b"," * MAX_VALUES, False),
        (b'{"value":"' + b"," * MAX_VALUES + b'\\"' * (MAX_QUOTES - 4) + b'"}', False),
        (b'{"value":"' + b"," * MAX_VALUES + b'\\"' * (MAX_QUOTES - 3) + b'"}', True),
        (b'[""' + b',""' * (MAX_QUOTES + 1) + b',"' + b"," * MAX_VALUES + b'"]', True),
    ],
)  # fmt: skip
def test_values_are_counted_and_texts_are_not(body: bytes, many: bool) -> None:
    said = f"more than {MAX_VALUES:,} values" if many else ""
    assert at_once(weight._weigh_values(body)) == said
    assert at_once(weight._weigh_values(bytearray(body))) == said


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
    parts = list(outside_of_texts(body, MAX_QUOTES))
    assert sum(body[start:end].count(mark) for start, end in parts for mark in (b",", b"[", b"{")) == count(value)
    assert parts[-1][1] == len(body)


@given(st.binary(max_size=40) | st.text(alphabet='"\\\\,ab', max_size=40).map(str.encode), st.integers(0, 6))
def test_parts_follow_each_other(body: bytes, quotes: int) -> None:
    parts = list(outside_of_texts(body, quotes))
    assert all(start <= end for start, end in parts)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(parts))
    assert parts[-1][1] == len(body)
    assert len(parts) <= quotes // 2 + 2


def test_a_function_is_not_called_with_too_many() -> None:
    def free(value: Any) -> int:
        return 1

    declared = Function(function("free")(free))
    with pytest.raises(InvalidArguments, match="more than 500,000 values") as caught:
        declared.decode(b'{"value":[' + b"[]," * MAX_VALUES + b"1]}")
    assert "several calls" in caught.value.hint
    assert declared.decode(b'{"value":"' + b"," * MAX_VALUES * 2 + b'"}') == ("," * MAX_VALUES * 2,)


def said(body: bytes) -> str:
    whole, gathered = (
        weigh_short(each) if len(each) <= LARGE_BYTES else at_once(weigh(each)) for each in (body, bytearray(body))
    )
    assert whole == gathered
    return whole


ODD_ONES = [
    b"1e-309", b"1.2345678901234567E-300", b"-1e0308", b"1E+300", b"1e-000325", b"9.9e250", b"1234567890123456789e-340",
    b"9007199254740993.0000e5", b"-900719925474099300000e-7",
]  # fmt: skip
PLAIN = [
    b"1e99", b"1.5e-05", b"12345678901234567890123", b"-0.1234567890123", b"0", b"1763769600", b'"10.20.30.40"',
    b'"123e4567-e89b-12d3-a456-426614174000"', b'"2026-11-22T01:09:52.123456+00:00"', b'"node-00123.example.com"',
]  # fmt: skip


MORE = 1 + 64
"""One that is cut in two between slices is not seen."""


def slow(number: bytes, count: int, pad: int = SLOW_BYTES * MAX_SLOW) -> str:
    """What is said of so many in a body that is so long."""
    return said((b"[" + b",".join([number] * count) + b"]").ljust(pad))


@pytest.mark.parametrize("number", ODD_ONES)
def test_numbers_near_the_ends_of_their_range_are_few(number: bytes) -> None:
    most = MAX_SLOW // (ODD + 1)
    assert slow(number, most) == ""
    assert "slow numbers" in slow(number, MAX_SLOW // ODD + MORE)


@pytest.mark.parametrize("number", PLAIN)
@pytest.mark.parametrize("count", [100, 2000, 100_000, MAX_VALUES - 1])
def test_other_values_are_as_many_as_they_may_be(number: bytes, count: int) -> None:
    assert slow(number, count, 0) == ""


@pytest.mark.parametrize("size", [LIGHT_BYTES + 1, LARGE_BYTES, LARGE_BYTES + 1, MAX_VALUES])
def test_a_shorter_body_has_fewer_of_them(size: int) -> None:
    most = (FEW_SLOW + size // SLOW_BYTES) // ODD
    assert slow(b"1e308", most, size) == ""
    assert "slow numbers" in slow(b"1e308", most + 1, size)


def test_a_light_body_is_not_looked_at() -> None:
    def free(value: Any) -> int:
        return 1

    declared, many = Function(function("free")(free)), b'{"value":[' + b"1e308," * (LIGHT_BYTES // 6 - 20) + b"1]}"
    assert len(declared.decode(many.ljust(LIGHT_BYTES))) == 1
    with pytest.raises(InvalidArguments, match="slow numbers"):
        declared.decode(many.ljust(LIGHT_BYTES + 1))


@pytest.mark.parametrize(
    ("number", "each"),
    [
        (b"9007199254740993", 0), (b"9007199254740993.0", 1),
        (b"0." + b"3" * (LONG_DIGITS - 2), 1), (b"0." + b"3" * (LONG_DIGITS - 3), 0),
        (b"7" * (VERY_LONG_DIGITS - 1), 0), (b"7" * VERY_LONG_DIGITS, VERY_LONG), (b"1" * 50 * VERY_LONG_DIGITS, 50 * VERY_LONG),
        (b"0." + b"5" * (VERY_LONG_DIGITS - 2), VERY_LONG + 1),
    ],
)  # fmt: skip
def test_long_numbers_are_few(number: bytes, each: int) -> None:
    most = MAX_SLOW // each if each else MAX_VALUES - 1
    assert slow(number, most) == ""
    assert ("slow numbers" if each else "values") in slow(number, most + MORE)


@pytest.mark.parametrize("together", [5, 25])
def test_numbers_between_short_texts_are_counted_too(together: int) -> None:
    def texts(most: int) -> bytes:
        return (b"[" + b'"",'.join([b"1e-309," * together] * (most // together)) + b"1]").ljust(SLOW_BYTES * MAX_SLOW)

    assert said(texts(MAX_SLOW // ODD)) == ""
    assert "slow numbers" in said(texts(MAX_SLOW // ODD + together))


def test_names_are_no_numbers() -> None:
    assert said(orjson.dumps([f"node-{number:06}" for number in range(30_000)])) == ""
    assert said(orjson.dumps([f"3e-{number:06}" for number in range(1000)])) == ""


def test_blanks_are_bounded() -> None:
    most = b" \n\t\r" * (BLANKS * MAX_BLANKS // 4)
    assert said(most + b"{}") == ""
    assert said(b"{" + most + b"}") == ""
    assert "32,000,000 blanks" in said(most + b" " * BLANKS + b"{}")


def test_numbers_in_texts_are_texts() -> None:
    odd = b"1e-309," * 100_000 + b"7" * VERY_LONG_DIGITS * 200_000
    assert said(b'{"value":"' + odd + b'"}') == ""
    assert said(b'{"value":"\\"' + odd + b'"}') == ""
    assert said(b'{"value":["",' + odd + b"]}") != ""
    assert said(b'{"value":"' + b"1e-309," * 2000 + b'"}') == "", "where texts end is looked for in shorter ones too"


def test_behind_many_quotes_what_is_in_texts_counts() -> None:
    texts = b'"hello, world, again",'
    assert said(b"[" + texts * (MAX_QUOTES // 2) + texts * (MAX_VALUES // 3 - MAX_QUOTES // 2) + b"1]") == ""
    assert "values" in said(b"[" + texts * (MAX_VALUES // 3 + MAX_QUOTES) + b"1]")


def test_quotes_that_are_followed_are_bounded_over_all_texts() -> None:
    body = bytearray(b'{"value":["' + (b'\\",' * 1100 + b'","') * 300 + b'"]}')
    looked: list[int] = []

    class Counted(bytearray):
        def find(self, *args: Any) -> int:
            looked.append(1)
            return super().find(*args)

    assert list(outside_of_texts(Counted(body), MAX_QUOTES))[-1][1] == len(body)
    assert MAX_QUOTES <= len(looked) <= MAX_QUOTES + 1


def test_backslashes_are_bounded() -> None:
    assert said(b'{"value":"' + b"\\n" * MAX_BACKSLASHES + b'"}') == ""
    assert "4,000,000 backslashes" in said(b'{"value":"' + b"\\n" * (MAX_BACKSLASHES + 1) + b'"}')
    assert said(b'{"value":"' + b"\\u0041" * (MAX_BACKSLASHES // 2) + b'"}') == ""
    assert "4,000,000 backslashes" in said(b'{"value":"' + b"\\u0041" * (MAX_BACKSLASHES // 2 + 1) + b'"}')


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("\U0001f600", 4), ("\U00010000", 4), ("\U0010ffff", 4), ("\\ud83d\\ude00", 4), ("\\uD83D\\uDE00", 4),
        ("\u0100", 2), ("\u20ac", 2), ("\uffff", 2), ("\\u20ac", 2), ("\\ud55c", 2), ("\\\\\\u20ac", 2),
        ("\\u0041" * MAX_HEX + "\\ud83d", 4), ("\\u0041" * MAX_HEX + "\\u20ac", 2),
    ],
)  # fmt: skip
def test_one_wide_character_makes_a_long_text_larger(text: str, width: int) -> None:
    begin, end = b'{"value":"', text.encode() + b'"}'
    taken = len(begin) + len(b'"}') + len(text) - 5 * text.count("\\u")
    fits = begin + b"x" * (MAX_TEXT_BYTES // width - taken) + end
    assert said(fits) == ""
    assert f"100,663,296 bytes at {width} for a character" in said(fits + b" ")


@pytest.mark.parametrize(
    "text",
    ["x", "\xe9", "\xff", "\u20ac", "\u20acx", "C:\\\\users", "\\u001b[1mbold text\\u001b[0m", "x" * 999 + "C:\\\\udata\\n"],
)
def test_as_much_as_a_body_may_be_of_other_texts(text: str) -> None:
    encoded = text.encode()
    body = b'{"value":"' + encoded * (60 * 1024 * 1024 // len(encoded)) + b'"}'
    if body.count(b"\\") + body.count(b"\\u") > MAX_BACKSLASHES or body.count(b"\\u") > MAX_HEX:
        body = b'{"value":"' + encoded * (MAX_HEX // 2) + b"x" * 60 * 1024 * 1024 + b'"}'
    assert said(body) == ""


@pytest.mark.parametrize("count", [MAX_VALUES, 4 * LIGHT_BYTES])
def test_what_is_too_much_is_refused_for_a_function(count: int) -> None:
    def free(value: Any) -> int:
        return 1

    declared = Function(function("free")(free))
    with pytest.raises(InvalidArguments, match="the arguments hold more slow numbers than") as caught:
        declared.decode(b'{"value":[' + b"1e-309," * (count // 16) + b"1]}")
    assert "as one text" in caught.value.hint


def test_a_large_body_is_weighed_in_steps() -> None:
    looked = list(weigh(b"x" * 64 * 1024 * 1024))
    assert len(looked) >= 8
