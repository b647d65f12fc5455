"""Drives one end of a session: a DEALER socket, its monitor and its timer, for a core Link.

Rules kept here:
- a connection is used once: a lost one is closed and a fresh one made, so nothing of an old session can leave late;
- while a session moves there are two connections: the second is not read until the first has been left (core/moving.py);
- sends never block: what does not fit waits here, and nothing more is taken from the owner until it has left;
- what has come by a connection is heard before its end: an answer, or the BYE that says why;
- the owner is told of the link's state by its methods, in the order of the machine's decisions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import zmq

from zcluster.core.batch import Outgoing
from zcluster.core.doors import Candidate
from zcluster.core.link import (
    SESSION_KINDS,
    Connect,
    Dial,
    Down,
    Effect,
    Ended,
    Leave,
    Link,
    Say,
    SayThere,
    Stayed,
    Switch,
    Up,
)
from zcluster.errors import PeerError, Unreachable, ZClusterError
from zcluster.net.context import NOBLOCK, Socket, readable, writable
from zcluster.net.dealer import UNREADABLE, Dealer, skip
from zcluster.net.reader import FLUSH_BYTES, Alarm, Reader
from zcluster.wire import Beat, Bye, Message, Welcome, WireLimits, decode, frame_of
from zcluster.wire.frames import KIND_AT
from zcluster.wire.trees import BULK_KINDS

Moved = Callable[[ZClusterError | None], None]
"""Told that the session has moved, or why it has not."""

TURN = 64
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
        self._line: Dealer | None = None
        self._socket: Socket | None = None
        """The line's, which each turn looks at."""
        self._there: Dealer | None = None
        """The second, while the session moves."""
        self._holding = False
        """Whether the first is being left: what is said waits for the second."""
        self._moved: Moved | None = None
        self._in_turn = False
        self._lone = True

    @property
    def up(self) -> bool:
        """Whether the session is open."""
        return self._link.state == "up"

    @property
    def public(self) -> str:
        """The public key of the connection that there is; of the next one while there is none."""
        return self._keys[1].decode() if self._line is None else self._line.public

    @property
    def place(self) -> Candidate:
        """Where it is, or goes, and the key that is expected there."""
        return self._link.places.now

    def use(self, public: str, secret: str) -> None:
        """Make connections with this pair from now on."""
        self._keys = (secret.encode(), public.encode())

    def rekey(self, moved: Moved) -> None:
        """Move the session to a connection that is made with the pair of now; ``moved`` hears how it went.

        Nothing when there is no session or it moves already: the next connection has the pair of now anyway.
        """
        if effects := self._link.rekey(self._loop.time()):
            self._moved = moved
            self._perform(effects)

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
        """Say BYE where there is a session, and connect at once to where :meth:`redirect` says; ``link_down`` is not told."""
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
        line = self._line
        if line is None or (line.unsent and not self._send_unsent(line)):
            return
        if self._link.state == "up" and not self._holding:
            outgoing = self._owner.link_take()
            if outgoing:
                self._send(outgoing)

    # -- effects ----------------------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        try:
            for effect in effects:
                match effect:
                    case Connect():
                        self._drop()
                        if not self._connect(effect.address, effect.public, second=False):
                            return
                    case Say():
                        message = self._owner.link_beat() if isinstance(effect.message, Beat) else effect.message
                        self._send([(message, [])])
                    case Up():
                        self._owner.link_up(effect.welcome)
                    case Down():
                        self._drop(error=effect.error)
                        self._owner.link_down(effect.error, effect.was_up, effect.retry_s)
                    case Ended():
                        self._drop(error=effect.error)
                        self._owner.link_ended(effect.error)
                    case _:
                        if not self._perform_move(effect):
                            return
        finally:
            # Whatever went wrong, the next attempt or beat is due when the machine says.
            self._alarm.set(self._link.next_deadline())

    def _perform_move(self, effect: Effect) -> bool:
        """An effect of a session that moves; false when the others behind it make no sense any more."""
        match effect:
            case Dial():
                self._drop_there()
                return self._connect(effect.address, effect.public, second=True)
            case SayThere() if self._there is not None:
                self._there.unsent.append(frame_of(effect.message, []))
                self._send_unsent(self._there)
            case Leave():
                self._send([(effect.message, [])])
                self._holding = True
            case Switch():
                self._switch()
            case Stayed():
                self._drop_there()
                self._tell_moved(effect.error)
        return True

    def _connect(self, address: str, server: str, *, second: bool) -> bool:
        """A fresh connection; false when even the sockets could not be made (the machine has then been told)."""
        try:
            self._open(address, server or self._master_public, second)
        except zmq.ZMQError as error:
            unreachable = Unreachable(f"cannot connect to {address}: {error.strerror}", hint="are there file descriptors left?")
            ended = self._link.disconnected_there if second else self._link.disconnected
            self._perform(ended(unreachable, self._loop.time(), self._jitter()))
            return False
        return True

    def _open(self, address: str, server: str, second: bool) -> None:
        line = Dealer.make(self._context, address, self._keys, server, self._limits.frame_bytes)
        turns: tuple[Callable[[], bool], Callable[[], None]] = self._turn, self._writable
        if second:
            self._there, turns = line, (partial(self._turn_of, line), partial(self._writable_of, line))
        else:
            self._line, self._socket = line, line.socket
        try:
            line.connect(self._context, self._monitored)
            line.reader = Reader(self._loop, line.socket, *turns)
            if line.pair is not None:
                line.monitor = Reader(self._loop, line.pair, partial(self._monitor_turn, line))
        except zmq.ZMQError:
            line.close()
            raise

    def _switch(self) -> None:
        line, self._there, self._holding = self._there, None, False
        assert line is not None, "a session switches to the connection where it was greeted"
        left = self._line
        self._line, self._socket = line, line.socket
        if left is not None:
            left.close()
        self._tell_moved(None)
        self.flush()
        if line.reader is not None:
            line.reader.look_again()

    def _drop(self, linger_ms: int = 0, error: ZClusterError | None = None) -> None:
        line, self._line, self._socket = self._line, None, None
        if line is not None:
            line.close(linger_ms)
        self._drop_there()
        if self._moved is not None:
            self._tell_moved(error or Unreachable("the session was left while it moved"))

    def _drop_there(self) -> None:
        there, self._there, self._holding = self._there, None, False
        if there is not None:
            there.close()

    def _tell_moved(self, error: ZClusterError | None) -> None:
        moved, self._moved = self._moved, None
        if moved:
            moved(error)

    def _due(self) -> None:
        self._perform(self._link.handle_deadline(self._loop.time(), self._jitter()))
        self.flush()

    # -- sockets ----------------------------------------------------------------------------------------------------

    def _send(self, outgoing: list[Outgoing]) -> None:
        line = self._there if self._holding else self._line
        if line is None:
            return
        for message, bodies in outgoing:
            line.unsent.append(frame_of(message, bodies))
        if not self._holding:
            self._send_unsent(line)

    def _send_unsent(self, line: Dealer) -> bool:
        sent = line.send_unsent()
        if sent and line.reader is not None and not self._in_turn:
            line.reader.look_again()
        return sent

    def _writable(self) -> None:
        if self._line is not None and self._line.unsent:
            self.flush()

    def _writable_of(self, line: Dealer) -> None:
        if line is self._line:
            self._writable()
        elif line is self._there and line.unsent and not self._holding:
            self._send_unsent(line)

    def _turn_of(self, line: Dealer) -> bool:
        """A turn of a connection that was the second, and may be it still: it is read as far as its greeting."""
        if line is self._line:
            return self._turn()
        if line is not self._there or self._link.moving != "greeting":
            return False
        message = line.receive(self._limits, self._logger)
        if message is not None:
            self._perform(self._link.received_there(message, self._loop.time(), self._jitter()))
        return line is self._there and self._link.moving == "greeting" and readable(line.socket)

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
            if self._line is not None and self._line.unsent and writable(socket):
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
            skip(socket, self._logger)
            return 0
        if self._bulk is not None and len(frame.buffer) > KIND_AT and frame.buffer[KIND_AT] in BULK_KINDS:
            self._link.heard(self._loop.time())
            self._bulk(frame.buffer)
            return len(frame.buffer)
        data = frame.bytes
        try:
            message, offset = decode(data, self._limits)
        except PeerError as error:
            self._logger.warning(UNREADABLE, error)
            return 0
        if message.kind in SESSION_KINDS:
            self._perform(self._link.received(message, self._loop.time(), self._jitter()))
        else:
            self._link.heard(self._loop.time())
        if self._socket is socket:
            self._owner.link_message(message, data, offset)
        return len(data)

    def _monitor_turn(self, line: Dealer) -> bool:
        while (line is self._line or line is self._there) and (event := line.event()):
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                line.secured = True
                continue
            try:
                while line is self._line and self._turn():
                    continue
            finally:  # an owner that fails at the last words hears of the end all the same: it is told only once
                if line is self._line or line is self._there:
                    ended = self._link.disconnected if line is self._line else self._link.disconnected_there
                    self._perform(ended(line.reason(event), self._loop.time(), self._jitter(), stranger=line.stranger(event)))
        return False
