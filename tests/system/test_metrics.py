"""What the nodes of a real cluster measure, and that their live configuration holds at once."""

from __future__ import annotations

import asyncio
from typing import Any

from waiting import eventually, node_row

from zcluster.bench.cluster import LocalCluster
from zcluster.clients import AsyncClient


def test_nodes_measure_by_their_live_configuration() -> None:
    async def body() -> None:
        async with LocalCluster(1, settings={"session.heartbeat_s": 0.3}) as cluster, AsyncClient(home=cluster.home) as c:

            async def measured(name: str, metrics: set[str], after: str | None = None) -> Any:
                async def check() -> Any:
                    row = await node_row(c, name)
                    return row if set(row["metrics"]) == metrics and row["config"] != after else None

                return await eventually(check, f"{name} measures {metrics}")

            everything = {"cpu", "memory", "disk", "load", "process"}

            async def all_there() -> bool:
                rows = [await node_row(c, name) for name in ("master", "worker-1")]
                return all(everything <= set(row["metrics"]) and row["metrics_age_s"] is not None for row in rows)

            await eventually(all_there, "both nodes have measured themselves")
            before = (await node_row(c, "worker-1"))["config"]
            await c.call("config.set", {"scope": "node/worker-1", "values": {"metrics": ["load"]}}, target="master")
            row = await measured("worker-1", {"load"}, before)
            assert row["metrics"]["load"]["m1"] >= 0
            await c.call("config.set", {"scope": "node/master", "values": {"metrics": ["memory", "cpu"]}}, target="master")
            await measured("master", {"cpu", "memory"})

            async def told() -> bool:
                names = [(event["name"], event["fields"].get("node")) async for event in c.events(after=0, follow=False)]
                return {("config_applied", "worker-1"), ("config_applied", "master")} <= set(names)

            await eventually(told, "both changes are events")

    asyncio.run(body())
