"""What happened in the cluster, kept and told: the functions ``events.since`` and ``events.follow``.

Rules kept here:
- each event has the next sequence number of the log, is told to followers at once, and is on the disk soon after;
- events that the log no longer has are never passed over in silence: the event ``missed`` stands for them. (Numbers may be passed
  over all the same: after a crash the log goes on with a number that was certainly never given.)
- a follower reads at its own pace (a stream's credit); those that keep up are served from memory, the others from the log;
- what cannot be written (the disk is full) is counted, and told as ``events_lost``;
- followers take at most a part of the master's slots, and end when the master drains: they never keep it from ending.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from itertools import islice
from typing import Annotated, Any, Protocol

import msgspec

from zcluster.config import Loaded
from zcluster.core.eventnames import MISSED, KeyEntry, Names, checked_globs, key_events, matches, told
from zcluster.core.peers import Event
from zcluster.dapi.function import Function, function
from zcluster.errors import Busy, Draining, UsageError
from zcluster.nodes.desk import Desk

MAX_EARLY = 1000
"""Events from before the log is open."""
TAIL = 2048
"""Events kept in memory for those who follow."""
PAGE = 2000
SCAN = 20_000
"""Events that one call of ``events.since`` looks at."""
MAX_LIMIT = 1000
LOST_EVERY_S = 10.0
FOLLOWER_SHARE = 4
"""At most one of so many of the master's slots is for followers."""
ENDS = "master_draining"

Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
LogId = Annotated[str, msgspec.Meta(max_length=64)]
Record = dict[str, Any]


class EventLog(Protocol):
    """Where events are kept: a LineLog (store/linelog.py)."""

    id: str
    oldest: int
    newest: int
    lost: int

    def append(self, record: Mapping[str, Any]) -> int: ...
    async def read(self, after: int, limit: int = ...) -> list[Record]: ...
    async def close(self) -> None: ...


