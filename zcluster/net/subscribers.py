"""The connections that subscribed, and their ends.

Rules kept here:
- a connection whose key may not subscribe (any more) is shut down: at once when the ring changes, or when it subscribes;
- a connection that subscribes too often is shut down: subscriptions are memory;
- a file descriptor is shut down only while its other end is the one that subscribed: it may have been closed and used again.
"""

from __future__ import annotations

import os
import socket as sockets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from zcluster.net.context import NOBLOCK, Socket

TURN = 64
MAX_SUBSCRIPTIONS = 256
"""Of one connection, those given up again counted too."""
SUBSCRIBES = 1
"""First byte of what a subscriber says."""


@dataclass
class Subscribed:
    """One connection."""

    public: str
    peer: Any
    """Its other end's address."""
    count: int = 0


class Subscribers:
    """Those of one XPUB socket.

    Args:
        may_subscribe: whether a public key may.
    """

    def __init__(self, publisher: Socket, may_subscribe: Callable[[str], bool]) -> None:
        publisher.setsockopt(zmq.XPUB_VERBOSE, 1)  # tell of each subscription, not only of new topics
        self._publisher, self._may_subscribe = publisher, may_subscribe
        self._by_fd: dict[int, Subscribed] = {}

    def turn(self) -> bool:
        """Read a bounded number of what subscribers say; true when there may be more."""
        for _ in range(TURN):
            try:
                frame = self._publisher.recv(NOBLOCK, copy=False)
            except zmq.Again:
                return False
            if frame.bytes[:1] == bytes([SUBSCRIBES]):
                self._subscribed(frame)
        return True

    def keys_changed(self) -> None:
        """The ring changed: connections of keys that may not subscribe end now."""
        for fd, subscribed in list(self._by_fd.items()):
            if not self._may_subscribe(subscribed.public):
                self._cut(fd, subscribed)

    def _subscribed(self, frame: zmq.Frame) -> None:
        try:
            public, fd = str(frame.get("User-Id")), int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            return  # the connection is gone already
        found, peer = self._by_fd.get(fd), _peer(fd)
        if found is None or (found.public, found.peer) != (public, peer):
            found = self._by_fd[fd] = Subscribed(public, peer)
        found.count += 1
        if found.count > MAX_SUBSCRIPTIONS or not self._may_subscribe(public):
            self._cut(fd, found)

    def _cut(self, fd: int, subscribed: Subscribed) -> None:
        del self._by_fd[fd]
        _peer(fd, shut_down=subscribed.peer)


def _peer(fd: int, shut_down: Any = None) -> Any:
    """The address of the other end of ``fd``, None without one; it is shut down when that is ``shut_down``."""
    try:
        copy = os.dup(fd)
    except OSError:
        return None
    try:
        own = sockets.socket(fileno=copy)
    except OSError:
        os.close(copy)  # a file, say: it is not the socket's to close
        return None
    with own:
        try:
            peer = own.getpeername()
            if shut_down is not None and peer == shut_down:
                own.shutdown(sockets.SHUT_RDWR)
        except OSError:
            return None
        return peer
