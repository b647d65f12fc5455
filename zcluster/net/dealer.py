"""One connection of a link: its DEALER socket, its monitor, and what could not be sent yet.

Rules kept here:
- it is used once, and closed with what waited;
- sends never block.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

import zmq

from zcluster.core.link import STOPPED
from zcluster.errors import NotAllowed, PeerError, Unreachable, ZClusterError
from zcluster.net.context import HANDSHAKE_MS, NOBLOCK, Socket, client_socket
from zcluster.net.monitor import LINK_EVENTS, gave_up, read_event, watch
from zcluster.net.reader import Reader
from zcluster.wire import Frame, Message, WireLimits, decode

KEY_IS_RIGHT = (int(zmq.EVENT_CLOSED), int(zmq.EVENT_HANDSHAKE_FAILED_AUTH))
"""Ends of an attempt that say nothing against the expected key: nobody listens there, or the other side refuses ours."""

UNREADABLE = "a message of the master could not be read: %s"


@dataclass(eq=False)
class Dealer:
    """A connection of a link."""

    address: str
    public: str
    """The public key with which it was made."""
    socket: Socket
    pair: Socket | None = None
    """Its monitor."""
    reader: Reader | None = None
    monitor: Reader | None = None
    unsent: deque[Frame] = field(default_factory=deque)
    secured: bool = False
    """Whether the handshake has succeeded."""
    gave_up: bool = False
    """Whether it was ended here, because nothing was said."""

    @classmethod
    def make(cls, context: zmq.Context[Socket], address: str, keys: tuple[bytes, bytes], server: str, max_bytes: int) -> Dealer:
        """One that is not connected yet, with the pair ``keys`` (secret, public); it trusts only ``server``."""
        socket = client_socket(context, zmq.DEALER, *keys, server=server.encode(), max_bytes=max_bytes)
        return cls(address, keys[1].decode(), socket)

    def connect(self, context: zmq.Context[Socket], monitored: bool) -> None:
        """Connect; the monitor is there before."""
        self.pair = watch(context, self.socket, LINK_EVENTS) if monitored else None
        self.socket.connect(self.address)

    def send_unsent(self) -> bool:
        """Send what waits; false when there is no room for all of it."""
        socket, unsent = self.socket, self.unsent
        while unsent:
            try:
                socket.send(unsent[0], NOBLOCK)
            except zmq.Again:
                return False
            unsent.popleft()
        return True

    def receive(self, limits: WireLimits, logger: logging.Logger) -> Message | None:
        """The next message, when there is one that can be read."""
        try:
            frame = self.socket.recv(NOBLOCK, copy=False)
        except zmq.Again:
            return None
        if frame.more:
            skip(self.socket, logger)
            return None
        try:
            return decode(frame.bytes, limits)[0]
        except PeerError as error:
            logger.warning(UNREADABLE, error)
            return None

    def event(self) -> int:
        """What its monitor tells next, 0 for nothing."""
        found = None if self.pair is None else read_event(self.pair)
        if found is None:
            return 0
        self.gave_up = gave_up(*found)
        return found[0]

    def close(self, linger_ms: int = 0) -> None:
        """End it; what was sent may still leave for ``linger_ms``."""
        self.unsent.clear()
        if self.pair is not None and not self.socket.closed:
            self.socket.disable_monitor()
        for reader, socket, linger in ((self.reader, self.socket, linger_ms), (self.monitor, self.pair, 0)):
            if reader is not None:
                reader.close(linger)
            elif socket is not None and not socket.closed:
                socket.close(linger=0)

    def stranger(self, event: int) -> bool:
        """Whether this end of it may mean that the other side has another key than the expected."""
        return not self.secured and event not in KEY_IS_RIGHT

    def reason(self, event: int) -> ZClusterError:
        """Why it has ended, from what its monitor told."""
        where = self.address
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return NotAllowed(f"the master at {where} refuses this key", hint="admit it there: `zcluster keys add` or `keys new`")
        if event == zmq.EVENT_CLOSED:
            return Unreachable(f"no master listens at {where}", hint="is it running, and is the address right?")
        if self.secured:
            return Unreachable(f"the connection to {where} ended")
        if self.gave_up:
            return Unreachable(f"{where} takes the connection and says nothing in {HANDSHAKE_MS / 1000:g} s", hint=STOPPED)
        return Unreachable(
            f"{where} ended the connection during the handshake",
            hint="is it a node of this cluster, and is its public key in the key file? NAME@tcp://HOST:PORT names the node",
        )


def skip(socket: Socket, logger: logging.Logger) -> None:
    """Drop the other frames of the message of which one was read."""
    logger.warning("a message of the master had several frames")
    while socket.getsockopt(zmq.RCVMORE):
        socket.recv(NOBLOCK)
