"""The event loop of a daemon.

Rules kept here:
- uvloop drives it where it is installed: it halves what the loop itself costs per message
  (docs/decisions/0008-uvloop-in-the-daemons.md);
- the end is bounded: a task that swallows its cancellation does not keep the process alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from zcluster.process.heap import steady_heap

LAST_TASKS_S = 0.5
T = TypeVar("T")


def run_daemon(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end, then cancel what is left and wait for it for at most LAST_TASKS_S."""
    steady_heap()
    loop = new_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=LAST_TASKS_S))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        if not asyncio.all_tasks(loop):
            loop.close()


def new_loop() -> asyncio.AbstractEventLoop:
    """A uvloop where it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
