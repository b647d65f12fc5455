"""The connections that subscribed.

Rules kept here:
- a connection whose key may not subscribe (any more) is cut: at once when the ring changes, or when it subscribes;
- a connection that subscribes too often, or to too much, is cut: subscriptions are memory, 36 bytes for each byte of a topic;
- before we are asked libzmq enters a subscription into its tree, and goes on while there are more, of whatever connection. So a
  connection's pipe is short, and a key has few connections, and few new ones at a time: we come to see the first subscription
  before the hundredth is there. Several that never pause would keep libzmq, and the loop with it, for as long: see rescue.py;
- whatever a subscriber says is read, counted and dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import zmq

from zcluster.net.connections import REVOKED, SUBSCRIPTIONS
from zcluster.net.context import NOBLOCK, PUBLISH_DOMAIN, Socket, server_socket
from zcluster.net.guard import Guard
from zcluster.net.rescue import Rescue
from zcluster.net.stalled import wire_bytes

TURN = 64
MAX_SUBSCRIPTIONS = 64
"""What one connection may say in its life: subscriptions, those given up again counted too."""
MAX_TOPICS_BYTES = 1024
"""How long its topics may be, all together; those of this version are shorter than 16 bytes each."""
MAX_CONNECTIONS_PER_KEY = 32
MAX_NEW_PER_KEY = 16
NEW_S = 5.0
"""How many connections of a key may be let in in that time."""
MAX_TOPIC_BYTES = 384
"""Bound of what a subscriber may send. Not smaller: libzmq applies it to the CURVE handshake too (289 bytes, and what metadata
another library adds)."""
PIPE_MESSAGES = 2
"""High-water mark of what a subscriber says."""
RECEIVE_BYTES = 2048
"""The kernel's buffer of what a subscriber says; the kernel doubles it for its own needs (socket(7))."""
UNSUBSCRIBES = b"\0"
"""First byte of what takes back a subscription."""


class Subscribers:
    """Those of one XPUB socket.

    Args:
        port: where it listens.
        guard: has its connections.
        may_subscribe: whether a public key may.
    """

    def __init__(self, publisher: Socket, port: int, guard: Guard, may_subscribe: Callable[[str], bool]) -> None:
        publisher.setsockopt(zmq.XPUB_VERBOSE, 1)  # tell of each subscription, not only of new topics
        self._publisher, self._guard, self._may_subscribe = publisher, guard, may_subscribe
        self._rescue = Rescue(guard.fds, port)
        self._let_in: dict[str, deque[float]] = {}
        """When connections of a key were let in lately."""

    def turn(self) -> bool:
        """Read a bounded number of what subscribers say; true when there may be more."""
        for _ in range(TURN):
            try:
                with self._rescue:
                    frame = self._publisher.recv(NOBLOCK, copy=False)
            except zmq.Again:
                return False
            finally:
                self._tell_rescued()
            self._heard(frame)
        return True

    def publish(self, topic: bytes, body: bytes) -> None:
        """Send to everyone who subscribed; a subscriber that does not read loses messages (and sees the gap)."""
        with self._rescue:
            self._publisher.send_multipart([topic, body], NOBLOCK)
        self._tell_rescued()

    def close(self) -> None:
        """Read no more."""
        self._rescue.close()

    def let_in(self, public: str, now: float) -> bool:
        """Whether one more connection of the key ``public``, which asks now, is let in."""
        if not self._may_subscribe(public) or self._guard.connections.of_key(public) >= MAX_CONNECTIONS_PER_KEY:
            return False
        lately = self._let_in.setdefault(public, deque(maxlen=MAX_NEW_PER_KEY))
        if len(lately) == MAX_NEW_PER_KEY and now - lately[0] < NEW_S:
            return False
        lately.append(now)
        return True

    def keys_changed(self, newcomers: bool) -> None:
        """The ring changed: connections of keys that may not subscribe end now, and ``newcomers`` where they may be such ones."""
        self._guard.cut(self._guard.out(self._may_subscribe, newcomers), REVOKED)
        self._let_in = {public: lately for public, lately in self._let_in.items() if self._may_subscribe(public)}

    def _tell_rescued(self) -> None:
        while self._rescue.cut:
            self._guard.was_cut(*self._rescue.cut.popleft(), SUBSCRIPTIONS)

    def _heard(self, frame: zmq.Frame) -> None:
        try:
            public, fd = str(frame.get("User-Id")), int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            return  # the connection is gone already
        connection = self._guard.spoke(fd, public)
        if connection is None or connection.cut:
            return
        data = frame.bytes
        connection.delivered_bytes += wire_bytes(len(data))
        if data[:1] != UNSUBSCRIBES:
            connection.count += 1
            connection.topic_bytes += len(data) - 1
        if (
            connection.count > MAX_SUBSCRIPTIONS or connection.topic_bytes > MAX_TOPICS_BYTES
            or self._guard.connections.of_key(public) > MAX_CONNECTIONS_PER_KEY
        ):  # fmt: skip
            self._guard.cut([connection], SUBSCRIPTIONS)
        elif not self._may_subscribe(public):
            self._guard.cut([connection], REVOKED)


def publisher_socket(context: zmq.Context[Socket], pair: tuple[bytes, bytes]) -> Socket:
    """An XPUB socket of the CURVE server with the ``pair`` (secret, public), not bound yet."""
    publisher = server_socket(context, zmq.XPUB, *pair, max_bytes=MAX_TOPIC_BYTES, domain=PUBLISH_DOMAIN)
    publisher.setsockopt(zmq.RCVHWM, PIPE_MESSAGES)
    publisher.setsockopt(zmq.RCVBUF, RECEIVE_BYTES)
    return publisher
