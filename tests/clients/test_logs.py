"""``AsyncClient.logs``: several nodes in one, troubles told, and going on after a loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from zcluster.clients import logs as module
from zcluster.clients.logs import read
from zcluster.clients.result import Result
from zcluster.errors import (
    Draining,
    MasterLost,
    NodeUnavailable,
    NoSuchFunction,
    NoSuchNode,
    NotAllowed,
    UsageError,
    ZClusterError,
)


def line(node: str, sequence: int, time: str = "", level: str = "info") -> dict[str, Any]:
    return {
        "sequence": sequence, "time": time or f"2026-10-14T00:00:{sequence:02}.000Z", "level": level, "node": node,
        "message": f"{node} {sequence}", "fields": {},
    }  # fmt: skip


def start(newest: int, log: str = "L") -> dict[str, Any]:
    return {"log": log, "newest": newest}


class Link:
    """A link that is up."""

    up = True
    refused: ZClusterError | None = None


class Cluster:
    """Stands in for the client: what each node says to a fan-out, and in each stream, the last thing perhaps an error."""

    def __init__(self, answers: Mapping[str, Any], **streams: list[list[Any]]) -> None:
        self.answers, self.streams = answers, streams
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.rows: list[dict[str, Any]] = [{"name": name, "state": "ready", "role": "worker"} for name in answers]
        self.link: Link | None = Link()

    async def fan_out(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "all", timeout: float | None = None
    ) -> AsyncIterator[Result]:
        assert function == "node.logs"
        self.asked.append((target, dict(args or {})))
        for node, said in self.answers.items():
            failed = isinstance(said, ZClusterError)
            yield Result(node, not failed, None if failed else said, said if failed else None, 0.1)

    async def stream(
        self, function: str, args: Mapping[str, Any] | None = None, *, target: str = "any", timeout: float | None = None
    ) -> AsyncIterator[Any]:
        assert function == "node.logs"
        self.asked.append((target, dict(args or {})))
        waiting = self.streams.get(target)
        if not waiting:
            await asyncio.Event().wait()
        for item in waiting.pop(0) if waiting else ():
            if isinstance(item, ZClusterError):
                raise item
            yield item

    async def nodes(self) -> list[dict[str, Any]]:
        return self.rows


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE_S", "PAUSE_MAX_S", "LOOK_AGAIN_S"):
        monkeypatch.setattr(module, name, 0.0)


def all_of(cluster: Cluster, target: str = "master", **asked: Any) -> list[dict[str, Any]]:
    async def main() -> list[dict[str, Any]]:
        return [found async for found in read(cluster, target, **asked)]

    return asyncio.run(main())


def first_of(cluster: Cluster, count: int, target: str = "master", **asked: Any) -> list[str]:
    """The messages of the first ``count`` lines of a follower, or the code of its error."""

    async def main() -> list[str]:
        found: list[str] = []
        lines = read(cluster, target, follow=True, **asked)
        try:
            async for each in lines:
                found.append(each.get("error") or each["message"])
                if len(found) == count:
                    return found
        finally:
            await lines.aclose()  # type: ignore[attr-defined]
        return found

    return asyncio.run(asyncio.wait_for(main(), 10))


def test_the_lines_of_several_nodes_are_in_the_order_of_their_times() -> None:
    cluster = Cluster({"w1": [start(9), line("w1", 1), line("w1", 4)], "w2": [start(9), line("w2", 2), line("w2", 3)]})
    assert [found["message"] for found in all_of(cluster, "w*", lines=3)] == ["w2 2", "w2 3", "w1 4"]
    assert cluster.asked == [("w*", {"lines": 3, "level": "debug"})]
    assert all_of(cluster, "w*", lines=0) == []


def test_a_node_that_does_not_answer_is_a_line_and_all_of_them_are_an_error() -> None:
    away = NodeUnavailable("w2 is dead", node="w2")
    found = all_of(Cluster({"w1": [start(1), line("w1", 1)], "w2": away}), "w*")
    assert [(each["node"], each.get("error")) for each in found] == [("w1", None), ("w2", "node_unavailable")]
    assert (found[1]["level"], found[1]["sequence"]) == ("error", 0)
    with pytest.raises(NodeUnavailable):
        all_of(Cluster({"w2": away}), "w2")
    assert all_of(Cluster({}), "group:web") == []


@pytest.mark.parametrize("bad", [{"lines": -1}, {"lines": 2001}, {"lines": True}, {"level": "loud"}])
def test_what_cannot_be_is_a_usage_error(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        all_of(Cluster({}), **bad)


def test_following_begins_behind_the_newest() -> None:
    cluster = Cluster({"master": [start(7), line("m", 7)]}, master=[[start(7), line("m", 8), line("m", 9)]])
    assert first_of(cluster, 3, lines=1, level="info") == ["m 7", "m 8", "m 9"]
    assert cluster.asked[1] == ("master", {"level": "info", "follow": True, "after": 7, "log": "L"})


def test_a_node_that_starts_again_tells_all_of_its_new_process() -> None:
    cluster = Cluster(
        {"w1": [start(7)]},
        w1=[
            [start(7), line("w1", 8), Draining("it ends")], [NodeUnavailable("not yet")],
            [start(2, "NEW"), line("w1", 1), line("w1", 2), MasterLost("gone")], [start(2, "NEW"), line("w1", 3)],
        ],
    )  # fmt: skip
    # The second try fails as the first one did: that was told.
    assert first_of(cluster, 6, "w1") == ["w1 8", "draining", "w1 1", "w1 2", "master_lost", "w1 3"]
    assert [(asked["after"], asked["log"]) for _, asked in cluster.asked[1:5]] == [(7, "L"), (8, "L"), (8, "L"), (2, "NEW")]


def test_a_node_that_was_away_is_followed_from_its_beginning() -> None:
    cluster = Cluster(
        {"w1": [start(1)], "w2": NodeUnavailable("dead")}, w2=[[NodeUnavailable("dead")], [start(1), line("w2", 1)]]
    )
    assert first_of(cluster, 2, "w*") == ["node_unavailable", "w2 1"]


def test_a_node_that_joins_later_is_followed_too() -> None:
    cluster = Cluster({"w1": [start(1)]}, w3=[[start(1), line("w3", 1)]])
    cluster.rows += [{"name": "w3", "state": "ready", "role": "worker"}, {"name": "x", "state": "ready", "role": "worker"}]
    assert first_of(cluster, 1, "w*") == ["w3 1"]
    assert "x" not in {target for target, _ in cluster.asked}


def test_what_no_waiting_will_change_ends_it_when_nobody_is_left() -> None:
    old = NoSuchFunction("no node.logs here")
    cluster = Cluster({"w1": [start(1)], "w2": [start(1)]}, w1=[[old]], w2=[[start(1), line("w2", 2)]])
    assert set(first_of(cluster, 2, "w1,w2")) == {"no_such_function", "w2 2"}
    with pytest.raises(NotAllowed):
        first_of(Cluster({"w1": [start(1)]}, w1=[[NotAllowed("revoked")]]), 1, "w1")


def test_a_client_that_is_closed_ends_it() -> None:
    cluster = Cluster({"w1": [start(1)]}, w1=[[MasterLost("gone")]])
    cluster.link = None
    with pytest.raises(MasterLost):
        first_of(cluster, 2, "w1")


def test_which_nodes_a_target_means_now() -> None:
    rows = [
        {"name": "boss", "state": "ready", "role": "master"}, {"name": "w1", "state": "ready", "role": "worker"},
        {"name": "w2", "state": "dead", "role": "worker"},
    ]  # fmt: skip
    for target, names in (("all", ["boss", "w1"]), ("w*,nobody", ["w1"]), ("master,w1", ["boss", "w1"]), ("group:g", [])):
        assert module._meant(target, rows) == names
    with pytest.raises(NoSuchNode):
        all_of(Cluster({"x": NoSuchNode("none")}), "x")
