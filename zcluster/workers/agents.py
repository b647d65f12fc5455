"""A worker's agents on their way to the master, and the master's orders about them.

Rules kept here:
- what is sent is read from the book, page by page; nothing is kept in memory but what is under way;
- the book is read when it has changed and the master has said what it has; else nothing happens here at all;
- an order is carried out in the book before the next page is read: what was dropped does not go up any more;
- encoding more than a few rows is done by a thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from zcluster.config import Loaded
from zcluster.core.agents.orders import adopted, claimed_again, keeps, without_repeats
from zcluster.core.agents.row import Row
from zcluster.core.agents.rowcodec import CHUNK_BYTES, MAX_ROWS, Packed, pack_rows
from zcluster.core.agents.sending import FOREVER, Reading, Sending
from zcluster.core.peers import Event
from zcluster.dapi.function import Function
from zcluster.errors import Busy, PeerError, StoreFailed
from zcluster.nodes.desk import Desk
from zcluster.nodes.tasks import keep_running
from zcluster.store.book import AgentBook
from zcluster.wire import Message, Welcome
from zcluster.wire.agents import AgentOrder, AgentOrders, Rows, Taken
from zcluster.workers.uplink import Uplink

INLINE_ROWS = 32
FIRST_LIMIT = 600
"""Rows of the first page; from then on as many as fit into a chunk, judged by the last one."""
FILL = 0.95
MAX_WAITING = 100
"""AGENTORDERS that wait to be carried out."""
RETRY_S = 1.0
"""When orders are tried again that the book could not take."""
SHOWN = 5

Perform = Callable[[AgentOrder], bool]
"""Does to an agent's session what an order says: ends it (``drop``, ``remove``; unless it is newer than ``epoch``), or tells
it to go (``move``). Returns false when a newer session of the agent is here: its row then stays."""


def no_sessions(order: AgentOrder) -> bool:
    """The Perform of a node at which agents have no sessions."""
    return True


class WorkerAgents:
    """The part of a worker that brings its book up.

    Args:
        perform: what an order does to the session of its agent.
    """

    kinds = frozenset({Taken.kind, AgentOrders.kind})

    def __init__(self, desk: Desk, uplink: Uplink, perform: Perform = no_sessions) -> None:
        self._desk, self._uplink, self._book, self._perform = desk, uplink, desk.book, perform
        self.sending = Sending(desk.book.id)
        self._orders: deque[AgentOrders] = deque()
        self._woken = asyncio.Event()
        self._limit = FIRST_LIMIT
        self._store_failed = False
        self._task: asyncio.Task[None] | None = None

    # -- the part -------------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """None: the master answers for all agents."""
        return {}

    async def start(self) -> None:
        """Begin to speak with the master."""
        self._uplink.attach(self)
        self._task = asyncio.create_task(keep_running(self._run, self._desk.logger, "sending rows"), name="agents up")

    def apply(self, loaded: Loaded) -> None:
        """Nothing here is configured."""

    async def close(self) -> None:
        """End; what did not go up goes up after the next start."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def poke(self) -> None:
        """The book has changed: to be called after each write to it."""
        self.sending.changed(self._desk.clock())
        self._woken.set()

    # -- the session ----------------------------------------------------------------------------------------------------

    def link_up(self, welcome: Welcome) -> None:
        """The master says with TAKEN what it has."""
        self.sending.link_up()

    def link_down(self) -> None:
        """What was under way is sent again in the next session."""
        self.sending.link_down()

    def receive(self, message: Message, data: bytes, offset: int) -> None:
        """TAKEN or AGENTORDERS."""
        if isinstance(message, Taken):
            self.sending.taken(message, self._desk.clock())
            if message.refused_count:
                first = [id_ for id_, _ in message.refused[:SHOWN]]
                self._desk.note(Event("agents_not_taken", {"count": message.refused_count, "first": first}))
        elif isinstance(message, AgentOrders):
            if len(self._orders) == MAX_WAITING:
                self._orders.popleft()
                self._desk.note(Event("agent_orders_lost", {"waiting": MAX_WAITING}, "warning"))
            self._orders.append(message)
        self._woken.set()

    # -- the work -------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        sending, clock = self.sending, self._desk.clock
        while True:
            self._woken.clear()
            now = clock()
            sending.handle_deadline(now)
            try:
                while self._orders:
                    await carry_out(self._orders[0].orders, self._book, self._desk.name, self._perform, self._note_fault)
                    self._orders.popleft()
                    sending.changed(clock())
                if (reading := sending.next(clock())) is not None:
                    await self._send(reading)
                    continue
                self._store_works()
            except (StoreFailed, Busy) as error:
                self._store_fails(error)
                sending.failed(clock())
            except BaseException:
                sending.failed(clock())
                raise
            due_s = sending.next_deadline()
            await self._wait(min(due_s, clock() + RETRY_S) if self._orders else due_s)

    async def _wait(self, due_s: float) -> None:
        timeout_s = None if due_s == FOREVER else max(0.0, due_s - self._desk.clock())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()

    async def _send(self, reading: Reading) -> None:
        limit = self._limit
        while True:
            rows, upto, more = await self._book.changed(reading.after, limit)
            packed = await pack(rows)
            if packed.count == len(rows):
                break
            limit = packed.count
        if packed.left_out:
            fields = {"count": len(packed.left_out), "first": packed.left_out[:SHOWN]}
            self._desk.note(Event("agent_too_large", fields, "warning"))
        if packed.rows:
            self._limit = max(1, min(MAX_ROWS, int(FILL * CHUNK_BYTES * packed.rows / packed.raw_bytes)))
        source = self.sending.source
        if self.sending.read(reading, upto, more, packed.count, self._desk.clock()):
            message = Rows(
                source=source, base=reading.after, upto=upto, count=packed.rows, more=more, encoding=packed.encoding,
                raw_bytes=packed.raw_bytes,
            )  # fmt: skip
            self._uplink.say(message, packed.body)

    def _note_fault(self, error: PeerError) -> None:
        self._desk.logger.warning("an order of the master was not carried out: %s", error)

    def _store_fails(self, error: StoreFailed | Busy) -> None:
        if not self._store_failed:
            self._store_failed = True
            self._desk.note(Event("agents_store_failed", {"node": self._desk.name, "reason": error.message}, "warning"))

    def _store_works(self) -> None:
        if self._store_failed:
            self._store_failed = False
            self._desk.note(Event("agents_store_recovered", {"node": self._desk.name}))


