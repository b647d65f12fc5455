"""A master and workers with agents, in simulated time: the machines of the rows' way up, books that outlive their processes, and
a network that loses, repeats and reorders.

Rules kept here:
- a book survives the crash of its process, what waits to be written does not;
- everything between two steps of a process takes time, in which anything may happen: it may be killed between a commit and
  its TAKEN, and the book may change while a chunk of it is packed;
- what is on the wire when a session ends is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from zcluster.core.agents.orders import Kept, orders_after
from zcluster.core.agents.rowcodec import SaidRows, pack_rows, unpack_rows
from zcluster.core.agents.sending import FOREVER, Reading, Sending
from zcluster.core.agents.taking import Chunk, Taking
from zcluster.errors import PeerError, ZClusterError
from zcluster.sim.agents_doors import Door, Trouble, result_of
from zcluster.sim.agents_oracle import Oracle
from zcluster.sim.world import World
from zcluster.store.book import Took
from zcluster.store.book_memory import MemoryBook
from zcluster.wire import Message, WireLimits, decode, encode
from zcluster.wire.agents import AgentOrder, AgentOrders, Rows, Taken
from zcluster.workers.agents import carry_out

MASTER = "m"
LEASE_S = 3.0
RECONNECT_S = 1.0
LIMITS = WireLimits()


class Link:
    """One session of a worker."""

    def __init__(self, no: int, worker: SimWorker, master: SimMaster, trouble: Trouble) -> None:
        self.no, self.worker, self.master, self.trouble, self.world = no, worker, master, trouble, worker.world
        self.open = True
        self._last_s = {"up": 0.0, "down": 0.0}

    def up(self, message: Message, body: bytes = b"") -> None:
        """The worker says ``message``."""
        self.world.note(self.worker.name, f"> {_short(message)}")
        self._carry("up", encode(message, [body]), lambda frame: self.master.receive(self, frame))

    def down(self, message: Message, *, surely: bool = False) -> None:
        """The master says ``message``."""
        self.world.note(MASTER, f"> {self.worker.name} {_short(message)}")
        self._carry("down", encode(message), self.worker.receive, surely)

    def break_(self) -> None:
        """The connection is gone; each side notices by itself."""
        if self.open:
            self.open = False
            uniform = self.world.random.uniform
            self.world.after(uniform(0.0, 0.5), lambda: self.master.lost(self))
            self.world.after(uniform(0.0, 0.5), lambda: self.worker.lost(self))

    def _carry(self, way: str, frame: bytes, deliver: Callable[[bytes], None], surely: bool = False) -> None:
        world, trouble = self.world, self.trouble
        if not surely and world.chance(trouble.lose):
            world.note("net", f"loses it ({way}, {self.worker.name})")
            return
        for _ in range(2 if world.chance(trouble.repeat) else 1):
            at_s = world.now + world.random.uniform(0.0002, 0.02)
            if world.chance(trouble.reorder):
                at_s += world.random.uniform(0.0, 1.0)
            else:
                at_s = self._last_s[way] = max(at_s, self._last_s[way])
            world.after(at_s - world.now, lambda: deliver(frame) if self.open else None)


class SimWorker:
    """A worker's process and its book."""

    def __init__(self, world: World, name: str, master: SimMaster, oracle: Oracle, trouble: Trouble, limit: int) -> None:
        self.world, self.name, self.master, self.oracle, self.trouble, self.limit = world, name, master, oracle, trouble, limit
        self.lives = 0
        self.alive = False
        self.link: Link | None = None
        self.cut_until_s = 0.0
        self.book = self._new_book()

    def _new_book(self) -> MemoryBook:
        return MemoryBook(f"book-{self.name}-{self.world.random.randrange(10**9)}")

    def start(self) -> None:
        """A process begins."""
        if self.alive:
            return
        self.world.note(self.name, "starts")
        self.lives, self.alive = self.lives + 1, True
        self.sending = Sending(self.book.id)
        self.door = Door(self.world, self.name, self.book, self.oracle, self.poke, lambda id_, node, epoch: None)
        self.door.come_back()
        self._orders: deque[AgentOrder] = deque()
        self._busy = False
        self._alarm_s = FOREVER
        self.connect()

    def crash(self, *, lose: bool) -> None:
        """The process is killed, and its disk lost with ``lose``."""
        if self.alive:
            self.world.note(self.name, "is killed" + (" and its disk lost" if lose else ""))
            self.alive = False
            self.door.closed = True
            if self.link is not None:
                self.link.break_()
                self.link = None
        if lose:
            self.oracle.lost(self.name)
            self.book = self._new_book()

    def connect(self) -> None:
        """Open a session, when there is none and the master is there."""
        if self.alive and self.link is None and self.master.alive and self.world.now >= self.cut_until_s:
            self.link = self.master.connect(self)
            self.sending.link_up()

    def cut(self, seconds: float) -> None:
        """The worker cannot be reached for a while; its agents can."""
        self.world.note(self.name, f"is cut off for {seconds} s")
        self.cut_until_s = self.world.now + seconds
        if self.link is not None:
            self.link.break_()

    def lost(self, link: Link) -> None:
        """The session is over."""
        if self.link is link:
            self.link = None
            self.sending.link_down()
            self.world.after(self.world.random.uniform(0.0, RECONNECT_S), self.connect)

    def receive(self, frame: bytes) -> None:
        """A message of the master came."""
        message, _ = decode(frame, LIMITS)
        if not self.alive:
            return
        if isinstance(message, Taken):
            self.sending.taken(message, self.world.now)
        elif isinstance(message, AgentOrders):
            self._orders.extend(message.orders)
        self.pump()

    def poke(self, ids: list[str]) -> None:
        """The book has changed."""
        if self.alive:
            self.sending.changed(self.world.now)
            self.pump()

    def pump(self) -> None:
        """Do what there is to do (as zcluster.workers.agents does)."""
        if not self.alive or self._busy:
            return
        world, sending = self.world, self.sending
        sending.handle_deadline(world.now)
        if self._orders:
            orders = list(self._orders)
            self._orders.clear()
            result_of(carry_out(orders, self.book, self.name, self.door.perform, self._fault))
            sending.changed(world.now)
        reading = sending.next(world.now)
        if reading is not None:
            self._busy = True
            life = self.lives
            world.after(self.trouble.pause_s(world), lambda: self._read(reading, life))
        elif (due_s := sending.next_deadline()) != FOREVER and due_s != self._alarm_s:
            self._alarm_s = due_s
            world.after(due_s - world.now + 1e-6, self._due)

    def _due(self) -> None:
        self._alarm_s = FOREVER
        self.pump()

    def _fault(self, error: PeerError) -> None:
        self.world.fail(f"an order was not understood: {error}")

    def _read(self, reading: Reading, life: int) -> None:
        if life != self.lives or not self.alive:
            return
        rows, upto, more = result_of(self.book.changed(reading.after, self.limit))
        packed = pack_rows(rows)
        message = Rows(
            source=self.sending.source, base=reading.after, upto=max(upto, reading.after), count=packed.rows, more=more,
            encoding=packed.encoding, raw_bytes=packed.raw_bytes,
        )  # fmt: skip

        def send() -> None:
            if life == self.lives and self.alive:
                self._busy = False
                if self.sending.read(reading, upto, more, packed.count, self.world.now) and self.link is not None:
                    self.link.up(message, packed.body)
                self.pump()

        self.world.after(self.trouble.pause_s(self.world), send)


