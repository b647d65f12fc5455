"""Waiting for the next commit, without polling.

Rules kept here:
- whoever waits for a revision after one that has passed already does not wait;
- closing wakes everybody.
"""

from __future__ import annotations

import asyncio


class Waking:
    """The revision of a store, to wait for."""

    def __init__(self, revision: int = 0) -> None:
        self.revision = revision
        self.closed = False
        self._waiters: set[asyncio.Future[None]] = set()

    def advance(self, revision: int) -> None:
        """The store is at ``revision`` now."""
        if revision > self.revision:
            self.revision = revision
            self._wake()

    def close(self) -> None:
        """There will be no other revision."""
        self.closed = True
        self._wake()

    async def after(self, revision: int) -> bool:
        """Wait until the store is past ``revision``; False: it was closed."""
        while self.revision <= revision and not self.closed:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return not self.closed

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
