"""Events as those who follow them see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from zcluster.core import eventnames as module
from zcluster.core.eventnames import (
    MAX_FIELDS,
    MAX_FIELDS_BYTES,
    MAX_GLOB_CHARS,
    MAX_GLOBS,
    MAX_ITEMS,
    MAX_TEXT_CHARS,
    Names,
    checked_globs,
    key_events,
    matches,
    told,
)
from zcluster.core.peers import Event
from zcluster.errors import UsageError


def node(state: str, name: str = "w1") -> Event:
    return Event(f"node_{state}", {"name": name, "role": "worker", "reason": ""})


def test_a_node_joins_once_and_then_comes_back() -> None:
    names = Names(["old"])
    states = ("ready", "silent", "ready", "dead", "ready", "draining", "left", "ready")
    assert [names.of(node(state)) for state in states] == ["join", "silent", "back", "dead", "back", "draining", "left", "back"]
    assert names.of(node("ready", "old")) == "back"


def test_a_node_with_a_new_key_joins_anew() -> None:
    names = Names(["w1"])
    assert names.of(Event("key_revoked", {"name": "w1"})) == "key_revoked"
    assert names.of(node("ready")) == "join"


def test_sessions_are_not_told_and_other_names_stay() -> None:
    names = Names()
    assert [names.of(Event(name, {})) for name in ("session_opened", "session_closed", "slow_reader")] == ["", "", "slow_reader"]


def test_the_nodes_that_are_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 2)
    names = Names()
    assert [names.of(node("ready", name)) for name in ("a", "b", "b", "c", "b", "a")] == [
        "join", "join", "back", "join", "back", "join",
    ]  # fmt: skip


@dataclass(frozen=True)
class Entry:
    name: str
    role: str
    id: str


def ring(*entries: tuple[str, str, str]) -> dict[str, Entry]:
    return {entry[0]: Entry(*entry) for entry in entries}


def test_changes_of_the_ring() -> None:
    before = ring(("a", "client", "A"), ("b", "worker", "B"), ("c", "client", "C"), ("same", "admin", "S"))
    after = ring(("b", "worker", "B2"), ("c", "admin", "C"), ("d", "agent", "D"), ("same", "admin", "S"))
    found = [(event.name, event.fields) for event in key_events(before, after)]
    assert found == [
        ("key_revoked", {"name": "a", "role": "client"}),
        ("key_revoked", {"name": "b", "role": "worker"}),
        ("key_admitted", {"name": "b", "role": "worker"}),
        ("key_changed", {"name": "c", "role": "admin", "was": "client"}),
        ("key_admitted", {"name": "d", "role": "agent"}),
    ]
    assert list(key_events(after, after)) == []


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (True, True),
        (None, None),
        (2**53 - 1, 2**53 - 1),
        (2**53, "0x20000000000000"),
        (1.5, 1.5),
        (float("nan"), None),
        (float("-inf"), None),
        ("two\nlines\x1b[2J", "two\\nlines\\x1b[2J"),
        (("a", 1), ["a", 1]),
        ({"deep": {"er": [1]}}, {"deep": {"er": [1]}}),
        ([[[["too deep"]]]], [[["…"]]]),
        (b"bytes", "b'bytes'"),
    ],
)
def test_a_value_as_it_is_told(value: Any, kept: Any) -> None:
    assert told({"x": value}) == {"x": kept}


def test_what_is_told_is_bounded() -> None:
    assert told({"x": "y" * MAX_TEXT_CHARS}) == {"x": "y" * MAX_TEXT_CHARS}
    assert told({"x": "y" * (MAX_TEXT_CHARS + 1)}) == {"x": "y" * (MAX_TEXT_CHARS - 1) + "…"}
    assert len(told({"x": list(range(1000))})["x"]) == MAX_ITEMS
    assert len(told({str(number): number for number in range(1000)})) == MAX_FIELDS
    assert len(next(iter(told({"k" * 1000: 1})))) == 64


def test_an_event_that_is_too_large_keeps_its_first_plain_values() -> None:
    large = {"name": "w1", "list": ["é" * 1000] * 60, **{f"t{number}": "é" * 1000 for number in range(30)}}
    found = told(large)
    assert found["name"] == "w1"
    assert "list" not in found
    assert len(msgspec.json.encode(found)) <= MAX_FIELDS_BYTES


def test_globs() -> None:
    assert matches("dead", ())
    assert matches("sync_failed", ("dead", "sync_*"))
    assert not matches("dead", ("join", "sync_*"))
    assert checked_globs(["x"] * MAX_GLOBS) == ("x",) * MAX_GLOBS
    assert checked_globs(["x" * MAX_GLOB_CHARS]) == ("x" * MAX_GLOB_CHARS,)
    for bad in (["x"] * (MAX_GLOBS + 1), [""], ["x" * (MAX_GLOB_CHARS + 1)]):
        with pytest.raises(UsageError):
            checked_globs(bad)
