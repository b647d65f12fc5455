"""A disk that is full is told once, and so is its end; else the store is as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from zcluster.core.peers import Event
from zcluster.errors import Conflict, StoreFailed
from zcluster.nodes.watchedstore import WatchedStore
from zcluster.store.interface import Delete, Expect, Lease, Put, Store
from zcluster.store.memory import MemoryStore


class FullDisk(MemoryStore):
    """A store whose disk is full for a while."""

    full = False

    async def apply(self, ops: Sequence[Put | Delete], *, expect: Sequence[Expect] = ()) -> int:
        self._check()
        return await super().apply(ops, expect=expect)

    async def grant(self, ttl_s: float) -> Lease:
        self._check()
        return await super().grant(ttl_s)

    def _check(self) -> None:
        if self.full:
            raise StoreFailed("the disk is full", hint="free space")


def test_a_full_disk_is_told_once_and_so_is_its_end() -> None:
    async def main() -> None:
        told: list[Event] = []
        inner = FullDisk(clock=lambda: 0.0)
        store: Store = WatchedStore(inner, "n", told.append)
        await store.apply([Put("a", b"1")])
        inner.full = True
        for _ in range(3):
            with pytest.raises(StoreFailed):
                await store.apply([Put("a", b"2")])
            with pytest.raises(StoreFailed):
                await store.grant(1.0)
            assert (await store.get("a")) is not None
        assert told == [Event("store_failed", {"node": "n", "reason": "the disk is full", "hint": "free space"}, "warning")]
        inner.full = False
        with pytest.raises(Conflict):
            await store.apply([Put("a", b"3")], expect=[Expect("a", 99)])
        assert len(told) == 1
        await store.apply([Put("a", b"3")])
        await store.apply([Put("a", b"4")])
        assert told[1:] == [Event("store_recovered", {"node": "n"})]
        await store.close()

    asyncio.run(main())


def test_everything_else_is_the_stores_own_answer() -> None:
    async def main() -> None:
        inner = FullDisk(("a/",), clock=lambda: 0.0)
        store: Store = WatchedStore(inner, "n", lambda event: None)
        assert store.id == inner.id
        lease = await store.grant(5.0)
        await store.keep_alive(lease.id)
        await store.apply([Put("a/1", b"1", lease.id), Put("a/2", b"2")])
        assert [entry.key for entry in (await store.scan("a/", after="a/1", limit=1)).entries] == ["a/2"]
        assert set(await store.get_many(["a/1", "b"])) == {"a/1"}
        assert await store.revision() == 1
        assert await store.changes("a/", 0) == await inner.changes("a/", 0)
        assert await store.digests("a/") == await inner.digests("a/")
        assert await store.bucket("a/", 0) == await inner.bucket("a/", 0)
        assert await anext(store.watch("a/", 0)) == await inner.changes("a/", 0)
        await store.revoke(lease.id)
        await store.expire()
        await store.compact(0)
        assert [entry.key for entry in (await store.scan("a/")).entries] == ["a/2"]
        await store.close()

    asyncio.run(main())
