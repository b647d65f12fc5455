"""A node's sockets for others: ROUTER for sessions, XPUB for broadcasts (a master's only), ZAP for admission, and a guard of the
connections of each.

Rules kept here:
- who sent a message is its connection's User-Id (the public key that ZAP admitted), read anew for each message;
- a message is one frame behind the route; more frames, or an unknown User-Id, is counted and dropped;
- each connection is known from its accept to its end, and cut when its time is over (connections.py, stalled.py);
- after a change of the ring the connections of keys that are out are cut before anything else is read;
- the end of a connection is told behind the last message that has come by it (lastwords.py);
- sends never block: a full pipe keeps that one frame here, and the machine keeps the rest;
- routing ids stay in this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq

from zcluster.config.addresses import IPC, ipc_path
from zcluster.core.batch import Body
from zcluster.errors import ConfigError, UsageError
from zcluster.net.connections import REVOKED, Connection, Expected
from zcluster.net.context import NOBLOCK, SNDMORE, Socket, readable, server_socket
from zcluster.net.descriptors import Descriptors, Reserve
from zcluster.net.frontowner import Owner, TurnedAway
from zcluster.net.guard import Guard, Told
from zcluster.net.lastwords import LastWords
from zcluster.net.monitor import SERVER_EVENTS, watch
from zcluster.net.pulse import Pulse
from zcluster.net.reader import FLUSH_BYTES, Reader
from zcluster.net.rebinding import Rebinding
from zcluster.net.stalled import LONG_OVERHEAD_BYTES, SHORT_BYTES, SHORT_OVERHEAD_BYTES, wire_bytes
from zcluster.net.subscribers import Subscribers, publisher_socket
from zcluster.net.zap import Zap
from zcluster.wire import Frame, Message, frame_of

TURN = 64
FAREWELL_S = 0.25
RETRY_S = 0.005
"""How soon a full pipe is tried again: ROUTER has no event for the room of one peer."""


@dataclass(frozen=True)
class FrontKeys:
    """The node's own pair, Z85."""

    public: str
    secret: str


