"""What happened in the cluster, kept and told: the functions ``events.since`` and ``events.follow``.

Rules kept here:
- each event has the next sequence number of the log, and is told to followers only when it is in the log;
- an event that the log no longer has is never passed over in silence: the event ``missed`` stands for those;
- a follower reads at its own pace (a stream's credit); those that keep up are served from memory, the others from the log;
- what cannot be written (the disk is full) waits, up to MAX_PENDING; beyond that it is counted, and told as ``events_lost``;
- followers take at most a part of the master's slots, and end when the master drains: they never keep it from ending.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import islice
from typing import Annotated, Any, Protocol

import msgspec

from zcluster.config import Loaded
from zcluster.core.eventnames import MISSED, Names, checked_globs, matches, told
from zcluster.core.peers import Event
from zcluster.dapi.function import Function, function
from zcluster.errors import Busy, Draining, StoreFailed, UsageError
from zcluster.nodes.desk import Desk

MAX_PENDING = 10_000
TAIL = 2048
"""Events kept in memory for those who follow."""
PAGE = 256
SCAN = 20_000
"""Events that one call of ``events.since`` looks at."""
MAX_LIMIT = 1000
RETRY_S = 1.0
CLOSE_S = 2.0
FOLLOWER_SHARE = 4
"""At most one of so many of the master's slots is for followers."""

Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
LogId = Annotated[str, msgspec.Meta(max_length=64)]
Record = dict[str, Any]


class EventLog(Protocol):
    """Where events are kept (store/linelog.py)."""

    @property
    def oldest(self) -> int:
        """The sequence of the oldest record that is kept; one more than :attr:`last` when there is none."""

    @property
    def last(self) -> int:
        """The sequence of the newest record; 0 before the first."""

    async def append(self, record: Record) -> int:
        """Keep ``record``; returns its sequence. Raises StoreFailed."""

    async def read(self, after: int, limit: int) -> list[Record]:
        """The records after that sequence, the oldest first; each says its ``sequence``."""

    async def close(self) -> None: ...


