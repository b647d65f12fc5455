"""TOML: lines of keys, values written, broken text without its content."""

from __future__ import annotations

import math
import tomllib
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.config import TomlFault, parse_toml, toml_value
from zcluster.config.tomltext import MAX_TOML_BYTES, key_lines

TRICKY = '''\
# [no] = 1
a = "x # not a comment = 1" # c
[t] # comment = 2
b = """
fake = 1
[fake]
say ""quoted"" \\""" "done"""""
c = [ # list
  1, # d = 3
  "]", ']', """
] e = 4
""",
]
'f.g' = 1
"h\\u0069" = 2
i.j = { k = 1, l = [2] }
[ "u" . v ]
w = \'\'\'it's
x = 1\'\'\'
[[y]]
z = 2024-01-01T00:00:00Z
'''


def test_each_key_has_its_line_whatever_strings_and_comments_say() -> None:
    tomllib.loads(TRICKY)
    assert key_lines(TRICKY) == {
        ("a",): 2,
        ("t",): 3,
        ("t", "b"): 4,
        ("t", "c"): 8,
        ("t", "f.g"): 14,
        ("t", "hi"): 15,
        ("t", "i", "j"): 16,
        ("u", "v"): 17,
        ("u", "v", "w"): 18,
        ("y",): 20,
        ("y", 0): 20,
        ("y", 0, "z"): 21,
    }


def test_each_table_of_an_array_has_its_own_lines() -> None:
    text = "[[a.b]]\nc = 1\n[a.b.d]\ne = 1\n[[a.b.f]]\n[[ 'a' . b ]] # [[a.b]]\nc = [\n]\n[[a.b.f]]\ng = 1\n[h]\nc = 1\n"
    tomllib.loads(text)
    assert key_lines(text) == {
        ("a", "b"): 1,
        ("a", "b", 0): 1,
        ("a", "b", 0, "c"): 2,
        ("a", "b", 0, "d"): 3,
        ("a", "b", 0, "d", "e"): 4,
        ("a", "b", 0, "f"): 5,
        ("a", "b", 0, "f", 0): 5,
        ("a", "b", 1): 6,
        ("a", "b", 1, "c"): 7,
        ("a", "b", 1, "f"): 9,
        ("a", "b", 1, "f", 0): 9,
        ("a", "b", 1, "f", 0, "g"): 10,
        ("h",): 11,
        ("h", "c"): 12,
    }


def test_windows_line_ends_count_the_same() -> None:
    text = "[a]\r\nb = 1\r\n\r\nc = 2\r\n"
    assert key_lines(text) == {("a",): 1, ("a", "b"): 2, ("a", "c"): 4}


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=20), max_size=6))
def test_any_text_is_written_and_found_again(values: dict[str, str]) -> None:
    text = "".join(f"# c\n{toml_value(key)} = {toml_value(value)}\n" for key, value in values.items())
    assert tomllib.loads(text) == values
    assert key_lines(text) == {(key,): 2 * (index + 1) for index, key in enumerate(values)}


@given(st.lists(st.integers() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5), max_size=4))
def test_any_value_is_written_and_read_back(values: list[object]) -> None:
    back = tomllib.loads(f"x = {toml_value(values)}")["x"]
    assert back == values
    assert [type(item) for item in back] == [type(item) for item in values]


def test_a_value_that_toml_has_not_is_a_type_error() -> None:
    assert math.isnan(tomllib.loads(f"x = {toml_value(math.nan)}")["x"])
    with pytest.raises(TypeError, match="NoneType"):
        toml_value(None)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"a = 1\nb = SECRET\n", 2),
        (b"a = 1\nb = 2\na = 3\n", 3),
        (b"a = 1\nb = [1,\n", 2),
        (b"a = 1\nb = \xff\n", 2),
        (b"a = " + b"[" * 100000, 0),
        (b"a = " + b"9" * 5000, 0),
        (b"#" * (MAX_TOML_BYTES + 1), 0),
    ],
)
def test_broken_text_gives_the_line_and_nothing_of_its_content(data: bytes, line: int) -> None:
    with pytest.raises(TomlFault) as caught:
        parse_toml(data)
    assert caught.value.line == line
    assert caught.value.__context__ is None
    shown = "".join(traceback.format_exception(caught.value))
    assert "SECRET" not in shown


def test_text_of_the_largest_size_is_read() -> None:
    assert parse_toml(b"a = 1\n" + b"#" * (MAX_TOML_BYTES - 6)) == {"a": 1}
