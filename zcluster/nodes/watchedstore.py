"""A store that tells of the disk: a write that fails is an event, and so is the first one that does not fail any more.

Rules kept here:
- each is told once: a disk that stays full is one event, however much is to be written;
- only writes tell: what can still be read says nothing about a disk that is full;
- everything else is the store's own answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from zcluster.core.peers import Event
from zcluster.errors import StoreFailed
from zcluster.store.interface import MAX_PAGE, Change, Delete, Entry, Expect, Lease, Listing, Put, Store

T = TypeVar("T")


class WatchedStore:
    """``store``, whose troubles are told to ``note``.

    Args:
        node: whose store it is.
    """

    def __init__(self, store: Store, node: str, note: Callable[[Event], None]) -> None:
        self._store, self._node, self._note = store, node, note
        self._failed = False
        self.id = store.id

    async def apply(self, ops: Sequence[Put | Delete], *, expect: Sequence[Expect] = ()) -> int:
        return await self._written(self._store.apply(ops, expect=expect))

    async def grant(self, ttl_s: float) -> Lease:
        return await self._written(self._store.grant(ttl_s))

    async def revoke(self, lease: int) -> None:
        await self._written(self._store.revoke(lease))

    async def expire(self) -> None:
        await self._store.expire()

    async def compact(self, keep: int) -> None:
        await self._written(self._store.compact(keep))

    async def keep_alive(self, lease: int) -> None:
        await self._store.keep_alive(lease)

    async def revision(self) -> int:
        return await self._store.revision()

    async def get(self, key: str) -> Entry | None:
        return await self._store.get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        return await self._store.get_many(keys)

    async def scan(self, prefix: str, *, after: str = "", limit: int = MAX_PAGE) -> Listing:
        return await self._store.scan(prefix, after=after, limit=limit)

    async def changes(self, prefix: str, after: int, *, limit: int = MAX_PAGE) -> tuple[list[Change], int]:
        return await self._store.changes(prefix, after, limit=limit)

    def watch(self, prefix: str, after: int) -> AsyncIterator[tuple[list[Change], int]]:
        return self._store.watch(prefix, after)

    async def digests(self, prefix: str) -> tuple[list[bytes], int]:
        return await self._store.digests(prefix)

    async def bucket(self, prefix: str, number: int) -> Listing:
        return await self._store.bucket(prefix, number)

    async def close(self) -> None:
        await self._store.close()

    async def _written(self, write: Awaitable[T]) -> T:
        try:
            result = await write
        except StoreFailed as error:
            if not self._failed:
                self._failed = True
                self._note(Event("store_failed", {"node": self._node, "reason": error.message, "hint": error.hint}, "warning"))
            raise
        if self._failed:
            self._failed = False
            self._note(Event("store_recovered", {"node": self._node}))
        return result
