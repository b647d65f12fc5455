"""A node's sockets for others: ROUTER for sessions, XPUB for broadcasts (a master's only), ZAP for admission, a monitor for lost
connections.

Rules kept here:
- who sent a message is its connection's User-Id (the public key that ZAP admitted), read anew for each message;
- a message is one frame behind the route; more frames, or an unknown User-Id, is counted and dropped;
- ends of connections are read before a new one is taken note of: a file descriptor that was reused must not end the new session;
- sends never block: a full pipe keeps that one frame here, and the machine keeps the rest;
- routing ids stay in this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import zmq

from zcluster.core.batch import Body
from zcluster.errors import UsageError
from zcluster.net.context import NOBLOCK, PUBLISH_DOMAIN, SNDMORE, Socket, readable, server_socket
from zcluster.net.monitor import SERVER_EVENTS, read_event, watch
from zcluster.net.reader import FLUSH_BYTES, Reader
from zcluster.net.subscribers import Subscribers
from zcluster.net.zap import Zap
from zcluster.wire import Frame, Message, frame_of

TURN = 64
MAX_TOPIC_BYTES = 1024
"""Bound of what a subscriber may send. Not smaller: libzmq applies it to the CURVE handshake too (270 bytes fail)."""
RETRY_S = 0.005
"""How soon a full pipe is tried again: ROUTER has no event for the room of one peer."""


class Owner(Protocol):
    """What the front tells."""

    def front_message(self, route: bytes, public: str, data: bytes) -> None: ...
    def front_malformed(self, route: bytes, reason: str) -> None: ...
    def front_disconnected(self, route: bytes) -> None: ...
    def front_unblocked(self, route: bytes) -> None: ...
    def front_turn_over(self) -> None: ...
    def front_admits(self, public: str) -> bool: ...
    def front_denied(self, address: str, reason: str) -> None: ...


@dataclass(frozen=True)
class FrontKeys:
    """The node's own pair, Z85."""

    public: str
    secret: str


