"""Guards the connections of one server socket: learns of them from its monitor, and cuts those that have to end.

Rules kept here:
- of each descriptor all events that are there are read before a connection is taken note of: one that was used again is not
  mistaken for the one before. Of several at once the last counts: who came and went meanwhile was never here;
- a cut is told once, with its reason; the end of the connection is told when libzmq has noticed it, as for any other;
- reading an event is cheap, and acting on it is not: a turn acts on a bounded number of descriptors, so that ten thousand
  strangers do not keep the loop from the rest. Who speaks is not kept waiting behind them;
- what was read for that and not acted on, no event tells again: each look of the pulse goes on with it. A connection that is not
  taken note of is bound by nothing;
- when descriptors run out, newcomers go at once, the oldest first: who has a session keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import zmq

from zcluster.net.connections import (
    CROWD,
    DESCRIPTORS,
    MAX_NEWCOMERS,
    MAX_NEWCOMERS_PER_ADDRESS,
    REVOKED,
    Connection,
    Connections,
    Expected,
)
from zcluster.net.context import Socket
from zcluster.net.descriptors import Descriptors, Peer, Reserve, descriptor_limit
from zcluster.net.monitor import read_event

TURN = 64
"""Descriptors that a turn acts on."""
KEPT_FREE = 32
"""Descriptors below the limit that connections leave to the rest of the process."""
ACCEPTED = int(zmq.EVENT_ACCEPTED)


class Told(Protocol):
    """Who hears of it."""

    def connection_cut(self, connection: Connection, reason: str) -> None:
        """``connection`` was cut; ``reason`` is one of REASONS."""

    def descriptors_exhausted(self) -> None:
        """Somebody could not be taken in."""


class Guard:
    """The connections of one socket.

    Args:
        pair: its monitor, which tells SERVER_EVENTS.
        expected: is told of the first word of each.
        ended: called with each connection that is over.
    """

    def __init__(
        self, pair: Socket, descriptors: Descriptors, reserve: Reserve, expected: Expected, clock: Callable[[], float],
        told: Told, ended: Callable[[Connection], None],
    ) -> None:  # fmt: skip
        self._pair, self._descriptors, self._reserve, self._expected = pair, descriptors, reserve, expected
        self._clock, self._told, self._ended = clock, told, ended
        self._waiting: dict[int, int] = {}
        """The last event of each descriptor that was not acted on yet."""
        self._out: set[int] = set()
        """Those of them that are cut when they are: their key may be out."""
        self._ceiling = descriptor_limit() - KEPT_FREE
        half = max(self._ceiling // 2, 1)
        bounds = (min(MAX_NEWCOMERS, half), min(MAX_NEWCOMERS_PER_ADDRESS, half))
        self.connections = Connections(descriptors.received_bytes, *bounds)

    def turn(self) -> bool:
        """Act on a bounded number of events; true when there may be more."""
        self._read()
        for _ in range(min(TURN, len(self._waiting))):
            self._act(next(iter(self._waiting)))
        return bool(self._waiting)

    def look(self) -> None:
        """Go on with what was read by the way."""
        if self._waiting:
            self.turn()

    def spoke(self, fd: int, public: str, route: bytes = b"") -> Connection | None:
        """A message has come by ``fd``, from ``public``; None when that connection has ended meanwhile."""
        known = self.connections.by_fd.get(fd)
        if known is None or known.public != public or known.route != route:
            self._read()
            self._act(fd)
            known = self.connections.spoke(fd, public, route)
            self._expected.spoke(public)
        return known

    def cut(self, connections: Iterable[Connection], reason: str) -> None:
        """End these; what has ended by itself is not told."""
        for connection in connections:
            connection.cut = True
            if self._descriptors.end(connection.fd, connection.inode):
                self._told.connection_cut(connection, reason)

    def was_cut(self, fd: int, peer: Peer, reason: str) -> None:
        """Another thread has ended the connection of ``peer``, behind ``fd``."""
        known = self.connections.by_fd.get(fd)
        if known is None or known.inode != peer.inode:
            known = Connection(fd, peer.inode, peer.address, self._clock())  # it was not taken note of, and will not be
        if not known.cut:
            known.cut = True
            self._told.connection_cut(known, reason)

    def fds(self) -> set[int]:
        """The descriptors of its connections, and of some that have ended. Another thread may ask."""
        return {*list(self._waiting), *list(self.connections.by_fd)}

    def make_room(self, count: int) -> None:
        """There are no descriptors left: the oldest newcomers go."""
        self.cut(self.connections.oldest(count), DESCRIPTORS)

    def out(self, admitted: Callable[[str], bool], newcomers: bool) -> list[Connection]:
        """Those whose key is not ``admitted``, marked as cut; with ``newcomers`` also all that have said nothing yet."""
        self._read()
        if newcomers:
            self._out.update(self._waiting)
        return self.connections.of_other_keys(admitted, newcomers)

    def _read(self) -> None:
        waiting = self._waiting
        while (found := read_event(self._pair)) is not None:
            waiting[found[1]] = found[0]

    def _act(self, fd: int) -> None:
        event = self._waiting.pop(fd, None)
        if event is None:
            return
        self._over(fd)
        if event == ACCEPTED:
            self._accepted(fd)
            if fd in self._out and fd in self.connections.by_fd:
                self.cut([self.connections.by_fd[fd]], REVOKED)
        self._out.discard(fd)

    def _accepted(self, fd: int) -> None:
        peer = self._descriptors.peer(fd)
        if peer is None:
            return  # it has ended already
        crowd = self.connections.accepted(fd, peer.inode, peer.address, self._clock())
        if crowd:
            self.cut(crowd, CROWD)
        if fd >= self._ceiling or self._reserve.given:
            self._told.descriptors_exhausted()
            self.make_room(1)

    def _over(self, fd: int) -> None:
        connection = self.connections.ended(fd)
        if connection is not None:
            self._ended(connection)
