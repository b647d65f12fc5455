"""Clients at workers' doors, at the master: their frames come and go as CARRY on the worker's session.

Rules kept here:
- a carried connection is a route like any other (:class:`~zcluster.core.carrying.Via`): the machine does not know the difference;
- who it is comes from the ring by its key, anew for each frame, and is a client at most;
- it ends with its worker's session, whatever the worker says;
- a worker whose pipe is full, or for which much waits, blocks the connections that it carries, and nobody else: what they wait
  for never counts against the worker's own session;
- what is for a connection that has ended is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from zcluster.core.batch import Outgoing
from zcluster.core.carrying import HEADER_BYTES, Via, lowered
from zcluster.core.master import Master
from zcluster.core.peers import Event, Identity, Peer
from zcluster.errors import PeerError
from zcluster.net.connections import FAULTS
from zcluster.net.front import Front
from zcluster.wire import Bye, Hello, Message, WireLimits, decode, encode, frame_of
from zcluster.wire.agents import Carry
from zcluster.wire.messages import Catalog

MAX_CONNECTIONS = 4096
"""Of one worker."""
WAITING_SHARE = 4
"""When this part of ``outbox_bytes`` waits for a worker, what is for its clients waits with them."""


class _Door:
    """A worker's session, and what it carries."""

    __slots__ = ("blocked", "keys", "peer")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.keys: dict[int, str] = {}
        """The key of each connection."""
        self.blocked: dict[int, None] = {}
        """Connections that wait for room, in the order in which they began to."""


class Carrying:
    """The master's side, attached to its machine of sessions.

    Args:
        identify: who has a public key, as the ring says now.
        limits: of a frame.
    """

    kinds = frozenset({Carry.kind})

    def __init__(self, machine: Master, identify: Callable[[str], Identity | None], limits: WireLimits) -> None:
        self._machine = machine
        self._identify = identify
        self._limits = limits
        self._doors: dict[int, _Door] = {}
        self._blocked: set[int] = set()
        self._sent = False
        """Whether something was given to the machine since the last look."""
        machine.attach(self)

    # -- the machine's attachment -----------------------------------------------------------------------------------

    def opened(self, peer: Peer, hello: Hello, now: float) -> None:
        if peer.identity.role == "worker":
            self._doors[peer.no] = _Door(peer)

    def closed(self, peer: Peer, reason: str, now: float) -> None:
        door = self._doors.pop(peer.no, None)
        if door is not None:
            self._blocked.discard(peer.no)
            for number in list(door.keys):
                self._machine.disconnected(Via(peer.no, number), now)

    def received(self, peer: Peer, message: Message, data: bytes, offset: int, now: float) -> None:
        door = self._doors.get(peer.no)
        if door is None or not isinstance(message, Carry):
            raise PeerError("only a worker carries connections")
        match message.op:
            case "open":
                self._open(door, message)
            case "data":
                self._frame(door, message.connection, data[offset:], now)
            case "closed":
                self._forget(door, message.connection, now)
            case _:
                raise PeerError(f"{message.op} is for a master to say")

    # -- the way back -----------------------------------------------------------------------------------------------

    def send(self, via: Via, outgoing: list[Outgoing], now: float) -> None:
        """Send to a carried connection; while there is no room for it at its worker the machine keeps it."""
        door = self._doors.get(via.session)
        if door is None or via.connection not in door.keys:
            return
        self._sent = True
        for index, (message, bodies) in enumerate(outgoing):
            if not self._has_room(door):
                door.blocked[via.connection] = None
                self._blocked.add(via.session)
                self._machine.block(via, outgoing[index:])
                return
            frame = frame_of(message, bodies)
            if len(frame) + HEADER_BYTES <= self._limits.frame_bytes:
                self._machine.tell(door.peer, Carry(connection=via.connection), frame)
            elif not isinstance(message, Catalog):  # which only says what may be called twice
                self._machine.note(Event("carry_too_large", {"name": door.peer.identity.name, "bytes": len(frame)}, "warning"))
                bye = Bye(code="too_large", message="an answer does not fit a worker's door", hint="connect to the master")
                self._tell(door, via.connection, encode(bye))
                self._machine.disconnected(via, now)
                return

    def cut_faulty(self, front: Front, now: float) -> None:
        """End the connections of those who sent too many faulty messages, carried ones and those of ``front``."""
        for route in self._machine.refusing.take_cuts():
            if isinstance(route, Via):
                self.cut(route, now)
            elif isinstance(route, bytes):
                front.cut(route, FAULTS)

    def cut(self, via: Via, now: float) -> None:
        """End a carried connection behind what is said to it."""
        door = self._doors.get(via.session)
        if door is not None and via.connection in door.keys:
            self._forget(door, via.connection, now)
            self._machine.tell(door.peer, Carry(connection=via.connection, op="closed"))
            self._sent = True

    def look(self) -> bool:
        """Let connections go on whose worker has room again; whether the machine has something to send since the last look."""
        again, self._sent = self._sent, False
        for session in list(self._blocked):
            door = self._doors[session]
            if self._has_room(door):
                again = True
                self._blocked.discard(session)
                numbers, door.blocked = door.blocked, {}
                for number in numbers:
                    self._machine.unblock(Via(session, number))
        return again

    # -- inside -----------------------------------------------------------------------------------------------------

    def _has_room(self, door: _Door) -> bool:
        return not door.peer.blocked and door.peer.lanes.waiting_bytes < self._machine.limits.outbox_bytes // WAITING_SHARE

    def _open(self, door: _Door, carry: Carry) -> None:
        number = carry.connection
        if number in door.keys:
            raise PeerError(f"connection {number} is open already")
        if len(door.keys) >= MAX_CONNECTIONS:
            self._machine.counters.add("carry_full")
            self._machine.tell(door.peer, Carry(connection=number, op="full"))
        elif self._who(carry.key) is None:
            self._refuse(door, number)
        else:
            door.keys[number] = carry.key

    def _frame(self, door: _Door, number: int, frame: bytes, now: float) -> None:
        key = door.keys.get(number)
        if key is None:
            return  # it was refused, or has ended: what was on the way is dropped
        identity, via = self._who(key), Via(door.peer.no, number)
        if identity is None:
            self._forget(door, number, now)
            self._refuse(door, number)
            return
        try:
            message, offset = decode(frame, self._limits)
        except PeerError as error:
            self._machine.malformed(via, identity, error, now)
            return
        self._machine.receive(via, identity, message, frame, offset, now)

    def _forget(self, door: _Door, number: int, now: float) -> None:
        if door.keys.pop(number, None) is not None:
            door.blocked.pop(number, None)
            self._machine.disconnected(Via(door.peer.no, number), now)

    def _refuse(self, door: _Door, number: int) -> None:
        self._machine.counters.add("carry_refused")
        self._tell(door, number, encode(Bye(code="not_allowed", message="this key is not admitted as a client")))
        self._machine.tell(door.peer, Carry(connection=number, op="closed"))

    def _tell(self, door: _Door, number: int, frame: bytes) -> None:
        self._machine.tell(door.peer, Carry(connection=number), frame)

    def _who(self, key: str) -> Identity | None:
        identity = self._identify(key)
        return None if identity is None else lowered(identity)
