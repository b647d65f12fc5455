"""``zcluster nodes describe | drain | resume | rm``, and the group that they are in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from zcluster.errors import Conflict, NotAllowed

ROW = {
    "name": "worker-1", "role": "worker", "state": "ready", "reason": "", "version": "0.1.0", "last_seen_s": 0.2, "load": 0.5,
    "in_flight": 3, "waiting": 0, "slots": 8, "cpu_percent": 12.25, "memory_percent": 40.0, "drained": False, "door": [],
    "agents": 0, "config": "", "metrics": {}, "metrics_age_s": None,
}  # fmt: skip
DESCRIBED = {
    **ROW, "drained": True, "drained_by": "root", "drained_at_s": 0.0, "since_s": 0.0,
    "key": {"role": "worker", "fingerprint": "SHA256:A", "token": "t1", "previous": [{"public": "p", "until": "u"}]},
    "revoked": [{"fingerprint": "SHA256:B", "at": "2026-01-01"}],
    "session": {"no": 4, "since_s": 0.0, "address": "10.0.0.7", "instance": "i"},
    "functions": [f"f{number}" for number in range(101)], "running": [{"function": "add", "caller": "alice", "job": False}],
    "metrics": {"disk": {"percent": 12.0, "free_bytes": 1024}}, "metrics_age_s": 3.0,
}  # fmt: skip
EVENT = {"at_s": 0.0, "name": "join", "fields": {"name": "worker-1"}}
OTHER = {"at_s": 0.0, "name": "join", "fields": {"name": "worker-2"}}
JOB = {"id": "j1", "function": "add", "state": "running", "attempt": 1, "target": "any", "caller": "alice", "node": "worker-1"}


@pytest.fixture
def told(cluster: Any) -> Any:
    """The fake cluster, with an answer to all that a description asks."""
    cluster.values = {
        "nodes.describe": dict(DESCRIBED),
        "sync.status": [{"worker": "worker-1", "tree": "etc", "state": "current", "version": 3}],
        "queue.list": {"items": [JOB, {**JOB, "id": "j2", "node": "worker-2"}], "next": None},
        "events.since": {"events": [EVENT, OTHER]},
    }
    return cluster


def test_a_node_is_described_in_lines(told: Any, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("nodes", "describe", "worker-1")
    assert ran.code == 0
    for line in (
        "key            SHA256:A", "came by token  t1", "older keys     1 still admitted: its key is being rotated",
        "revoked key    SHA256:B at 2026-01-01", "requests       3 running, 0 waiting, 8 slots", "running        add of alice",
        "address        10.0.0.7", "metrics, 3.0 s old:", "  disk  used 12 %, free 1.0 KiB", "trees:", "jobs:",
        "last events:",
    ):  # fmt: skip
        assert line in ran.out.splitlines(), line
    assert "f99 and 1 more" in ran.out
    assert "j1" in ran.out
    assert "j2" not in ran.out
    assert "worker-2" not in ran.out


def test_a_reason_that_is_the_state_is_not_told_twice(told: Any, zcluster: Callable[..., Any]) -> None:
    told.values["nodes.describe"] = {**DESCRIBED, "state": "left", "reason": "left", "since_s": None, "session": None}
    assert "state          left" in zcluster("nodes", "describe", "worker-1").out.splitlines()


def test_a_node_is_described_as_data(told: Any, zcluster: Callable[..., Any]) -> None:
    row = json.loads(zcluster("nodes", "describe", "worker-1", "-o", "json").out)
    assert [job["id"] for job in row["jobs"]] == ["j1"]
    assert row["events"] == [EVENT]
    assert (row["left_out"], row["functions"]) == ([], DESCRIBED["functions"])


def test_what_could_not_be_asked_is_left_out_and_named(told: Any, zcluster: Callable[..., Any]) -> None:
    told.values["events.since"] = NotAllowed("not for you")
    ran = zcluster("nodes", "describe", "worker-1")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "not known: events: not for you")


def test_a_node_that_only_the_ring_knows_is_described_too(told: Any, zcluster: Callable[..., Any]) -> None:
    told.values["nodes.describe"] = {"name": "w9", "state": None, "drained": False, "key": None, "revoked": []}
    ran = zcluster("nodes", "describe", "w9")
    assert ran.code == 0
    assert "key    none: it is not admitted" in ran.out.splitlines()
    assert "state  not here since the master's start, or removed" in ran.out.splitlines()


def test_nodes_are_drained_and_resumed(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.value = [{**ROW, "drained": True}]
    ran = zcluster("nodes", "drain", "worker-*")
    assert ran.code == 0
    assert ran.out.splitlines()[1].split() == ["worker-1", "ready", "yes", "3", "0"]
    assert "3 requests still running" in ran.err
    assert cluster.asked[-1][1:3] == ("nodes.drain", {"target": "worker-*"})
    cluster.value = [{**ROW, "name": "worker-2"}, ROW]
    assert zcluster("nodes", "resume", "all", "-o", "name").out == "worker-1\nworker-2\n"
    assert cluster.asked[-1][1:3] == ("nodes.resume", {"target": "all"})


def test_drain_waits_until_nothing_runs(
    cluster: Any, zcluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zcluster.clients.nodes.POLL_S", 0)
    cluster.values = {"nodes.drain": [ROW]}
    cluster.node_rows = [{**ROW, "in_flight": 0}, {**ROW, "name": "worker-2"}]
    ran = zcluster("nodes", "drain", "worker-1", "--wait", "-o", "json")
    assert (ran.code, json.loads(ran.out)["items"]) == (0, [{**ROW, "in_flight": 0}])
    cluster.node_rows = [ROW]
    ran = zcluster("nodes", "drain", "worker-1", "--wait", "--timeout", "1ms")
    assert (ran.code, "3 on worker-1" in ran.err) == (7, True)
    assert [each.timeout_s for each in cluster.connections[-2:]] == [None, 0.001], "a master is not waited for any longer"


def test_a_node_is_removed(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.value = {"name": "worker-1", "removed": True, "key_revoked": False}
    ran = zcluster("nodes", "rm", "worker-1")
    assert ran.out == "worker-1 removed; its key is still admitted\n"
    assert cluster.asked[-1][1:3] == ("nodes.remove", {"name": "worker-1", "revoke": False, "force": False})
    cluster.value = {"name": "worker-1", "removed": True, "key_revoked": True}
    assert zcluster("nodes", "rm", "worker-1", "--revoke", "--force").out == "worker-1 removed, its key revoked\n"
    assert cluster.asked[-1][2] == {"name": "worker-1", "revoke": True, "force": True}
    cluster.value = Conflict("worker-1 has a session", hint="--force")
    assert zcluster("nodes", "rm", "worker-1").code == 1


def test_the_group_lists_when_no_command_is_named(cluster: Any, zcluster: Callable[..., Any]) -> None:
    cluster.node_rows = [ROW, {**ROW, "name": "worker-2", "drained": True}]
    assert zcluster("nodes").out == zcluster("nodes", "ls").out
    assert zcluster("nodes").out.splitlines()[2].split()[:3] == ["worker-2", "worker", "ready,drained"]
    rows = json.loads(zcluster("nodes", "-o", "json").out)["items"]
    assert [(row["state"], row["drained"]) for row in rows] == [("ready", False), ("ready", True)], "the state is the protocol's"


def test_an_option_of_the_list_is_not_one_of_a_command(cluster: Any, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("nodes", "--watch", "drain", "worker-1")
    assert (ran.code, "--watch is to be given behind 'drain'" in ran.err) == (2, True)
    ran = zcluster("nodes", "drian", "worker-1")
    assert (ran.code, "did you mean 'drain'?" in ran.err) == (2, True)
