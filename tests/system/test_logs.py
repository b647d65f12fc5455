"""Logs of a real cluster over the bus."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from waiting import PATIENCE_S

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient
from zcluster.errors import NoSuchNode, NotAllowed


async def until(lines: AsyncIterator[dict[str, Any]], node: str, message: str) -> dict[str, Any]:
    """The next line of ``node`` that says ``message``."""
    async with asyncio.timeout(PATIENCE_S):
        async for line in lines:
            if (line["node"], line["message"]) == (node, message):
                return line
    raise AssertionError("the lines ended")


def test_every_node_tells_its_log_and_a_restarted_one_goes_on() -> None:
    async def body() -> None:
        async with LocalCluster(1) as cluster, AsyncClient(home=cluster.home) as c:
            found = [line async for line in c.logs("all", lines=2000)]
            assert {(line["node"], line["message"]) for line in found} >= {
                ("master", "master listens"), ("worker-1", "worker starts"), ("worker-1", "joined"),
            }  # fmt: skip
            assert [line["time"] for line in found] == sorted(line["time"] for line in found)
            joined = next(line for line in found if line["message"] == "joined")
            assert joined["fields"]["master"] == "master"
            lines = c.logs("worker-1", lines=1, follow=True)
            assert (await anext(lines))["node"] == "worker-1"
            os.kill(cluster.pids["worker-1"], signal.SIGHUP)
            await until(lines, "worker-1", "configuration read again")  # so it follows by now
            first = asyncio.ensure_future(until(lines, "worker-1", "draining"))
            await cluster.restart_worker("worker-1")  # in less than its drain: a follower does not keep it from ending
            await first
            again = await until(lines, "worker-1", "joined")
            assert again["fields"]["session"] > joined["fields"]["session"]
            await lines.aclose()  # type: ignore[attr-defined]
            with pytest.raises(NoSuchNode):
                _ = [line async for line in c.logs("nobody")]
            async with AsyncClient(key=cluster.client_key) as other:
                with pytest.raises(NotAllowed):
                    _ = [line async for line in other.logs()]

    asyncio.run(body())
