"""Connections of clients at a worker's door, carried to the master: who they are there, and the worker's side of it.

Rules kept here:
- a frame is carried unopened, and the frames of one connection stay in their order, both ways;
- a connection has a number that is used once in the life of the worker; the master hears of its begin before its frames;
- a worker can give no more than the right of a client, whatever key it says that a connection has, and no more than the
  configuration gives the role ``worker``;
- everything is bounded: connections, the size of a frame, what waits for a client that does not read, and for all of them;
- without a master there is nothing to carry to: the client is told so and goes elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import NamedTuple

from zcluster.core.counters import Counters
from zcluster.core.peers import Identity
from zcluster.core.rights import WORKER, least
from zcluster.core.roster import SHARED_ROLES
from zcluster.wire import Bye, Frame, Message, Sealed
from zcluster.wire.agents import Carry
from zcluster.wire.frames import KIND_AT

HEADER_BYTES = 256
"""What a CARRY adds to the frame that it carries, at most."""
CARRIED_ROLE = "client"


class Via(NamedTuple):
    """The route of a carried connection at the master: the session of the worker, and the connection's number there."""

    session: int
    connection: int


def lowered(identity: Identity) -> Identity | None:
    """Who ``identity`` is when a worker carries it: a client at most, with no right that the role ``worker`` has not; nobody when
    it is no client at all."""
    if identity.role not in SHARED_ROLES:
        return None
    if identity.role != CARRIED_ROLE:
        identity = least(identity, Identity(identity.key, identity.name, CARRIED_ROLE))
    return replace(identity, also=(*identity.also, WORKER))


@dataclass(frozen=True)
class CarryLimits:
    """Bounds of a worker's door."""

    connections: int = 4096
    waiting_bytes: int = 8_388_608
    """For one client that does not read."""
    all_waiting_bytes: int = 67_108_864
    """For all clients together."""
    upward_bytes: int = 16_777_216
    """On the way to the master; a client that sends more then is cut."""
    frame_bytes: int = 1_048_576
    """The largest frame that this worker takes from its master."""


@dataclass(frozen=True)
class ToMaster:
    """Send this to the master."""

    message: Carry
    body: Frame = b""


@dataclass(frozen=True)
class ToClient:
    """Send this to the client at ``route``."""

    route: Hashable
    message: Message


@dataclass(frozen=True)
class Cut:
    """Forget what waits for the client at ``route``: its connection is no longer carried."""

    route: Hashable


@dataclass(frozen=True)
class End:
    """End the connection of the client at ``route``, which the master has turned away, when what is said to it has left."""

    route: Hashable


Effect = ToMaster | ToClient | Cut | End


class _Line:
    """One carried connection."""

    __slots__ = ("key", "number", "waiting", "waiting_bytes")

    def __init__(self, number: int, key: str) -> None:
        self.number = number
        self.key = key
        self.waiting: deque[Message] | None = None
        """What waits while the client's pipe is full; None while it is not."""
        self.waiting_bytes = 0