class EventBook:
    """The log of events, and those who follow it.

    Args:
        open_log: opens the log.
        names: what events are called.
        wall_s: seconds since 1970.
        problem: told of what goes wrong with the log.
    """

    def __init__(
        self,
        open_log: Callable[[], Awaitable[EventLog]],
        names: Names,
        wall_s: Callable[[], float],
        problem: Callable[[str], None],
    ) -> None:
        self._open_log, self._names, self._wall_s, self._problem = open_log, names, wall_s, problem
        self._log: EventLog | None = None
        self._pending: deque[Record] = deque()
        self._lost = 0
        self._tail: deque[Record] = deque(maxlen=TAIL)
        self._wake = asyncio.Event()
        self._grown = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self.id = ""
        """Of the log: sequences of another log say nothing here."""
        self.ending = False
        self._closing = False
        self.followers = 0

    async def open(self, id_: str) -> None:
        """Open the log and begin to write what was heard.

        Raises:
            StoreFailed: it cannot be opened.
        """
        self.id = id_
        self._log = await self._open_log()
        self._writer = asyncio.create_task(self._write(), name="zcluster-events")

    async def close(self) -> None:
        """Write what waits, within CLOSE_S, and close the log."""
        self.end()
        self._closing = True
        if self._writer is not None:
            self._wake.set()
            await asyncio.wait({self._writer}, timeout=CLOSE_S)
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        if self._pending:
            self._problem(f"{len(self._pending)} events were not kept")
        if self._log is not None:
            await self._log.close()
            self._log = None

    def end(self) -> None:
        """Those who follow are to go: the master ends."""
        self.ending = True
        self._announce()

    def heard(self, event: Event) -> None:
        """Something happened."""
        name = self._names.of(event)
        if not name:
            return
        if len(self._pending) >= MAX_PENDING:
            self._lost += 1
            return
        self._pending.append(self._record(name, event.level, event.fields))
        self._wake.set()

    @property
    def log(self) -> EventLog:
        if self._log is None:
            raise Draining("the events of this master are closed", hint="it is starting or shutting down; ask again")
        return self._log

    async def read(self, after: int, limit: int = PAGE) -> list[Record]:
        """The events after ``after``, at most ``limit``; empty when there are none yet. A gap before them shows in the first."""
        tail = self._tail
        if tail and tail[0]["sequence"] <= after + 1:
            first = after + 1 - tail[0]["sequence"]
            return list(islice(tail, first, first + limit))
        if after >= self.log.last:
            return []
        return await self.log.read(after, limit)

    async def past(self, position: int) -> AsyncIterator[Record]:
        """The events after ``position`` up to now, with ``missed`` where some are gone."""
        while page := await self.read(position):
            for record in page:
                if record["sequence"] > position + 1:
                    yield self.missed(position, record["sequence"])
                position = record["sequence"]
                yield record

    async def grown(self, after: int) -> None:
        """Wait until there is an event after ``after``, or the end."""
        while not self.ending and self.log.last <= after:
            await self._grown.wait()

    async def before(self, wall_s: float) -> int:
        """The sequence of the last event that is older than ``wall_s``, as far as the clock only went forward."""
        low, high = self.log.oldest - 1, self.log.last
        while low < high:
            middle = (low + high) // 2
            found = await self.read(middle, 1)
            if found and found[0]["at_s"] < wall_s:
                low = max(found[0]["sequence"], middle + 1)
            else:
                high = middle
        return min(low, self.log.last)

    def missed(self, after: int, first: int) -> Record:
        """The event that stands for those after ``after`` and before ``first``."""
        fields = {"count": first - after - 1, "oldest": first}
        return {"sequence": first - 1, **self._record(MISSED, "warning", fields)}

    def _record(self, name: str, level: str, fields: dict[str, Any]) -> Record:
        return {"at_s": round(self._wall_s(), 3), "name": name, "level": level, "fields": told(fields)}

    async def _write(self) -> None:
        while self._pending or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._write_pending(self.log)
            except StoreFailed as error:
                self._problem(f"events wait, they cannot be written: {error}")
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _write_pending(self, log: EventLog) -> None:
        while self._pending:
            record = self._pending[0]
            sequence = await log.append(record)
            self._pending.popleft()
            self._tail.append({"sequence": sequence, **record})
            if self._lost:
                lost, self._lost = self._lost, 0
                self._pending.append(self._record("events_lost", "warning", {"count": lost}))
            self._announce()

    def _announce(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()


class Events:
    """The part of a master that keeps its events.

    Args:
        known: the nodes that were here before this start.
        open_log: opens the log.
    """

    def __init__(self, desk: Desk, known: Iterable[str], open_log: Callable[[], Awaitable[EventLog]]) -> None:
        self._desk = desk
        self.book = EventBook(open_log, Names(known), desk.wall_s, desk.logger.warning)

    def heard(self, event: Event) -> None:
        """An event of the master: it is kept, and told to who follows."""
        self.book.heard(event)
        if event.name == "master_draining":
            self.book.end()

    async def start(self) -> None:
        """Open the log."""
        await self.book.open(self._desk.store.id)

    def apply(self, loaded: Loaded) -> None:
        """Nothing of the configuration concerns events."""

    async def close(self) -> None:
        """Close the log."""
        await self.book.close()

    def functions(self) -> dict[str, Function]:
        """``events.since`` and ``events.follow``."""
        return {found.name: found for found in (Function(call, own_errors=True) for call in (self._since(), self._follow()))}

    def _since(self) -> Callable[..., Any]:
        book = self.book

        @function("events.since", idempotent=True)
        async def since(
            after: Sequence | None = None,
            limit: Limit = 100,
            names: list[str] | None = None,
            since_s: float | None = None,
            log: LogId = "",
        ) -> dict[str, Any]:
            """Events after a sequence or a time; without both the newest. ``next`` is where to go on, ``more`` whether there is
            more by now."""
            globs = checked_globs(names or ())
            newest = after is None and since_s is None
            back = SCAN if globs else limit
            position = max(book.log.oldest - 1, book.log.last - back) if newest else await _start(book, after, since_s, log)
            found: deque[Record] = deque(maxlen=limit)
            seen = 0
            async for record in book.past(position):
                position, seen = record["sequence"], seen + 1
                if record["name"] == MISSED or matches(record["name"], globs):
                    found.append(record)
                if seen >= SCAN or (len(found) == limit and not newest):
                    break
            return {"log": book.id, "events": list(found), "oldest": book.log.oldest, "last": book.log.last, "next": position,
                    "more": position < book.log.last}  # fmt: skip

        return since

    def _follow(self) -> Callable[..., Any]:
        book = self.book

        @function("events.follow")
        async def follow(
            after: Sequence | None = None, names: list[str] | None = None, since_s: float | None = None, log: LogId = ""
        ) -> AsyncIterator[dict[str, Any]]:
            """First where it begins ({log, after, oldest, last}), then the events after a sequence or a time that are past, then
            each when it happens. Without both only what happens from now on."""
            globs = checked_globs(names or ())
            most = self._desk.loaded().settings.worker.slots // FOLLOWER_SHARE
            if book.followers >= most:
                raise Busy(f"{book.followers} follow the events", hint="at most a quarter of worker.slots may", retry_after_s=5.0)
            book.followers += 1
            try:
                live = after is None and since_s is None
                position = book.log.last if live else await _start(book, after, since_s, log)
                yield {"log": book.id, "after": position, "oldest": book.log.oldest, "last": book.log.last}
                while True:
                    async for record in book.past(position):
                        position = record["sequence"]
                        if record["name"] == MISSED or matches(record["name"], globs):
                            yield record
                    if book.ending:
                        raise Draining("the master is shutting down", hint="follow the events again from the last sequence")
                    await book.grown(position)
            finally:
                book.followers -= 1

        return follow


async def _start(book: EventBook, after: int | None, since_s: float | None, log: str) -> int:
    """After which sequence to begin.

    Raises:
        UsageError: a sequence that has not been reached.
    """
    if after is None:
        return await book.before(since_s or 0.0)
    if log and log != book.id:
        return 0  # what was read came from a log that is gone: everything here is new
    if after > book.log.last:
        raise UsageError(f"the newest event is {book.log.last}, not {after} or later", hint="is it a sequence of another master?")
    return after
