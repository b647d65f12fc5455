"""Which connections send bytes that never become messages: an endless message fills memory before anybody sees its first frame.

libzmq hands out a message when its last frame has come, and counts nothing until then: neither high-water marks nor MAXMSGSIZE
bound the number of frames. The kernel knows how many bytes came by a TCP connection (TCP_INFO), and we know how many became
messages. What the difference may be follows from how a ROUTER reads, not from how much peers may send:

- the messages of one connection arrive in their order, so while one of them has no end, none arrives;
- a ROUTER takes messages from its connections in turn. When it finds nothing more to read, or has taken as many messages as there
  are connections, each connection that had a whole message has delivered one.

So who has sent more bytes than one message takes, of which none became a message when there is nothing more to read or in a whole
round of reading, has sent no whole message. A slow peer does not do that, nor does a slow network, nor a master that stood still.
A publisher's peers say next to nothing, so there a number of bytes is bound enough.

Rules kept here:
- looking costs a system call a connection: it is done when the process has grown by GROWTH_BYTES since the last look, when
  somebody is suspected, and every LOOK_S, and takes at most a share of the time;
- what came and was not read by libzmq yet is the kernel's: it does not count;
- a Unix socket tells no number of bytes. There a connection is cut that has had unread bytes at UNREAD_LOOKS looks and
  delivered no message meanwhile, while the process grew by UNREAD_GROWTH_BYTES. libzmq may read as fast as the peer writes, so
  a look asks UNREAD_TRIES times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from zcluster.net.connections import Connection, Connections, Mark

GROWTH_BYTES = 8 << 20
LOOK_S = 5.0
SHARE = 20
"""After a look nothing is looked at for so many times the time that it took, a suspect excepted."""
SLACK_BYTES = 1 << 20
"""For what is read at once, and for what comes between two looks at numbers."""
FORGIVEN_BYTES = 1 << 20
"""Up to so much is taken for libzmq's own talk when a message has arrived since the last look: heartbeats add up over months.
Where it was the beginning of a message, that one's arrival takes it back."""
UNREAD_LOOKS = 3
UNREAD_TRIES = 64
UNREAD_GROWTH_BYTES = 16 << 20
SUBSCRIBER_BYTES = 1 << 20
SUBSCRIBER_BYTES_PER_S = 32
"""What libzmq's heartbeats may take: one is 58 bytes at most."""
SUBSCRIBER_MOST_BYTES = 16 << 20
"""And in all, of a connection's whole life."""
SHORT_BYTES = 222
SHORT_OVERHEAD_BYTES, LONG_OVERHEAD_BYTES = 35, 42
"""What CURVE and ZMTP add to a frame (RFC 26, RFC 23)."""


class Bytes(Protocol):
    """Where the numbers come from."""

    def received_bytes(self, fd: int) -> int | None: ...
    def unread_bytes(self, fd: int) -> int: ...


def wire_bytes(length: int) -> int:
    """What a frame of ``length`` bytes takes in the stream."""
    return length + (SHORT_OVERHEAD_BYTES if length <= SHORT_BYTES else LONG_OVERHEAD_BYTES)


class Growth:
    """When to look: follows the process's memory."""

    def __init__(self) -> None:
        self._low_bytes: int | None = None
        self._looked_s = float("-inf")
        self._pause_until_s = float("-inf")

    def due(self, resident_bytes: int, suspects: bool, now: float) -> bool:
        """Whether to look now."""
        low = self._low_bytes
        self._low_bytes = resident_bytes if low is None else min(low, resident_bytes)
        if now < self._pause_until_s and not suspects:
            return False
        return suspects or resident_bytes - self._low_bytes >= GROWTH_BYTES or now - self._looked_s >= LOOK_S

    def looked(self, resident_bytes: int, took_s: float, now: float) -> None:
        """A look took so long."""
        self._low_bytes = resident_bytes
        self._looked_s, self._pause_until_s = now, now + took_s * SHARE


class Stalled:
    """Finds the connections to cut.

    Args:
        frame_bytes: the longest message of a well-behaved peer.
    """

    def __init__(self, numbers: Bytes, frame_bytes: int) -> None:
        self._numbers = numbers
        self._bound_bytes = 2 * frame_bytes + SLACK_BYTES
        self.suspects = 0
        """How many have to be looked at again soon."""

    def sessions(self, connections: Connections, messages: int, dry: Callable[[], bool], resident_bytes: int) -> list[Connection]:
        """Those of a ROUTER's connections that are to be cut.

        Args:
            messages: how many it has taken from all of them together, ever.
            dry: whether it finds nothing more to read, asked after the bytes were.
            resident_bytes: the process's memory.
        """
        found, self.suspects = [], 0
        for connection in connections:
            if connection.cut:
                continue
            mark = connection.mark
            arrived = connection.delivered_bytes != mark.delivered_bytes
            if connection.local:
                over, suspected = self._unread(connection, mark, resident_bytes)
            else:
                over = suspected = self._unfinished_bytes(connection, mark) > self._bound_bytes
            if not suspected:
                mark.suspected_at = None
                continue
            if mark.suspected_at is None or arrived:
                mark.suspected_at = messages
            if over and (dry() or messages - mark.suspected_at >= len(connections)):
                found.append(connection)
            else:
                self.suspects += 1
        return found

    def subscribers(self, connections: Connections, now: float) -> list[Connection]:
        """Those of a publisher's connections that are to be cut."""
        found = []
        for connection in connections:
            received = None if connection.cut else self._numbers.received_bytes(connection.fd)
            if received is None:
                continue
            heartbeats = (now - connection.since_s) * SUBSCRIBER_BYTES_PER_S
            bound_bytes = min(SUBSCRIBER_BYTES + heartbeats, SUBSCRIBER_MOST_BYTES)
            if received - connection.delivered_bytes > bound_bytes:
                found.append(connection)
        return found

    def _unfinished_bytes(self, connection: Connection, mark: Mark) -> int:
        """How many of the bytes that libzmq has read of the connection became no message yet."""
        received = self._numbers.received_bytes(connection.fd)
        if received is None:
            return 0
        arrived = connection.delivered_bytes != mark.delivered_bytes
        mark.delivered_bytes = connection.delivered_bytes
        unfinished = received - connection.delivered_bytes - mark.junk_bytes
        if unfinished < 0 or (arrived and unfinished < FORGIVEN_BYTES):
            mark.junk_bytes += unfinished
            return 0
        if unfinished > self._bound_bytes:
            unfinished -= self._numbers.unread_bytes(connection.fd)
        return unfinished

    def _unread(self, connection: Connection, mark: Mark, resident_bytes: int) -> tuple[bool, bool]:
        """Whether a Unix socket's connection is over its bound, and whether it is to be looked at again soon."""
        if connection.delivered_bytes != mark.delivered_bytes:
            mark.delivered_bytes, mark.unread_looks = connection.delivered_bytes, 0
        if not any(self._numbers.unread_bytes(connection.fd) for _ in range(UNREAD_TRIES)):
            return False, mark.unread_looks > 0
        if not mark.unread_looks:
            mark.resident_bytes = resident_bytes
        mark.unread_looks += 1
        grown_bytes = resident_bytes - mark.resident_bytes
        return mark.unread_looks >= UNREAD_LOOKS and grown_bytes >= UNREAD_GROWTH_BYTES, True
