"""Large bodies in chunks against credit: the two ends.

Rules kept here:
- nothing is sent that the receiver has not granted; nothing is accepted that was not granted;
- chunks of a body come in order and without gaps; anything else is the peer's fault;
- the receiver has at most one window granted beyond what has arrived, and room for what has arrived, not for what was announced:
  to make room for 64 MiB at once holds up whoever does it.
"""

from __future__ import annotations

from dataclasses import dataclass

from zcluster.errors import PeerError


class Outbound:
    """A body on its way out."""

    __slots__ = ("body", "leg", "sent", "upto")

    def __init__(self, body: bytes | bytearray, leg: int = 0) -> None:
        self.body = body
        self.leg = leg
        self.sent = 0
        self.upto = 0

    def grant(self, leg: int, upto: int) -> None:
        """Credit for ``leg`` up to byte ``upto``; another leg than before means: from the beginning."""
        if leg != self.leg:
            self.leg, self.sent, self.upto = leg, 0, 0
        self.upto = max(self.upto, min(upto, len(self.body)))

    def next_chunk(self, chunk_bytes: int) -> tuple[int, memoryview] | None:
        """The next piece that may go now as (offset, bytes), or None."""
        if self.sent >= self.upto:
            return None
        offset = self.sent
        self.sent = min(offset + chunk_bytes, self.upto)
        return offset, memoryview(self.body)[offset : self.sent]


class Inbound:
    """A body on its way in, of ``size`` bytes, with at most ``window_bytes`` granted ahead."""

    __slots__ = ("body", "size", "upto", "window_bytes")

    def __init__(self, size: int, window_bytes: int) -> None:
        self.body = bytearray()
        self.size = size
        self.window_bytes = window_bytes
        self.upto = 0

    @property
    def received(self) -> int:
        return len(self.body)

    @property
    def complete(self) -> bool:
        return len(self.body) == self.size

    def next_grant(self) -> int | None:
        """The new limit to tell the sender, or None while more than half of the window is still open."""
        if self.upto >= self.size or self.upto - self.received > self.window_bytes // 2:
            return None
        self.upto = min(self.size, self.received + self.window_bytes)
        return self.upto

    def accept(self, offset: int, data: bytes | memoryview) -> None:
        """Take a chunk.

        Raises:
            PeerError: it is not the next one, or goes beyond what was granted.
        """
        if offset != self.received or offset + len(data) > self.upto or not data:
            raise PeerError(f"chunk of {len(data)} bytes at {offset}: {self.received} received, {self.upto} granted")
        self.body += data


@dataclass(frozen=True)
class Agreed:
    """Limits as a value (see zcluster.core.work.Limits)."""

    body_bytes: int
    inline_bytes: int
    chunk_bytes: int
    window_bytes: int
    transfer_bytes: int