class Forwarder:
    """The worker's side. Each call returns the effects, in their order.

    Args:
        counters: what was refused is counted here.
    """

    def __init__(self, limits: CarryLimits, counters: Counters) -> None:
        self.limits = limits
        self._counters = counters
        self._lines: dict[Hashable, _Line] = {}
        self._routes: dict[int, Hashable] = {}
        self._last = 0
        self._frame_bytes = 0
        """Of a frame that the master takes; 0: there is no master."""
        self._all_waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, route: object) -> bool:
        """Whether the connection at ``route`` is carried."""
        return route in self._lines

    def master_up(self, frame_bytes: int) -> None:
        """There is a session with a master that takes frames of ``frame_bytes`` (0: as large as this worker's)."""
        mine = self.limits.frame_bytes
        self._frame_bytes = (min(frame_bytes, mine) if frame_bytes else mine) - HEADER_BYTES

    def master_down(self) -> list[Effect]:
        """The session with the master is over: so are all connections."""
        self._frame_bytes = 0
        out: list[Effect] = []
        for route in list(self._lines):
            out += [*self._forget(route), ToClient(route, _no_master())]
        return out

    def frame(self, route: Hashable, key: str, data: Frame, upward_bytes: int) -> list[Effect]:
        """A client sent ``data``; ``upward_bytes`` are waiting for the master already."""
        if not self._frame_bytes:
            return [ToClient(route, _no_master())]
        limits, out = self.limits, list[Effect]()
        line = self._lines.get(route)
        if line is None:
            if len(self._lines) >= limits.connections:
                return [ToClient(route, self._refused("carry_full", f"{limits.connections} clients are at this door"))]
            self._last += 1
            line = self._lines[route] = _Line(self._last, key)
            self._routes[line.number] = route
            out.append(ToMaster(Carry(connection=line.number, op="open", key=key)))
        if len(data) > self._frame_bytes:
            fault = f"a frame of {len(data)} bytes, at most {self._frame_bytes} are carried"
            return [*out, *self._end(route, self._refused("carry_too_large", fault, "too_large"))]
        if upward_bytes + len(data) > limits.upward_bytes:
            return [*out, *self._end(route, self._refused("carry_congested", "too much waits for the master at this door"))]
        return [*out, ToMaster(Carry(connection=line.number), data)]

    def gone(self, route: Hashable) -> list[Effect]:
        """The client's connection ended."""
        line = self._lines.get(route)
        return [] if line is None else [*self._forget(route), ToMaster(Carry(connection=line.number, op="closed"))]

    def keys_changed(self, admitted: Callable[[str], bool]) -> list[Effect]:
        """The ring changed: connections of keys that are out end now."""
        out: list[Effect] = []
        for route, line in list(self._lines.items()):
            if not admitted(line.key):
                out += self._end(route, Bye(code="not_allowed", message="this key is no longer admitted"))
        return out

    def received(self, carry: Carry, body: Frame) -> list[Effect]:
        """The master sent ``carry``. What is for a connection that has ended is dropped."""
        route = self._routes.get(carry.connection)
        if route is None:
            return []
        match carry.op:
            case "data":
                return [ToClient(route, Sealed(body))] if len(body) > KIND_AT else []
            case "full":
                return [*self._forget(route), ToClient(route, self._refused("carry_full", "the master takes no more here"))]
            case _:
                return [*self._forget(route), End(route)]

    def blocked(self, route: Hashable) -> None:
        """The client's pipe is full: what follows waits here, until :meth:`unblocked`."""
        line = self._lines.get(route)
        if line is not None and line.waiting is None:
            line.waiting = deque()

    def unblocked(self, route: Hashable) -> list[Effect]:
        """There is room in the client's pipe again: what waited, in its order."""
        line = self._lines.get(route)
        if line is None or line.waiting is None:
            return []
        waiting, line.waiting = line.waiting, None
        self._all_waiting_bytes -= line.waiting_bytes
        line.waiting_bytes = 0
        return [ToClient(route, message) for message in waiting]

    def hold(self, route: Hashable, message: Message) -> list[Effect] | None:
        """Keep ``message`` while the client's pipe is full; None when it is not: it is to be sent now.

        What comes back is the end of a connection that does not read.
        """
        line = self._lines.get(route)
        if line is None or line.waiting is None:
            return None
        size = len(message.frame) if type(message) is Sealed else HEADER_BYTES
        line.waiting.append(message)
        line.waiting_bytes += size
        self._all_waiting_bytes += size
        if line.waiting_bytes > self.limits.waiting_bytes:
            return self._too_slow(route)
        if self._all_waiting_bytes > self.limits.all_waiting_bytes:
            return self._too_slow(max(self._lines, key=lambda each: self._lines[each].waiting_bytes))
        return []

    # -- inside -----------------------------------------------------------------------------------------------------

    def _too_slow(self, route: Hashable) -> list[Effect]:
        self._counters.add("carry_slow_reader")
        line = self._lines[route]
        return [*self._forget(route), ToMaster(Carry(connection=line.number, op="closed"))]

    def _end(self, route: Hashable, bye: Bye) -> list[Effect]:
        line = self._lines[route]
        return [*self._forget(route), ToClient(route, bye), ToMaster(Carry(connection=line.number, op="closed"))]

    def _forget(self, route: Hashable) -> list[Effect]:
        line = self._lines.pop(route)
        del self._routes[line.number]
        self._all_waiting_bytes -= line.waiting_bytes
        return [] if line.waiting is None else [Cut(route)]

    def _refused(self, counter: str, message: str, code: str = "busy") -> Bye:
        self._counters.add(counter)
        return Bye(code=code, message=message, hint="connect to another node, or to the master")


def _no_master() -> Bye:
    return Bye(code="unreachable", message="this worker has no master now", hint="connect to another node, or to the master")