class EventBook:
    """The log of events, and those who follow it.

    Args:
        names: what events are called.
        wall_s: seconds since 1970.
    """

    def __init__(self, names: Names, wall_s: Callable[[], float]) -> None:
        self._names, self._wall_s = names, wall_s
        self._log: EventLog | None = None
        self._early: deque[Event] = deque(maxlen=MAX_EARLY)
        self._tail: deque[Record] = deque(maxlen=TAIL)
        self._grown = asyncio.Event()
        self._lost_told = 0
        self._lost_told_s = 0.0
        self.ending = False
        self.followers = 0

    def open(self, log: EventLog) -> None:
        """Keep what happens, and what was heard before, in ``log``."""
        self._log = log
        while self._early:
            self.heard(self._early.popleft())

    async def close(self) -> None:
        """Close the log; what it has been given is on the disk then."""
        self.end()
        log, self._log = self._log, None
        if log is not None:
            await log.close()

    def end(self) -> None:
        """Those who follow are to go: the master ends."""
        self.ending = True
        self._announce()

    def heard(self, event: Event) -> None:
        """Something happened."""
        log = self._log
        if log is None:
            self._early.append(event)
            return
        name = self._names.of(event)
        if name:
            self._keep(log, name, event.level, event.fields)
        now_s = self._wall_s()
        if log.lost > self._lost_told and abs(now_s - self._lost_told_s) >= LOST_EVERY_S:
            count, self._lost_told, self._lost_told_s = log.lost - self._lost_told, log.lost, now_s
            self._keep(log, "events_lost", "warning", {"count": count})

    @property
    def log(self) -> EventLog:
        if self._log is None:
            raise Draining("the events of this master are closed", hint="it is starting or shutting down; ask again")
        return self._log

    async def read(self, after: int, limit: int = PAGE) -> list[Record]:
        """The events after ``after``, at most ``limit``; empty when there are none yet."""
        tail = self._tail
        if tail and tail[0]["sequence"] <= after + 1:
            first = after + 1 - tail[0]["sequence"]
            return list(islice(tail, first, first + limit))
        if after >= self.log.newest:
            return []
        return await self.log.read(after, limit)

    async def past(self, position: int) -> AsyncIterator[Record]:
        """The events after ``position`` up to now, with ``missed`` where some are gone."""
        while True:
            gone = position + 1 < self.log.oldest
            page = await self.read(position)
            if not page:
                return
            if gone and page[0]["sequence"] > position + 1:
                yield self.missed(position, page[0]["sequence"])
            for record in page:
                position = record["sequence"]
                yield record

    async def grown(self, after: int) -> None:
        """Wait until there is an event after ``after``, or the end."""
        while not self.ending and self.log.newest <= after:
            await self._grown.wait()

    async def before(self, wall_s: float) -> int:
        """The sequence of the last event that is older than ``wall_s``, as far as the clock only went forward."""
        low, high = self.log.oldest - 1, self.log.newest
        while low < high:
            middle = (low + high) // 2
            found = await self.read(middle, 1)
            if found and found[0]["at_s"] < wall_s:
                low = found[0]["sequence"]
            else:
                high = middle
        return low

    def missed(self, after: int, first: int) -> Record:
        """The event that stands for those after ``after`` and before ``first``."""
        fields = {"after": after, "oldest": first}
        return {"sequence": first - 1, "at_s": round(self._wall_s(), 3), "name": MISSED, "level": "warning", "fields": fields}

    def _keep(self, log: EventLog, name: str, level: str, fields: Mapping[str, Any]) -> None:
        record = {"at_s": round(self._wall_s(), 3), "name": name, "level": level, "fields": told(fields)}
        sequence = log.append(record)
        if sequence:
            self._tail.append({"sequence": sequence, **record})
            self._announce()

    def _announce(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()


class Events:
    """The part of a master that keeps its events.

    Args:
        ring: the admitted keys by name, as they are now.
        open_log: opens the log.
    """

    def __init__(
        self, desk: Desk, names: Names, ring: Callable[[], Mapping[str, KeyEntry]], open_log: Callable[[], Awaitable[EventLog]]
    ) -> None:
        self._desk, self._names, self._ring, self._open_log = desk, names, ring, open_log
        self._keys = ring()
        self.book = EventBook(names, desk.wall_s)

    def heard(self, event: Event) -> None:
        """An event of the master: it is kept, and told to who follows."""
        self.book.heard(event)
        if event.name == ENDS:
            self.book.end()

    def ring_changed(self) -> None:
        """The ring is another: what changed are events."""
        before, self._keys = self._keys, self._ring()
        for event in key_events(before, self._keys):
            self._desk.note(event)

    async def start(self) -> None:
        """Open the log. Raises StoreFailed."""
        log = await self._open_log()
        if log.newest:
            self._names.know(self._desk.name)
        self.book.open(log)

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
            position = max(book.log.oldest - 1, book.log.newest - back) if newest else await _start(book, after, since_s, log)
            found: deque[Record] = deque(maxlen=limit)
            seen = 0
            async for record in book.past(position):
                position, seen = record["sequence"], seen + 1
                if record["name"] == MISSED or matches(record["name"], globs):
                    found.append(record)
                if seen >= SCAN or (len(found) == limit and not newest):
                    break
            return {
                "log": book.log.id, "events": list(found), "oldest": book.log.oldest, "last": book.log.newest,
                "next": position, "more": position < book.log.newest,
            }  # fmt: skip

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
                position = book.log.newest if live else await _start(book, after, since_s, log)
                yield {"log": book.log.id, "after": position, "oldest": book.log.oldest, "last": book.log.newest}
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
    if log and log != book.log.id:
        return 0  # what was read came from a log that is gone: everything here is new
    if after > book.log.newest:
        raise UsageError(f"the newest event is {book.log.newest}, not {after} or later", hint="is it another master's number?")
    return after
