"""core/groups.py: names, edits as plans, lines, and what an agent gets of files."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.groups import (
    DEFAULT,
    MAX_FILES_OF_AGENT,
    MAX_LINE_CHARS,
    MAX_OF_AGENT,
    ONLY_DEFAULT,
    Edit,
    checked_agent,
    checked_file_name,
    checked_group,
    checked_groups,
    groups_in,
    parse_line,
    plan,
    shared_files,
    value_of,
)
from zcluster.errors import UsageError


@pytest.mark.parametrize("name", ["a", "web", "W.e-b_2", "_x", "0", "a" * 64, "default"])
def test_names_of_groups(name: str) -> None:
    assert checked_group(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-rf",
        "a/b",
        "../etc",
        "a\\b",
        "a b",
        "a\n",
        "a\0",
        "\x1b[2J",
        "gruppe-ä",
        "a" * 65,
        "a,b",
        "*",
        "１",
        "all",
        "Any",
    ],
)
def test_what_is_no_name_of_a_group(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a group") as caught:
        checked_group(name)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["rules.conf", "a b", "ä.txt", ".hidden", "x" * 255])
def test_names_of_files(name: str) -> None:
    assert checked_file_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc/passwd", "a\\b", 'a"b', "a\nb", "\0", "x" * 256, "ä" * 128, "\ud800"]
)
def test_what_is_no_name_of_a_file(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a shared file"):
        checked_file_name(name)


def test_an_agents_id_is_checked() -> None:
    assert checked_agent("7001") == "7001"
    with pytest.raises(UsageError, match="is no id of an agent"):
        checked_agent("../7001")


def test_lists_of_groups() -> None:
    many = [f"g{n}" for n in range(MAX_OF_AGENT)]
    assert checked_groups(many) == tuple(many)
    assert checked_groups([]) == ()
    with pytest.raises(UsageError, match="65 groups are too many"):
        checked_groups([*many, "one-more"])
    with pytest.raises(UsageError, match="group a is named twice"):
        checked_groups(["a", "b", "a"])


@pytest.mark.parametrize(
    ("op", "groups", "before", "after"),
    [
        ("add", ("web",), ("default",), ("default", "web")),
        ("add", ("web",), ("web", "db"), ("web", "db")),
        ("add", ("a", "b"), ("b",), ("b", "a")),
        ("remove", ("web",), ("default", "web"), ("default",)),
        ("remove", ("web",), ("web",), ("default",)),
        ("remove", ("web",), ("db",), ("db",)),
        ("remove", ("default",), ("default",), ("default",)),
        ("set", ("web", "db"), ("default",), ("web", "db")),
        ("set", (), ("web",), ("default",)),
    ],
)
def test_an_edit_keeps_the_order(op: str, groups: tuple[str, ...], before: tuple[str, ...], after: tuple[str, ...]) -> None:
    assert Edit(op, groups).of(before) == after  # type: ignore[arg-type]


def test_an_agent_is_in_so_many_groups_and_no_more() -> None:
    full = tuple(f"g{n}" for n in range(MAX_OF_AGENT))
    assert Edit("add", ("g0",)).of(full) == full
    assert Edit("add", full[-1:]).of(full[:-1]) == full
    with pytest.raises(UsageError, match="it would be in 65 groups"):
        Edit("add", ("more",)).of(full)


def test_only_default_is_not_stored() -> None:
    assert value_of(ONLY_DEFAULT) is value_of(()) is None
    assert groups_in(None) == (DEFAULT,)
    value = value_of(("default", "web"))
    assert value == b'["default","web"]'
    assert groups_in(value) == ("default", "web")


def test_a_plan_says_what_to_store() -> None:
    now = {"a": b'["web"]', "b": b'["web","db"]', "c": b'["db"]'}
    made = plan([(id_, Edit("remove", ("web",))) for id_ in "abcd"], now)
    assert (made.puts, made.deletes, made.same, made.refused) == ({"b": b'["db"]'}, ["a"], 2, [])
    assert made.changed == 2


def test_an_agent_that_comes_twice_is_edited_twice() -> None:
    made = plan([("a", Edit("set", ("x",))), ("a", Edit("add", ("y",)))], {})
    assert made.puts == {"a": b'["x","y"]'}
    back = plan([("a", Edit("add", ("x",))), ("a", Edit("remove", ("x",)))], {})
    assert (back.changed, back.same) == (0, 1)


def test_what_cannot_be_done_for_one_is_done_for_the_others() -> None:
    full = orjson.dumps([f"g{n}" for n in range(MAX_OF_AGENT)])
    made = plan([(id_, Edit("add", ("more",))) for id_ in "ab"], {"a": full})
    assert made.puts == {"b": b'["default","more"]'}
    assert made.refused == [("a", "it would be in 65 groups (an agent is in at most 64)")]
    assert made.same == 0


NAMES = st.sampled_from(["default", "a", "b", "c"])
EDITS = st.builds(Edit, st.sampled_from(["add", "remove", "set"]), st.lists(NAMES, unique=True).map(tuple))


@given(st.lists(st.tuples(st.sampled_from(["x", "y"]), EDITS), max_size=20))
def test_a_plan_is_the_edits_one_after_the_other(edits: list[tuple[str, Edit]]) -> None:
    said: dict[str, tuple[str, ...]] = {}
    for agent, edit in edits:
        said[agent] = edit.of(said.get(agent, ONLY_DEFAULT))
    made = plan(edits, {})
    for agent, groups in said.items():
        assert groups_in(made.puts.get(agent)) == groups
        assert len(set(groups)) == len(groups)
    assert made.deletes == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("7001 web,db", ("7001", ("web", "db"))),
        ("  7001\tdefault  \n", ("7001", ("default",))),
        ("", None),
        ("   ", None),
        ("# 7001 web", None),
    ],
)
def test_a_line(line: str, found: object) -> None:
    assert parse_line(line) == found


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("7001", "is not AGENT GROUP"),
        ("7001 a b", "is not AGENT GROUP"),
        ("../x web", "is no id of an agent"),
        ("7001 web,", "is no name for a group"),
        ("7001 ../web", "is no name for a group"),
        ("7001 a,a", "group a is named twice"),
        ("x" * (MAX_LINE_CHARS + 1), "the line has 8193 characters"),
        ("7001 a\0", "is no name for a group"),
    ],
)
def test_a_bad_line_says_what_is_wrong(line: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        parse_line(line)


def test_files_of_later_groups_replace_those_of_earlier_ones() -> None:
    def file(name: str, digest: str) -> dict[str, object]:
        return {"name": name, "digest": digest, "size": 3}

    files, left_out = shared_files([("a", [file("z", "1"), file("y", "2")]), ("b", [file("z", "3")])])
    assert [(each.name, each.digest, each.size) for each in files] == [("y", "2", 3), ("z", "3", 3)]
    assert left_out == 0
    many = [file(f"f{n:04d}", str(n)) for n in range(MAX_FILES_OF_AGENT)]
    files, left_out = shared_files([("a", many), ("b", [file("f0000", "new"), file("more", "x")])])
    assert (len(files), files[0].digest, left_out) == (MAX_FILES_OF_AGENT, "new", 1)
