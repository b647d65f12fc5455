"""A master's tables and workers' copies in one loop, each with a store in memory; between them nothing but function calls, which
a test may break."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

from zcluster.brokers.tables import MasterTables
from zcluster.core.attachments import Attachment
from zcluster.core.batch import Body, Lanes
from zcluster.core.peers import Event, Identity, Peer
from zcluster.core.tables.names import prefix_of
from zcluster.core.tables.state import CopyState, read_state, state_key
from zcluster.errors import ZClusterError
from zcluster.keys import KeyFile, generate
from zcluster.keys.rotation import OwnKey
from zcluster.nodes.desk import Desk
from zcluster.store.interface import Change, Delete, Put
from zcluster.store.memory import MemoryStore
from zcluster.wire import Hello, Message, Welcome, WireLimits, decode, encode
from zcluster.wire.tables import Ask
from zcluster.workers.tables import WorkerTables
from zcluster.workers.uplink import Uplink

PATIENCE_S = 60.0
HEARTBEAT_S = 0.02
PREFIXES = ("groups/", "config/", "ring/")
LIMITS = WireLimits()
WELCOME = Welcome(
    version=1, session=1, name="w", role="worker", cluster="c", master="m", epoch=1, heartbeat_s=HEARTBEAT_S, lease_heartbeats=3,
    body_bytes=1, inline_bytes=1, chunk_bytes=1024, window_bytes=1024,
)  # fmt: skip


class Table:
    """A node's place: a desk with a store in memory, and what the node noted."""

    def __init__(self, name: str, role: str, sessions: Any, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore(PREFIXES)
        self.events: list[Event] = []
        settings = SimpleNamespace(session=SimpleNamespace(heartbeat_s=HEARTBEAT_S))
        self.woken: Callable[[], None] = lambda: None
        self.desk = cast(
            Desk,
            SimpleNamespace(
                name=name, role=role, loaded=lambda: SimpleNamespace(settings=settings),
                clock=asyncio.get_running_loop().time, wall_s=time.time, wake=lambda: self.woken(), note=self.events.append,
                logger=logging.getLogger("zcluster.test"), store=self.store, sessions=sessions,
            ),
        )  # fmt: skip

    async def put(self, **values: str) -> None:
        """Commit JSON texts under the keys of the table ``groups``; None deletes."""
        await self.store.apply([Put(f"groups/{key}", value.encode()) for key, value in values.items()])

    async def delete(self, *keys: str) -> None:
        await self.store.apply([Delete(f"groups/{key}") for key in keys])


class Master(Table):
    """The master's part, and the sessions it speaks on."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__("m", "master", self, store)
        self.workers: list[Worker] = []
        self.published: list[tuple[bytes, bytes]] = []
        self.loses: Callable[[bytes], bool] = lambda frame: False
        self.told: list[tuple[int, Message]] = []
        self.refused: list[ZClusterError] = []
        self.tables = MasterTables(self.desk, self.publish)

    def attach(self, part: Attachment) -> None:
        """The tables' part attaches itself; the bench calls it directly."""

    def publish(self, topic: bytes, frame: bytes) -> None:
        self.published.append((topic, frame))
        for worker in self.workers:
            if worker.listens and not self.loses(frame):
                worker.tables.published(topic, frame)

    def tell(self, peer: Peer, message: Message, body: Body = b"") -> None:
        self.told.append((peer.no, message))
        for worker in self.workers:
            if worker.peer is peer and worker.up:
                frame = encode(message, (body,))
                asyncio.get_running_loop().call_soon(worker.hear, frame)

    def end(self, peer: Peer, error: ZClusterError, now: float) -> None:
        raise AssertionError("tables end no session")

    def ask(self, worker: Worker, frame: bytes) -> None:
        message, offset = decode(frame, LIMITS)
        assert isinstance(message, Ask)
        try:
            self.tables.received(worker.peer, message, frame, offset, 0.0)
        except ZClusterError as error:
            self.refused.append(error)


class Worker(Table):
    """A worker's part, and its session."""

    def __init__(self, number: int, master: Master, store: MemoryStore | None = None, *, door: bool = False) -> None:
        super().__init__(f"w{number}", "worker", None, store)
        self.master, self.door = master, door
        self.peer = make_peer(number)
        self.up = self.listens = False
        self.asked: list[Ask] = []
        self.uplink = Uplink(self.flush)
        key_file = KeyFile("w", "worker", "c", generate(), generate().public)
        self.tables = WorkerTables(self.desk, self.uplink, OwnKey(key_file), ["groups", "config"])

    def flush(self) -> None:
        for message, bodies in self.uplink.take([]):
            assert isinstance(message, Ask)
            self.asked.append(message)
            asyncio.get_running_loop().call_soon(self.master.ask, self, encode(message, bodies))

    def hear(self, frame: bytes) -> None:
        if self.up:
            message, offset = decode(frame, LIMITS)
            assert self.uplink.receive(message, frame, offset)

    async def join(self) -> None:
        await self.tables.start()
        self.connect()

    def connect(self) -> None:
        """A session begins, and what is published is heard."""
        self.up = self.listens = True
        if self not in self.master.workers:
            self.master.workers.append(self)
        self.uplink.link_up(WELCOME)
        hello = Hello(versions=[1], instance="i", door=["tcp://x:1"] if self.door else [], parts=["tables"])
        self.master.tables.opened(self.peer, hello, 0.0)

    def disconnect(self) -> None:
        self.up = self.listens = False
        self.uplink.link_down()
        self.master.tables.closed(self.peer, "test", 0.0)

    async def state(self, table: str = "groups") -> CopyState:
        entry = await self.store.get(state_key(table))
        return read_state(entry.value if entry else None)

    async def same(self, table: str = "groups") -> None:
        """Wait until the copy is ready and is the master's table."""

        async def check() -> bool:
            held = await contents(self.store, table)
            return (await self.state(table)).ready and held == await contents(self.master.store, table)

        await self.until(check)

    async def until(self, check: Callable[[], Awaitable[bool]]) -> None:
        """Wait until ``check``, which is asked after each commit to the worker's store and each word of the master."""
        async with asyncio.timeout(PATIENCE_S):
            while not await check():
                changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_later(HEARTBEAT_S, changed.set_result, None)
                await changed


def make_peer(number: int, role: str = "worker") -> Peer:
    identity = Identity(generate().public, f"w{number}", role)
    lanes: Lanes[Any] = Lanes(cast(Any, None), 1)
    return Peer(number, b"route", identity, "i", frozenset({Ask.kind}), lanes, 0.0)


async def contents(store: MemoryStore, table: str) -> dict[str, bytes]:
    listing = await store.scan(prefix_of(table))
    return {entry.key: entry.value for entry in listing.entries}


async def changes_of(store: MemoryStore, prefix: str) -> list[Change]:
    return (await store.changes(prefix, 0))[0]


def run(test: Callable[[Master], Awaitable[None]]) -> None:
    """Run ``test`` with a master that has started; close everything afterwards."""

    async def main() -> None:
        master = Master()
        await master.tables.start()
        try:
            await test(master)
        finally:
            for worker in master.workers:
                await worker.tables.close()
            await master.tables.close()

    asyncio.run(main())
