"""Drives one end of a session: a DEALER socket, its monitor and its timer, for a core Link.

Rules kept here:
- a connection is used once: a lost one is closed and a fresh one made, so nothing of an old session can leave late;
- sends never block: what does not fit waits here, and nothing more is taken from the owner until it has left;
- the owner is told of the link's state by its methods, in the order in which the machine decided.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import zmq

from zcluster.core.batch import Outgoing
from zcluster.core.doors import Candidate
from zcluster.core.link import SESSION_KINDS, Connect, Down, Effect, Ended, Link, Say, Up
from zcluster.errors import NotAllowed, PeerError, Unreachable, ZClusterError
from zcluster.net.context import NOBLOCK, Socket, client_socket, readable, writable
from zcluster.net.monitor import LINK_EVENTS, read_event, watch
from zcluster.net.reader import FLUSH_BYTES, Alarm, Reader
from zcluster.wire import Beat, Bye, Frame, Message, Welcome, WireLimits, decode, frame_of
from zcluster.wire.frames import KIND_AT
from zcluster.wire.trees import BULK_KINDS

TURN = 64
KEY_IS_RIGHT = (int(zmq.EVENT_CLOSED), int(zmq.EVENT_HANDSHAKE_FAILED_AUTH))
"""Ends of an attempt that say nothing against the expected key: nobody listens there, or the other side refuses ours."""
LAST_WORDS_MS = 500
"""How long the last messages of a link that closes may take to leave (the context's end waits for them)."""


class Owner(Protocol):
    """Who uses the link."""

    def link_up(self, welcome: Welcome) -> None: ...
    def link_down(self, error: ZClusterError, was_up: bool, retry_s: float) -> None: ...
    def link_ended(self, error: ZClusterError) -> None: ...
    def link_message(self, message: Message, data: bytes, offset: int) -> None: ...
    def link_beat(self) -> Beat: ...
    def link_take(self) -> list[Outgoing]: ...


class LinkDriver:
    """The socket side of a :class:`zcluster.core.link.Link`.

    Args:
        bulk: gets the bulk frames of file sync, unopened and without a copy; without it they go the way of all others.
        monitored: whether broken connections are seen at once. A monitor takes two sockets and two descriptors more; without
            it the end of a connection is noticed by silence.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        link: Link,
        owner: Owner,
        *,
        public: str,
        secret: str,
        master_public: str,
        jitter: Callable[[], float],
        logger: logging.Logger,
        wire_limits: WireLimits | None = None,
        bulk: Callable[[memoryview], None] | None = None,
        monitored: bool = True,
    ) -> None:
        self._context = context
        self._link = link
        self._owner = owner
        self._keys = (secret.encode(), public.encode())
        self._master_public = master_public
        self._jitter = jitter
        self._bulk = bulk
        self._monitored = monitored
        self._logger = logger
        self._limits = wire_limits if wire_limits is not None else WireLimits()
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, self._due)
        self._reader: Reader | None = None
        self._monitor: Reader | None = None
        self._socket: Socket | None = None
        self._pair: Socket | None = None
        self._unsent: deque[Frame] = deque()
        self._address = ""
        self._secured = False
        self._in_turn = False
        self._lone = True

    @property
    def up(self) -> bool:
        """Whether the session is open."""
        return self._link.state == "up"

    def start(self) -> None:
        """Begin to connect."""
        self._perform(self._link.start(self._loop.time()))

    def redirect(self, addresses: Sequence[str | Candidate]) -> None:
        """Attempts from now on go to ``addresses``, the first one first."""
        self._link.redirect(addresses)

    def pace(self, heartbeat_s: float, lease_heartbeats: int, first_s: float) -> None:
        """Beat at this pace in the session that is open (see Link.pace)."""
        self._link.pace(heartbeat_s, lease_heartbeats, first_s, self._loop.time())
        self._alarm.set(self._link.next_deadline())

    def move(self) -> None:
        """Say BYE where there is a session, and connect at once to where :meth:`redirect` says; no ``link_down`` is told."""
        if self.up:
            self.say(Bye())
            self._drop(LAST_WORDS_MS)
        self._perform(self._link.move(self._loop.time()))

    def close(self) -> None:
        """Say BYE if there is a session, and close the sockets."""
        self._perform(self._link.close())
        self._alarm.cancel()
        self._drop(LAST_WORDS_MS)

    def say(self, message: Message) -> None:
        """Send one message now, before what the owner has waiting."""
        self._send([(message, [])])

    def flush(self) -> None:
        """Send what the owner has waiting."""
        socket = self._socket
        if socket is None:
            return
        if self._unsent and not self._send_unsent():
            return
        if self._link.state == "up":
            outgoing = self._owner.link_take()
            if outgoing:
                self._send(outgoing)

    # -- effects ----------------------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        try:
            for effect in effects:
                match effect:
                    case Connect():
                        if not self._connect(effect.address, effect.public or self._master_public):
                            return
                    case Say():
                        message = self._owner.link_beat() if isinstance(effect.message, Beat) else effect.message
                        self._send([(message, [])])
                    case Up():
                        self._owner.link_up(effect.welcome)
                    case Down():
                        self._drop()
                        self._owner.link_down(effect.error, effect.was_up, effect.retry_s)
                    case Ended():
                        self._drop()
                        self._owner.link_ended(effect.error)
        finally:
            # Whatever went wrong, the next attempt or beat is due when the machine says.
            self._alarm.set(self._link.next_deadline())

    def _connect(self, address: str, server: str) -> bool:
        """A fresh connection; false when even the sockets could not be made (the machine has then been told)."""
        self._drop()
        self._address, self._secured = address, False
        try:
            socket = client_socket(
                self._context, zmq.DEALER, *self._keys, server=server.encode(), max_bytes=self._limits.frame_bytes
            )
            self._socket = socket
            pair = self._pair = watch(self._context, socket, LINK_EVENTS) if self._monitored else None
            socket.connect(address)
            self._reader = Reader(self._loop, socket, self._turn, self._writable)
            if pair is not None:
                self._monitor = Reader(self._loop, pair, self._monitor_turn)
        except zmq.ZMQError as error:
            for made in (self._socket, self._pair):
                if made is not None and not made.closed:
                    made.close(linger=0)
            unreachable = Unreachable(f"cannot connect to {address}: {error.strerror}", hint="are there file descriptors left?")
            self._perform(self._link.disconnected(unreachable, self._loop.time(), self._jitter()))
            return False
        return True

    def _drop(self, linger_ms: int = 0) -> None:
        reader, monitor, socket = self._reader, self._monitor, self._socket
        self._reader = self._monitor = self._socket = self._pair = None
        self._unsent.clear()
        if socket is not None and self._monitored:
            socket.disable_monitor()
        if reader is not None:
            reader.close(linger_ms)
        if monitor is not None:
            monitor.close()

    def _due(self) -> None:
        self._perform(self._link.handle_deadline(self._loop.time(), self._jitter()))
        self.flush()

    # -- sockets ----------------------------------------------------------------------------------------------------

    def _send(self, outgoing: list[Outgoing]) -> None:
        for message, bodies in outgoing:
            self._unsent.append(frame_of(message, bodies))
        self._send_unsent()

    def _send_unsent(self) -> bool:
        socket, unsent = self._socket, self._unsent
        if socket is None:
            return False
        while unsent:
            try:
                socket.send(unsent[0], NOBLOCK)
            except zmq.Again:
                return False
            unsent.popleft()
        if self._reader is not None and not self._in_turn:
            self._reader.look_again()
        return True

    def _writable(self) -> None:
        if self._unsent:
            self.flush()

    def _turn(self) -> bool:
        """Read a bounded number of messages; the last thing is to look whether there are more, because sends swallow edges.

        After a turn with one message the next turn's first is answered before others are looked for.
        """
        socket = self._socket
        if socket is None:
            return False
        count, waiting, more = 0, False, True
        self._in_turn = True
        try:
            while more and count < TURN:
                size = self._receive(socket)
                if size is None or self._socket is not socket:
                    break
                count += 1
                waiting = size < FLUSH_BYTES and not (self._lone and count == 1)
                if not waiting:
                    self.flush()
                more = readable(socket)
            if self._socket is not socket:
                return False
            if waiting or not count:
                self.flush()
                more = readable(socket)
            if self._unsent and writable(socket):
                # Looking for messages has taken note of the room to send as well: no edge will tell of it again.
                self.flush()
        finally:
            self._in_turn = False
        self._lone = count < 2
        return more

    def _receive(self, socket: Socket) -> int | None:
        """Read one message and hand it over; returns its size, or None when there was none."""
        try:
            frame = socket.recv(NOBLOCK, copy=False)
        except zmq.Again:
            return None
        if frame.more:
            self._skip(socket)
            return 0
        if self._bulk is not None and len(frame.buffer) > KIND_AT and frame.buffer[KIND_AT] in BULK_KINDS:
            self._link.heard(self._loop.time())
            self._bulk(frame.buffer)
            return len(frame.buffer)
        data = frame.bytes
        try:
            message, offset = decode(data, self._limits)
        except PeerError as error:
            self._logger.warning("a message of the master could not be read: %s", error)
            return 0
        if message.kind in SESSION_KINDS:
            self._perform(self._link.received(message, self._loop.time(), self._jitter()))
        else:
            self._link.heard(self._loop.time())
        if self._socket is socket:
            self._owner.link_message(message, data, offset)
        return len(data)

    def _skip(self, socket: Socket) -> None:
        self._logger.warning("a message of the master had several frames")
        while socket.getsockopt(zmq.RCVMORE):
            socket.recv(NOBLOCK)

    def _monitor_turn(self) -> bool:
        pair = self._pair
        while pair is not None and self._pair is pair:
            found = read_event(pair)
            if found is None:
                return False
            event = found[0]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._secured = True
            else:
                stranger = not self._secured and event not in KEY_IS_RIGHT
                now = self._loop.time()
                self._perform(self._link.disconnected(self._reason(event), now, self._jitter(), stranger=stranger))
        return False

    def _reason(self, event: int) -> ZClusterError:
        where = self._address
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return NotAllowed(f"the master at {where} refuses this key", hint="admit it there: `zcluster keys add` or `keys new`")
        if event == zmq.EVENT_CLOSED:
            return Unreachable(f"no master listens at {where}", hint="is it running, and is the address right?")
        if self._secured:
            return Unreachable(f"the connection to {where} ended")
        return Unreachable(
            f"{where} ended the connection during the handshake",
            hint="is it a node of this cluster, and is its public key in the key file? NAME@tcp://HOST:PORT names the node",
        )