class Front:
    """The sockets of a master or of a worker's door, bound.

    Args:
        publish: where to publish; empty: nothing is published.
        turned_away: hears of those that are not let in, or cut.
        local: where programs on this machine may come in too, a path; what fails there is only told.
        setting: names the setting of ``bind``, for who has to choose another.
        subscribes: whether a public key may subscribe to what is published; None: no key may.
    """

    def __init__(
        self, context: zmq.Context[Socket], owner: Owner, keys: FrontKeys, bind: str, publish: str, frame_bytes: int,
        logger: logging.Logger, turned_away: TurnedAway, setting: str = "master.bind",
        subscribes: Callable[[str], bool] | None = None, local: Path | None = None,
    ) -> None:  # fmt: skip
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._owner = owner
        self._by_route: dict[bytes, Connection] = {}
        self._stuck: dict[bytes, Frame] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._lone = True
        self._leaving, self._alone = False, asyncio.Event()
        self._last_words = LastWords()
        self._messages = 0
        """How many were read."""
        self._expected = Expected()
        # ZAP answers before anything listens: a connection in between would otherwise be refused without need.
        checks = self._subscribes if subscribes else None
        self._zap = Zap(loop, context, owner.front_admits, turned_away, logger, checks, self._let_in)
        pair = (keys.secret.encode(), keys.public.encode())
        self._router = server_socket(context, zmq.ROUTER, *pair, max_bytes=frame_bytes)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._publisher = publisher_socket(context, pair) if publish else None
        self._pairs = [watch(context, socket, SERVER_EVENTS) for socket in self._servers()]
        try:
            self._local = self._listen_here(local, logger)
            self.endpoint = _bind(self._router, bind, setting)
            if self._publisher is not None:
                self._published_at = _bind(self._publisher, publish, "master.publish")
        except UsageError:
            for socket in (*self._servers(), *self._pairs):
                socket.close(linger=0)
            self._zap.close()
            raise
        self._listening = [Rebinding(socket) for socket in self._servers()]
        if self._local:
            self._listening.append(Rebinding(self._router, self._local))
        self._start(subscribes or _nobody, frame_bytes, turned_away)

    def _start(self, subscribes: Callable[[str], bool], frame_bytes: int, told: Told) -> None:
        """Begin to read what is bound."""
        loop, owner = self._loop, self._owner
        self._descriptors, self._reserve = Descriptors(), Reserve()
        common = (self._descriptors, self._reserve, self._expected, loop.time, told)
        self._sessions = Guard(self._pairs[0], *common, self._ended)
        self._router_reader = Reader(loop, self._router, self._turn)
        self._monitors = [Reader(loop, self._pairs[0], self._sessions.turn)]
        self._subscribers: Subscribers | None = None
        self._publisher_reader: Reader | None = None
        guard = None
        if self._publisher is not None:
            guard = Guard(self._pairs[1], *common, _ignored)
            self._subscribers = Subscribers(self._publisher, _port(self._published_at), guard, subscribes)
            self._publisher_reader = Reader(loop, self._publisher, self._subscribers.turn, asks=False)
            self._monitors.append(Reader(loop, self._pairs[1], guard.turn))
        self._pulse = Pulse(
            loop, self._sessions, guard, self._descriptors, self._reserve, told, frame_bytes,
            has_session=owner.front_has_session, messages=lambda: self._messages, dry=self._dry, first=self._look,
        )  # fmt: skip

    @property
    def port(self) -> int:
        """The port at which sessions are taken, the system's choice where ``bind`` leaves it open."""
        return _port(self.endpoint)

    def address_of(self, route: bytes) -> str:
        """Where the connection comes from, "" when nobody knows (any more)."""
        connection = self._by_route.get(route)
        return "" if connection is None else connection.address

    def send(self, route: bytes, message: Message, bodies: list[Body]) -> bool:
        """Send; false when the peer's pipe is full: the message is kept and goes first, the caller keeps the rest."""
        return self._send(route, frame_of(message, bodies))

    def sent(self) -> None:
        """The owner has sent what it had: look at the socket again, its descriptor tells no edge twice."""
        self._router_reader.look_again()

    def forget(self, route: bytes) -> None:
        """The session on ``route`` is over: nothing that waits for it is sent any more."""
        self._stuck.pop(route, None)

    def publish(self, topic: bytes, body: bytes) -> None:
        """Send to everyone who subscribed; a subscriber that does not read loses messages (and sees the gap)."""
        if self._subscribers is not None and self._publisher_reader is not None:
            self._subscribers.publish(topic, body)
            self._publisher_reader.look_again()

    def keys_changed(self, admitted: Callable[[str], bool]) -> None:
        """The ring changed: connections of public keys that are not ``admitted`` end now, and of those that may not subscribe.

        Whose a connection is that has said nothing yet is not known. Where one of the keys that were let in lately is out, all of
        them end: who is still admitted comes back. Sessions have LAST_WORD_S to be told why.
        """
        now = self._loop.time()
        newcomers = self._expected.any_other(admitted, now)
        out = self._sessions.out(admitted, newcomers)
        self._sessions.cut([each for each in out if not each.public], REVOKED)
        self._pulse.cut_soon([each for each in out if each.public], REVOKED, now)
        if self._subscribers is not None:
            self._subscribers.keys_changed(newcomers)

    def cut(self, route: bytes, reason: str) -> None:
        """End the connection ``route`` for ``reason``, when what was sent to it has left; it is not heard any more."""
        connection = self._by_route.get(route)
        if connection is not None and not connection.cut:
            connection.cut = connection.unheard = True
            self._pulse.cut_soon([connection], reason, self._loop.time())

    def rekey(self, keys: FrontKeys) -> None:
        """Who connects from now on meets this key; who is connected stays.

        Raises:
            Unreachable: the system does not let us; the older key stays in use.
        """
        for listening in self._listening:
            listening.rekey(keys.public, keys.secret)

    async def farewell(self) -> None:
        """Wait, for FAREWELL_S at most, until those that were told to leave have left.

        A connection that is closed behind its last message may take that with it: the other side's libzmq drops what it has not
        handed out when it sees the end, which at a Unix socket it does at once. The owner hears of nobody any more.
        """
        self._leaving = True
        self._tell_gone(dry=True)
        if self._by_route:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._alone.wait(), FAREWELL_S)

    def close(self, linger_ms: int) -> None:
        """Stop; what was sent may still leave for ``linger_ms``."""
        if self._retry is not None:
            self._retry.cancel()
        self._pulse.close()
        if self._local:
            Path(ipc_path(self._local)).unlink(missing_ok=True)  # libzmq leaves it
        for socket in self._servers():
            socket.disable_monitor()
        for monitor in self._monitors:
            monitor.close()
        self._router_reader.close(linger_ms)
        if self._publisher_reader is not None:
            self._publisher_reader.close(linger_ms)
        if self._subscribers is not None:
            self._subscribers.close()
        self._zap.close()
        self._reserve.close()
        self._descriptors.close()

    def _listen_here(self, path: Path | None, logger: logging.Logger) -> str:
        """Let programs on this machine come by the Unix socket ``path``; returns its address, empty when it cannot be had.

        What is there from a process before is removed by libzmq. The directory keeps other users out.
        """
        if path is None:
            return ""
        address = f"{IPC}{path}"
        try:
            ipc_path(address)
            self._router.bind(address)
        except (ConfigError, zmq.ZMQError) as error:
            why = error.message if isinstance(error, ConfigError) else str(error.strerror)
            fields = {"path": str(path), "reason": why, "hint": "a shorter --home, or master.ipc = false"}
            logger.warning("programs on this machine come by TCP only", extra={"fields": fields})
            return ""
        return address

    # -- what the guards tell ----------------------------------------------------------------------------------------

    def _ended(self, connection: Connection) -> None:
        if connection.route in self._by_route:
            self._gone(connection.route)

    def _gone(self, route: bytes) -> None:
        """The connection of ``route`` is over; the owner hears of it behind the last message."""
        self.forget(route)
        self._last_words.ended(route, self._loop.time())
        self._tell_gone(self._dry())

    def _tell_gone(self, dry: bool) -> None:
        for route in self._last_words.heard(dry or self._leaving, self._loop.time()):
            self._by_route.pop(route, None)
            if not self._leaving:
                self._owner.front_disconnected(route)
        if self._leaving and not self._by_route:
            self._alone.set()

    def _look(self) -> None:
        self._owner.front_look()
        if self._last_words:
            self._tell_gone(self._dry())

    def _let_in(self, public: str) -> None:
        self._expected.admitted(public, self._loop.time())

    def _subscribes(self, public: str) -> bool:
        return self._subscribers is not None and self._subscribers.let_in(public, self._loop.time())

    def _dry(self) -> bool:
        return not self._router_reader.look_again()

    # -- reading ----------------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Read a bounded number of messages; the last thing is to look whether there are more, because sends swallow edges.

        After a turn with one message the next turn's first is answered before others are looked for: when requests come
        one at a time, that is when each microsecond counts.
        """
        count, waiting, more = 0, False, not self._leaving
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
        self._messages += count
        self._lone = count < 2
        if self._last_words:
            self._tell_gone(not more)
        return more and count > 0

    def _receive(self) -> int | None:
        """Read one message and hand it over; returns its size, or None when there was none."""
        router, owner = self._router, self._owner
        try:
            route = router.recv(NOBLOCK)
        except zmq.Again:
            return None
        frame = router.recv(NOBLOCK, copy=False)
        try:
            public = str(frame.get("User-Id"))
        except zmq.ZMQError:
            public = ""  # ZAP admits nobody without one
        connection = self._by_route.get(route)
        if connection is None:
            connection = self._remember(route, public, frame)
        if frame.more:
            self._skip(connection, route, public)
            return 0
        data = frame.bytes
        size = len(data)
        connection.delivered_bytes += size + (SHORT_OVERHEAD_BYTES if size <= SHORT_BYTES else LONG_OVERHEAD_BYTES)
        if not connection.unheard:
            owner.front_message(route, public, data)
        return size

    def _remember(self, route: bytes, public: str, frame: zmq.Frame) -> Connection:
        fd = int(frame.get(zmq.SRCFD))
        connection = self._sessions.spoke(fd, public, route)
        if connection is None:
            return Connection(fd, 0, "", 0.0)  # it has ended while its message was on its way here
        self._by_route[route] = connection
        return connection

    def _skip(self, connection: Connection, route: bytes, public: str) -> None:
        count, size = 1, 0
        while self._router.getsockopt(zmq.RCVMORE):
            size += wire_bytes(len(self._router.recv(NOBLOCK, copy=False).buffer))
            count += 1
        connection.delivered_bytes += size
        if not connection.unheard:
            self._owner.front_malformed(route, public, f"a message of {count} frames, one is allowed")

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
            self._gone(route)
        return True

    def _servers(self) -> list[Socket]:
        return [self._router] if self._publisher is None else [self._router, self._publisher]

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


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _ignored(_connection: Connection) -> None:
    """Nobody has to be told of the end of a subscriber."""


def _bind(socket: Socket, address: str, setting: str) -> str:
    """The address bound, the system's choices filled in."""
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise UsageError(f"cannot listen on {address}: {error.strerror}", hint=f"choose another {setting}") from None
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
