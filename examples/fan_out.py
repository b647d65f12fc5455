"""One function on every node, and what each answered, as it arrives.

zcluster demo
ZCLUSTER_HOME=... python examples/fan_out.py [TARGET]
"""

from __future__ import annotations

import asyncio
import sys

import zcluster


async def main(target: str) -> int:
    """Print a line a node; returns the exit code: 0 when every node answered."""
    missing = 0
    async with zcluster.AsyncClient() as c:
        async for r in c.fan_out("node.resources", target=target, timeout=5.0):
            if r.ok:
                print(f"{r.node:<12} cpu {r.value['cpu_percent']:5.1f} %  memory {r.value['memory']['percent']:5.1f} %")
            else:
                missing += 1
                print(f"{r.node:<12} {r.error}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "all")))
