"""The store in a SQLite database: what nodes use.

Rules kept here:
- a writing thread has the one connection that writes, a reading thread the one that reads; the loop never waits for a disk;
- the loop's view (revision, digests, leases) changes with the answers of a transaction, in the order of transactions;
- what waits is bounded in calls and in bytes: beyond that the answer is Busy.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from zcluster.errors import Busy
from zcluster.store.digest import check_prefixes, digest_bytes
from zcluster.store.interface import KEEP_CHANGES, MAX_PAGE, Change, Delete, Entry, Expect, Lease, Listing, Put
from zcluster.store.lane import Lane
from zcluster.store.leases import Leases
from zcluster.store.limits import (
    check_bucket,
    check_key,
    check_keys,
    check_limit,
    check_ops,
    check_prefix,
    check_revision,
    check_ttl,
)
from zcluster.store.memory import closed, no_digests
from zcluster.store.sqlite_digests import number_prefixes
from zcluster.store.sqlite_file import StoreFile, failure
from zcluster.store.sqlite_reader import Reader
from zcluster.store.sqlite_writer import Apply, Call, Compact, Done, End, Grant, Result, Writer
from zcluster.store.waking import Waking
from zcluster.wire.tables import BUCKETS

MAX_WAITING = 50_000
MAX_WAITING_BYTES = 256 * 1024 * 1024
OP_BYTES = 200
"""What an operation costs beside its key and value."""

T = TypeVar("T")


@dataclass(slots=True)
class Write:
    """A call that waits for the writing thread, and how many bytes it counts for."""

    call: Call
    future: asyncio.Future[Result]
    size: int


@dataclass(slots=True)
class Read:
    """A question that waits for the reading thread."""

    question: Callable[[], Any]
    future: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class Opened:
    """A database that was opened, and what the loop's view of it begins with."""

    file: StoreFile
    writer: Writer
    id: str
    revision: int
    numbers: dict[str, int]
    """Of the prefixes with digests."""
    digests: dict[int, int]
    leases: list[Lease]


