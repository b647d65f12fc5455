"""Groups of agents and live configuration: who gets what, and a node that changes while it runs.

zcluster demo
ZCLUSTER_HOME=... python examples/groups.py
"""

from __future__ import annotations

import asyncio

import zcluster

GROUP = "example-web"


async def main() -> None:
    """Make a group, put agents into it, configure it, and clean up."""
    async with zcluster.AsyncClient() as c:
        await c.groups.create(GROUP, comment="shown by examples/groups.py")
        done = await c.groups.add(GROUP, ["example-1", "example-2"], new=True)
        print("agents changed:", done["changed"])
        await c.groups.put_file(GROUP, "rules.conf", b"block all\n")
        await c.config.set(f"group/{GROUP}", {"interval": 5, "extra": {"site": "berlin"}})
        found = await c.config.get("agent/example-1", effective=True)
        print("example-1 gets:", found["values"], "from", found["from"])
        print("its groups:", ", ".join((await c.groups.of("example-1"))["groups"]))

        row = await c.config.set("node/worker-1", {"interval": 2, "metrics": ["cpu", "memory"]})
        for _ in range(1000):
            if (await c.config.applied("worker-1"))["interval"] == 2:
                print("worker-1 measures every 2 s, by version", row["version"])
                break
            await asyncio.sleep(0.01)
        try:
            await c.config.set("node/worker-1", {"intervall": 2})
        except zcluster.ConfigError as error:
            print("refused:", error)

        await c.config.unset("node/worker-1", everything=True)
        await c.groups.delete(GROUP)
        await c.agents.remove(["example-1", "example-2"])


if __name__ == "__main__":
    asyncio.run(main())
