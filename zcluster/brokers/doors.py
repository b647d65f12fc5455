"""What the master does for workers' doors: it writes the ring into the store, from where they copy it, and tells of all doors.

Rules kept here:
- the table ``ring/`` says what the ring says, no more (of a role of the configuration what it is based on): keys that are out
  leave it before others come in;
- what a worker says of its addresses is checked before others are told;
- doors are looked at once in LOOK_S; who is told hears only what is worth it (core/doors.py), and everything when it comes;
- a store that fails is tried again, and everything else goes on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from zcluster.config import Loaded, advertised, parse_address
from zcluster.core.doors import fitting, worth_telling
from zcluster.core.master import Master
from zcluster.core.peers import Peer
from zcluster.core.rights import Rights
from zcluster.dapi.function import Function
from zcluster.errors import ConfigError, ZClusterError
from zcluster.keys import Entry, Ring
from zcluster.keys.ringfile import instant
from zcluster.nodes.desk import Desk
from zcluster.nodes.directory import Directory
from zcluster.nodes.tasks import keep_running
from zcluster.store.interface import MAX_OPS, Delete, Put
from zcluster.wire import Hello, Message, Sealed, encode
from zcluster.wire.agents import Door, Doors

RING = "ring/"
"""Of the table's keys; behind it is a public key."""
LOOK_S = 1.0
RETRY_S = 1.0


def changes_of(ring: dict[str, bytes], written: dict[str, bytes]) -> list[Put | Delete]:
    """What makes ``written`` the same as ``ring``: what goes first, then what comes or is another."""
    gone: list[Put | Delete] = [Delete(key) for key in written.keys() - ring.keys()]
    return gone + [Put(key, value) for key, value in ring.items() if written.get(key) != value]


class RingTable:
    """A part: the ring as a table of the store."""

    def __init__(self, desk: Desk, ring: Ring, rights: Rights) -> None:
        self._desk = desk
        self._ring = ring
        self._rights = rights
        self._written: dict[str, bytes] | None = None
        """What the table holds; None: it is to be read."""
        self._changed = asyncio.Event()
        self._changed.set()
        self._task: asyncio.Task[None] | None = None

    def functions(self) -> dict[str, Function]:
        """None: ``zcluster keys`` changes the ring's file."""
        return {}

    async def start(self) -> None:
        """Begin with what the ring says now."""
        self._task = asyncio.ensure_future(keep_running(self._run, self._desk.logger, "writing the ring for the doors"))

    def ring_changed(self) -> None:
        """The ring is another."""
        self._changed.set()

    def apply(self, loaded: Loaded) -> None:
        """Nothing of the configuration file is used here."""

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        self._written = None  # it begins again after a fault: what is there is to be read
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._write()
            except ZClusterError as error:
                self._written = None
                self._desk.logger.error("the ring was not written for the workers' doors, it is tried again: %s", error)
                self._changed.set()
                await asyncio.sleep(RETRY_S)

    async def _write(self) -> None:
        store = self._desk.store
        if self._written is None:
            self._written = await self._read()
        said = {f"{RING}{public}": row for entry in self._ring.entries.values() for public, row in self._rows(entry)}
        ops = changes_of(said, self._written)
        for begin in range(0, len(ops), MAX_OPS):
            await store.apply(ops[begin : begin + MAX_OPS])
        self._written = said

    def _rows(self, entry: Entry) -> Iterable[tuple[str, bytes]]:
        """By public key, what the table says of ``entry``: of a key of before also its end, which a door heeds by itself."""
        row = {"name": entry.name, "role": self._base(entry.role), "id": entry.id}
        yield entry.public, orjson.dumps(row)
        for each in entry.previous:
            yield each.public, orjson.dumps({**row, "until": instant(each.until)})

    def _base(self, role: str) -> str:
        """The built-in role by which a door treats a key of ``role``."""
        return self._rights.identity("", "", role).role

    async def _read(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        after, more = "", True
        while more:
            listing = await self._desk.store.scan(RING, after=after)
            found.update((entry.key, entry.value) for entry in listing.entries)
            more = listing.more
            after = listing.entries[-1].key if listing.entries else after
        return found


class MasterDoors:
    """A part, and an attachment of the sessions: the directory of doors, and who is told of it.

    Args:
        keys: the public key that proves this master, and the one that is to follow (empty: none is).
    """

    kinds: frozenset[int] = frozenset()

    def __init__(self, desk: Desk, machine: Master, ring: Ring, keys: Callable[[], tuple[str, str]]) -> None:
        self._desk = desk
        self._machine = machine
        self._ring = ring
        self._keys = keys
        self.directory = Directory()
        self._workers: dict[Peer, None] = {}
        self._frame: Sealed | None = None
        self._told: list[Door] = []
        self._mine: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def functions(self) -> dict[str, Function]:
        """None: ``cluster.nodes`` tells of doors."""
        return {}

    async def start(self) -> None:
        """Look at the doors from now on."""
        self.apply(self._desk.loaded())
        self._machine.attach(self)
        self.look()
        self._task = asyncio.ensure_future(keep_running(self._run, self._desk.logger, "looking at the doors"))

    def apply(self, loaded: Loaded) -> None:
        """The master's own addresses may be others."""
        told = loaded.settings.master
        try:
            self._mine = advertised(told.bind, told.publish, told.advertise, socket.gethostname()).addresses
        except ConfigError:
            self._mine = ()  # the port is the system's choice: nobody else can know it

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- an attachment ----------------------------------------------------------------------------------------------

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        """A worker with a door is told the doors at once."""
        if peer.node is not None and hello.door:
            self._workers[peer] = None
            if self._frame is not None:
                self._machine.tell(peer, self._frame)

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        """It is told no more."""
        self._workers.pop(peer, None)

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        """Nobody says anything of this kind."""

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Look at the doors now, and tell who has to know."""
        doors = fitting(self._doors())
        if self._frame is not None and not worth_telling(self._told, doors):
            self.directory.set(doors, tell=False)
            return
        self._frame, self._told = Sealed(encode(Doors(doors=doors))), doors
        self.directory.set(doors)
        for peer in self._workers:
            self._machine.tell(peer, self._frame)
        self._desk.wake()

    def _doors(self) -> Iterable[Door]:
        agents = sum(1 for peer in self._machine.roster.peers.values() if peer.identity.role == "agent")
        if self._mine:
            public, following = self._keys()
            yield Door(node=self._desk.name, public=public, next=following, addresses=list(self._mine), agents=agents)
        for node in self._machine.roster.nodes.values():
            peer = node.peer
            if peer is not None and not peer.draining and node.door:
                addresses = [address for address in node.door if _is_address(address)]
                entry = self._ring.by_id(peer.identity.key)
                public, following = (peer.identity.key, "") if entry is None else entry.door
                if addresses:
                    yield Door(node=node.name, public=public, next=following, addresses=addresses, agents=node.agents)


def _is_address(text: Any) -> bool:
    try:
        parse_address(text)
    except ConfigError:
        return False
    return True