class SqliteStore:
    """A Store (interface.py) at a path; made by :meth:`open`."""

    def __init__(self, opened: Opened, clock: Callable[[], float]) -> None:
        self.id = opened.id
        self._loop = asyncio.get_running_loop()
        self._file = opened.file
        self._numbers = opened.numbers
        self._digests = [digest_bytes(opened.digests.get(slot, 0)) for slot in range(self._slots())]
        self._writer = opened.writer
        self._reader = Reader(opened.file.reader)
        self._waking = Waking(opened.revision)
        self._waiting = 0
        self._waiting_bytes = 0
        self._leases = Leases(clock, self._end_lease)
        self._leases.add(opened.leases)
        self._writing: Lane[Write] = Lane("store-writer", self._write)
        self._reading: Lane[Read] = Lane("store-reader", self._read)

    @staticmethod
    async def open(
        path: Path,
        *,
        digests: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        keep_changes: int = KEEP_CHANGES,
    ) -> SqliteStore:
        """The store at ``path``, made when there is none; about ``keep_changes`` changes are kept.

        Raises:
            StoreFailed: it cannot be read or made.
            Busy: another process has it open.
        """
        check_prefixes(digests)
        return SqliteStore(await asyncio.to_thread(_open, path, digests, keep_changes), clock)

    async def revision(self) -> int:
        self._check_open()
        return self._waking.revision

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        return await self._ask(lambda: self._reader.get(key))

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        check_keys(keys)
        wanted = tuple(keys)
        return await self._ask(lambda: self._reader.get_many(wanted))

    async def scan(self, prefix: str, *, after: str = "", limit: int = MAX_PAGE) -> Listing:
        check_prefix(prefix)
        check_prefix(after)
        check_limit(limit)
        return await self._ask(lambda: self._reader.scan(prefix, after, limit))

    async def apply(self, ops: Sequence[Put | Delete], *, expect: Sequence[Expect] = ()) -> int:
        self._check_open()
        size = check_ops(ops, expect) + OP_BYTES * (len(ops) + len(expect))
        for lease in {op.lease for op in ops if isinstance(op, Put) and op.lease}:
            self._leases.check(lease)
        if self._waiting >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise Busy("too much waits for the disk", hint="try again shortly", retry_after_s=1.0)
        result = await self._do(Apply(tuple(ops), tuple(expect)), size)
        assert isinstance(result, int)
        return result

    async def grant(self, ttl_s: float) -> Lease:
        self._check_open()
        check_ttl(ttl_s)
        self._leases.check_room()
        lease = await self._do(Grant(ttl_s))
        assert isinstance(lease, Lease)
        return lease

    async def keep_alive(self, lease: int) -> None:
        self._check_open()
        self._leases.keep(lease)

    async def revoke(self, lease: int) -> None:
        self._check_open()
        await self._leases.revoke(lease)

    async def expire(self) -> None:
        self._check_open()
        await self._leases.run_due()

    async def changes(self, prefix: str, after: int, *, limit: int = MAX_PAGE) -> tuple[list[Change], int]:
        check_prefix(prefix)
        check_limit(limit)
        check_revision(after)
        return await self._ask(lambda: self._reader.changes(prefix, after, limit))

    async def watch(self, prefix: str, after: int) -> AsyncIterator[tuple[list[Change], int]]:
        check_revision(after)
        while await self._waking.after(after):
            changes, after = await self.changes(prefix, after)
            if changes:
                yield changes, after

    async def digests(self, prefix: str) -> tuple[list[bytes], int]:
        self._check_open()
        first = self._first_slot(prefix)
        return self._digests[first : first + BUCKETS], self._waking.revision

    async def bucket(self, prefix: str, number: int) -> Listing:
        self._check_open()
        slot = self._first_slot(prefix) + number
        check_bucket(number)
        return await self._ask(lambda: self._reader.bucket(slot))

    async def compact(self, keep: int) -> None:
        self._check_open()
        await self._do(Compact(max(keep, 0)))

    async def close(self) -> None:
        if self._waking.closed:
            return
        self._waking.close()
        await self._leases.close()
        await self._reading.close()
        await self._writing.close()
        await asyncio.to_thread(self._file.close)

    def _check_open(self) -> None:
        if self._waking.closed:
            raise closed()

    def _slots(self) -> int:
        return (max(self._numbers.values(), default=-1) + 1) * BUCKETS

    def _first_slot(self, prefix: str) -> int:
        number = self._numbers.get(prefix)
        if number is None:
            raise no_digests(prefix)
        return number * BUCKETS

    async def _end_lease(self, lease: int) -> None:
        await self._do(End(lease))

    async def _do(self, call: Call, size: int = 0) -> Result:
        """Have the writing thread do ``call``."""
        write = Write(call, self._loop.create_future(), size)
        self._waiting += 1
        self._waiting_bytes += size
        self._writing.put(write)
        return await write.future

    async def _ask(self, question: Callable[[], T]) -> T:
        """Have the reading thread answer ``question``."""
        self._check_open()
        if self._waiting >= MAX_WAITING:
            raise Busy("too many questions wait for the disk", hint="try again shortly", retry_after_s=1.0)
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting += 1
        self._reading.put(Read(question, future))
        return await future

    def _write(self, writes: list[Write]) -> None:
        """In the writing thread."""
        try:
            done = self._writer.run([write.call for write in writes])
        except Exception as error:
            done = Done([error] * len(writes))
        self._deliver(lambda: self._written(writes, done))

    def _written(self, writes: list[Write], done: Done) -> None:
        for slot, digest in done.slots.items():
            self._digests[slot] = digest
        for write, result in zip(writes, done.results, strict=True):
            self._waiting -= 1
            self._waiting_bytes -= write.size
            if isinstance(result, Lease):
                # Even if nobody waits for it any more: it is on the disk, and has to end.
                self._leases.add([result])
            settle(write.future, result)
        self._waking.advance(done.revision)

    def _read(self, reads: list[Read]) -> None:
        """In the reading thread."""
        answers: list[Any] = []
        for read in reads:
            try:
                answers.append(read.question())
            except sqlite3.Error as error:
                answers.append(failure(error, "reading the store", self._file.path))
            except Exception as error:
                answers.append(error)
        self._deliver(lambda: self._answered(reads, answers))

    def _answered(self, reads: list[Read], answers: list[Any]) -> None:
        for read, answer in zip(reads, answers, strict=True):
            self._waiting -= 1
            settle(read.future, answer)

    def _deliver(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # A loop that was closed with the store open has nobody left who waits.
            if not self._loop.is_closed():
                raise


def settle(future: asyncio.Future[Any], result: object) -> None:
    """Give ``result``, an error or not, to who waits, if somebody still does."""
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _open(path: Path, prefixes: Sequence[str], keep_changes: int) -> Opened:
    file = StoreFile(path)
    try:
        numbers, digests = number_prefixes(file.writer, prefixes)
        id_, revision = file.writer.execute("SELECT id, revision FROM state").fetchone()
        leases = [Lease(*row) for row in file.writer.execute("SELECT id, ttl_s FROM leases")]
        writer = Writer(file.writer, path, file.reserve, numbers, dict(digests), keep_changes)
    except sqlite3.Error as error:
        file.close()
        raise failure(error, "opening the store", path) from None
    return Opened(file, writer, id_, revision, numbers, digests, leases)