async def pack(rows: Sequence[Row]) -> Packed:
    """As pack_rows, off the loop when there are many."""
    return pack_rows(rows) if len(rows) <= INLINE_ROWS else await asyncio.to_thread(pack_rows, rows)


async def carry_out(
    orders: Sequence[AgentOrder], book: AgentBook, node: str, perform: Perform, fault: Callable[[PeerError], None]
) -> None:
    """Do what the master orders: in the book, and by ``perform`` with the agents' sessions.

    Raises:
        StoreFailed: the book cannot be read or written; the same orders may be carried out again.
    """
    for run in without_repeats(orders):
        known = await book.get_many([order.id for order in run if order.op != "move"])
        drop: list[str] = []
        put: list[Row] = []
        again: list[tuple[str, dict[str, Any]]] = []
        for order in run:
            row = known.get(order.id)
            if row is not None and (epoch := claimed_again(row, order)):
                again.append((order.id, {"epoch": epoch}))
            elif order.op == "move":
                perform(order)
            elif order.op == "adopt":
                try:
                    made = adopted(row, order, node)
                except PeerError as error:
                    fault(error)
                    continue
                if made is not None:
                    put.append(made)
            elif (row is None or not keeps(row, order)) and perform(order) and row is not None:
                drop.append(order.id)
        # Nothing is awaited between the last look at the sessions and these: a session that opens now writes its row after them.
        if drop:
            await book.purge(drop)
        if put:
            await book.put(put)
        if again:
            await book.update(again)
