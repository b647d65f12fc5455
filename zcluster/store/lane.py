"""A thread that takes all that waits at once: what group commits are made of.

Rules kept here:
- what is put is done in that order, and everything that waits when a turn begins is in that turn;
- a lane that is closed does what waits first.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lane(Generic[T]):
    """Calls ``work`` in a thread of its own, with all that waits. ``work`` must not raise: it delivers errors like results."""

    def __init__(self, name: str, work: Callable[[list[T]], None]) -> None:
        self._work = work
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        # A daemon: what was acknowledged is on disk already, and a process that ends without closing must not hang.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Have ``item`` done."""
        self._queue.put(item)

    async def close(self) -> None:
        """Have all done that waits, and end the thread."""
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        ended = False
        while not ended:
            items = [self._queue.get()]
            try:
                while True:
                    items.append(self._queue.get_nowait())
            except queue.Empty:
                pass  # that was all
            ended = None in items
            batch = [item for item in items if item is not None]
            if batch:
                self._work(batch)
