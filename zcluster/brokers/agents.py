"""The master's end of the way that agents' rows go up: chunks in, commits, TAKEN out, and orders to the nodes that lost an agent.

Rules kept here:
- TAKEN says what is committed, and nothing else; a chunk that could not be committed is answered with what was committed before;
- orders about a chunk leave before its TAKEN;
- unpacking is done by a thread, and committing by the book's: the loop only passes chunks on, TOGETHER of them at a time so that
  they may share a commit;
- a node whose lease is over has no active agents; when it is back with the same book, they are as they were;
- what is to be told to a node without a session is kept for it until it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice

from zcluster.config import Loaded
from zcluster.core.agents.orders import MAX_ORDERS, Kept, orders_after
from zcluster.core.agents.ownership import latest_epoch
from zcluster.core.agents.rowcodec import SaidRows, unpack_rows
from zcluster.core.agents.taking import Chunk, Taking, Telling
from zcluster.core.counters import Counters
from zcluster.core.peers import Event, Peer
from zcluster.dapi.function import Function
from zcluster.errors import Busy, PeerError, StoreFailed, ZClusterError
from zcluster.nodes.desk import Desk
from zcluster.nodes.tasks import keep_running
from zcluster.store.book import Cursor, Took
from zcluster.wire import Hello, Message, Refusal
from zcluster.wire.agents import AgentOrder, AgentOrders, Rows, Taken

TOGETHER = 16
"""Chunks that are with the book at a time."""
INLINE_BYTES = 16_384
"""What unpacks to less is unpacked on the loop."""
MAX_REFUSED = 20
"""Refused rows that one TAKEN names."""
RETRY_S = 1.0
FOREVER = float("inf")


class MasterAgents:
    """The part of a master that takes what workers know of their agents.

    Args:
        perform: what an order does to the session of an agent at the master itself (see zcluster.workers.agents.Perform).
        counters: the master's.
    """

    kinds = frozenset({Rows.kind})

    def __init__(self, desk: Desk, perform: Callable[[AgentOrder], bool], counters: Counters) -> None:
        self._desk, self._book, self._perform, self.counters = desk, desk.book, perform, counters
        self.taking = Taking(desk.name, self._lease_s())
        self._telling = Telling()
        self._peers: dict[int, Peer] = {}
        self._greet: dict[int, None] = {}
        """Sessions that have not been told yet what is known of them."""
        self._cursors: dict[str, Cursor] = {}
        self._kept = Kept()
        self._gone: dict[str, None] = {}
        self._woken = asyncio.Event()
        self._room = asyncio.Semaphore(TOGETHER)
        self._tasks: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None] | None = None
        self._store_failed = False

    # -- the part -------------------------------------------------------------------------------------------------------

    def functions(self) -> dict[str, Function]:
        """None: what is asked of agents is asked of the book."""
        return {}

    async def start(self) -> None:
        """Take part in the sessions. The nodes that have agents in the book are given a lease's time to come back."""
        self.taking.expect(await self._book.count(by="node"), self._desk.clock())
        self._desk.sessions.attach(self)
        self._main = asyncio.create_task(keep_running(self._run, self._desk.logger, "taking rows"), name="agents taken")

    def apply(self, loaded: Loaded) -> None:
        """Take what is configured anew: how long a lease is."""
        self.taking.lease_s = self._lease_s()

    async def close(self) -> None:
        """End. What the book is committing is finished by the book; nobody is told any more."""
        tasks = [task for task in (self._main, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def order(self, node: str, orders: Sequence[AgentOrder]) -> None:
        """Tell ``node`` what to do with some of its agents; at the master itself it is done at once (its sessions, not its rows).
        What a node without a session is to be told is kept until it is back, or the master ends."""
        if node == self._desk.name:
            for order in orders:
                self._perform(order)
            return
        session = self.taking.session_of(node)
        if session is None or session in self._greet:
            self.counters.add("orders_lost", self._kept.add(node, orders))
        else:
            self._tell_orders(self._peers[session], orders)

    def taken_here(self, id_: str, node: str, epoch: int) -> None:
        """An agent that was ``node``'s has a session at the master itself now."""
        self.order(node, [AgentOrder(op="drop", id=id_, epoch=epoch, node=self._desk.name)])

    # -- the sessions ---------------------------------------------------------------------------------------------------

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """A worker that brings agents is told what is known of it, as soon as the book has said so."""
        if peer.identity.role == "worker":
            self._peers[peer.no] = peer
            if "agents" in hello.parts:
                self._greet[peer.no] = None
            self.taking.opened(peer.no, peer.identity.name)
            self._woken.set()

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """What a worker sent and was not begun with is forgotten: it sends it again."""
        if self._peers.pop(peer.no, None) is not None:
            self._greet.pop(peer.no, None)
            self.taking.closed(peer.no, peer.last_seen_s)
            self._woken.set()

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        """ROWS came."""
        if isinstance(message, Rows):
            try:
                self.taking.add(peer.no, message, data[offset:])
            except PeerError as error:
                self.counters.add(f"chunks_{error.code}")
                raise
            except Busy:
                self._answer(peer, self._cursors.get(peer.identity.name, Cursor()), [])
                self.counters.add("chunks_busy")
            self._woken.set()

    # -- the work -------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            due_s = FOREVER
            try:
                await self._greet_all()
                await self._disconnect_gone()
            except (StoreFailed, Busy) as error:
                self._store_fails(error)
                due_s = self._desk.clock() + RETRY_S
            while (chunk := self.taking.next()) is not None:
                await self._begin(chunk)
            for event in self._telling.due(self._desk.clock()):
                self._desk.note(event)
            await self._wait(min(due_s, self.taking.next_deadline(), self._telling.next_deadline()))

    async def _wait(self, due_s: float) -> None:
        timeout_s = None if due_s == FOREVER else max(0.0, due_s - self._desk.clock())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()

    async def _greet_all(self) -> None:
        for session in list(self._greet):
            peer = self._peers.get(session)
            if peer is None:
                continue
            name = peer.identity.name
            await self._book.node_back(name)
            cursor = await self._book.cursor(name)
            if self._greet.pop(session, 0) is None:
                self._cursors[name] = cursor
                self._tell_orders(peer, self._kept.take(name))
                self._answer(peer, cursor, [])

    async def _disconnect_gone(self) -> None:
        now = self._desk.clock()
        self._gone.update(dict.fromkeys(self.taking.gone(now)))
        for node in list(self._gone):
            if self.taking.session_of(node) is None:
                count = await self._book.node_gone(node, self._desk.wall_s())
                if count:
                    self._desk.note(Event("agents_disconnected", {"node": node, "count": count}, "warning"))
            self._gone.pop(node, None)

    async def _begin(self, chunk: Chunk) -> None:
        """Unpack the chunk and give it to the book, which takes chunks in the order in which it gets them."""
        message = chunk.message
        await self._room.acquire()
        try:
            if message.raw_bytes <= INLINE_BYTES:
                rows = unpack_rows(message.encoding, message.raw_bytes, message.count, chunk.body)
            else:
                rows = await asyncio.to_thread(unpack_rows, message.encoding, message.raw_bytes, message.count, chunk.body)
        except PeerError as error:
            self._room.release()
            self._refuse(chunk, error)
            return
        except BaseException:
            self._room.release()
            self.taking.done(chunk)
            raise
        task = asyncio.create_task(self._take(chunk, rows))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, chunk))

    def _ended(self, task: asyncio.Task[None], chunk: Chunk) -> None:
        self._tasks.discard(task)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._desk.logger.error("a chunk of rows of %s could not be taken", chunk.node, exc_info=error)
            self._refuse(chunk, ZClusterError("a chunk of rows could not be taken", hint="the master's log says why"))

    async def _take(self, chunk: Chunk, rows: SaidRows) -> None:
        message, node = chunk.message, chunk.node
        rows.cap_epochs(latest_epoch(self._desk.wall_s()))
        try:
            took = await self._book.take(node, message.source, message.base, message.upto, rows, self.taking.alive())
        except (StoreFailed, Busy) as error:
            self._store_fails(error)
            took = Took(self._cursors.get(node, Cursor()))
        except ZClusterError as error:
            self._refuse(chunk, error)
            return
        else:
            self._after(chunk, took, rows)
        if self.taking.done(chunk):
            self._answer(self._peers[chunk.session], took.cursor, took.refused)

    def _after(self, chunk: Chunk, took: Took, rows: SaidRows) -> None:
        """Orders to who lost, and what is told of it."""
        message, node, now = chunk.message, chunk.node, self._desk.clock()
        before, self._cursors[node] = self._cursors.get(node), took.cursor
        again = took.cursor == before and message.upto > message.base
        if again or took.cursor != Cursor(message.source, message.upto):
            self.counters.add("chunks_elsewhere")
            return
        self._store_works()
        self.counters.add("chunks_taken")
        self.counters.add("rows_taken", took.taken)
        for to, orders in orders_after(node, took.drop, took.moved, rows).items():
            self.order(to, orders)
        if took.refused:
            self.counters.add("rows_refused", len(took.refused))
            self._telling.refused(node, took.refused)
            self._woken.set()
        for event in (*self._telling.moved(took.moved), *self._telling.taken(node, message, now)):
            self._desk.note(event)

    # -- what is told ---------------------------------------------------------------------------------------------------

    def _tell(self, peer: Peer, message: Message) -> None:
        self._desk.sessions.tell(peer, message)
        self._desk.wake()

    def _answer(self, peer: Peer, cursor: Cursor, refused: list[tuple[str, str]]) -> None:
        taken = Taken(source=cursor.source, upto=cursor.upto, refused=_named(refused), refused_count=len(refused))
        self._tell(peer, taken)

    def _tell_orders(self, peer: Peer, orders: Iterable[AgentOrder]) -> None:
        rest = iter(orders)
        while part := list(islice(rest, MAX_ORDERS)):
            self._tell(peer, AgentOrders(orders=part))

    def _refuse(self, chunk: Chunk, error: ZClusterError) -> None:
        self.counters.add(f"chunks_{error.code}")
        if self.taking.done(chunk):
            refusal = Refusal(code=error.code, about=Rows.kind, message=error.message, hint=error.hint)
            self._tell(self._peers[chunk.session], refusal)

    def _store_fails(self, error: StoreFailed | Busy) -> None:
        if not self._store_failed:
            self._store_failed = True
            self._desk.note(Event("agents_store_failed", {"node": self._desk.name, "reason": error.message}, "warning"))

    def _store_works(self) -> None:
        if self._store_failed:
            self._store_failed = False
            self._desk.note(Event("agents_store_recovered", {"node": self._desk.name}))

    def _lease_s(self) -> float:
        session = self._desk.loaded().settings.session
        return session.heartbeat_s * session.lease_heartbeats


def _named(refused: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """As many as TAKEN may name, and only ids that may be named: a row may have been refused because of its id."""
    return [(id_[:128] or "-", reason) for id_, reason in refused[:MAX_REFUSED]]
