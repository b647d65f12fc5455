"""Arguments with too many values are found before they are decoded; long texts are not taken for many values."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.dapi import Function, function
from zcluster.dapi import values as module
from zcluster.dapi.values import MAX_BACKSLASHES, MAX_QUOTES, MAX_VALUES, too_many_values
from zcluster.errors import InvalidArguments

PAD = b" " * (module.FREE_BYTES + 1)
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
    assert too_many_values(body) is many
    assert too_many_values(bytearray(body)) is many


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
    assert module._outside_of_texts(body, MAX_QUOTES) == (count(value), len(body))


def test_a_function_is_not_called_with_too_many() -> None:
    def free(value: Any) -> int:
        return 1

    declared = Function(function("free")(free))
    with pytest.raises(InvalidArguments, match="more than 500,000 values") as caught:
        declared.decode(b'{"value":[' + b"[]," * MAX_VALUES + b"1]}")
    assert "several calls" in caught.value.hint
    assert declared.decode(b'{"value":"' + b"," * MAX_VALUES * 2 + b'"}') == ("," * MAX_VALUES * 2,)
