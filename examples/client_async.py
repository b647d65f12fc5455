"""Calls from asyncio: one, many at once, a stream, and an error.

zcluster demo --functions examples/functions.py
ZCLUSTER_HOME=... python examples/client_async.py
"""

from __future__ import annotations

import asyncio

import zcluster


async def main() -> None:
    """Connect with the home's admin key and call."""
    async with zcluster.AsyncClient() as c:
        print("1 + 2 =", await c.call("math.add", {"a": 1, "b": 2}, timeout=5.0))

        sums = await asyncio.gather(*(c.call("math.add", {"a": n, "b": n}) for n in range(1000)))
        print("1000 calls at once, the last one:", sums[-1])

        async for number in c.stream("count.up", {"to": 3}, target="worker-1"):
            print("item", number)

        try:
            await c.call("math.add", {"a": 1, "b": "two"})
        except zcluster.InvalidArguments as error:
            print("refused:", error)


if __name__ == "__main__":
    asyncio.run(main())
