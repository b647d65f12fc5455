"""One copy of a table at work: what comes goes through its machine, and what the machine decides into the store.

Rules kept here:
- one task owns the machine: frames, the session's ends and time wait for it in one queue, in their order;
- what waits together is committed together, unless it is more than a commit holds;
- when the store refuses a commit the copy goes back to what is saved, and asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from zcluster.core.batch import Body
from zcluster.core.peers import Event
from zcluster.core.tables.bodies import read_body
from zcluster.core.tables.copy import Copy
from zcluster.core.tables.digests import table_digest
from zcluster.core.tables.names import prefix_of
from zcluster.core.tables.state import CopyState, Effect, Noted, Op, Replace, Save, Tell, read_state, state_bytes, state_key
from zcluster.errors import PeerError, StoreFailed
from zcluster.files.packing import unpack
from zcluster.nodes.desk import Desk
from zcluster.store.interface import MAX_OPS, Delete, Put
from zcluster.wire import Message
from zcluster.wire.tables import Changes, Head, Page

MAX_COMMIT_OPS = MAX_OPS - 1
"""The state goes with them."""
MAX_COMMIT_BYTES = 16_777_216
MAX_WAITING_BYTES = 8_388_608
"""Of publications."""
SCAN_ITEMS = 1000
RETRY_S = 1.0


@dataclass(frozen=True)
class Frame:
    """A message about the table, and its body."""

    message: Head | Changes | Page
    body: bytes
    session: bool
    """Whether it came on the session; else it was published."""


@dataclass(frozen=True)
class Up:
    """There is a session."""

    heartbeat_s: float


@dataclass(frozen=True)
class Down:
    """The session is over."""


@dataclass(frozen=True)
class Listening:
    """What is published is heard from now on."""


class TableCopy:
    """The copy of one table.

    Args:
        say: sends a message to the master.
        wanted: called when the copy wants to hear what is published.
    """

    def __init__(self, table: str, desk: Desk, say: Callable[[Message, Body], None], wanted: Callable[[], None]) -> None:
        self.table = table
        self._desk, self._say, self._wanted = desk, say, wanted
        self._machine = Copy(table, CopyState())
        self._saved = CopyState()
        self._ops: dict[str, bytes | None] = {}
        self._ops_bytes = 0
        self._next_state: CopyState | None = None
        """What the next commit saves with the operations."""
        self._inbox: deque[Frame | Up | Down | Listening] = deque()
        self._waiting_bytes = 0
        self._head: Frame | None = None
        """The newest HEAD: older ones need not be looked at."""
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._down_s: float | None = None
        """Since when there is no session; None while there is one."""

    # -- from outside -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read what is saved, and begin."""
        self._down_s = self._desk.clock()
        await self._load()
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """End it. What waits is heard again the next time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def link_up(self, heartbeat_s: float) -> None:
        self._down_s = None
        self._add(Up(heartbeat_s))

    def link_down(self) -> None:
        self._down_s = self._desk.clock()
        self._add(Down())

    def listening(self) -> None:
        self._add(Listening())

    def hear(self, frame: Frame) -> None:
        """A frame came. Publications are dropped when too many wait."""
        if isinstance(frame.message, Head):
            session = frame.session or (self._head is not None and self._head.session)
            self._head = Frame(frame.message, b"", session)
            self._event.set()
            return
        if not frame.session and self._waiting_bytes + len(frame.body) > MAX_WAITING_BYTES:
            return
        self._waiting_bytes += len(frame.body)
        self._add(frame)

    @property
    def revision(self) -> int:
        """See WorkerTables.copy_age."""
        return self._machine.state.revision

    def age_s(self) -> float | None:
        """See WorkerTables.copy_age."""
        machine, now = self._machine, self._desk.clock()
        if machine.agreed_s is None:
            return None
        if not machine.wants_publications and machine.state.ready:
            # The table is empty, and the master has to tell on the session when it is no longer.
            return 0.0 if self._down_s is None else now - self._down_s
        return now - machine.agreed_s

    async def row(self) -> dict[str, Any]:
        """The copy as ``tables.status`` tells it."""
        machine, age_s = self._machine, self.age_s()
        digests, _ = await self._desk.store.digests(prefix_of(self.table))
        return {
            "node": self._desk.name, "table": self.table, "store": machine.state.store, "revision": machine.state.revision,
            "digest": table_digest(digests), "ready": machine.state.ready, "doing": machine.doing, "behind": machine.behind,
            "age_s": None if age_s is None else round(age_s, 3),
        }  # fmt: skip

    # -- the task -----------------------------------------------------------------------------------------------------

    def _add(self, what: Frame | Up | Down | Listening) -> None:
        self._inbox.append(what)
        self._event.set()

    async def _load(self) -> None:
        entry = await self._desk.store.get(state_key(self.table))
        self._saved = read_state(entry.value if entry is not None else None)
        self._machine = Copy(self.table, self._saved)

    async def _run(self) -> None:
        while True:
            try:
                await self._wait()
                await self._turn()
            except StoreFailed as error:
                self._desk.note(Event("table_not_saved", {"table": self.table, "reason": error.message}, "warning"))
                await self._go_back()
            except Exception:
                self._desk.logger.exception("the copy of the table %s failed, it goes on from what is saved", self.table)
                await self._go_back()

    async def _go_back(self) -> None:
        self._ops, self._ops_bytes, self._next_state = {}, 0, None
        self._machine.restore(self._saved, self._desk.clock())
        await asyncio.sleep(RETRY_S)

    async def _wait(self) -> None:
        due_s = self._machine.next_deadline()
        timeout_s = None if due_s is None else max(0.0, due_s - self._desk.clock())
        with contextlib.suppress(TimeoutError):
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with the event.
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        self._event.clear()

    async def _turn(self) -> None:
        """Take everything that waits; then compare with the newest HEAD."""
        asks: list[Tell] = []
        while self._inbox:
            what = self._inbox.popleft()
            asks += await self._perform(self._take(what))
        await self._commit()
        if self._head is not None and not self._inbox:
            frame, self._head = self._head, None
            assert isinstance(frame.message, Head)
            own, _ = await self._desk.store.digests(prefix_of(self.table))
            asks += await self._perform(self._machine.head(frame.message, own, self._desk.clock(), session=frame.session))
        asks += await self._perform(self._machine.handle_deadline(self._desk.clock()))
        await self._commit()
        if asks:
            # Only the last one is open: an earlier one was given up for it.
            self._say(asks[-1].ask, asks[-1].body)
        if self._machine.wants_publications:
            self._wanted()

    def _take(self, what: Frame | Up | Down | Listening) -> list[Effect]:
        machine, now = self._machine, self._desk.clock()
        match what:
            case Up():
                return machine.link_up(what.heartbeat_s, now)
            case Down():
                machine.link_down()
                return []
            case Listening():
                return machine.listening(now)
        self._waiting_bytes -= len(what.body)
        message = what.message
        assert not isinstance(message, Head)
        try:
            items = read_body(unpack(message.encoding, what.body, message.raw_bytes), prefix_of(self.table))
            if isinstance(message, Page):
                return machine.page(message, items, now)
            return machine.changes(message, items, now, answer=what.session)
        except PeerError as error:
            self._desk.note(Event("table_protocol_error", {"table": self.table, "reason": error.message}, "warning"))
            if what.session:
                machine.broken(now)
            return []

    async def _perform(self, effects: list[Effect]) -> list[Tell]:
        asks: list[Tell] = []
        for effect in effects:
            match effect:
                case Save():
                    if len(self._ops) + len(effect.ops) > MAX_COMMIT_OPS or self._ops_bytes >= MAX_COMMIT_BYTES:
                        await self._commit()
                    await self._save(effect.ops, effect.state)
                case Replace():
                    await self._commit()
                    await self._save(effect.ops(await self._held(effect)), effect.state)
                    await self._commit()
                case Tell():
                    asks.append(effect)
                case Noted():
                    self._desk.note(Event(effect.name, dict(effect.fields), effect.level))
        return asks

    async def _held(self, place: Replace) -> list[tuple[str, bytes]]:
        """The keys that the copy has where ``place`` speaks of."""
        store, prefix = self._desk.store, prefix_of(self.table)
        if place.buckets:
            # covers() need not look for the bucket again: these are of the right ones.
            found = [entry for number in place.buckets for entry in (await store.bucket(prefix, number)).entries]
            return [(entry.key, entry.value) for entry in found if place.covers(entry.key, place.buckets[0])]
        held: list[tuple[str, bytes]] = []
        after, more = place.after, True
        while more:
            listing = await store.scan(prefix, after=after, limit=SCAN_ITEMS)
            inside = [entry for entry in listing.entries if place.covers(entry.key, 0)]
            held += [(entry.key, entry.value) for entry in inside]
            more = listing.more and len(inside) == len(listing.entries)
            after = listing.entries[-1].key if listing.entries else after
        return held

    # -- the store ----------------------------------------------------------------------------------------------------

    async def _save(self, ops: list[Op], state: CopyState) -> None:
        """Let ``ops`` go with the next commit, and with it ``state``; what is too much goes before it."""
        for key, value in ops:
            if len(self._ops) >= MAX_COMMIT_OPS or self._ops_bytes >= MAX_COMMIT_BYTES:
                # Not all of what belongs together: until the rest is there the copy is not ready.
                await self._write(replace(self._saved, doubt=True))
            self._ops[key] = value
            self._ops_bytes += len(key) + (len(value) if value is not None else 0)
        self._next_state = state

    async def _commit(self) -> None:
        state, self._next_state = self._next_state, None
        if state is not None:
            await self._write(state)

    async def _write(self, state: CopyState) -> None:
        state = replace(state, at_s=round(self._desk.wall_s(), 3))
        ops: list[Put | Delete] = [Delete(key) if value is None else Put(key, value) for key, value in self._ops.items()]
        await self._desk.store.apply([*ops, Put(state_key(self.table), state_bytes(state))])
        self._ops, self._ops_bytes, self._saved = {}, 0, state
