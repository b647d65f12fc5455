"""Tables of a real master in the stores of real workers: changed, stopped, away, begun anew."""

from __future__ import annotations

import asyncio
import shutil
import signal
from functools import partial
from typing import Any

import pytest
from waiting import eventually

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.clients.subscription import Subscription
from zcluster.config import Home
from zcluster.errors import NotAllowed
from zcluster.keys import KeyFile, Ring
from zcluster.keys.rotation import OwnKey

FAST = {"session.heartbeat_s": 0.3}
AGENTS = 5000


async def table(client: AsyncClient, node: str, name: str = "groups") -> dict[str, Any]:
    """What ``node`` says of its table or copy."""
    rows: list[dict[str, Any]] = await client.call("tables.status", target=node)
    return next(row for row in rows if row["table"] == name)


async def same(client: AsyncClient, *workers: str, name: str = "groups") -> None:
    """Wait until the copies of ``workers`` are what the master has now."""

    async def check(worker: str) -> bool:
        source, copy = await table(client, "master", name), await table(client, worker, name)
        return bool(copy["ready"] and copy["digest"] == source["digest"] and copy["store"] == source["store"])

    for worker in workers:
        await eventually(partial(check, worker), f"{worker} has {name}")


async def assign(client: AsyncClient, count: int, group: str) -> None:
    """Put agents that were never heard of into a group."""
    lines = [f"agent-{number:05} {group}" for number in range(count)]
    for at in range(0, count, 1000):
        await client.call("groups.bulk", {"lines": lines[at : at + 1000], "new": True})


def test_changes_reach_every_worker() -> None:
    async def main() -> None:
        async with LocalCluster(workers=2, settings=FAST) as cluster, AsyncClient(key=cluster.admin_key) as client:
            empty = (await table(client, "worker-1"))["digest"]
            await client.call("groups.create", {"name": "web"})
            await eventually(lambda: differs(client, "worker-1", empty), "worker-1 has a copy")
            await same(client, "worker-1", "worker-2")
            before = (await table(client, "worker-1"))["digest"]
            await client.call("groups.create", {"name": "db"})
            await eventually(lambda: differs(client, "worker-1", before), "worker-1 follows")
            await same(client, "worker-1", "worker-2")
            await client.call("groups.delete", {"name": "web"})
            await same(client, "worker-1", "worker-2")

    asyncio.run(main())


async def differs(client: AsyncClient, node: str, digest: str) -> bool:
    return bool((await table(client, node))["digest"] != digest)


def test_a_stopped_worker_delays_no_other_and_catches_up() -> None:
    async def main() -> None:
        async with LocalCluster(workers=2, settings=FAST) as cluster, AsyncClient(key=cluster.admin_key) as client:
            await client.call("groups.create", {"name": "web"})
            await same(client, "worker-1", "worker-2")
            cluster.kill("worker-1", signal.SIGSTOP)
            try:
                await assign(client, AGENTS, "web")
                await same(client, "worker-2")
            finally:
                cluster.kill("worker-1", signal.SIGCONT)
            await same(client, "worker-1", "worker-2")

    asyncio.run(main())


def test_a_worker_that_was_away_or_lost_its_store_gets_everything() -> None:
    async def main() -> None:
        async with LocalCluster(workers=1, settings=FAST) as cluster, AsyncClient(key=cluster.admin_key) as client:
            await client.call("groups.create", {"name": "web"})
            await same(client, "worker-1")
            assert await cluster.terminate("worker-1") == 0
            await assign(client, AGENTS, "web")
            cluster.start_worker("worker-1")
            await cluster.wait_ready("worker-1")
            await same(client, "worker-1")
            assert await cluster.terminate("worker-1") == 0
            shutil.rmtree(Home.of(cluster.home).data_dir / "nodes" / "worker-1")
            cluster.start_worker("worker-1")
            await cluster.wait_ready("worker-1")
            await same(client, "worker-1")
            assert "table_read" in cluster.logs("worker-1")

    asyncio.run(main())


def test_an_agent_may_not_subscribe() -> None:
    async def main() -> None:
        async with LocalCluster(workers=0) as cluster:
            key_file = KeyFile.read(cluster.new_key("agent-1", "agent"))
            with pytest.raises(NotAllowed):
                async with asyncio.timeout(30), Subscription(OwnKey(key_file), b"beat") as events:
                    async for _ in events:
                        raise AssertionError("an agent heard what is published")

    asyncio.run(main())


def test_a_revoked_key_hears_nothing_more() -> None:
    async def main() -> None:
        async with LocalCluster(workers=0, settings=FAST) as cluster:
            key_file = KeyFile.read(cluster.new_key("gone", "client"))
            async with asyncio.timeout(30), Subscription(OwnKey(key_file), b"beat") as events:
                heard = aiter(events)
                await anext(heard)
                Ring(Home.of(cluster.home).ring_file).revoke("gone")
                with pytest.raises(NotAllowed):
                    while True:
                        await anext(heard)

    asyncio.run(main())
