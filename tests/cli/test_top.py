"""``zcluster top``: what is on the picture, and that it fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest

from zcluster.cli.top import PIPE_COLUMNS, cut, picture
from zcluster.errors import NoSuchFunction, Unreachable, ZClusterError

STATUS = {
    "cluster": "lab", "uptime_s": 7200.0, "nodes": {"ready": 2, "dead": 1, "left": 0}, "sessions": 9,
    "requests": {"running": 3, "waiting": 4, "waiting_bytes": 2048, "per_s": 1234.0},
}  # fmt: skip
EVENT = {"sequence": 5, "at_s": 0.0, "name": "dead", "level": "warning", "fields": {"name": "w1", "reason": "silent for 3.0 s"}}
CURRENT = {"worker": "w3", "tree": "site", "state": "current", "files_behind": 0, "bytes_per_s": 0.0, "reason": "", "error": ""}
BEHIND = {**CURRENT, "worker": "w2", "state": "pulling", "files_behind": 12, "bytes_per_s": 1048576.0}


def node(name: str, state: str = "ready", role: str = "worker") -> dict[str, Any]:
    return {
        "name": name, "role": role, "state": state, "last_seen_s": 0.5, "in_flight": 3, "waiting": 0, "cpu_percent": 12.7,
        "memory_percent": 40.2, "agents": 17, "version": "0.1.0",
        "metrics": {"disk": {"percent": 81.0}, "load": {"m1": 0.5}, "process": {"rss_bytes": 1048576, "open_files": 9}},
    }  # fmt: skip


def seen(**changes: Any) -> dict[str, Any]:
    return {
        "status": STATUS, "nodes": [node("w2"), node("w1", "dead"), node("m", role="master")], "sync": [BEHIND, CURRENT],
        "agents": {"total": 5000, "by": {"active": 4990, "silent": 10, "never": 0}}, "events": {"events": [EVENT]}, "trouble": "",
        **changes,
    }  # fmt: skip


def test_the_picture_has_everything_and_bad_nodes_first() -> None:
    lines = picture(seen())
    assert lines[0].startswith("lab  ")
    assert lines[0].endswith("up 2.0 h  nodes: 2 ready, 1 dead")
    assert lines[1] == "requests: 1,234/s, 9 running, 4 waiting (2.0 KiB)  sessions: 9"
    assert lines[2] == "agents: 5,000, 4,990 active, 10 silent"
    assert lines[3] == "sync: 1 of 2 copies are current, 1.0 MiB/s; w2 site pulling, 12 files behind"
    assert [line.split()[0] for line in lines[6:9]] == ["w1", "m", "w2"]
    assert lines[6].split()[1:] == ["dead", "500", "ms", "3", "0", "-", "-", "-", "17"]
    assert lines[8].split()[1:] == ["ready", "500", "ms", "3", "0", "13", "40", "81", "17"]
    assert lines[10].split()[1:] == ["dead", "w1", "reason=silent", "for", "3.0", "s"]


def test_a_wide_picture_has_more() -> None:
    (header,) = [line for line in picture(seen(), wide=True) if line.startswith("NAME")]
    assert {"ROLE", "LOAD", "FILES", "RSS", "VERSION"} <= set(header.split())


def test_what_does_not_answer_is_left_out_and_said() -> None:
    lines = picture(seen(status=None, nodes=None, sync=None, agents=None, events=None, trouble="no master answered"))
    assert lines[0].startswith("zcluster  ")
    assert lines[-1] == "zcluster: no master answered"


def test_an_empty_cluster_has_no_lines_about_nothing() -> None:
    lines = picture(seen(sync=[], agents={"total": 0, "by": {}}, events={"events": []}))
    assert [line.split(":")[0] for line in lines if ":" in line and not line.startswith("lab")] == ["requests"]


@pytest.mark.parametrize("width", [40, 80, 132])
@pytest.mark.parametrize("height", [10, 24, 50])
@pytest.mark.parametrize("wide", [False, True])
def test_the_picture_fits_the_terminal(width: int, height: int, wide: bool) -> None:
    nodes = [node(f"a-worker-with-a-very-long-name-{number:04}") for number in range(100)] + [node("broken", "dead")]
    events = [{**EVENT, "fields": {"name": "x" * 60, "reason": "y" * 500}}] * 8
    lines = picture(seen(nodes=nodes, events={"events": events}), width=width, height=height, wide=wide)
    assert max(map(len, lines)) <= width
    assert len(lines) <= height
    assert any(line.startswith("broken") for line in lines)
    assert any(line.startswith("and ") and line.endswith(" more") for line in lines)


def test_eighty_columns_show_every_column() -> None:
    (header,) = [line for line in picture(seen(), width=80, height=24) if line.startswith("NAME")]
    assert header.split() == ["NAME", "STATE", "SEEN", "RUN", "WAIT", "CPU%", "MEM%", "DISK%", "AGENTS"]


def test_room_is_used_for_events() -> None:
    events = [{**EVENT, "sequence": number} for number in range(8)]
    assert sum("reason=" in line for line in picture(seen(events={"events": events}), width=80, height=24)) == 8
    assert sum("reason=" in line for line in picture(seen(events={"events": events}), width=80, height=14)) >= 1


def test_cut() -> None:
    assert (cut("abcdef", 6), cut("abcdef", 5), cut("abcdef", 0)) == ("abcdef", "abcd…", "abcdef")


class Client:
    """Stands in for AsyncClient."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "status": STATUS, "nodes": [node("w1")], "sync": [CURRENT], "agents": {"total": 1, "by": {"active": 1}},
            "events": {"events": [EVENT]},
        }  # fmt: skip

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    async def _answer(self, name: str) -> Any:
        answer = self.answers[name]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def status(self) -> Any:
        return await self._answer("status")

    async def nodes(self) -> Any:
        return await self._answer("nodes")

    @property
    def sync(self) -> Any:
        return SimpleNamespace(status=lambda: self._answer("sync"))

    @property
    def agents(self) -> Any:
        return SimpleNamespace(count=lambda by: self._answer("agents"))

    async def call(self, function: str, args: Any = None, *, target: str = "any") -> Any:
        assert (function, target) == ("events.since", "master")
        return await self._answer("events")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr("zcluster.cli.top.open_client", lambda state, connection: made)
    return made


