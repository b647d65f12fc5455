"""Events of a real cluster: numbered, kept over restarts, followed over losses."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S, eventually, node_is

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient, Client
from zcluster.config import Home
from zcluster.errors import NotAllowed, UsageError
from zcluster.keys import Ring

SETTINGS = {"session.heartbeat_s": 0.3}


def ring_file(cluster: LocalCluster) -> Path:
    return Home.of(cluster.home).ring_file


class Follower:
    """Follows the events of a client in a task."""

    def __init__(self, client: AsyncClient, **asked: Any) -> None:
        self.found: list[dict[str, Any]] = []
        self.task = asyncio.create_task(self._follow(client.events(**asked)))

    async def _follow(self, events: AsyncIterator[dict[str, Any]]) -> None:
        async for event in events:
            self.found.append(event)

    def told(self, name: str, about: str) -> bool:
        return any(event["name"] == name and event["fields"].get("name") == about for event in self.found)

    async def hears(self, name: str, about: str) -> None:
        await eventually(lambda: self.told(name, about), f"the event {name} of {about}")

    async def close(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def ready(client: AsyncClient) -> None:
    """The follower's request has reached the master."""
    async with asyncio.timeout(PATIENCE_S):
        while (await client.status())["requests"]["running"] < 2:
            await asyncio.sleep(0.01)


def test_the_life_of_a_worker_and_of_a_key() -> None:
    async def body() -> None:
        async with LocalCluster(2, settings=SETTINGS) as cluster, AsyncClient(home=cluster.home) as c:
            follower = Follower(c, after=0)
            for name in ("master", "worker-1", "worker-2"):
                await follower.hears("join", name)
            cluster.kill("worker-2")
            await follower.hears("dead", "worker-2")
            cluster.start_worker("worker-2")
            await follower.hears("back", "worker-2")
            assert await cluster.terminate("worker-1") == 0
            await follower.hears("draining", "worker-1")
            await follower.hears("left", "worker-1")
            cluster.new_key("guest", "client")
            await follower.hears("key_admitted", "guest")
            Ring(ring_file(cluster)).revoke("guest")
            await follower.hears("key_revoked", "guest")
            numbers = [event["sequence"] for event in follower.found]
            assert numbers == sorted(set(numbers))
            past = [event async for event in c.events(after=0, follow=False)]
            assert [event["sequence"] for event in past[: len(numbers)]] == numbers
            assert {event["name"] async for event in c.events(after=0, names="de*", follow=False)} == {"dead"}
            with pytest.raises(UsageError):
                await anext(c.events(after=10**9))
            await follower.close()

    asyncio.run(body())


def test_a_follower_goes_on_over_a_master_that_was_killed() -> None:
    async def body() -> None:
        async with LocalCluster(1, settings=SETTINGS) as cluster, AsyncClient(home=cluster.home) as c:
            follower = Follower(c, after=0)
            await follower.hears("join", "worker-1")
            cluster.kill("master")
            await eventually(lambda: "master" not in cluster.pids, "the master is gone")
            cluster.start_master()
            await follower.hears("back", "worker-1")
            await follower.hears("back", "master")
            numbers = [event["sequence"] for event in follower.found]
            assert numbers == sorted(set(numbers))
            assert not any(event["name"] == "missed" for event in follower.found)
            await follower.close()

    asyncio.run(body())


def test_followers_do_not_keep_a_master_from_ending() -> None:
    async def body() -> None:
        async with (
            LocalCluster(1, settings={**SETTINGS, "session.drain_s": PATIENCE_S * 4}) as cluster,
            AsyncClient(home=cluster.home) as c,
        ):
            follower = Follower(c)
            await ready(c)
            async with asyncio.timeout(PATIENCE_S):
                assert await cluster.terminate("master") == 0
            assert [event["name"] for event in follower.found][:1] == ["master_draining"]
            cluster.start_master()
            await follower.hears("back", "worker-1")
            await follower.close()

    asyncio.run(body())


def test_a_revoked_key_ends_its_follower() -> None:
    async def body() -> None:
        async with LocalCluster(0, settings=SETTINGS) as cluster, AsyncClient(key=cluster.client_key) as c:
            follower = Follower(c)
            await ready(c)
            Ring(ring_file(cluster)).revoke("client")
            with pytest.raises(NotAllowed):
                async with asyncio.timeout(PATIENCE_S):
                    await follower.task

    asyncio.run(body())


def test_the_blocking_client_follows_too() -> None:
    with LocalCluster(1, settings=SETTINGS) as cluster, Client(home=cluster.home) as c:
        names = []
        for event in c.events(after=0):
            names.append(event["name"])
            if len(names) == 2:
                break
        assert names == ["join", "join"]
        assert [event["sequence"] for event in c.events(follow=False, limit=1)] != []


def test_a_dead_worker_is_seen_in_three_heartbeats() -> None:
    async def body() -> None:
        async with LocalCluster(1, settings=SETTINGS) as cluster, AsyncClient(home=cluster.home) as c:
            follower = Follower(c)
            await ready(c)
            cluster.kill("worker-1", signal.SIGSTOP)  # silent, its connection open
            await follower.hears("silent", "worker-1")
            await follower.hears("dead", "worker-1")
            (dead,) = [event for event in follower.found if event["name"] == "dead"]
            assert dead["fields"]["reason"].startswith("silent for ")
            cluster.kill("worker-1", signal.SIGCONT)
            await node_is(c, "worker-1", "ready")
            await follower.hears("back", "worker-1")
            await follower.close()

    asyncio.run(body())
