"""Block-style YAML: golden texts, and that nothing can be misread."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.cli.yaml_block import block_style


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null\n"),
        (True, "true\n"),
        (0, "0\n"),
        (12345678901234567890, "12345678901234567890\n"),
        (0.5, "0.5\n"),
        (1e16, "1.0e+16\n"),
        (1.5e-7, "1.5e-07\n"),
        (float("inf"), ".inf\n"),
        (float("-inf"), "-.inf\n"),
        (float("nan"), ".nan\n"),
        ({}, "{}\n"),
        ([], "[]\n"),
        ("plain text", "plain text\n"),
        ({"a": 1, "b": [1, {"c": None, "d": []}]}, "a: 1\nb:\n  - 1\n  - c: null\n    d: []\n"),
        ([[1, 2], [[]]], "- - 1\n  - 2\n- - []\n"),
        ([{"a": {"b": "c"}}], "- a:\n    b: c\n"),
        ({"1": 1, "a b": 2, "x: y": 3}, '"1": 1\na b: 2\n"x: y": 3\n'),
    ],
)
def test_values_have_one_block_form(value: Any, text: str) -> None:
    assert block_style(value) == text


LOOKS_LIKE_SOMETHING = (
    """true No ON null ~ 1 1e5 0x1f 2026-01-01 12:30 .5 - a: # [a] {a} &a *a !a | > %a @a `a 'a' "a" = << y .nan é"""
)
HAS_BLANKS = ("", "- a", "a: b", "a #b", " a", "a ", "a\nb", "a\tb")


@pytest.mark.parametrize("text", [*LOOKS_LIKE_SOMETHING.split(), *HAS_BLANKS])
def test_a_string_that_yaml_could_take_for_something_else_is_quoted(text: str) -> None:
    written = block_style(text)
    assert written[0] == written[-2] == '"'
    assert json.loads(written) == text


@pytest.mark.parametrize("text", ["\x7f", "\x85", "\ufeff", "\u2028", "\x00", "\ud800"])
def test_what_is_not_printable_is_escaped(text: str) -> None:
    assert block_style(text) == f'"\\u{ord(text):04x}"\n'


def test_an_astral_character_that_is_not_printable_has_the_long_escape() -> None:
    assert block_style("\U000e0001") == '"\\U000e0001"\n'


def test_a_key_too_long_for_the_short_form_is_explicit() -> None:
    assert block_style({"k" * 1000: 1}) == f"{'k' * 1000}: 1\n"
    assert block_style({"k" * 1001: [1]}) == f"? {'k' * 1001}\n:\n  - 1\n"


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_every_line_is_printable(value: Any) -> None:
    for line in block_style(value).removesuffix("\n").split("\n"):
        assert line.isprintable()
