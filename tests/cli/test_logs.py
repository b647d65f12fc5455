"""``zcluster logs`` against a cluster of plain data."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import pytest

LINE = {
    "sequence": 5, "time": "2026-10-14T17:46:40.250Z", "level": "warning", "node": "w1", "message": "node\x1b[2J dead",
    "fields": {"name": "w\n2"},
}  # fmt: skip
AWAY = {
    "sequence": 0,
    "time": "",
    "level": "error",
    "node": "w2",
    "message": "it is\x1b dead",
    "fields": {},
    "error": "node_lost",
}


class Client:
    """Stands in for AsyncClient: the lines it has, and what was asked."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = [LINE]
        self.asked: list[dict[str, Any]] = []

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    async def logs(self, **asked: Any) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(asked)
        for line in self.found:
            yield line


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    made = Client()
    monkeypatch.setattr("zcluster.cli.logs.open_client", lambda state, connection: made)
    return made


def test_lines_look_as_the_daemons_print_them(client: Client, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("logs")
    assert (ran.code, ran.out) == (0, "17:46:40.250 warning w1 node\\x1b[2J dead name=w\\n2\n")
    assert client.asked == [{"target": "master", "lines": 100, "level": "debug"}]


def test_the_options(client: Client, zcluster: Callable[..., Any]) -> None:
    assert zcluster("logs", "-n", "5", "--level", "warning", "w*").code == 0
    assert zcluster("logs", "-f", "all").code == 0
    assert client.asked == [
        {"target": "w*", "lines": 5, "level": "warning"}, {"target": "all", "lines": 100, "level": "debug", "follow": True},
    ]  # fmt: skip
    assert zcluster("logs", "-n", "2001").code == 2
    assert zcluster("logs", "--level", "loud").code == 2


def test_the_formats(client: Client, zcluster: Callable[..., Any]) -> None:
    assert json.loads(zcluster("logs", "-o", "json").out) == {"schema": 1, "items": [LINE], "total": 1, "next": None}
    assert json.loads(zcluster("logs", "-o", "ndjson").out) == LINE
    assert json.loads(zcluster("logs", "-f", "-o", "json").out) == LINE
    assert zcluster("logs", "-o", "name").out == "node\\x1b[2J dead\n"
    assert zcluster("logs", "-f", "-o", "name").out == "node\\x1b[2J dead\n"
    assert "total: 1" in zcluster("logs", "-o", "yaml").out


@pytest.mark.parametrize("follow", [(), ("-f",)])
def test_a_node_that_does_not_answer_is_talk(client: Client, zcluster: Callable[..., Any], follow: tuple[str, ...]) -> None:
    client.found = [LINE, AWAY]
    ran = zcluster("logs", "all", *follow, "-o", "ndjson")
    assert json.loads(ran.out) == LINE
    assert ran.err == "zcluster: w2: it is\\x1b dead\n"
    assert ran.code == (0 if follow else 3)
