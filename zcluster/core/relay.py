"""Large bodies that pass through the master.

Rules kept here:
- the master stores no large body: it passes on the receiver's credit to the sender and the sender's chunks to the
  receiver;
- what it has allowed to be sent to it and not yet passed on is at most ``limit_bytes`` in all, and at most a window for
  each body; further grants wait in their order, so that a receiver that asks for much holds up nobody for long;
- a chunk that was not granted, or is not the next one, is the sender's fault.
"""

from __future__ import annotations

from collections import deque

from zcluster.core.peers import Request
from zcluster.errors import PeerError


class Relay:
    """One body on its way through: what was granted and what has come."""

    __slots__ = ("asked", "closed", "granted", "of", "owner", "received", "size", "wanted")

    def __init__(self, owner: Request, of: int, size: int) -> None:
        self.owner = owner
        self.of = of
        self.size = size
        self.asked = 0
        """What the receiver takes in all, as it says."""
        self.wanted = 0
        """What of it is granted or waits to be: at most a window beyond what has come."""
        self.granted = 0
        self.received = 0
        self.closed = False

    def accept(self, offset: int, length: int) -> bool:
        """Take note of a chunk; true when it was the last.

        Raises:
            PeerError: it is not the next one or was not granted.
        """
        if offset != self.received or not length or offset + length > self.granted:
            raise PeerError(f"chunk of {length} bytes at {offset}: {self.received} received, {self.granted} granted")
        self.received += length
        return self.received == self.size


class Gate:
    """The credit that the master has given in all."""

    def __init__(self, limit_bytes: int, window_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.window_bytes = window_bytes
        self.used_bytes = 0
        self._waiting: deque[Relay] = deque()

    def want(self, relay: Relay, upto: int) -> bool:
        """The receiver wants ``upto`` bytes in all; true when that may be granted now (else it waits)."""
        relay.asked = max(relay.asked, min(upto, relay.size))
        relay.wanted = max(relay.wanted, min(relay.asked, relay.received + self.window_bytes))
        if relay.wanted <= relay.granted or relay in self._waiting:
            return False
        if self._waiting or not self._fits(relay):
            self._waiting.append(relay)
            return False
        self._grant(relay)
        return True

    def go_on(self, relay: Relay) -> bool:
        """A chunk came: whether more of what the receiver asked for may be granted now."""
        if relay.asked <= relay.granted or relay.granted - relay.received > self.window_bytes // 2:
            return False
        return self.want(relay, relay.asked)

    def release(self, length: int) -> list[Relay]:
        """``length`` bytes have left the master; returns the relays whose grants may go now."""
        self.used_bytes -= length
        out: list[Relay] = []
        while self._waiting and (self._waiting[0].closed or self._fits(self._waiting[0])):
            relay = self._waiting.popleft()
            if not relay.closed:
                self._grant(relay)
                out.append(relay)
        return out

    def close(self, relay: Relay) -> list[Relay]:
        """The transfer ended: what was granted and did not come is free again."""
        if relay.closed:
            return []
        relay.closed = True
        return self.release(relay.granted - relay.received)

    def _fits(self, relay: Relay) -> bool:
        return not self.used_bytes or self.used_bytes + relay.wanted - relay.granted <= self.limit_bytes

    def _grant(self, relay: Relay) -> None:
        self.used_bytes += relay.wanted - relay.granted
        relay.granted = relay.wanted