def test_once_prints_one_picture_without_control_sequences(client: Client, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("top", "--once")
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert "w1" in ran.out


def test_lines_in_a_pipe_have_at_most_so_many_characters(client: Client, zcluster: Callable[..., Any]) -> None:
    client.answers["events"] = {"events": [{**EVENT, "fields": {"name": "w1", "reason": "y" * 500}}]}
    assert max(map(len, zcluster("top", "--once").out.splitlines())) == PIPE_COLUMNS
    assert max(map(len, zcluster("top", "--once", "-o", "wide").out.splitlines())) > 500


def test_running_is_what_the_column_says() -> None:
    nodes = [node("w1"), node("w2"), node("m", role="master")]
    assert picture(seen(nodes=nodes))[1].startswith("requests: 1,234/s, 9 running, ")
    assert picture(seen(nodes=None))[1].startswith("requests: 1,234/s, 3 running, ")


def test_once_for_programs(client: Client, zcluster: Callable[..., Any]) -> None:
    item = json.loads(zcluster("top", "--once", "-o", "json").out)
    assert (item["schema"], item["cluster"], item["nodes"][0]["name"], item["sync"], item["events"], item["trouble"]) == (
        1, "lab", "w1", [CURRENT], [EVENT], None,
    )  # fmt: skip
    assert (item["status"], item["agents"]) == (STATUS, {"total": 1, "by_status": {"active": 1}})


@pytest.mark.parametrize("error", [NoSuchFunction("no agents here"), Unreachable("no master")])
def test_what_fails_is_said_and_the_rest_is_there(error: ZClusterError, client: Client, zcluster: Callable[..., Any]) -> None:
    client.answers["agents"] = error
    ran = zcluster("top", "--once")
    assert ran.code == 0
    assert f"zcluster: {error}" in ran.out
    assert json.loads(zcluster("top", "--once", "-o", "json").out)["trouble"] == str(error)


def test_a_bug_is_not_hidden(client: Client, zcluster: Callable[..., Any]) -> None:
    client.answers["agents"] = ValueError("a bug")
    assert zcluster("top", "--once").code == 1
