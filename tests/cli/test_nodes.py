"""``zcluster nodes`` and ``zcluster status`` against a cluster of plain data."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from zcluster.errors import MasterLost

NODE = {
    "name": "worker-1",
    "role": "worker",
    "state": "ready",
    "version": "0.1.0",
    "last_seen_s": 0.2,
    "load": 0.5,
    "in_flight": 3,
    "cpu_percent": 12.25,
    "memory_percent": 40.0,
}
DEAD = {**NODE, "name": "worker-2", "state": "dead", "last_seen_s": 61.0, "cpu_percent": None}
STATUS = {
    "cluster": "lab",
    "master": "master",
    "version": "0.1.0",
    "started_s": 0.0,
    "nodes": {"ready": 2, "dead": 0},
    "sessions": 3,
    "requests": {"answered": 10},
    "events": {},
}


def test_nodes_as_a_table(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.node_rows = [NODE, DEAD]
    ran = zcluster("nodes")
    assert ran.code == 0
    assert ran.out.splitlines()[0].split() == ["NAME", "ROLE", "STATE", "SEEN", "LOAD", "IN-FLIGHT", "CPU%", "MEM%"]
    assert ran.out.splitlines()[1].split() == ["worker-1", "worker", "ready", "200", "ms", "0.5", "3", "12.25", "40"]
    assert "0.1.0" in zcluster("nodes", "-o", "wide").out
    cluster.node_rows = [{**NODE, "door": ["tcp://a:1", "tcp://b:1"]}, {**DEAD, "door": []}]
    doors = [line.split()[-1] for line in zcluster("nodes", "-o", "wide").out.splitlines()[1:]]
    assert doors == ["tcp://a:1,tcp://b:1", "-"]


def test_nodes_as_json_have_the_fixed_fields(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.node_rows = [NODE, DEAD]
    assert json.loads(zcluster("nodes", "-o", "json").out) == {"schema": 1, "items": [NODE, DEAD], "total": 2, "next": None}
    assert zcluster("nodes", "-o", "name").out == "worker-1\nworker-2\n"


def test_nodes_are_listed_master_first_then_by_name(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.node_rows = [DEAD, {**NODE, "name": "z", "role": "master"}, NODE]
    assert zcluster("nodes", "-o", "name").out == "z\nworker-1\nworker-2\n"


def test_status_is_ok_when_all_nodes_are(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.status_row, cluster.node_rows = STATUS, [NODE]
    ran = zcluster("status")
    assert ran.code == 0
    assert "nodes     2 ready" in ran.out.splitlines()
    assert "events    none" in ran.out.splitlines()
    assert "health    ok" in ran.out.splitlines()


@pytest.mark.parametrize(("state", "code"), [("joining", 0), ("ready", 0), ("left", 0), ("silent", 3), ("dead", 3)])
def test_status_is_degraded_when_a_node_is_silent_or_dead(
    state: str, code: int, cluster: Any, zcluster: Callable[..., Any]
) -> None:
    cluster.status_row, cluster.node_rows = STATUS, [NODE, {**DEAD, "state": state}]
    assert zcluster("status").code == code
    data = json.loads(zcluster("status", "-o", "json").out)
    assert data == {"schema": 1, **STATUS, "health": "degraded" if code else "ok"}


def test_status_names_the_node_that_is_dead(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.status_row, cluster.node_rows = STATUS, [DEAD]
    assert zcluster("status").out.splitlines()[-1] == "dead: worker-2, seen 61.0 s ago"


def test_watch_prints_a_line_per_change(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.node_rows = [NODE]
    cluster.events = [
        {"node": "worker-2", "state": "joining", "reason": ""},
        {"node": "worker-2", "state": "ready", "reason": "hello"},
    ]
    ran = zcluster("nodes", "--watch")
    assert [line.split()[1:] for line in ran.out.splitlines()] == [
        ["worker-1", "ready", "found"],
        ["worker-2", "joining", "-"],
        ["worker-2", "ready", "hello"],
    ]


def test_watch_as_ndjson(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.events = [{"node": "worker-2", "state": "dead", "reason": "silence"}]
    (line,) = zcluster("nodes", "--watch", "-o", "ndjson").out.splitlines()
    event = json.loads(line)
    assert event.pop("at_s") > 0
    assert event == cluster.events[0]


def test_watch_redraws_in_a_terminal(cluster: Any, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.cli.nodes.on_terminal", lambda: True)
    cluster.node_rows = [NODE]
    cluster.events = [{"node": "worker-1", "state": "dead", "reason": "silence"}]
    out = zcluster("nodes", "--watch").out
    assert out.count("\x1b[H\x1b[2J") == 2
    assert out.splitlines()[-1].endswith("worker-1  dead  silence")


def test_watch_finds_what_no_event_told_and_outlives_its_master(
    cluster: Any, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zcluster.cli.nodes.REDRAW_S", 0)
    looks: list[Any] = [[NODE], [NODE], MasterLost("gone"), MasterLost("gone"), [NODE, DEAD], KeyboardInterrupt()]

    async def nodes() -> Any:
        look = looks.pop(0)
        if isinstance(look, BaseException):
            raise look
        return look

    async def silence() -> AsyncIterator[dict[str, Any]]:
        await asyncio.Event().wait()
        yield {}

    monkeypatch.setattr(type(cluster), "nodes", property(lambda _: nodes))
    monkeypatch.setattr(cluster, "subscribe_nodes", silence)
    ran = zcluster("nodes", "--watch")
    assert ran.code == 130
    assert [line.split()[1:] for line in ran.out.splitlines()] == [["worker-1", "ready", "found"], ["worker-2", "dead", "found"]]
    assert ran.err == "zcluster: gone\n"
