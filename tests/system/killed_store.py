"""Commits until it is killed: run by test_store_crash.py in a process of its own.

``python killed_store.py PATH TASKS`` applies from TASKS tasks at once and prints, for each commit that was acknowledged, its
revision, key and value. Appends a line to a log beside it for each, and prints its number when it was flushed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from zcluster.store.interface import Delete, Put
from zcluster.store.linelog import LineLog
from zcluster.store.opening import open_store


async def main(path: Path, tasks: int) -> None:
    store = await open_store(path, digests=["groups/"])
    log = await LineLog.open(path.parent / "log", segment_bytes=20_000, segments=1000)

    async def commit(task: int) -> None:
        for number in count():
            key, value = f"groups/{task}/{number % 7}", f"{os.getpid()}-{number}"
            revision = await store.apply(
                [Put(key, value.encode()), Put(f"twin/{task}/{number % 7}", value.encode()), Delete("x")]
            )
            line = log.append({"key": key, "value": value})
            await log.flush()
            os.write(1, f"{revision} {key} {value} {line}\n".encode())

    await asyncio.gather(*(commit(task) for task in range(tasks)))


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
