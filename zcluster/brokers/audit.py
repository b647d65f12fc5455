"""The master's audit log: who asked for what, where it ran, how it ended; and the function ``audit.since``.

Rules kept here:
- a request or job that is audited has its record whatever becomes of it; records are in the order of the ends, and on the disk
  soon after: an answer does not wait for them;
- a log that cannot be written stops nobody's work: records wait, and are written when it can be; what is too much for the memory
  is lost, counted, and told by a record in its place;
- no secret is written (core/auditargs.py), and nothing of what a function returned.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Protocol

import msgspec
import orjson

from zcluster.config import Loaded
from zcluster.core.auditargs import Arguments
from zcluster.core.auditevents import audits, event_record
from zcluster.core.auditing import (
    EndedLines,
    Readers,
    Record,
    Refusals,
    accepted_record,
    ended_record,
    lost_record,
    omitted_record,
    request_record,
)
from zcluster.core.master import Master
from zcluster.core.peers import Event
from zcluster.core.queue.job import Job
from zcluster.core.queue.jobid import job_id
from zcluster.dapi.function import Function, function
from zcluster.errors import Draining, StoreFailed
from zcluster.keys import Ring, fingerprint
from zcluster.nodes.desk import Desk

SINCE = "audit.since"
BATCH = 8000
"""Records between two waits for the disk; LineLog takes so many lines at once."""
BATCH_BYTES = 8 * 1024 * 1024
PACE_S = 0.05
"""Between two writes: what ends meanwhile costs one fsync."""
MAX_WAITING = 100_000
MAX_WAITING_BYTES = 32 * 1024 * 1024
RETRY_S = 1.0
TELL_FAILED_S = 10.0
"""Between two events that say that the log cannot be written."""
PAGE = 1000
SCAN = 20_000
"""Records that one call of ``audit.since`` looks at."""
MAX_LIMIT = 1000
MAX_ANSWER_BYTES = 1024 * 1024
"""An answer ends after the record that makes it this large."""
FINGERPRINTS = 4096

After = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
KeyName = Annotated[str, msgspec.Meta(max_length=128)]


class AuditLog(Protocol):
    """Where records are kept: a LineLog (store/linelog.py)."""

    oldest: int
    newest: int
    lost: int

    def append(self, record: Mapping[str, Any]) -> int: ...
    def append_many(self, records: Sequence[bytes]) -> bool: ...
    async def flush(self) -> None: ...
    async def read(self, after: int, limit: int = ...) -> list[Record]: ...
    async def close(self) -> None: ...


class Writer:
    """Writes records to a log that may fail, in order.

    Args:
        wall_s: seconds since 1970.
        failed: told why something could not be written, each time.
    """

    def __init__(self, log: AuditLog, wall_s: Callable[[], float], failed: Callable[[str], None]) -> None:
        self._log, self._wall_s, self._failed = log, wall_s, failed
        self._waiting: deque[bytes] = deque()
        """Records as JSON."""
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.lost = 0
        """Records that are lost, and not told of yet."""

    @property
    def waiting(self) -> int:
        """How many records wait for the disk."""
        return len(self._waiting)

    def add(self, record: Record) -> None:
        """Write ``record`` soon."""
        self.add_line(orjson.dumps(record))

    def add_line(self, data: bytes) -> None:
        """Write a record that is encoded already."""
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + len(data) > MAX_WAITING_BYTES:
            self.lost += 1
            self._failed("more waits for the disk than there is memory for")
        else:
            self._waiting.append(data)
            self._waiting_bytes += len(data)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    async def close(self) -> int:
        """Try once more to write what waits, and close the log; returns how many records are lost for good."""
        self._closing.set()
        if self._task is not None:
            await self._task
        await self._log.close()
        return self.lost + len(self._waiting)

    async def _run(self) -> None:
        while self._waiting or self.lost:
            written = await self._write()
            if self._closing.is_set():
                if not written:
                    return
                continue
            try:
                await asyncio.wait_for(self._closing.wait(), PACE_S if written else RETRY_S)
            except TimeoutError:
                continue

    def _next(self) -> list[bytes]:
        """Take the records that are to be written next."""
        batch: list[bytes] = []
        size = 0
        while self._waiting and len(batch) < BATCH and size + len(self._waiting[0]) <= BATCH_BYTES:
            size += len(self._waiting[0])
            batch.append(self._waiting.popleft())
        return batch

    async def _write(self) -> bool:
        """Write the next records, or that some were lost; returns whether they are on the disk."""
        told = self.lost
        batch = [] if told else self._next()
        lost_before = self._log.lost
        if told:
            self._log.append(lost_record(told, self._wall_s()))
        else:
            self._log.append_many(batch)
        reason = ""
        try:
            await self._log.flush()
        except StoreFailed as error:
            reason = error.message
        gone = self._log.lost - lost_before
        if not gone:
            self.lost -= told
            self._waiting_bytes -= sum(map(len, batch))
            return True
        if gone == len(batch):
            # Not one of them is in the log: all can be written again.
            self._waiting.extendleft(reversed(batch))
        elif not told:
            self.lost += gone
            self._waiting_bytes -= sum(map(len, batch))
        self._failed(reason or "the log took no more lines")
        return False


class Audit:
    """The part of a master that keeps its audit log.

    Args:
        open_log: opens the log.
    """

    def __init__(self, desk: Desk, machine: Master, ring: Ring, open_log: Callable[[], Awaitable[AuditLog]]) -> None:
        self._desk, self._machine, self._ring, self._open_log = desk, machine, ring, open_log
        self._log: AuditLog | None = None
        self._writer: Writer | None = None
        self._with_arguments = False
        self._arguments = Arguments()
        self._ended = EndedLines()
        self._refusals = Refusals()
        self._readers = Readers()
        self._fingerprint = lru_cache(FINGERPRINTS)(fingerprint)
        self._failed_told_s: float | None = None
        self._schemas_of = -1
        self._known_schemas: dict[str, frozenset[str]] = {}
        self.store_id = ""
        """Of the store of jobs: the first half of a job's id. Set by the queue."""

    # -- what is written --------------------------------------------------------------------------------------------

    def turn_over(self) -> None:
        """The machine's turn is over: write what ended in it."""
        writer, auditing = self._writer, self._machine.dispatch.auditing
        if writer is None:
            return
        now, wall_s = self._desk.clock(), self._desk.wall_s()
        ended, auditing.ended = auditing.ended, []
        for trail in ended:
            if not self._refusals.passes(trail, now) or (trail.function == SINCE and not self._readers.passes(trail, now)):
                continue
            schemas = trail.schemas.union(self._machine.dispatch.functions.schemas(trail.function))
            args = self._told(trail.body, schemas)
            writer.add(request_record(trail, self._fingerprint(trail.public), wall_s, now - trail.since_s, args))
        for key, public, role, count in self._refusals.over(now):
            writer.add(omitted_record(key, self._fingerprint(public), role, count, wall_s))

    def shown(self, job: Job) -> dict[str, Any] | None:
        """The arguments of ``job`` as they may be seen."""
        return self._arguments.told(job.body or b"{}", self._schemas(job.function))

    def job_accepted(self, job: Job, now_wall: float) -> None:
        """``job`` is on the disk. A part of a fan-out is told with the whole; a job that a node has got already is told when it
        ends: one record says it all then."""
        if self._writer is None or job.parent or job.attempt:
            return
        args = self._told(job.body or b"{}", self._schemas(job.function))
        id_ = job_id(self.store_id, job.number)
        self._writer.add(accepted_record(job, id_, self._fingerprint(job.key), self._role(job.key), now_wall, args))

    def job_ended(self, job: Job, wall: float) -> None:
        """``job`` is final, and that is on the disk."""
        if self._writer is None:
            return
        id_ = job_id(self.store_id, job.number)
        parent = job_id(self.store_id, job.parent) if job.parent else ""
        args = self._told(job.body or b"{}", self._schemas(job.function))
        public, role = self._fingerprint(job.key), self._role(job.key)
        line = self._ended.line(job, id_, public, role, wall, b"null" if args is None else orjson.dumps(args))
        if line is None:
            self._writer.add(ended_record(job, id_, parent, public, role, wall, args))
        else:
            self._writer.add_line(line)

    def heard(self, event: Event) -> None:
        """An event of the master; what a peer can cause at will has been thinned out."""
        if self._writer is not None and audits(event.name):
            self._writer.add(event_record(event, self._desk.wall_s()))

    # -- the part ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the log. Raises StoreFailed."""
        self._log = await self._open_log()
        self._writer = Writer(self._log, self._desk.wall_s, self._failed)
        self.apply(self._desk.loaded())

    def apply(self, loaded: Loaded) -> None:
        """Take the settings ``audit.requests`` and ``audit.arguments``."""
        settings = loaded.settings.audit
        self._machine.dispatch.auditing.requests = settings.requests
        self._with_arguments = settings.arguments

    async def close(self) -> None:
        """Write what ended last, and close the log."""
        self.turn_over()
        self._machine.dispatch.auditing.requests = "none"
        self._log = None
        writer, self._writer = self._writer, None
        lost = await writer.close() if writer is not None else 0
        if lost:
            self._desk.logger.error("the audit log cannot be written", extra={"fields": {"lost": lost}})

    def functions(self) -> dict[str, Function]:
        """``audit.since``."""

        @function("audit.since", idempotent=True, role="admin")
        async def since(since_s: float = 0.0, after: After = 0, key: KeyName = "", limit: Limit = MAX_LIMIT) -> dict[str, Any]:
            """Records of the audit log from a time (seconds since 1970) on and after a sequence, the oldest first; of one key or
            of all. ``next`` is after which sequence to go on, null when there is no more; ``oldest`` is the first one kept."""
            log = self._log
            if log is None:
                raise Draining("the audit log of this master is closed", hint="it is starting or shutting down; ask again")
            items, position = await _since(log, since_s, after, key, limit)
            return {"items": items, "next": position, "oldest": log.oldest}

        made = Function(since, own_errors=True)
        return {made.name: made}

    # -- inside -----------------------------------------------------------------------------------------------------

    def _told(self, body: bytes, schemas: frozenset[str]) -> dict[str, Any] | None:
        return self._arguments.told(body, schemas) if self._with_arguments else None

    def _schemas(self, function: str) -> frozenset[str]:
        """The schemas of a function's arguments; looked up anew when nodes have come or gone."""
        functions = self._machine.dispatch.functions
        if functions.changes != self._schemas_of:
            self._schemas_of, self._known_schemas = functions.changes, {}
        known = self._known_schemas.get(function)
        if known is None:
            known = self._known_schemas[function] = frozenset(functions.schemas(function))
        return known

    def _role(self, id_: str) -> str:
        """The role of a key, empty when it is no longer admitted."""
        entry = self._ring.by_id(id_)
        return "" if entry is None else entry.role

    def _failed(self, reason: str) -> None:
        now = self._desk.clock()
        if self._failed_told_s is None or now - self._failed_told_s >= TELL_FAILED_S:
            self._failed_told_s = now
            writer = self._writer
            waiting, lost = (writer.waiting, writer.lost) if writer is not None else (0, 0)
            self._desk.note(Event("audit_failed", {"reason": reason, "waiting": waiting, "lost": lost}, "warning"))


async def _since(log: AuditLog, since_s: float, after: int, key: str, limit: int) -> tuple[list[Record], int | None]:
    """The records, and where to go on. That records were lost concerns every key."""
    newest = log.newest
    position = max(after, await _before(log, since_s)) if since_s > 0 else after
    items: list[Record] = []
    seen, size = 0, 0
    while position < newest and seen < SCAN and len(items) < limit and size < MAX_ANSWER_BYTES:
        page = await log.read(position, min(PAGE, SCAN - seen))
        if not page:
            return items, None
        for record in page:
            position, seen = record["sequence"], seen + 1
            if not key or record.get("key") == key or record["what"] == "lost":
                items.append(record)
                size += len(orjson.dumps(record))
                if len(items) >= limit or size >= MAX_ANSWER_BYTES:
                    break
    return items, position if position < newest else None


async def _before(log: AuditLog, wall_s: float) -> int:
    """The sequence of the last record that is older than ``wall_s``, as far as the clock only went forward."""
    low, high = log.oldest - 1, log.newest
    while low < high:
        middle = (low + high) // 2
        found = await log.read(middle, 1)
        if found and found[0]["at_s"] < wall_s:
            low = found[0]["sequence"]
        else:
            high = middle
    return low
