"""Filters: what they mean, where they are wrong, and how large they may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.agents.filter import (
    MAX_DEPTH,
    MAX_FILTER_CHARS,
    MAX_GLOB_CHARS,
    MAX_TERMS,
    Both,
    Compare,
    Condition,
    Either,
    Not,
    checked,
    parse,
)
from zcluster.core.agents.match import glob_matches, matches
from zcluster.core.agents.row import Row
from zcluster.errors import UsageError

NOW = 1_700_000_000.0
A, B, C = (Compare("name", "=", word) for word in "abc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name=a", A),
        (" name = 'a' ", A),
        ('name="a"', A),
        ("name=a and name=b and name=c", Both((A, B, C))),
        ("name=a or name=b and name=c", Either((A, Both((B, C))))),
        ("(name=a or name=b) and name=c", Both((Either((A, B)), C))),
        ("not name=a and name=b", Both((Not(A), B))),
        ("NOT (name=a OR name=b)", Not(Either((A, B)))),
        ("not not name=a", Not(Not(A))),
        ("group=web", Compare("groups", "=", "web")),
        ("name=and", Compare("name", "=", "and")),
        (r"name='it\'s \\ (all) = one'", Compare("name", "=", "it's \\ (all) = one")),
        ("labels.a.b/c!=x,y", Compare("labels.a.b/c", "!=", "x,y")),
        ("name~'web-*'", Compare("name", "~", "web-*")),
        ("last_seen>10m", Compare("last_seen", "<", "1699999400.000000")),
        ("last_seen<=1.5h", Compare("last_seen", ">=", "1699994600.000000")),
        ("last_seen<2023-11-14T22:13:20Z", Compare("last_seen", "<", "1700000000.000000")),
        ("first_seen>=2023-11-14", Compare("first_seen", ">=", "1699920000.000000")),
        ("last_seen<5", Compare("last_seen", "<", "5")),
        ("last_seen=never", Compare("last_seen", "=", "0")),
    ],
)
def test_what_a_filter_says(text: str, expected: Condition) -> None:
    assert parse(text, NOW) == expected
    assert checked(expected) == expected


def test_an_empty_filter_is_met_by_every_row() -> None:
    assert parse("", NOW) is None
    assert parse(" \t\n", NOW) is None
    assert matches(None, Row(id="a"))


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("nme=a", 1, "did you mean 'name'"),
        ("name=a and statu=active", 12, "did you mean 'status'"),
        ("status=actve", 1, "did you mean 'active'"),
        ("name", 5, "expected one of"),
        ("name=", 6, "expected a value"),
        ("name=a name=b", 8, "expected 'and', 'or' or the end"),
        ("name=a and", 11, "expected a field"),
        ("(name=a", 8, r"expected '\)'"),
        ("name=a)", 7, "expected 'and', 'or' or the end"),
        ("()", 2, "expected a field"),
        ("name='a", 6, "no end"),
        ("name!a", 5, "expected something else"),
        ("name<a", 1, "has no order"),
        ("group>a", 1, "has no order"),
        ("labels=a", 1, "labels.NAME"),
        ("labels.=a", 1, "no field"),
        ("os..x=a", 1, "no field"),
        ("version<new", 1, "no version"),
        ("metrics.cpu>high", 1, "is a number"),
        ("epoch=x", 1, "is a number"),
        ("last_seen=10m", 11, "an age has no ="),
        ("last_seen>yesterday", 11, "is no time"),
        ("last_seen<never", 11, "never has no <"),
        ("last_seen~1*", 11, "is no time"),
        ("epoch~1*", 1, "~ compares texts"),
        ("name~[ab]", 1, "glob"),
        ("name='a\x1b'", 1, "control character"),
    ],
)
def test_an_error_says_where_and_what(text: str, place: int, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse(text, NOW)
    assert str(caught.value).startswith(f"filter, character {place}: ")


def test_the_largest_filter_and_one_more() -> None:
    terms = " or ".join(["name=a"] * MAX_TERMS)
    assert parse(terms, NOW) is not None
    with pytest.raises(UsageError, match="65 terms"):
        parse(terms + " or name=a", NOW)
    deep = MAX_DEPTH - 1
    assert parse("(" * deep + "name=a" + ")" * deep, NOW) == A
    with pytest.raises(UsageError, match="at most 32 levels"):
        parse("(" * (deep + 1) + "name=a" + ")" * (deep + 1), NOW)
    with pytest.raises(UsageError, match="at most 32 levels"):
        parse("not " * 1000 + "name=a", NOW)
    longest = "name=" + "a" * (MAX_FILTER_CHARS - 5)
    assert parse(longest, NOW) is not None
    with pytest.raises(UsageError, match="4097 characters"):
        parse(longest + "a", NOW)
    glob = "name~" + "*" * MAX_GLOB_CHARS
    assert parse(glob, NOW) is not None
    with pytest.raises(UsageError, match="glob"):
        parse(glob + "*", NOW)


def test_what_was_made_by_hand_keeps_the_same_bounds() -> None:
    deep: Condition = A
    for _ in range(100):
        deep = Not(deep)
    wrong = (deep, Both((A,) * 65), Compare("nme", "=", "a"), Compare("name", "<", "a"), Compare("name", "==", "a"))  # type: ignore[arg-type]
    for where in wrong:
        with pytest.raises(UsageError):
            checked(where)
    assert checked(None) is None


@given(st.text(max_size=60))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    try:
        where = parse(text, NOW)
    except UsageError:
        return
    matches(checked(where), Row(id="a"))


@given(
    st.lists(st.sampled_from(["name", "=", "a", "and", "or", "not", "(", ")", "'", "<", "~", "10m", "last_seen"]), max_size=12)
)
def test_no_mixture_of_words_does_more_than_be_refused(words: list[str]) -> None:
    try:
        where = parse(" ".join(words), NOW)
    except UsageError:
        return
    matches(checked(where), Row(id="a"))


@pytest.mark.parametrize(
    ("glob", "text", "expected"),
    [
        ("", "", True), ("", "a", False), ("*", "", True), ("a*", "abc", True), ("*c", "abc", True), ("a?c", "abc", True),
        ("a?c", "ac", False), ("*b*", "abc", True), ("a*b*c", "a1b2c", True), ("a*b*c", "a1c2b", False), ("**", "x", True),
        ("a", "A", False), ("*a*a*a*a*a*a*a*b", "a" * 256, False),
    ],
)  # fmt: skip
def test_globs(glob: str, text: str, expected: bool) -> None:
    assert glob_matches(glob, text) is expected
