"""What happened in the cluster, and then what happens, over lost connections and restarts of the master.

zcluster demo
ZCLUSTER_HOME=... python examples/events.py [SEQUENCE [COUNT]]
"""

from __future__ import annotations

import asyncio
import sys
import time

import zcluster


async def main(after: int, count: int | None) -> None:
    """Print a line an event, from behind the sequence ``after`` on; end after ``count``."""
    async with zcluster.AsyncClient() as c:
        async for event in c.events(after=after, limit=count):
            clock = time.strftime("%H:%M:%S", time.localtime(event["at_s"]))
            about = event["fields"].get("name", "")
            print(f"{event['sequence']:>6}  {clock}  {event['name']:<12} {about}", flush=True)


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:3]]
    asyncio.run(main(words[0] if words else 0, words[1] if len(words) > 1 else None))