class SimMaster:
    """The master's process and its book."""

    def __init__(self, world: World, oracle: Oracle, trouble: Trouble) -> None:
        self.world, self.oracle, self.trouble = world, oracle, trouble
        self.alive = False
        self.lives = 0
        self.refused = 0
        self.sessions = 0
        self.book = self._new_book()

    def _new_book(self) -> MemoryBook:
        return MemoryBook(f"book-m-{self.world.random.randrange(10**9)}")

    def start(self) -> None:
        """A process begins."""
        if self.alive:
            return
        self.world.note(MASTER, "starts")
        self.lives, self.alive = self.lives + 1, True
        self.taking = Taking(MASTER, LEASE_S)
        self.taking.expect(result_of(self.book.count(by="node")), self.world.now)
        self.door = Door(
            self.world, MASTER, self.book, self.oracle, lambda ids: self.oracle.took(self.book, ids), self._taken_here
        )
        self.door.come_back()
        self._links: dict[int, Link] = {}
        self._kept = Kept()
        self._busy = False

    def crash(self, *, lose: bool) -> None:
        """The process is killed, and its disk lost with ``lose``."""
        if self.alive:
            self.world.note(MASTER, "is killed" + (" and its disk lost" if lose else ""))
            self.alive = False
            self.door.closed = True
            for link in list(self._links.values()):
                link.break_()
        if lose:
            self.oracle.lost(MASTER)
            self.book = self._new_book()

    def connect(self, worker: SimWorker) -> Link:
        """A worker opens a session; the one before it ends."""
        older = self.taking.session_of(worker.name)
        if older is not None:
            self._links[older].open = False
            self._close(older)
        self.sessions += 1
        link = self._links[self.sessions] = Link(self.sessions, worker, self, self.trouble)
        self.taking.opened(link.no, worker.name)
        self.world.after(self.trouble.pause_s(self.world), lambda: self._greet(link))
        return link

    def lost(self, link: Link) -> None:
        """A session is over."""
        if self.alive and self._links.get(link.no) is link:
            self._close(link.no)

    def _close(self, no: int) -> None:
        del self._links[no]
        self.taking.closed(no, self.world.now)

    def _greet(self, link: Link) -> None:
        if self.alive and self._links.get(link.no) is link:
            result_of(self.book.node_back(link.worker.name))
            cursor = result_of(self.book.cursor(link.worker.name))
            self._order(link.worker.name, self._kept.take(link.worker.name))
            # A session whose beginning is lost is no session.
            link.down(Taken(source=cursor.source, upto=cursor.upto), surely=True)

    def tick(self) -> None:
        """Time passes."""
        if self.alive:
            for node in self.taking.gone(self.world.now):
                count = result_of(self.book.node_gone(node, self.door.wall_s()))
                self.world.note(MASTER, f"{node} is dead: {count} agents disconnected")

    def remove(self, id_: str) -> None:
        """A person removes an agent."""
        row = result_of(self.book.get(id_)) if self.alive else None
        if row is not None and row.status == "disconnected":
            self.world.note(MASTER, f"removes {id_}")
            result_of(self.book.update([(id_, {"status": "removed"})]))
            self.oracle.removed(id_, row.epoch)
            self._order(row.node, [AgentOrder(op="remove", id=id_, epoch=row.epoch)])

    def receive(self, link: Link, frame: bytes) -> None:
        """A chunk came."""
        message, offset = decode(frame, LIMITS)
        if self.alive and self._links.get(link.no) is link and isinstance(message, Rows):
            try:
                self.taking.add(link.no, message, frame[offset:])
            except ZClusterError as error:
                self.refused += 1
                self.world.note(MASTER, f"refuses it: {error.message}")
            self._pump()

    def _pump(self) -> None:
        if not self._busy and (chunk := self.taking.next()) is not None:
            self._busy = True
            life = self.lives
            self.world.after(self.trouble.pause_s(self.world), lambda: self._take(chunk, life))

    def _take(self, chunk: Chunk, life: int) -> None:
        if not self.alive or life != self.lives:
            return
        message, world = chunk.message, self.world
        rows = unpack_rows(message.encoding, message.raw_bytes, message.count, chunk.body)
        if world.chance(self.trouble.disk):
            world.note(MASTER, f"cannot commit {message.base}..{message.upto} of {chunk.node}")
            took = Took(result_of(self.book.cursor(chunk.node)))
        else:
            alive = self.taking.alive()
            took = result_of(self.book.take(chunk.node, message.source, message.base, message.upto, rows, alive))
            world.note(MASTER, f"took {message.base}..{message.upto} of {chunk.node}: {took.taken}, refused {took.refused}")
            self.oracle.took(self.book, [id_ for id_, _, _ in rows.claims()])
        world.after(self.trouble.pause_s(world), lambda: self._answer(chunk, rows, took, life))

    def _answer(self, chunk: Chunk, rows: SaidRows, took: Took, life: int) -> None:
        if not self.alive or life != self.lives:
            return
        self._busy = False
        for node, orders in orders_after(chunk.node, took.drop, took.moved, rows).items():
            self._order(node, orders)
        if self.taking.done(chunk):
            refused = len(took.refused)
            self._links[chunk.session].down(Taken(source=took.cursor.source, upto=took.cursor.upto, refused_count=refused))
        self._pump()

    def _taken_here(self, id_: str, node: str, epoch: int) -> None:
        self._order(node, [AgentOrder(op="drop", id=id_, epoch=epoch, node=MASTER)])

    def _order(self, node: str, orders: list[AgentOrder]) -> None:
        session = self.taking.session_of(node)
        if node == MASTER:
            for order in orders:
                self.door.perform(order)
        elif session is None:
            self._kept.add(node, orders)
        elif orders:
            self._links[session].down(AgentOrders(orders=orders))


def _short(message: Message) -> str:
    match message:
        case Rows():
            return f"ROWS {message.source[-4:]} {message.base}..{message.upto}: {message.count}"
        case Taken():
            return f"TAKEN {message.source[-4:]} {message.upto}"
        case AgentOrders():
            return "AGENTORDERS " + ", ".join(f"{order.op} {order.id} {order.epoch % 10**7}" for order in message.orders)
    return type(message).__name__.upper()
