"""Live configuration with real nodes: what is set changes running nodes at once, and those that were away when they return."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from waiting import eventually, json_lines, node_is

from zcluster.bench.child import child_environment
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient, Client
from zcluster.errors import ConfigError, NoSuchNode, NotAllowed

Body = Callable[[AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2) as running:
        yield running


@pytest.fixture
def run(cluster: LocalCluster) -> Callable[[Body], None]:
    """Run a test with an administrator's client."""

    def with_client(body: Body) -> None:
        async def main() -> None:
            async with AsyncClient(key=cluster.admin_key) as client:
                await body(client)

        asyncio.run(main())

    return with_client


async def interval_is(client: AsyncClient, node: str, seconds: float) -> None:
    async def check() -> bool:
        return bool((await client.config.applied(node))["interval"] == seconds)

    await eventually(check, f"{node} applies interval {seconds}")


def test_what_is_set_changes_the_running_worker_and_is_logged(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        pids = dict(cluster.pids)
        await c.config.set("node/worker-1", {"interval": 2, "metrics": ["cpu", "memory"]})
        await interval_is(c, "worker-1", 2)
        assert (await c.config.applied("worker-1"))["metrics"] == ["cpu", "memory"]
        assert (await c.config.applied("worker-2"))["interval"] == 10
        await c.config.set("node/worker-1", {"interval": 3})
        await interval_is(c, "worker-1", 3)
        told = [line for line in json_lines(cluster.logs("worker-1")) if line["message"] == "config_applied"]
        assert [(line["old"].get("interval"), line["new"]["interval"]) for line in told[-2:]] == [(None, 2), (2, 3)]
        await c.config.unset("node/worker-1", everything=True)
        await interval_is(c, "worker-1", 10)
        assert cluster.pids == pids

    run(body)


def test_defaults_concern_every_node_and_a_node_s_own_wins(run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        await c.config.set("node/worker-2", {"interval": 7})
        await c.config.set("defaults", {"interval": 5, "extra": {"site": "berlin"}})
        for node, seconds in (("master", 5), ("worker-1", 5), ("worker-2", 7)):
            await interval_is(c, node, seconds)
            assert (await c.config.applied(node))["extra"] == {"site": "berlin"}
        found = await c.config.get("node/worker-2", effective=True)
        assert found["from"] == {"interval": "node/worker-2", "extra": "defaults"}
        assert found["digest"] == (await c.config.applied("worker-2"))["digest"]
        await c.config.unset("node/worker-2", everything=True)
        await c.config.unset("defaults", everything=True)

    run(body)


def test_a_worker_that_was_away_gets_the_newest(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        await c.config.set("node/worker-1", {"interval": 20})
        await interval_is(c, "worker-1", 20)
        cluster.kill("worker-1")
        await node_is(c, "worker-1", "dead")
        for seconds in (21, 22, 23):
            await c.config.set("node/worker-1", {"interval": seconds})
        await cluster.restart_worker("worker-1")
        await interval_is(c, "worker-1", 23)
        before = (await c.config.history("node/worker-1"))[0]["version"]
        await cluster.restart_master()
        rows = await c.config.history("node/worker-1")
        assert (rows[0]["version"], rows[0]["values"], rows[0]["by"]) == (before, {"interval": 23}, "admin")
        assert (await c.config.rollback("node/worker-1", before - 3))["values"] == {"interval": 20}
        await interval_is(c, "worker-1", 20)

    run(body)


def test_what_is_wrong_is_refused_and_who_may_not_may_not(cluster: LocalCluster, run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        with pytest.raises(ConfigError, match="unknown key 'intervall'"):
            await c.config.set("defaults", {"intervall": 2})
        with pytest.raises(NoSuchNode):
            await c.config.set("node/worker-9", {"interval": 2})
        async with AsyncClient(key=cluster.client_key) as other:
            assert (await other.config.get("defaults"))["values"] == {}
            with pytest.raises(NotAllowed):
                await other.config.set("defaults", {"interval": 2})

    run(body)


def test_a_watcher_hears_of_every_change(cluster: LocalCluster) -> None:
    with Client(key=cluster.admin_key) as c:
        c.config.set("defaults", {"log_level": "info"})
        rows = c.config.watch("defaults")
        first = next(rows)
        for level in ("warning", "error"):
            c.config.set("defaults", {"log_level": level})
            assert next(rows)["values"] == {"log_level": level}
        c.config.unset("defaults", "log_level")
        last = next(rows)
        assert (last["values"], last["version"]) == ({}, first["version"] + 3)


def test_the_command_line(cluster: LocalCluster) -> None:
    def zcluster(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "zcluster", "config", *words]
        environment = {**child_environment(), "ZCLUSTER_HOME": str(cluster.home)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60.0)

    done = zcluster("set", "node/worker-2", '{"interval": 4, "metrics": ["cpu","memory"]}', "-o", "json")
    row: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, row["values"]) == (0, {"interval": 4, "metrics": ["cpu", "memory"]})
    assert zcluster("get", "node/worker-2").stdout == 'interval = 4\nmetrics = ["cpu", "memory"]\n'
    bad = zcluster("set", "node/worker-2", "intervall=4")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "did you mean 'interval'?" in bad.stderr
    assert zcluster("set", "node/nope", "interval=4").returncode == 5
    assert zcluster("unset", "node/worker-2", "--all").returncode == 0
