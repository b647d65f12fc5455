"""Agents: report what another system knows, find them by a filter, give them to another node, remove them.

zcluster demo
ZCLUSTER_HOME=... python examples/agents.py
"""

from __future__ import annotations

import asyncio

import zcluster

KNOWN = [
    {"id": "example-1", "version": "4.8.2", "os": {"platform": "debian"}, "labels": {"site": "ber"}, "status": "active"},
    {"id": "example-2", "version": "4.10.0", "os": {"platform": "debian"}, "labels": {"site": "ber"}, "status": "active"},
    {"id": "example-3", "version": "4.10.0", "labels": {"site": "muc", "colour": 7}},
]
OURS = "id~example-* and status!=removed"


async def arrived(c: zcluster.AsyncClient, filter: str, count: int) -> None:
    """Wait until the master knows so many: a worker brings up what it was told."""
    for _ in range(1000):
        if (await c.agents.count(filter))["total"] == count:
            return
        await asyncio.sleep(0.01)
    raise SystemExit(f"the master does not know {count} agents of {filter}")


async def main() -> None:
    """Report agents at worker-1, look, move one to worker-2, and clean up."""
    async with zcluster.AsyncClient() as c:
        done = await c.agents.report(KNOWN, node="worker-1")
        print("taken:", done["taken"])
        for bad in done["refused"]:
            print("refused:", bad["id"], bad["message"])
        await arrived(c, f"{OURS} and node=worker-1", 2)

        page = await c.agents.list(f"{OURS} and version<4.9", select=["id", "node", "labels.site"])
        print("old:", page["items"])
        print("by version:", (await c.agents.count(OURS, by="version"))["by"])

        await c.agents.move("example-1", "worker-2")
        async for row in c.agents.each(OURS, sort="-id"):
            print(row["id"], "is at", row["node"])
        node = (await c.call("node.info", target="agent:example-1"))["name"]
        print("the node that holds example-1:", node)

        try:
            await c.agents.list("statu=active")
        except zcluster.UsageError as error:
            print("refused:", error)
        print("removed:", ", ".join((await c.agents.remove(filter=OURS))["removed"]))


if __name__ == "__main__":
    asyncio.run(main())
