"""What happens at a worker is among the events of the master, with real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_peers import agent_is, events, newest_event, start_agent
from waiting import eventually, node_is, node_row

from zcluster.bench.child import stop_processes
from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient

SETTINGS = {"session.heartbeat_s": 0.5, "worker.door": "tcp://127.0.0.1:*"}
Body = Callable[[AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(1, settings=SETTINGS) as running:
        yield running


@pytest.fixture
def run(cluster: LocalCluster) -> Callable[[Body], None]:
    """Run a test with an administrator's client, and short intervals of agents."""

    def with_client(body: Body) -> None:
        async def main() -> None:
            async with AsyncClient(key=cluster.admin_key) as client:
                await client.config.set("defaults", {"interval": 0.5})
                await body(client)

        asyncio.run(main())

    return with_client


async def happens(client: AsyncClient, after: int, agent: str, *names: str) -> None:
    """Wait until worker-1 has told these events of the agent, in this order. (It may have been at the master before: until the
    worker has heard of its key.)"""

    async def check() -> bool:
        found = [event for event in await events(client, after, *set(names)) if event["fields"]["agent"] == agent]
        return [event["name"] for event in found if event["fields"]["node"] == "worker-1"] == [*names]

    await eventually(check, f"{names} of {agent}")


def logged(cluster: LocalCluster, text: str) -> int:
    """How often the worker has logged this."""
    return cluster.logs("worker-1").count(text)


async def door(client: AsyncClient) -> str:
    return str((await node_row(client, "worker-1"))["door"][0])


def test_an_agent_at_a_worker_that_is_killed_or_leaves(
    cluster: LocalCluster, run: Callable[[Body], None], tmp_path: Path
) -> None:
    async def body(c: AsyncClient) -> None:
        after = await newest_event(c)
        process = start_agent(cluster, tmp_path, "a1", "--node", await door(c))
        try:
            await agent_is(c, "a1", status="active", node="worker-1")
            await happens(c, after, "a1", "agent_active")
            process.kill()
            await happens(c, after, "a1", "agent_active", "agent_silent", "agent_disconnected")
        finally:
            stop_processes([process])
        after = await newest_event(c)
        process = start_agent(cluster, tmp_path, "a1", "--node", await door(c))
        try:
            await happens(c, after, "a1", "agent_active")
            process.terminate()
            await happens(c, after, "a1", "agent_active", "agent_disconnected")
            left = (await events(c, after, "agent_disconnected"))[-1]
            assert (left["level"], left["fields"]["reason"]) == ("info", "left")
        finally:
            stop_processes([process])

    run(body)


def test_what_happened_while_the_master_was_away_is_told_when_it_is_back(
    cluster: LocalCluster, run: Callable[[Body], None], tmp_path: Path
) -> None:
    async def body(c: AsyncClient) -> None:
        process = start_agent(cluster, tmp_path, "a2", "--node", await door(c))
        try:
            await agent_is(c, "a2", status="active", node="worker-1")
            after = await newest_event(c)
            losses, ends = logged(cluster, "retry_s"), logged(cluster, '"agent_disconnected"')
            cluster.kill("master")
            await eventually(lambda: "master" not in cluster.pids, "the master is gone")
            await eventually(lambda: logged(cluster, "retry_s") > losses, "the worker has noticed")
            process.kill()
            await eventually(lambda: logged(cluster, '"agent_disconnected"') > ends, "the agent is gone")
            cluster.start_master()
            await node_is(c, "worker-1", "ready")
            await happens(c, after, "a2", "agent_silent", "agent_disconnected")
        finally:
            stop_processes([process])

    run(body)


def test_a_worker_tells_once_what_it_goes_by_with_the_old_and_the_new(run: Callable[[Body], None]) -> None:
    async def body(c: AsyncClient) -> None:
        async def told(after: int) -> list[dict[str, Any]]:
            found = await events(c, after, "config_applied")
            return [event["fields"] for event in found if event["fields"]["node"] == "worker-1"]

        async def comes(after: int, old: Any, new: Any) -> None:
            async def check() -> bool:
                return any((one["old"].get("interval"), one["new"].get("interval")) == (old, new) for one in await told(after))

            await eventually(check, f"{old} became {new}")

        await eventually(lambda: told(0), "it goes by the defaults")
        after = await newest_event(c)
        await c.config.set("node/worker-1", {"interval": 2})
        await comes(after, 0.5, 2)
        digest = (await told(after))[-1]["digest"]

        async def measured() -> bool:
            return bool((await node_row(c, "worker-1"))["config"] == digest)

        await eventually(measured, "it measures by it")
        await c.config.unset("node/worker-1", everything=True)
        await comes(after, 2, 0.5)
        assert len(await told(after)) == 2

    run(body)