class Front:
    """The sockets of a master or of a worker's door, bound.

    Args:
        publish: where to publish; empty: nothing is published.
        setting: names the setting of ``bind``, for who has to choose another.
        subscribes: whether a public key may subscribe to what is published; None: no key may.
    """

    def __init__(
        self, context: zmq.Context[Socket], owner: Owner, keys: FrontKeys, bind: str, publish: str, frame_bytes: int,
        logger: logging.Logger, setting: str = "master.bind", subscribes: Callable[[str], bool] | None = None,
    ) -> None:  # fmt: skip
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._owner = owner
        self._routes: dict[int, bytes] = {}
        self._fds: dict[bytes, int] = {}
        self._stuck: dict[bytes, Frame] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._lone = True
        # ZAP answers before anything listens: a connection in between would otherwise be refused without need.
        self._zap = Zap(loop, context, owner.front_admits, owner.front_denied, logger, subscribes)
        pair = (keys.secret.encode(), keys.public.encode())
        self._router = server_socket(context, zmq.ROUTER, *pair, max_bytes=frame_bytes)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._publisher = _publisher(context, pair) if publish else None
        self._pair = watch(context, self._router, SERVER_EVENTS)
        try:
            _bind(self._router, bind, setting)
            if self._publisher is not None:
                _bind(self._publisher, publish, "master.publish")
        except UsageError:
            for socket in (self._router, self._publisher, self._pair):
                if socket is not None:
                    socket.close(linger=0)
            self._zap.close()
            raise
        self._router_reader = Reader(loop, self._router, self._turn)
        self._subscribers: Subscribers | None = None
        self._publisher_reader: Reader | None = None
        if self._publisher is not None:
            self._subscribers = Subscribers(self._publisher, subscribes or _nobody)
            self._publisher_reader = Reader(loop, self._publisher, self._subscribers.turn)
        self._monitor = Reader(loop, self._pair, self._ends)

    @property
    def port(self) -> int:
        """The port at which sessions are taken, the system's choice where ``bind`` leaves it open."""
        return int(self._router.getsockopt(zmq.LAST_ENDPOINT).decode().rpartition(":")[2].rstrip("\0"))  # type: ignore[union-attr]

    def send(self, route: bytes, message: Message, bodies: list[Body]) -> bool:
        """Send; false when the peer's pipe is full: the message is kept and goes first, the caller keeps the rest."""
        return self._send(route, frame_of(message, bodies))

    def sent(self) -> None:
        """The owner has sent what it had: look at the socket again, its descriptor tells no edge twice."""
        self._router_reader.look_again()

    def forget(self, route: bytes) -> None:
        """The session on ``route`` is over."""
        fd = self._fds.pop(route, None)
        if fd is not None and self._routes.get(fd) == route:
            del self._routes[fd]
        self._stuck.pop(route, None)

    def publish(self, topic: bytes, body: bytes) -> None:
        """Send to everyone who subscribed; a subscriber that does not read loses messages (and sees the gap)."""
        if self._publisher is not None and self._publisher_reader is not None:
            self._publisher.send_multipart([topic, body], NOBLOCK)
            self._publisher_reader.look_again()

    def keys_changed(self) -> None:
        """The ring changed: who may not subscribe any more hears nothing from now on."""
        if self._subscribers is not None:
            self._subscribers.keys_changed()

    def close(self, linger_ms: int) -> None:
        """Stop; what was sent may still leave for ``linger_ms``."""
        if self._retry is not None:
            self._retry.cancel()
        self._router.disable_monitor()
        self._monitor.close()
        self._router_reader.close(linger_ms)
        if self._publisher_reader is not None:
            self._publisher_reader.close(linger_ms)
        self._zap.close()

    # -- reading ----------------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Read a bounded number of messages; the last thing is to look whether there are more, because sends swallow edges.

        After a turn with one message the next turn's first is answered before others are looked for: when requests come
        one at a time, that is when each microsecond counts.
        """
        count, waiting, more = 0, False, True
        while more and count < TURN:
            size = self._receive()
            if size is None:
                break
            count += 1
            waiting = size < FLUSH_BYTES and not (self._lone and count == 1)
            if not waiting:
                self._owner.front_turn_over()
            more = readable(self._router)
        if waiting:
            self._owner.front_turn_over()
            more = readable(self._router)
        self._lone = count < 2
        return more and count > 0

    def _receive(self) -> int | None:
        """Read one message and hand it over; returns its size, or None when there was none."""
        router, owner = self._router, self._owner
        try:
            route = router.recv(NOBLOCK)
        except zmq.Again:
            return None
        frame = router.recv(NOBLOCK, copy=False)
        if frame.more:
            self._skip(route)
            return 0
        try:
            public = str(frame.get("User-Id"))
        except zmq.ZMQError:
            owner.front_malformed(route, "a connection without a User-Id")
            return 0
        if route not in self._fds:
            self._remember(route, frame)
        data = frame.bytes
        owner.front_message(route, public, data)
        return len(data)

    def _remember(self, route: bytes, frame: zmq.Frame) -> None:
        self._ends()
        fd = int(frame.get(zmq.SRCFD))
        self._fds[route] = fd
        self._routes[fd] = route

    def _skip(self, route: bytes) -> None:
        count = 1
        while self._router.getsockopt(zmq.RCVMORE):
            self._router.recv(NOBLOCK, copy=False)
            count += 1
        self._owner.front_malformed(route, f"a message of {count} frames, one is allowed")

    def _ends(self) -> bool:
        while (found := read_event(self._pair)) is not None:
            route = self._routes.get(found[1])
            if route is not None:
                self.forget(route)
                self._owner.front_disconnected(route)
        return False

    # -- writing ----------------------------------------------------------------------------------------------------

    def _send(self, route: bytes, data: Frame) -> bool:
        if route in self._stuck:
            return False
        try:
            self._router.send(route, NOBLOCK | SNDMORE)
            self._router.send(data, NOBLOCK)
        except zmq.Again:
            self._stuck[route] = data
            self._retry_later()
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.forget(route)
            self._owner.front_disconnected(route)
        return True

    def _retry_later(self) -> None:
        if self._retry is None:
            self._retry = self._loop.call_later(RETRY_S, self._retry_stuck)

    def _retry_stuck(self) -> None:
        self._retry = None
        stuck, self._stuck = self._stuck, {}
        for route, data in stuck.items():
            if self._send(route, data):
                self._owner.front_unblocked(route)
        self._owner.front_turn_over()


def _nobody(_public: str) -> bool:
    return False


def _publisher(context: zmq.Context[Socket], pair: tuple[bytes, bytes]) -> Socket:
    return server_socket(context, zmq.XPUB, *pair, max_bytes=MAX_TOPIC_BYTES, domain=PUBLISH_DOMAIN)


def _bind(socket: Socket, address: str, setting: str) -> None:
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise UsageError(f"cannot listen on {address}: {error.strerror}", hint=f"choose another {setting}") from None


