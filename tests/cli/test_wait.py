"""``zcluster wait``: conditions, what is missing, and a master that is not up yet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.cli.wait import MAX_CONDITIONS, Condition, parsed
from zcluster.errors import InvalidKey, MasterLost, NotAllowed, Unreachable, UsageError

MASTER = {"name": "master", "role": "master", "state": "ready"}
WORKER = {"name": "worker-1", "role": "worker", "state": "ready"}
TREE = {"tree": "etc", "worker": "worker-1", "state": "current", "version": 3, "target": 3}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.cli.wait.LOOK_S", 0)
    monkeypatch.setattr("zcluster.cli.wait.BURST_S", 0)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("nodes=3", Condition("nodes=3", "nodes", count=3)),
        ("workers=0", Condition("workers=0", "workers")),
        ("agents=999999999", Condition("agents=999999999", "agents", count=999_999_999)),
        ("node:web-1=dead", Condition("node:web-1=dead", "node", "web-1", "dead")),
        ("queue=empty", Condition("queue=empty", "queue")),
        ("sync=etc", Condition("sync=etc", "sync", "etc")),
    ],
)
def test_what_can_be_waited_for(text: str, condition: Condition) -> None:
    assert parsed(text) == condition


@pytest.mark.parametrize(
    "text",
    [
        "", "nodes", "nodes=", "nodes=-1", "nodes=many", "nodes=٣", "nodes=1000000000", "node=ready", "node:=ready", "node:a=up",
        "queue=full", "sync=", "tree=etc", "nodes:a=3", "queue:x=empty",
    ],
)  # fmt: skip
def test_what_is_no_condition(text: str, cluster: Any, zcluster: Callable[..., Any]) -> None:
    with pytest.raises(UsageError):
        parsed(text)
    assert zcluster("wait", "nodes=1", text).code == 2


def test_all_conditions_have_to_hold(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.node_rows = [MASTER, WORKER]
    cluster.values = {
        "queue.stats": {"live": 0}, "agents.count": {"total": 5, "by": {}}, "sync.trees": [{"name": "etc"}],
        "sync.status": [TREE],
    }  # fmt: skip
    words = ("nodes=2", "workers=1", "node:worker-1=ready", "agents=5", "queue=empty", "sync=etc")
    ran = zcluster("wait", *words)
    assert ran.code == 0
    data = json.loads(zcluster("wait", *words, "-o", "json").out)
    assert (data["conditions"], data["met"]) == (list(words), True)


@pytest.mark.parametrize(
    ("condition", "missing"),
    [
        ("nodes=3", "nodes=3: 2 ready (worker-2 silent)"),
        ("workers=2", "workers=2: 1 ready (worker-2 silent)"),
        ("node:worker-2=ready", "node:worker-2=ready: it is silent"),
        ("node:worker-9=ready", "node:worker-9=ready: it is not there"),
        ("agents=6", "agents=6: 5 active"),
        ("queue=empty", "queue=empty: 7 jobs have not ended"),
        ("sync=etc", "sync=etc: worker-1 is pulling"),
    ],
)
def test_what_is_missing_is_said_when_the_time_is_over(
    condition: str, missing: str, cluster: Any, zcluster: Callable[..., Any]
) -> None:
    cluster.node_rows = [MASTER, WORKER, {**WORKER, "name": "worker-2", "state": "silent"}]
    cluster.values = {
        "queue.stats": {"live": 7}, "agents.count": {"total": 5, "by": {}}, "sync.trees": [{"name": "etc"}],
        "sync.status": [{**TREE, "state": "pulling", "files_behind": 1}],
    }  # fmt: skip
    ran = zcluster("wait", condition, "--timeout", "20ms")
    assert (ran.code, ran.out) == (7, "")
    assert missing in ran.err


def test_it_looks_again_until_they_hold(cluster: Any, zcluster: Callable[..., Any], turns: Any) -> None:
    cluster.values = {"queue.stats": turns([{"live": 2}, MasterLost("gone"), {"live": 1}, {"live": 0}])}
    assert zcluster("wait", "queue=empty", "--timeout", "30s").code == 0
    assert len(cluster.asked) == 4


def test_an_event_is_a_reason_to_look(cluster: Any, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcluster.cli.wait.LOOK_S", 3600)

    async def joined() -> AsyncIterator[dict[str, Any]]:
        cluster.node_rows = [MASTER, WORKER]
        yield {"node": "worker-1", "state": "ready"}
        await asyncio.Event().wait()

    cluster.node_rows = [MASTER]
    monkeypatch.setattr(cluster, "subscribe_nodes", joined)
    assert zcluster("wait", "workers=1", "--timeout", "30s").code == 0


def test_a_master_that_is_not_up_yet_is_waited_for(
    cluster: Any, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.node_rows = [MASTER]
    tries: list[Any] = [Unreachable("nobody listens"), Unreachable("nobody listens"), None]
    enter = type(cluster).__aenter__

    async def entered(self: Any) -> Any:
        error = tries.pop(0)
        if error is not None:
            raise error
        return await enter(self)

    monkeypatch.setattr(type(cluster), "__aenter__", entered)
    assert zcluster("wait", "nodes=1", "--timeout", "30s").code == 0
    assert tries == []


def test_why_no_master_answered_is_said_when_the_time_is_over(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.error = Unreachable("tcp://a:1 ended the connection during the handshake")
    ran = zcluster("wait", "nodes=1", "--timeout", "20ms")
    assert (ran.code, "ended the connection during the handshake" in ran.err) == (7, True)


def test_a_home_that_its_master_has_yet_to_make_is_waited_for(
    cluster: Any, zcluster: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.node_rows = [MASTER]
    tries: list[Any] = [InvalidKey("there is no key file"), InvalidKey("there is no key file"), None]
    enter = type(cluster).__aenter__

    async def entered(self: Any) -> Any:
        error = tries.pop(0) if len(tries) > 1 else tries[0]
        if error is not None:
            raise error
        return await enter(self)

    monkeypatch.setattr(type(cluster), "__aenter__", entered)
    home = tmp_path / "home"
    assert zcluster("wait", "nodes=1", "--timeout", "30s", "--home", str(home)).code == 0
    tries[:] = [InvalidKey("there is no key file")]
    ran = zcluster("wait", "nodes=1", "--timeout", "20ms", "--home", str(home))
    assert (ran.code, "there is no key file" in ran.err) == (7, True)
    assert zcluster("wait", "nodes=1", "--timeout", "30s", "--key", str(home / "none.key")).code == 2, "it was named"
    (home / "keys").mkdir(parents=True)
    (home / "keys" / "admin.key").touch()
    assert zcluster("wait", "nodes=1", "--timeout", "30s", "--home", str(home)).code == 2, "it is there, and broken"


def test_a_key_that_is_refused_is_an_error_at_once(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.error = NotAllowed("this key is no longer admitted")
    assert zcluster("wait", "nodes=1", "--timeout", "30s").code == 4


def test_a_tree_that_is_none_is_an_error_at_once(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.values = {"sync.trees": []}
    ran = zcluster("wait", "sync=etc", "--timeout", "30s")
    assert (ran.code, "`zcluster sync ls`" in ran.err) == (5, True)


def test_there_are_so_many_conditions_and_no_more(cluster: Any, zcluster: Callable[..., Any]) -> None:
    assert zcluster("wait", *["workers=0"] * MAX_CONDITIONS).code == 0
    assert zcluster("wait", *["workers=0"] * (MAX_CONDITIONS + 1)).code == 2
