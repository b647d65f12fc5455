"""Guards the connections of one server socket: learns of them from its monitor, and cuts those that have to end.

Rules kept here:
- events are read in their order, and all that are there before a connection is taken note of or cut: a descriptor that was used
  again is not mistaken for the one before;
- a cut is told once, with its reason; the end of the connection is told when libzmq has noticed it, as for any other;
- a turn of events is bounded, so that ten thousand strangers do not keep the loop from the rest;
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
    Connection,
    Connections,
    Expected,
)
from zcluster.net.context import Socket
from zcluster.net.descriptors import Descriptors, Reserve, descriptor_limit
from zcluster.net.monitor import read_event

TURN = 256
KEPT_FREE = 32
"""Descriptors below the limit that connections leave to the rest of the process."""
ACCEPTED, DISCONNECTED = int(zmq.EVENT_ACCEPTED), int(zmq.EVENT_DISCONNECTED)


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
        self._ceiling = descriptor_limit() - KEPT_FREE
        half = max(self._ceiling // 2, 1)
        self.connections = Connections(min(MAX_NEWCOMERS, half), min(MAX_NEWCOMERS_PER_ADDRESS, half))

    def turn(self) -> bool:
        """Read a bounded number of events; true when there may be more."""
        return all(self._read_one() for _ in range(TURN))

    def read_all(self) -> None:
        """Read all events that are there."""
        while self._read_one():
            continue

    def spoke(self, fd: int, public: str, route: bytes = b"") -> Connection | None:
        """A message has come by ``fd``, from ``public``; None when that connection has ended meanwhile."""
        known = self.connections.by_fd.get(fd)
        if known is None or known.public != public or known.route != route:
            self.read_all()
            known = self.connections.spoke(fd, public, route)
            self._expected.spoke(public)
        return known

    def cut(self, connections: Iterable[Connection], reason: str) -> None:
        """End these; what has ended by itself is not told."""
        for connection in connections:
            connection.cut = True
            if self._descriptors.end(connection.fd, connection.inode):
                self._told.connection_cut(connection, reason)

    def make_room(self, count: int) -> None:
        """There are no descriptors left: the oldest newcomers go."""
        self.cut(self.connections.oldest(count), DESCRIPTORS)

    def _read_one(self) -> bool:
        found = read_event(self._pair)
        if found is None:
            return False
        event, fd = found
        if event == ACCEPTED:
            self._accepted(fd)
        else:
            self._over(fd)
        return True

    def _accepted(self, fd: int) -> None:
        self._over(fd)
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
