"""``zcluster events`` against a cluster of plain data."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import pytest

from zcluster.cli.events import about, details
from zcluster.errors import Unreachable

JOIN = {"sequence": 1, "at_s": 0.0, "name": "join", "level": "info", "fields": {"name": "w1", "role": "worker", "reason": ""}}
SYNC = {"sequence": 2, "at_s": 60.0, "name": "sync_failed", "level": "warning", "fields": {"tree": "site", "worker": "w\x1b[2J"}}


class Client:
    """Stands in for AsyncClient: the events it has, and what was asked."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = [JOIN, SYNC]
        self.asked: list[dict[str, Any]] = []
        self.away = False

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    async def events(self, **asked: Any) -> AsyncIterator[dict[str, Any]]:
        if self.away and not asked["follow"]:
            raise Unreachable("no master listens")
        self.asked.append(asked)
        for event in self.found:
            yield event


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr("zcluster.cli.events.open_client", lambda state, connection: made)
    return made


def test_a_table_says_what_each_event_is_about(client: Client, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("events")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].split() == ["TIME", "SEQUENCE", "EVENT", "ABOUT", "DETAILS"]
    assert lines[1].split()[2:] == ["1", "join", "w1", "role=worker"]
    assert lines[2].split()[2:] == ["2", "sync_failed", "w\\x1b[2J", "tree=site"]
    assert client.asked == [{"after": None, "since_s": None, "names": (), "limit": 50, "follow": False}]


def test_the_formats_of_a_list(client: Client, zcluster: Callable[..., Any]) -> None:
    assert json.loads(zcluster("events", "-o", "json").out) == {"schema": 1, "items": [JOIN, SYNC], "total": 2, "next": None}
    assert [json.loads(line) for line in zcluster("events", "-o", "ndjson").out.splitlines()] == [JOIN, SYNC]
    assert zcluster("events", "-o", "name").out == "join\nsync_failed\n"
    assert "warning" in zcluster("events", "-o", "wide").out


@pytest.mark.parametrize("output", ["json", "ndjson", "yaml"])
def test_following_prints_an_object_a_line(output: str, client: Client, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("events", "--follow", "-o", output)
    assert [json.loads(line) for line in ran.out.splitlines()] == [JOIN, SYNC]
    assert client.asked[-1]["follow"]


def test_following_prints_lines_for_people(client: Client, zcluster: Callable[..., Any]) -> None:
    lines = zcluster("events", "-f").out.splitlines()
    assert [line.split()[-1] for line in lines] == ["DETAILS", "role=worker", "tree=site"]
    assert zcluster("events", "-f", "-o", "name").out == "join\nsync_failed\n"


def test_following_does_not_begin_without_a_master(client: Client, zcluster: Callable[..., Any]) -> None:
    client.away = True
    ran = zcluster("events", "--follow")
    assert (ran.code, ran.out) == (6, "")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"agent": "a1", "node": "master"}, ("a1", "node=master")),
        ({"scope": "defaults", "version": 2}, ("defaults", "version=2")),
    ],
)
def test_an_event_of_an_agent_is_about_the_agent(fields: dict[str, Any], said: tuple[str, str]) -> None:
    assert (about({"fields": fields}), details({"fields": fields})) == said


def test_since_is_a_sequence_or_a_time(client: Client, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 10_000.0)
    for since in ("42", "1h", "90s"):
        assert zcluster("events", "--since", since).code == 0
    assert [(asked["after"], asked["since_s"], asked["limit"]) for asked in client.asked] == [
        (42, None, None), (None, 6400.0, None), (None, 9910.0, None),
    ]  # fmt: skip
    assert zcluster("events", "--since", "soon").code == 2
    assert zcluster("events", "--since", "-5").code == 2


def test_names_and_limit_are_passed_on(client: Client, zcluster: Callable[..., Any]) -> None:
    zcluster("events", "--name", "dead", "--name", "sync_*", "--limit", "3", "--follow")
    assert client.asked[-1] == {"after": None, "since_s": None, "names": ("dead", "sync_*"), "limit": 3, "follow": True}
    assert zcluster("events", "--limit", "0").code == 2
