"""Where the answers of a stream or a fan-out wait until the program takes them.

Rules kept here:
- it is bounded by the credit that the client gives: nothing comes that was not asked for;
- an error comes after what was there before it.
"""

from __future__ import annotations

import asyncio
from collections import deque

from zcluster.errors import ZClusterError


class SinkQueue:
    """The sink of a stream or fan-out."""

    def __init__(self) -> None:
        self._items: deque[tuple[int, str, int, bytes | bytearray] | ZClusterError] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, status: int, node: str, leg: int, body: bytes | bytearray) -> None:
        self._items.append((status, node, leg, body))
        self._notify()

    def fail(self, error: ZClusterError) -> None:
        self._items.append(error)
        self._notify()

    async def get(self) -> tuple[int, str, int, bytes | bytearray]:
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, ZClusterError):
            raise item
        return item

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
