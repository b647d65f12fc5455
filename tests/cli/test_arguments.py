"""The arguments of ``dapi call``."""

from __future__ import annotations

import io
from typing import Any

import pytest

from zcluster.cli.arguments import arguments, read_arguments
from zcluster.errors import InvalidArguments, TooLarge, UsageError


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), {}),
        (("a=1",), {"a": 1}),
        (("a=text",), {"a": "text"}),
        (('a="5"',), {"a": "5"}),
        (("a=",), {"a": ""}),
        (("a=b=c",), {"a": "b=c"}),
        (("a=[1,2]", 'b={"c":null}', "d=true"), {"a": [1, 2], "b": {"c": None}, "d": True}),
        (('a="NaN"', "b=NaN and more", "c=nan", "d=1e999x"), {"a": "NaN", "b": "NaN and more", "c": "nan", "d": "1e999x"}),
        (('{"a": 1, "b": "x"}',), {"a": 1, "b": "x"}),
        (("  {}",), {}),
        (("a=" + "[" * 100_000,), {"a": "[" * 100_000}),
        (("a=" + "9" * 5000,), {"a": "9" * 5000}),
    ],
)
def test_words_become_arguments(words: tuple[str, ...], found: dict[str, Any]) -> None:
    assert arguments(words) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a",), "'a' is not name=value"),
        (("=1",), "'=1' is not name=value"),
        (("a=1", "a=2"), "'a' is given twice"),
        (("{",), "the argument is not JSON"),
        (('{"a": NaN}',), "the argument holds nan"),
        (('{"a": [{"b": -1e999}]}',), "the argument holds -inf"),
        (("a=NaN",), "NaN holds nan, which JSON has no number for"),
        (("a=-Infinity",), "-Infinity holds -inf"),
        (("a=1e999",), "1e999 holds inf"),
        (('a=[{"b": 1e999}]',), "holds inf"),
        (('{"a": ' + "9" * 5000 + "}",), "the argument is not JSON"),
        (("{}", "a=1"), "'{}' is not name=value"),
        (("{" + '"a":{' * 100_000,), "the argument is"),
    ],
)
def test_what_is_no_argument_is_told(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidArguments, match=message):
        arguments(words)


@pytest.mark.parametrize("words", [('{"a": 1, "a": 2}',), ('a={"b": 1, "b": 2}',)])
def test_a_name_twice_in_json_is_an_error(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="twice"):
        arguments(words)


def test_stdin_is_read_up_to_its_limit() -> None:
    assert read_arguments(io.BytesIO(b'{"a": 1}'), 8) == {"a": 1}


def test_one_byte_more_is_too_large_and_nothing_beyond_it_is_read() -> None:
    stream = io.BytesIO(b'{"a": 1}' + b" " * 1000)
    with pytest.raises(TooLarge, match="more than 8 bytes"):
        read_arguments(stream, 8)
    assert stream.tell() == 9


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[1]", "not an object"),
        (b"", "not JSON"),
        (b'{"a": NaN}', "stdin holds nan"),
        (b'{"a": "\xff"}', "UTF-8 at byte 7"),
    ],
)
def test_stdin_has_to_be_a_json_object(data: bytes, message: str) -> None:
    with pytest.raises(InvalidArguments, match=message):
        read_arguments(io.BytesIO(data), 100)
